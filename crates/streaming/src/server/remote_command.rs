//! Exec and attach: one session a connection, with a stream for each of the process's.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
};

use super::token::Errand;
use crate::{
    hub::{Hub, ReadHalf, StreamId, WriteHalf},
    resize,
    session::{Gone, Resizes, SessionError, Sessions, Streams, TerminalSize},
    spdy::{connection::Incoming, frame::status, header},
    status::{Ending, Language},
};

/// Which streams a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) resize: bool,
}

impl Wanted {
    /// `None` for an errand that is no command.
    pub(super) fn of(errand: &Errand) -> Option<Self> {
        let (tty, stdin, stdout, stderr) = match errand {
            Errand::Exec(request) => (request.tty, request.stdin, request.stdout, request.stderr),
            Errand::Attach(request) => (request.tty, request.stdin, request.stdout, request.stderr),
            Errand::PortForward(_) => return None,
        };
        Some(Self {
            stdin,
            stdout,
            stderr,
            resize: tty,
        })
    }
}

/// The client's end of the session, as its transport has brought it about.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) stdin: Option<ReadHalf>,
    pub(super) stdout: Option<WriteHalf>,
    pub(super) stderr: Option<WriteHalf>,
    pub(super) resize: Option<ReadHalf>,
    pub(super) error: Option<WriteHalf>,
}

/// What ends a session from outside.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// The connection is over.
    pub(super) hub: Arc<Hub>,
    /// The server is ending.
    pub(super) ending: watch::Receiver<bool>,
    pub(super) farewell: Duration,
}

impl Ends {
    /// Resolves when the server is ending. Cancel safe.
    pub(super) async fn server_ends(&mut self) {
        // An error is the server's end as well.
        drop(self.ending.wait_for(|ending| *ending).await);
    }
}

/// Runs the session and tells the client how it ended.
pub(super) async fn run<S: Sessions>(
    sessions: &S,
    errand: Errand,
    channels: Channels,
    language: Language,
    ends: Ends,
) {
    let Channels {
        stdin,
        stdout,
        stderr,
        resize,
        error,
    } = channels;
    let (sizes, resizes) = Resizes::channel();
    let (present, gone) = Gone::channel();
    let streams = Streams {
        stdin: stdin.map(|half| Box::new(half) as _),
        stdout: stdout.map(|half| Box::new(half) as _),
        stderr: stderr.map(|half| Box::new(half) as _),
        resize: resize.is_some().then_some(resizes),
        gone,
    };
    let session = async {
        match errand {
            Errand::Exec(request) => sessions.exec(request, streams).await.map(Some),
            Errand::Attach(request) => sessions.attach(request, streams).await,
            Errand::PortForward(_) => Err(SessionError::new("a forwarded port is no command")),
        }
    };
    // A session that panics must not look like one that succeeded.
    let session = AssertUnwindSafe(session).catch_unwind();
    let outcome = guide(session, follow_sizes(resize, sizes), present, ends).await;
    let ending = match outcome {
        Outcome::Over(Ok(outcome)) => Ending::of(outcome),
        Outcome::Over(Err(_)) => Ending::Error("the runtime has failed".to_owned()),
        Outcome::ServerEnds => Ending::Error("the runtime is shutting down".to_owned()),
        Outcome::Vanished => return,
    };
    if let Some(mut error) = error
        && error.write_all(&ending.encode(language)).await.is_ok()
    {
        drop(error.shutdown().await);
    }
}

/// Passes the client's sizes on. It never returns, so that who waits for the next one waits. What is no size ends its stream, and the session goes on
/// without; on a channel, which has no end of its own, it ends the connection.
async fn follow_sizes(stream: Option<ReadHalf>, sizes: watch::Sender<Option<TerminalSize>>) {
    if let Some(mut stream) = stream
        && let Err(error) = resize::follow(&mut stream, &sizes).await
    {
        tracing::warn!(%error, "the client's terminal sizes are none");
        stream.refuse(status::PROTOCOL_ERROR);
    }
    std::future::pending().await
}

/// Drops sizes that come for a session that has no terminal. It never returns. A stream for them would be refused; on their channel, the Kubernetes
/// client for JavaScript sends them whether there is a terminal or not, and must have its session all the same.
pub(super) async fn drop_sizes(mut stream: ReadHalf) {
    if let Ok(1..) = stream.read(&mut [0]).await {
        tracing::warn!("terminal sizes for a session that has no terminal: dropped");
    }
    drop(stream);
    std::future::pending().await
}

enum Outcome<T> {
    Over(T),
    Vanished,
    ServerEnds,
}

/// Polls the session and what serves it, until it is over, or for a while after it has been told to end.
async fn guide<T>(
    session: impl Future<Output = T>,
    resizes: impl Future<Output = ()>,
    present: watch::Sender<()>,
    mut ends: Ends,
) -> Outcome<T> {
    let hub = Arc::clone(&ends.hub);
    tokio::pin!(session, resizes);
    let outcome = tokio::select! {
        biased;
        over = &mut session => return Outcome::Over(over),
        () = &mut resizes => Outcome::Vanished, // never: it waits when it has nothing to do
        () = hub.lost() => Outcome::Vanished,
        () = ends.server_ends() => Outcome::ServerEnds,
    };
    drop(present);
    match tokio::time::timeout(ends.farewell, session).await {
        Ok(_) => tracing::debug!("the session ended without its client"),
        Err(_) => tracing::warn!("the session did not end when its client had gone: dropped"),
    }
    outcome
}

/// Takes the streams that the client opens, until all that were asked for are there. `None` when it does not in time, or goes.
pub(super) async fn collect(
    hub: &Arc<Hub>,
    incoming: &mut mpsc::Receiver<Incoming>,
    wanted: Wanted,
) -> Option<Channels> {
    let mut channels = Channels::default();
    let mut said = false;
    loop {
        let missing = channels.error.is_none()
            || (wanted.stdin && channels.stdin.is_none())
            || (wanted.stdout && channels.stdout.is_none())
            || (wanted.stderr && channels.stderr.is_none());
        if !missing && (!wanted.resize || channels.resize.is_some()) {
            return Some(channels);
        }
        let Incoming { id, headers } = incoming.recv().await?;
        let kind = header(&headers, "streamtype");
        if !channels.take(hub, id, kind.unwrap_or_default(), wanted) {
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    stream = id,
                    kind,
                    "a stream that this session does not have, or has already: this one, and any more, is refused"
                );
            }
            hub.reset(id, status::REFUSED_STREAM);
        }
    }
}

impl Channels {
    /// False if the session has no such stream, or it is there already.
    fn take(&mut self, hub: &Arc<Hub>, id: StreamId, kind: &str, wanted: Wanted) -> bool {
        let taken = match kind {
            "error" => fill(&mut self.error, true, || hub.write_half(id)),
            "stdin" => fill(&mut self.stdin, wanted.stdin, || hub.read_half(id)),
            "stdout" => fill(&mut self.stdout, wanted.stdout, || hub.write_half(id)),
            "stderr" => fill(&mut self.stderr, wanted.stderr, || hub.write_half(id)),
            "resize" => fill(&mut self.resize, wanted.resize, || hub.read_half(id)),
            _ => false,
        };
        if taken {
            hub.reply(id);
        }
        taken
    }
}

fn fill<T>(slot: &mut Option<T>, wanted: bool, half: impl FnOnce() -> T) -> bool {
    let free = wanted && slot.is_none();
    if free {
        *slot = Some(half());
    }
    free
}
