//! One hook on the node.

use std::{io, process::Stdio, time::Duration};

use oci_spec::runtime::Hook;
use rustix::{
    pipe::PipeFlags,
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    process::Command,
};

/// As much of what a hook says is kept, from the end.
const KEPT_BYTES: usize = 2048;

/// A child that a hook leaves behind may keep its output open.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);

/// Why a hook did not do what it is there for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("it cannot be run")]
    Start(#[source] io::Error),
    #[error("wait for it")]
    Wait(#[source] io::Error),
    #[error("it ended with {status}; it said: {said:?}")]
    Failed { status: String, said: String },
    #[error("it was killed after {} s; it said: {said:?}", bound.as_secs_f32())]
    TimedOut { bound: Duration, said: String },
}

/// The end of what a program says.
#[derive(Debug, Default)]
pub(crate) struct Output(Vec<u8>);

impl Output {
    /// Reads until nobody has the other end. Cancel safe.
    pub(crate) async fn read(&mut self, from: &mut pipe::Receiver) {
        let mut buffer = [0; 4096];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    self.0.extend_from_slice(&buffer[..count]);
                    let surplus = self.0.len().saturating_sub(KEPT_BYTES);
                    self.0.drain(..surplus);
                }
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

/// Runs a hook with `state` on its standard input, for as long as its own timeout, or `bound`. Cancellation kills it.
pub(crate) async fn run(hook: &Hook, state: &[u8], bound: Duration) -> Result<(), Failure> {
    let bound = timeout(hook).unwrap_or(bound);
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Failure::Start(error.into()))?;
    let mut receiver = pipe::Receiver::from_owned_fd(read).map_err(Failure::Start)?;
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command
        .args(args.iter().skip(1))
        .env_clear()
        .envs(environment(hook))
        .stdin(Stdio::piped())
        .stdout(write.try_clone().map_err(Failure::Start)?)
        .stderr(write)
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(Failure::Start)?;
    // It keeps copies of the pipe's end that the program writes to.
    drop(command);
    let group = Group(child.id());
    let mut stdin = child.stdin.take();
    let mut said = Output::default();
    let ended = async {
        let feed = async {
            if let Some(mut stdin) = stdin.take() {
                // One that does not want to know its container closes its end.
                let _uninterested = stdin.write_all(state).await;
            }
        };
        let talk = async {
            tokio::join!(feed, said.read(&mut receiver));
        };
        tokio::pin!(talk);
        tokio::select! {
            status = child.wait() => {
                // Its children, if it left any, have said enough then.
                let _left_open = tokio::time::timeout(DRAIN_WITHIN, talk).await;
                status
            }
            () = &mut talk => child.wait().await,
        }
    };
    let status = tokio::time::timeout(bound, ended).await;
    match status {
        Err(_elapsed) => {
            drop(group);
            let said = said.text();
            Err(Failure::TimedOut { bound, said })
        }
        Ok(Err(error)) => Err(Failure::Wait(error)),
        Ok(Ok(status)) => {
            // What it left to run in the background is meant to.
            std::mem::forget(group);
            if status.success() {
                return Ok(());
            }
            Err(Failure::Failed {
                status: status.to_string(),
                said: said.text(),
            })
        }
    }
}

/// Kills a hook with all that it started, when nobody waits for it any more.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|pid| i32::try_from(pid).ok());
        if let Some(group) = group.and_then(Pid::from_raw) {
            // Its leader has not been reaped: the number is still its.
            let _ended = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A hook's own timeout.
pub(crate) fn timeout(hook: &Hook) -> Option<Duration> {
    let seconds = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    seconds
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

fn environment(hook: &Hook) -> impl Iterator<Item = (&str, &str)> {
    let entries = hook.env().as_deref().unwrap_or_default().iter();
    entries.filter_map(|entry| entry.split_once('='))
}
