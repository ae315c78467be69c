//! Commands with a bound, and how long they took.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

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

/// Runs a command; an error if it fails or takes longer than `limit`, when it is killed with everything in its process group.
pub(crate) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    let name = describe(command);
    let child = start(command)?;
    let status = wait(child, limit, &name)?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// Starts a command in a process group of its own, for [`wait`].
pub(crate) fn start(command: &mut Command) -> anyhow::Result<Child> {
    command
        .process_group(0)
        .spawn()
        .with_context(|| format!("run {}", describe(command)))
}

/// Waits at most `limit`, then kills the process group.
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
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            bail!("{name}: killed after {} minutes", limit.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(50));
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
