//! ExecSync: a process in a container, its output, and its exit code.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use oci_plan::{FdSlot, spec::SpecError};
use rustix::pipe::PipeFlags;
use supervisor_api::{Exec, ExecKilled, ReplyBody, RequestBody};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::oneshot};

use super::{Container, Phase};
use crate::{
    id::{self, ContainerId},
    pod::Pod,
    runtime::Runtime,
    state::RecordError,
    supervisor::{CallError, Link, mismatch},
};

/// Standard output and error together: a reply must stay below CRI's 16 MiB a message.
const OUTPUT_BYTES: usize = 16 * 1024 * 1024 - 64 * 1024;

/// How much of the output a timeout's message carries.
const TAIL_BYTES: usize = 1024;

/// After the process has ended, a child of its may keep the pipes open: what it wrote by then is read, and no more waited for.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// How long the supervisor may take to report the death of an exec that it was told to kill in time.
const DEATH_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("cmd is empty: give the program to run and its arguments")]
    NoCommand,
    #[error("exec in container {0}: it is not running")]
    NotRunning(ContainerId),
    #[error("exec in container {0}: read how the container was made")]
    Record(ContainerId, #[source] RecordError),
    #[error("exec in container {0}: translate its specification")]
    Spec(ContainerId, #[source] SpecError),
    #[error("exec in container {0}: compile its seccomp profile")]
    Seccomp(ContainerId, #[source] seccomp::CompileError),
    #[error("exec in container {0}: make pipes")]
    Pipe(ContainerId, #[source] io::Error),
    #[error("exec {command:?} in container {id}")]
    Supervisor {
        id: ContainerId,
        command: String,
        #[source]
        source: CallError,
    },
    #[error("exec in container {0}: read its output")]
    Read(ContainerId, #[source] io::Error),
    #[error("exec in container {0}: the pod's supervisor is gone")]
    Lost(ContainerId),
    #[error("exec {command:?} in container {id}: killed after the timeout of {} s; its output ended: {tail:?}", timeout.as_secs())]
    TimedOut {
        id: ContainerId,
        command: String,
        timeout: Duration,
        tail: String,
    },
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct ExecOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit_code: i32,
}

/// Exit code, and why we killed it, if we did.
type End = (i32, Option<ExecKilled>);

type Waiting = HashMap<String, oneshot::Sender<End>>;

/// Execs whose end somebody waits for, by exec id.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    waiting: Mutex<Waiting>,
}

impl Execs {
    fn expect(&self, exec_id: &str) -> oneshot::Receiver<End> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(exec_id.to_owned(), sender);
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A supervisor has told of an exec's end.
pub(crate) fn exec_exited(pod: &Pod, exec_id: &str, exit_code: i32, killed: Option<ExecKilled>) {
    if let Some(waiter) = pod.execs.lock().remove(exec_id) {
        // A caller that has gone does not want it.
        let _gone = waiter.send((exit_code, killed));
    }
}

/// The supervisor is gone: nobody will tell of their ends.
pub(crate) fn forget_execs(pod: &Pod) {
    pod.execs.lock().clear();
}

/// Runs a command to its end. Without a `timeout` it may take for ever. Cancellation: dropping the future kills the command's whole
/// process tree. Execs are never joined.
pub(crate) async fn exec_sync(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    command: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, ExecError> {
    let id = &container.id;
    let Some(program) = command.first().cloned() else {
        return Err(ExecError::NoCommand);
    };
    let (Phase::Running { .. }, Some(link)) = (container.phase(), container.pod.link()) else {
        return Err(ExecError::NotRunning(id.clone()));
    };
    let spec = container
        .spec(&runtime.records)
        .map_err(|error| ExecError::Record(id.clone(), error))?;
    let seccomp = runtime
        .seccomp
        .program(&spec)
        .map_err(|error| ExecError::Seccomp(id.clone(), error))?;
    let process = oci_plan::spec::exec_process(&spec, command, None, seccomp)
        .map_err(|error| ExecError::Spec(id.clone(), error))?;
    let pipe = || {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| ExecError::Pipe(id.clone(), error.into()))
    };
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let receiver = |read: OwnedFd| {
        pipe::Receiver::from_owned_fd(read).map_err(|error| ExecError::Pipe(id.clone(), error))
    };
    let (stdout, stderr) = (receiver(stdout)?, receiver(stderr)?);
    let exec_id = id::random_hex().map_err(|error| ExecError::Pipe(id.clone(), error))?;
    let ended = container.pod.execs.expect(&exec_id);
    let mut leash = Leash {
        pod: &container.pod,
        link: &link,
        exec_id: &exec_id,
        held: true,
    };
    let request = RequestBody::Exec(Box::new(Exec {
        container_id: id.to_string(),
        exec_id: exec_id.clone(),
        process,
        stdin: None,
        stdout: Some(FdSlot(0)),
        stderr: Some(FdSlot(1)),
        timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        bound_to_connection: true,
    }));
    let failed = |source| ExecError::Supervisor {
        id: id.clone(),
        command: program.clone(),
        source,
    };
    match link.call(request, vec![stdout_end, stderr_end]).await {
        Ok((ReplyBody::Started { .. }, _)) => {}
        Ok((other, _)) => {
            return Err(failed(mismatch("Exec", &other)));
        }
        Err(error) => {
            leash.held = !matches!(error, CallError::Refused(_));
            return Err(failed(error));
        }
    }
    let mut output = Output {
        stdout: Vec::new(),
        stderr: Vec::new(),
        dropped: 0,
    };
    let end = collect(&mut output, stdout, stderr, ended, timeout)
        .await
        .map_err(|error| ExecError::Read(id.clone(), error))?;
    leash.held = end.is_none();
    let Some((exit_code, killed)) = end else {
        return Err(ExecError::Lost(id.clone()));
    };
    match killed {
        Some(ExecKilled::Timeout) => Err(ExecError::TimedOut {
            id: id.clone(),
            command: program,
            timeout: timeout.unwrap_or_default(),
            tail: output.tail(),
        }),
        Some(ExecKilled::ConnectionClosed) => Err(ExecError::Lost(id.clone())),
        Some(ExecKilled::Requested) | None => Ok(output.finish(exit_code)),
    }
}

/// Kills the command when its caller goes away.
struct Leash<'a> {
    pod: &'a Arc<Pod>,
    link: &'a Arc<Link>,
    exec_id: &'a str,
    held: bool,
}

impl Drop for Leash<'_> {
    fn drop(&mut self) {
        self.pod.execs.lock().remove(self.exec_id);
        if self.held {
            let (link, exec_id) = (Arc::clone(self.link), self.exec_id.to_owned());
            tokio::spawn(async move {
                let request = RequestBody::KillExec { exec_id };
                if let Err(error) = link.order("KillExec", request, Vec::new()).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "kill an exec whose client has gone");
                }
            });
        }
    }
}

