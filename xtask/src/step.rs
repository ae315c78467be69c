//! Commands with a bound, and how long they took.

use std::{
    collections::HashMap,
    fs,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// What has been done so far, for the table at the end.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Runs `work` and notes how long it took, also when it fails.
    pub(crate) fn time<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        println!("==> {name}");
        let start = Instant::now();
        let result = work().with_context(|| name.to_owned());
        self.done.push((name.to_owned(), start.elapsed()));
        result
    }

    pub(crate) fn print(&self) {
        println!("\n{:<58} minutes", "part");
        for (name, took) in &self.done {
            println!("{name:<58} {:>7.1}", took.as_secs_f64() / 60.0);
        }
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        println!("{:<58} {:>7.1}", "total", total.as_secs_f64() / 60.0);
    }
}

/// Runs a command; an error if it fails or takes longer than `limit`, when it is killed with all its descendants.
pub(crate) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    let name = describe(command);
    let child = start(command)?;
    let status = wait(child, limit, &name)?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// What depends on others, mirrors above all, and may come right by itself: `work` is done at most `times` times, with a pause between. The error is
/// the last one, and says what was tried, and what to look at.
pub(crate) fn retry<T>(
    times: u32,
    pause: Duration,
    what: &str,
    mut work: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    for attempt in 1..times {
        match work() {
            Ok(value) => return Ok(value),
            Err(error) => println!(
                "    {what}: attempt {attempt} of {times} failed ({error:#}); again in {} s",
                pause.as_secs()
            ),
        }
        thread::sleep(pause);
    }
    work().with_context(|| format!("{what}: {times} attempts failed, the last with"))
}

/// Starts a command, for [`wait`]. It stays in our process group, so that Ctrl-C reaches it.
pub(crate) fn start(command: &mut Command) -> anyhow::Result<Child> {
    command
        .spawn()
        .with_context(|| format!("run {}", describe(command)))
}

/// Waits at most `limit`, then kills the process and its descendants.
pub(crate) fn wait(mut child: Child, limit: Duration, name: &str) -> anyhow::Result<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("wait for {name}"))?
        {
            return Ok(status);
        }
        if Instant::now() >= end {
            kill_tree(child.id());
            let _ = child.wait();
            bail!("{name}: killed after {} minutes", limit.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// SIGKILL to a child of ours and everything below it.
fn kill_tree(root: u32) {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in processes {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // `pid (name) state parent …`
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let parent = rest.split_whitespace().nth(1);
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut doomed = vec![root];
    while let Some(pid) = doomed.pop() {
        doomed.extend(children.remove(&pid).unwrap_or_default());
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn describe(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_and_no_more_often_than_said() {
        for (good, tries, expected) in [(1, 1, Ok(1)), (3, 3, Ok(3)), (4, 3, Err(()))] {
            let mut tried = 0;
            let result = retry(3, Duration::ZERO, "fetch", || {
                tried += 1;
                ensure!(tried >= good, "the mirror is dead");
                Ok(tried)
            });
            assert_eq!(tried, tries);
            match (result, expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, expected),
                (Err(error), Err(())) => assert_eq!(
                    format!("{error:#}"),
                    "fetch: 3 attempts failed, the last with: the mirror is dead"
                ),
                (result, _) => panic!("{result:?}"),
            }
        }
    }
}
