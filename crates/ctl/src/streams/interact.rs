//! One session with a command: what is typed goes there, what it prints comes here.

use std::{collections::VecDeque, future::poll_fn, io, pin::Pin};

use bytes::Bytes;
use futures_util::FutureExt;
use rustix::process::Signal;
use streaming::{
    Ending, WritePieces, Writer,
    client::{self, Options, Wanted},
};
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
};

use super::{
    detach::DetachKeys,
    failed,
    stdio::{show, to_stderr, to_stdout, typed},
    terminal::{self, RawTerminal},
};
use crate::error::{Error, note};

/// How a session has ended.
#[derive(Debug)]
pub(crate) enum Leave {
    Ended(Ending),
    /// The detach keys were typed.
    Detached,
}

/// Bytes that were typed and not taken, before no more are read.
const MOST_PENDING: usize = 256 * 1024;

/// Signals that would end us, and must not leave the terminal raw.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Connects our standard streams to those of the session that the URL stands for, until it ends.
pub(crate) async fn interact(
    operation: &str,
    url: &str,
    options: &Options,
    wanted: Wanted,
) -> Result<Leave, Error> {
    let mut session = client::command(url, options, wanted)
        .await
        .map_err(failed(operation))?;
    // Before the terminal is raw: none of them may end us while it is.
    let mut window = signals(SignalKind::window_change())?;
    let mut ending: Vec<_> = Vec::new();
    for signal in ENDING {
        ending.push(signals(SignalKind::from_raw(signal.as_raw()))?);
    }
    let killed = killed(ending);
    let raw = match wanted.tty && wanted.stdin {
        true => RawTerminal::enter().map_err(|source| Error::Io {
            what: "make the terminal raw".to_owned(),
            source,
        })?,
        false => None,
    };
    let keys = raw.is_some().then(DetachKeys::default);
    let unheard = (!session.hears_ends() && !wanted.tty).then_some(operation);
    let typing = type_into(session.stdin.take(), keys, unheard);
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let showing = async {
        let (out, err) = tokio::join!(show(stdout, to_stdout), show(stderr, to_stderr));
        out.and(err)
    };
    tokio::pin!(typing, showing, killed);
    if wanted.tty
        && let Some(size) = terminal::size()
    {
        // Its end is seen below.
        let _told = session.resize(size).await;
    }
    let (mut types, mut shows, mut over) = (true, true, None);
    let left = loop {
        if let Some(ending) = over.take_if(|_| !shows) {
            break Leave::Ended(ending);
        }
        tokio::select! {
            // The rest is shown before we leave, for as long as nobody wants us to leave at once.
            ended = session.ending(), if over.is_none() => over = Some(ended.map_err(failed(operation))?),
            shown = &mut showing, if shows => {
                shows = false;
                // Nobody reads us any more.
                shown?;
            }
            detached = &mut typing, if types => {
                types = false;
                if detached {
                    break Leave::Detached;
                }
            }
            _ = window.recv(), if wanted.tty => {
                if let Some(size) = terminal::size() {
                    let _told = session.resize(size).await;
                }
            }
            signal = &mut killed => return Err(Error::Exit(128 + signal as u8)),
        }
    };
    drop(raw);
    if let Leave::Detached = left {
        // What was typed before the keys is still to go.
        session.close().await;
    }
    Ok(left)
}

fn signals(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|source| Error::Io {
        what: "wait for signals".to_owned(),
        source,
    })
}

/// The number of the first that comes.
async fn killed(signals: Vec<tokio::signal::unix::Signal>) -> i32 {
    let waits = signals.into_iter().zip(ENDING).map(|(mut signal, number)| {
        Box::pin(async move {
            signal.recv().await;
            number.as_raw()
        })
    });
    futures_util::future::select_all(waits).await.0
}

/// Gives all that is pending. Cancel safe.
async fn put(to: &mut Writer, pending: &mut VecDeque<Bytes>) -> io::Result<()> {
    while let Some(first) = pending.front_mut() {
        if first.is_empty() {
            pending.pop_front();
            continue;
        }
        poll_fn(|context| Pin::new(&mut *to).poll_put(context, first)).await?;
    }
    Ok(())
}

/// Types until there is nothing more to type. Whether the keys that detach were typed: they are heard also while nobody takes what was typed
/// before. `unheard`: what is being done, if the server cannot hear that the input has ended.
async fn type_into(
    to: Option<Writer>,
    mut keys: Option<DetachKeys>,
    unheard: Option<&str>,
) -> bool {
    let Some(mut to) = to else { return false };
    let mut typed = typed();
    let mut pending = VecDeque::new();
    let mut open = true;
    while open || !pending.is_empty() {
        let untaken: usize = pending.iter().map(Bytes::len).sum();
        tokio::select! {
            chunk = typed.recv(), if open && untaken < MOST_PENDING => match (chunk, &mut keys) {
                (None, _) => open = false,
                (Some(chunk), None) => pending.push_back(Bytes::from(chunk)),
                (Some(chunk), Some(keys)) => {
                    let (chunk, detached) = keys.filter(&chunk);
                    pending.push_back(chunk.into());
                    if detached {
                        // As much as is taken at once.
                        let _taken = put(&mut to, &mut pending).now_or_never();
                        return true;
                    }
                }
            },
            written = put(&mut to, &mut pending), if !pending.is_empty() => if written.is_err() {
                // A command that reads no more says how it ends by itself.
                return false;
            },
        }
    }
    if let Some(operation) = unheard {
        note(&format!(
            "{operation}: the input has ended, and this server has no way to hear of it over WebSocket (v4.channel.k8s.io): a command that reads to the end goes on waiting; --transport spdy tells it"
        ));
    }
    let _closed = to.shutdown().await;
    false
}
