//! An exec with a client at its streams.

use std::{future::Future, os::fd::BorrowedFd, sync::Arc, time::Duration};

use oci_plan::TerminalSize;
use rustix::termios::{SpecialCodeIndex, Winsize};
use streaming::{ExecRequest, ExitStatus, Reader, Resizes, SessionError, Streams, Writer};
use supervisor_api::ExecKilled;
use tokio::sync::watch;

use super::{
    client_gone,
    pump::{End, InputEnd, drop_rest, inward, outward},
    session_error,
};
use crate::{
    container::{self, Command, Container, ExecError, Running},
    runtime::Runtime,
};

/// After the command has ended, a child of its may keep its streams open: what was written by then is carried to the client, and no more waited
/// for.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// Until the client has said how large its own is.
const TERMINAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// Runs the command to its end. One whose client vanishes is killed with all its children.
pub(super) async fn exec(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    request: ExecRequest,
    mut streams: Streams,
) -> Result<ExitStatus, SessionError> {
    let gone = streams.gone.clone();
    let size = match &mut streams.resize {
        Some(resize) => first_size(resize).await,
        None => None,
    };
    let (ours, running) = begin(runtime, container, request, size)
        .await
        .map_err(session_error)?;
    tokio::select! {
        end = run(container, ours, running, streams) => end,
        () = gone.gone() => Err(client_gone()),
    }
}

/// Our ends of the command's streams.
#[derive(Debug, Default)]
struct Ours {
    stdin: Option<End>,
    stdout: Option<End>,
    stderr: Option<End>,
    terminal: Option<End>,
}

/// A size that is there already spares the program a surprise.
async fn first_size(resize: &mut Resizes) -> Option<streaming::TerminalSize> {
    tokio::time::timeout(Duration::ZERO, resize.next())
        .await
        .ok()?
}

async fn begin(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    request: ExecRequest,
    size: Option<streaming::TerminalSize>,
) -> Result<(Ours, Running), ExecError> {
    let mut command = Command {
        args: request.command,
        ..Command::default()
    };
    let mut ours = Ours::default();
    let watch = |descriptor| {
        End::new(descriptor).map_err(|error| ExecError::Pipe(container.id.clone(), error))
    };
    if request.tty {
        command.terminal = Some(size.map_or(TERMINAL, |size| TerminalSize {
            rows: size.height,
            columns: size.width,
        }));
    } else {
        if request.stdin {
            let (read, write) = container::pipe(runtime, container)?;
            command.stdin = Some(read);
            ours.stdin = Some(watch(write)?);
        }
        if request.stdout {
            let (read, write) = container::pipe(runtime, container)?;
            command.stdout = Some(write);
            ours.stdout = Some(watch(read)?);
        }
        if request.stderr {
            let (read, write) = container::pipe(runtime, container)?;
            command.stderr = Some(write);
            ours.stderr = Some(watch(read)?);
        }
    }
    let mut running = container::begin_exec(runtime, container, command).await?;
    ours.terminal = running.terminal.take().map(watch).transpose()?;
    Ok((ours, running))
}

async fn run(
    container: &Container,
    ours: Ours,
    mut running: Running,
    streams: Streams,
) -> Result<ExitStatus, SessionError> {
    let Ours {
        stdin,
        stdout,
        stderr,
        terminal,
    } = ours;
    let last = watch::Sender::new(false);
    let output = async {
        if terminal.is_some() {
            show(terminal.as_ref(), streams.stdout, &last).await;
        } else {
            tokio::join!(
                carry(stdout, streams.stdout, &last),
                carry(stderr, streams.stderr, &last),
            );
        }
    };
    let aside = async {
        tokio::join!(
            input(streams.stdin, stdin, terminal.as_ref()),
            resizes(streams.resize, terminal.as_ref()),
        );
        // The command's end is what counts.
        std::future::pending::<()>().await;
    };
    let end = async {
        tokio::pin!(output);
        let (end, drained) = tokio::select! {
            end = running.end.wait() => (end, false),
            () = &mut output => (running.end.wait().await, true),
        };
        if !drained && end.is_some() {
            tokio::select! {
                () = &mut output => {}
                () = tokio::time::sleep(DRAIN_WITHIN) => {
                    last.send_replace(true);
                    output.await;
                }
            }
        }
        end
    };
    let end = tokio::select! {
        end = end => end,
        () = aside => None,
    };
    let lost = || session_error(ExecError::Lost(container.id.clone()));
    match end {
        Some((_, Some(ExecKilled::ConnectionClosed))) | None => Err(lost()),
        Some((code, Some(ExecKilled::Requested | ExecKilled::Timeout) | None)) => {
            Ok(ExitStatus(code))
        }
    }
}

/// One stream of output. Where the client takes no more of it, the pipe breaks for the command.
async fn carry(pipe: Option<End>, to: Option<Writer>, last: &watch::Sender<bool>) {
    if let (Some(pipe), Some(to)) = (pipe, to) {
        // That the client has gone is noticed elsewhere.
        let _taken = outward(&pipe, to, moment(last)).await;
    }
}

/// What the terminal shows. It is read in any case: a terminal that nobody reads stops its program.
async fn show(terminal: Option<&End>, to: Option<Writer>, last: &watch::Sender<bool>) {
    let Some(terminal) = terminal else { return };
    let taken = match to {
        Some(to) => outward(terminal, to, moment(last)).await.is_ok(),
        None => false,
    };
    if !taken {
        let _dropped = outward(terminal, tokio::io::sink(), moment(last)).await;
    }
}

/// Completes when what is there is the last that is wanted.
fn moment(last: &watch::Sender<bool>) -> impl Future<Output = ()> + use<> {
    let mut last = last.subscribe();
    async move {
        if last.wait_for(|last| *last).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn input(from: Option<Reader>, pipe: Option<End>, terminal: Option<&End>) {
    let Some(mut from) = from else { return };
    // An error is a client that has gone, and that is noticed elsewhere.
    let _ended = match (pipe, terminal) {
        // The pipe closes with its end: the program reads the end of its input.
        (Some(pipe), _) => inward(&mut from, &pipe).await.map(drop),
        (None, Some(terminal)) => match inward(&mut from, terminal).await {
            Ok(InputEnd::Closed) => {
                end_of_file(terminal.descriptor());
                Ok(())
            }
            other => other.map(drop),
        },
        (None, None) => drop_rest(&mut from).await,
    };
}

/// A terminal has no end of its own; who reads lines from it takes this character for one.
fn end_of_file(terminal: BorrowedFd<'_>) {
    if let Ok(modes) = rustix::termios::tcgetattr(terminal) {
        let character = modes.special_codes[SpecialCodeIndex::VEOF];
        // A terminal that takes nothing now has a program that reads nothing.
        let _written = rustix::io::write(terminal, &[character]);
    }
}

/// The client's terminal is followed, as often as it changes.
pub(super) async fn resizes(sizes: Option<Resizes>, terminal: Option<&End>) {
    let (Some(mut sizes), Some(terminal)) = (sizes, terminal) else {
        return;
    };
    while let Some(size) = sizes.next().await {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // The terminal has hung up.
        if rustix::termios::tcsetwinsize(terminal.descriptor(), size).is_err() {
            return;
        }
    }
}