#[derive(Debug)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: usize,
}

impl Output {
    /// Takes what fits in the bound of both streams together; the rest is counted.
    fn take(&mut self, from: Stream, bytes: &[u8]) {
        let room = OUTPUT_BYTES.saturating_sub(self.stdout.len() + self.stderr.len());
        let kept = &bytes[..bytes.len().min(room)];
        match from {
            Stream::Stdout => self.stdout.extend_from_slice(kept),
            Stream::Stderr => self.stderr.extend_from_slice(kept),
        }
        self.dropped += bytes.len() - kept.len();
    }

    fn tail(&self) -> String {
        let last = if self.stderr.is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        String::from_utf8_lossy(&last[last.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    fn finish(mut self, exit_code: i32) -> ExecOutput {
        if self.dropped > 0 {
            let words = format!(
                "\nlongshore: {} bytes of output were dropped\n",
                self.dropped
            );
            self.stderr.extend_from_slice(words.as_bytes());
        }
        ExecOutput {
            stdout: self.stdout,
            stderr: self.stderr,
            exit_code,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

/// Reads both streams until the command has ended and they are drained. `None`: nobody will ever tell of its end.
async fn collect(
    output: &mut Output,
    mut stdout: pipe::Receiver,
    mut stderr: pipe::Receiver,
    ended: oneshot::Receiver<End>,
    timeout: Option<Duration>,
) -> io::Result<Option<End>> {
    let (mut out, mut err) = (vec![0; 16 * 1024], vec![0; 4 * 1024]);
    let (mut out_open, mut err_open) = (true, true);
    let mut end = None;
    tokio::pin!(ended);
    // The supervisor keeps the time; this only bounds the wait for its word.
    let overdue = async {
        match timeout.and_then(|timeout| timeout.checked_add(DEATH_WITHIN)) {
            Some(bound) => tokio::time::sleep(bound).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(overdue);
    let drained = tokio::time::sleep(Duration::MAX);
    tokio::pin!(drained);
    while out_open || err_open || end.is_none() {
        tokio::select! {
            read = stdout.read(&mut out), if out_open => match read? {
                0 => out_open = false,
                count => output.take(Stream::Stdout, &out[..count]),
            },
            read = stderr.read(&mut err), if err_open => match read? {
                0 => err_open = false,
                count => output.take(Stream::Stderr, &err[..count]),
            },
            told = &mut ended, if end.is_none() => match told {
                Ok(told) => {
                    end = Some(told);
                    drained.as_mut().reset(tokio::time::Instant::now() + DRAIN_WITHIN);
                }
                Err(_nobody_will_tell) => return Ok(None),
            },
            () = &mut drained, if end.is_some() => break,
            () = &mut overdue, if end.is_none() => return Ok(None),
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_bound_is_counted_and_said() {
        let mut output = Output {
            stdout: Vec::new(),
            stderr: Vec::new(),
            dropped: 0,
        };
        output.take(Stream::Stdout, &vec![b'x'; OUTPUT_BYTES - 10]);
        output.take(Stream::Stderr, &[b'e'; 20]);
        output.take(Stream::Stdout, b"more");
        let output = output.finish(3);
        assert_eq!(
            (output.stdout.len(), output.exit_code),
            (OUTPUT_BYTES - 10, 3)
        );
        assert!(output.stdout.len() + output.stderr.len() < cri::MAX_MESSAGE_BYTES);
        assert!(
            output
                .stderr
                .ends_with(b"longshore: 14 bytes of output were dropped\n")
        );
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_pipe_does_not_keep_the_caller() {
        let (read_out, write_out) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (read_err, write_err) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&write_out, b"said").unwrap();
        let (sender, receiver) = oneshot::channel();
        sender.send((0, None)).unwrap();
        let mut output = Output {
            stdout: Vec::new(),
            stderr: Vec::new(),
            dropped: 0,
        };
        let end = collect(
            &mut output,
            pipe::Receiver::from_owned_fd(read_out).unwrap(),
            pipe::Receiver::from_owned_fd(read_err).unwrap(),
            receiver,
            None,
        );
        assert_eq!(end.await.unwrap(), Some((0, None)));
        assert_eq!(output.stdout, b"said");
        drop((write_out, write_err));
    }
}
