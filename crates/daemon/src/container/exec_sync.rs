//! ExecSync: a process in a container, its output, and its exit code.

use std::{future::Future, io, sync::Arc, time::Duration};

use supervisor_api::ExecKilled;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{
    Container,
    exec::{self, Command, ExecEnd, ExecError},
};
use crate::runtime::Runtime;

/// Standard output and error together: a reply must stay below CRI's 16 MiB a message.
const OUTPUT_BYTES: usize = 16 * 1024 * 1024 - 64 * 1024;

/// How much of the output a timeout's message carries.
const TAIL_BYTES: usize = 1024;

/// After the process has ended, a child of its may keep the pipes open: what it wrote by then is read, and no more waited for.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// How long the supervisor may take to report the death of an exec that it was told to kill in time.
const DEATH_WITHIN: Duration = Duration::from_secs(15);

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct ExecOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit_code: i32,
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
    exec::check_exec(container, &command)?;
    let program = command.first().cloned().unwrap_or_default();
    let (stdout, stdout_end) = exec::pipe(runtime, container)?;
    let (stderr, stderr_end) = exec::pipe(runtime, container)?;
    let receiver = |read| {
        pipe::Receiver::from_owned_fd(read).map_err(|error| ExecError::Pipe(id.clone(), error))
    };
    let (stdout, stderr) = (receiver(stdout)?, receiver(stderr)?);
    let command = Command {
        args: command,
        stdout: Some(stdout_end),
        stderr: Some(stderr_end),
        timeout,
        ..Command::default()
    };
    let mut running = exec::begin(runtime, container, command).await?;
    let mut output = Output {
        stdout: Vec::new(),
        stderr: Vec::new(),
        dropped: 0,
    };
    let end = collect(&mut output, stdout, stderr, running.end.wait(), timeout)
        .await
        .map_err(|error| ExecError::Read(id.clone(), error))?;
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
    ended: impl Future<Output = Option<ExecEnd>>,
    timeout: Option<Duration>,
) -> io::Result<Option<ExecEnd>> {
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
                Some(told) => {
                    end = Some(told);
                    drained.as_mut().reset(tokio::time::Instant::now() + DRAIN_WITHIN);
                }
                None => return Ok(None),
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

    use rustix::pipe::PipeFlags;

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
        let mut output = Output {
            stdout: Vec::new(),
            stderr: Vec::new(),
            dropped: 0,
        };
        let end = collect(
            &mut output,
            pipe::Receiver::from_owned_fd(read_out).unwrap(),
            pipe::Receiver::from_owned_fd(read_err).unwrap(),
            std::future::ready(Some((0, None))),
            None,
        );
        assert_eq!(end.await.unwrap(), Some((0, None)));
        assert_eq!(output.stdout, b"said");
        drop((write_out, write_err));
    }
}
