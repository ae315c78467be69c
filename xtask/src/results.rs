//! What test programs print, counted as it passes by.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    mem,
    process::{Child, ExitStatus},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::Context;

use crate::step;

/// How long the output may stay open after the end of what writes it.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// From here on failed tests are run again (`xtask/vm/tests.sh`).
const GUEST_AGAIN: &str = "longshore-vm: again";

/// A virtual machine's last word (`xtask/vm/tests.sh`).
const GUEST_STATUS: &str = "longshore-vm: status ";

/// What the test harness counted.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
    /// Names of failed tests, as the harness prints them.
    pub(crate) failures: Vec<String>,
    /// Names of tests that failed, and passed when they were run again.
    unsteady: Vec<String>,
    /// Names of ignored tests, with the reason.
    not_run: Vec<(String, String)>,
    ran: BTreeSet<String>,
    /// What a virtual machine's tests came to: 0 or 1.
    pub(crate) guest_status: Option<u32>,
    /// What came before a virtual machine ran its failed tests again.
    first: Option<Box<Count>>,
}

/// Copies the output of a child (its standard output is a pipe) to ours until it ends, at most `limit`; then it is killed. Each line
/// begins with `label`.
pub(crate) fn wait_counting(
    mut child: Child,
    limit: Duration,
    name: &str,
    label: &'static str,
    count: &mut Count,
) -> anyhow::Result<ExitStatus> {
    let results = read_results(&mut child, label);
    let status = step::wait(child, limit, name);
    let part = results
        .recv_timeout(DRAIN_LIMIT)
        .context("a process that a test has started outlives it and holds its output; see ps")?;
    count.add(part);
    status
}

/// The sum comes at the output's end.
fn read_results(child: &mut Child, label: &'static str) -> mpsc::Receiver<Count> {
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            let mut count = Count::default();
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                println!("{label}{line}");
                count.note(line);
            }
            // Nobody waits any more after DRAIN_LIMIT.
            let _ = sender.send(count.whole());
        });
    }
    receiver
}

impl Count {
    pub(crate) fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self.unsteady.extend(other.unsteady);
        self.not_run.extend(other.not_run);
        self.ran.extend(other.ran);
        self.guest_status = other.guest_status.or(self.guest_status);
    }

    /// `again` is what the failed tests came to when they were run once more, alone.
    pub(crate) fn run_again(&mut self, again: Count) {
        let passed = |name: &String| again.ran.contains(name) && !again.failures.contains(name);
        let (unsteady, failures) = mem::take(&mut self.failures).into_iter().partition(passed);
        self.failures = failures;
        self.unsteady = unsteady;
        let unsteady = u32::try_from(self.unsteady.len()).unwrap_or(u32::MAX);
        self.passed += unsteady;
        self.failed = self.failed.saturating_sub(unsteady);
        self.guest_status = again.guest_status.or(self.guest_status);
    }

    /// Both runs of a virtual machine as one.
    fn whole(mut self) -> Count {
        let Some(mut first) = self.first.take() else {
            return self;
        };
        first.run_again(self);
        *first
    }

    /// Whether any test has come to an end.
    pub(crate) fn has_begun(&self) -> bool {
        self.passed + self.failed + self.ignored > 0 || self.guest_status.is_some()
    }

    /// One line for each test that failed, once or twice, and for each that was run nowhere.
    pub(crate) fn notes(&self) -> Vec<String> {
        let failed = self.failures.iter().map(|name| format!("failed: {name}"));
        let unsteady = self.unsteady.iter();
        let unsteady = unsteady.map(|name| format!("failed, and passed when run again: {name}"));
        let not_run = self.not_run.iter();
        let not_run = not_run.filter(|(name, _)| !self.ran.contains(name));
        failed
            .chain(unsteady)
            .chain(not_run.map(|(name, why)| format!("not run: {name}: {why}")))
            .collect()
    }

    fn note(&mut self, line: &str) {
        if line == GUEST_AGAIN {
            self.first = Some(Box::new(mem::take(self)));
        }
        if let Some(status) = line.strip_prefix(GUEST_STATUS) {
            self.guest_status = status.trim().parse().ok();
        }
        let test = line.strip_prefix("test ");
        if let Some((name, result)) = test.and_then(|test| test.split_once(" ... ")) {
            let name = name.to_owned();
            match result.split_once(", ").unwrap_or((result, "no reason")) {
                ("ignored", why) => self.not_run.push((name, why.to_owned())),
                ("FAILED", _) => self.failures.push(name),
                _ => {
                    self.ran.insert(name);
                }
            }
        }
        // `test result: ok. 4 passed; 0 failed; 1 ignored; …`
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_failures_named() {
        let mut count = Count::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, why",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "longshore-vm: status 1",
        ] {
            count.note(line);
        }
        assert_eq!((count.passed, count.failed, count.ignored), (13, 1, 1));
        assert_eq!(count.notes(), ["failed: a::c", "not run: a::d: why"]);
        assert_eq!(count.guest_status, Some(1));
        let mut again = Count::default();
        again.note("test a::c ... FAILED");
        count.run_again(again);
        assert_eq!((count.passed, count.failed), (13, 1));
        // Elsewhere it was.
        let mut elsewhere = Count::default();
        elsewhere.note("test a::d ... ok");
        count.add(elsewhere);
        assert_eq!(count.notes(), ["failed: a::c"]);
    }

    #[test]
    fn a_test_that_passes_when_run_again_is_named() {
        let mut count = Count::default();
        for line in [
            "test a ... FAILED",
            "test b ... FAILED",
            "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "longshore-vm: again",
            "test a ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.1s",
            "test b ... FAILED",
            "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.1s",
            "longshore-vm: status 1",
        ] {
            count.note(line);
        }
        let count = count.whole();
        assert_eq!((count.passed, count.failed), (8, 1));
        assert_eq!(count.guest_status, Some(1));
        assert_eq!(
            count.notes(),
            ["failed: b", "failed, and passed when run again: a"]
        );
    }
}
