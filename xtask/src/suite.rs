//! Every test of the project.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    build::{self, Profile},
    packages,
    step::{self, Steps},
    workspace,
};

const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const UNIT_LIMIT: Duration = Duration::from_secs(20 * 60);
const END_TO_END_LIMIT: Duration = Duration::from_secs(30 * 60);
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What the test harness counted.
#[derive(Debug, Default)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
    /// Names of failed and of ignored tests.
    notes: Vec<String>,
}

pub(crate) fn run() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    let mut count = Count::default();
    let result = all(&mut steps, &mut count);
    steps.print();
    for note in &count.notes {
        println!("{note}");
    }
    if let Err(error) = &result {
        println!("{error:#}");
        // A part that broke before a test could fail must not look like success.
        count.failed = count.failed.max(1);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    ensure!(count.failed == 0, "tests failed");
    Ok(())
}

fn all(steps: &mut Steps, count: &mut Count) -> anyhow::Result<()> {
    steps.time("Debian packages, Rust target", || {
        packages::install(packages::Purpose::Tests)
    })?;
    let stage = steps.time("build the binaries", || build::run(Profile::Debug))?;
    steps.time("build the tests", || {
        step::run(
            workspace::cargo().args(["test", "--locked", "--workspace", "--no-run", "--quiet"]),
            BUILD_LIMIT,
        )
    })?;
    // Each part runs, whatever the others say.
    let unit = steps.time("unit and integration tests, documentation examples", || {
        let selection = ["--workspace", "--exclude=longshore-e2e"];
        cargo_test(&selection, &[], &stage, UNIT_LIMIT, count)
    });
    let end_to_end = steps.time("end-to-end tests", || {
        // Each test has a host of its own; two at a time keep two cores busy.
        let harness = ["--test-threads=2"];
        cargo_test(
            &["--package=longshore-e2e"],
            &harness,
            &stage,
            END_TO_END_LIMIT,
            count,
        )
    });
    unit.and(end_to_end)
}

fn cargo_test(
    selection: &[&str],
    harness: &[&str],
    stage: &Path,
    limit: Duration,
    count: &mut Count,
) -> anyhow::Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["test", "--locked", "--no-fail-fast"])
        .args(selection)
        .arg("--")
        .args(harness)
        .env("LONGSHORE_BIN_DIR", stage)
        .stdout(Stdio::piped());
    let mut child = step::start(&mut command)?;
    let results = read_results(&mut child);
    let status = step::wait(child, limit, "cargo test");
    let part = results
        .recv_timeout(DRAIN_LIMIT)
        .context("a process that a test has started outlives it and holds its output; see ps")?;
    let failed = part.failed;
    count.passed += part.passed;
    count.failed += part.failed;
    count.ignored += part.ignored;
    count.notes.extend(part.notes);
    let status = status?;
    // Without a failed test: something did not compile, or a test program was killed.
    ensure!(status.success() || failed > 0, "cargo test: {status}");
    Ok(())
}

/// Copies the output to ours and counts; the sum comes at its end.
fn read_results(child: &mut Child) -> mpsc::Receiver<Count> {
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            let mut count = Count::default();
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                count.note(&line);
            }
            // Nobody waits any more after DRAIN_LIMIT.
            let _ = sender.send(count);
        });
    }
    receiver
}

impl Count {
    fn note(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ") {
            if name.ends_with(" ... FAILED") {
                self.notes.push(format!("failed: {name}"));
            } else if name.contains(" ... ignored") {
                self.notes.push(format!("not run: {name}"));
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
        ] {
            count.note(line);
        }
        assert_eq!((count.passed, count.failed, count.ignored), (13, 1, 1));
        assert_eq!(count.notes.len(), 2);
    }
}
