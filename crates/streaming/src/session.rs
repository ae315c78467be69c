//! What an embedder implements, and what it is handed.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, Sink, WriteHalf},
    sync::watch,
};

/// The sessions that a [`Server`](crate::Server) opens for its clients.
///
/// Every method is called once per session, after the client has opened all its streams. An exec or attach runs on the task of its connection, and must
/// not block it; a forwarded connection has a task of its own. The session is over when
/// the method returns; the server then tells the client how it ended, and closes the client's streams once all that was written has
/// been sent.
///
/// # Cancellation
///
/// A client that vanishes resolves [`Streams::gone`] (for a forwarded port: ends the stream with an error). The method should then end
/// what it started and return. The future is dropped when it has not returned [`Limits::farewell`](crate::Limits) later, so dropping it
/// must not leak what it started either.
pub trait Sessions: Send + Sync + 'static {
    /// Runs a command until it ends.
    ///
    /// # Errors
    ///
    /// The client is shown the error's text as an internal error. A command that ran and failed is an [`ExitStatus`].
    fn exec(
        &self,
        request: ExecRequest,
        streams: Streams,
    ) -> impl Future<Output = Result<ExitStatus, SessionError>> + Send;

    /// Joins the streams of a running container until it ends (its status), or until it detaches the client for a reason that is no
    /// error (`None`).
    ///
    /// # Errors
    ///
    /// The client is shown the error's text as an internal error.
    fn attach(
        &self,
        request: AttachRequest,
        streams: Streams,
    ) -> impl Future<Output = Result<Option<ExitStatus>, SessionError>> + Send;

    /// Connects a stream to a port of a sandbox until both directions have ended. Called once per forwarded connection.
    ///
    /// # Errors
    ///
    /// The client's connection is reset, and it is shown the error's text, which should name the port. Other connections over the same
    /// transport go on.
    fn port_forward(
        &self,
        sandbox_id: String,
        port: u16,
        stream: Duplex,
    ) -> impl Future<Output = Result<(), SessionError>> + Send;
}

/// A command to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub container_id: String,
    pub command: Vec<String>,
    /// Run it on a terminal. Excludes `stderr`: a terminal has one output.
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A container to attach to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    pub container_id: String,
    /// The container runs on a terminal. Excludes `stderr`.
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A sandbox to forward ports of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortForwardRequest {
    pub sandbox_id: String,
    /// Ports of the WebSocket form that names them beforehand. SPDY names a port with each stream, and ignores these.
    pub ports: Vec<u16>,
}

/// Bytes from the client. End of file is the client's half-close; an error says that the client has gone.
pub type Reader = Box<dyn ReadPieces>;

/// Bytes to the client. A write waits while the client does not read, and fails once it has gone. Shutting down or dropping it is our
/// half-close.
pub type Writer = Box<dyn WritePieces>;

/// A stream that can be read from without a copy: what carries much takes the memory that bytes came in.
pub trait ReadPieces: AsyncRead + Send + Unpin {
    /// Appends what has come to `pieces`, `most` bytes at most: how many they were, 0 at the end of file. Cancel safe.
    ///
    /// # Errors
    ///
    /// As reading.
    fn poll_pieces(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>>;
}

/// A stream that can be written to without a copy.
pub trait WritePieces: AsyncWrite + Send + Unpin {
    /// Takes bytes off the front of `bytes`, as many as there is room for: at least one, when it is ready. Small ones are gathered, large ones
    /// kept as they are until they have been sent.
    ///
    /// # Errors
    ///
    /// As writing.
    fn poll_put(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<()>>;
}

/// Both directions of a forwarded connection, each half-closed on its own.
pub type Duplex = Box<dyn ReadWrite>;

impl<T: ReadPieces + ?Sized> ReadPieces for Box<T> {
    fn poll_pieces(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self).poll_pieces(context, most, pieces)
    }
}

impl<T: WritePieces + ?Sized> WritePieces for Box<T> {
    fn poll_put(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut **self).poll_put(context, bytes)
    }
}

/// Bytes read at a time from a stream that has no pieces to give.
const COPIED: usize = 64 * 1024;

/// Of a stream of any make: it copies.
impl<T: AsyncRead + Send> ReadPieces for ReadHalf<T> {
    fn poll_pieces(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let mut piece = Vec::with_capacity(most.min(COPIED));
        let mut half = self;
        let count = ready!(pin!(half.read_buf(&mut piece)).poll(context))?;
        if count > 0 {
            pieces.push_back(piece.into());
        }
        Poll::Ready(Ok(count))
    }
}

/// Of a stream of any make: it copies.
impl<T: AsyncWrite + Send> WritePieces for WriteHalf<T> {
    fn poll_put(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        let count = ready!(self.poll_write(context, bytes))?;
        bytes.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// Where nobody wants them.
impl WritePieces for Sink {
    fn poll_put(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        bytes.clear();
        Poll::Ready(Ok(()))
    }
}

/// [`AsyncRead`] and [`AsyncWrite`] in one.
pub trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ReadWrite for T {}

/// The client's end of a session. A stream that was not asked for is `None`.
#[allow(
    missing_debug_implementations,
    reason = "the streams are trait objects"
)]
pub struct Streams {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    /// Sizes of the client's terminal, when there is one.
    pub resize: Option<Resizes>,
    pub gone: Gone,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Sizes of the client's terminal. Only the newest counts: sizes that were not taken in time are passed over.
#[derive(Debug)]
pub struct Resizes(watch::Receiver<Option<TerminalSize>>);

impl Resizes {
    /// Where sizes come from, and where they arrive.
    #[must_use]
    pub fn channel() -> (watch::Sender<Option<TerminalSize>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// The next size, or `None` when no more will come. Cancel safe.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(size) = *self.0.borrow_and_update() {
                return Some(size);
            }
        }
    }
}

/// Whether the client is still there.
#[derive(Debug, Clone)]
pub struct Gone(watch::Receiver<()>);

impl Gone {
    /// The client has gone when what is returned first has been dropped.
    #[must_use]
    pub fn channel() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }

    /// Resolves when the client has vanished: it closed or lost its connection, was idle for too long, or the server shuts down. Does
    /// not resolve while a client has merely half-closed its input. Cancel safe.
    pub async fn gone(&self) {
        let mut receiver = self.0.clone();
        while receiver.changed().await.is_ok() {}
    }

    /// The same, asked now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

/// How a command ended: its exit code, or 128 and the number of the signal that killed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub i32);

impl ExitStatus {
    #[must_use]
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

/// Why a session could not be had, or ended early, in words for the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SessionError {
    message: String,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl SessionError {
    /// An error that nothing else caused.
    pub fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            message,
            source: None,
        }
    }

    /// What was being done, and what prevented it.
    pub fn because(
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let message = message.into();
        Self {
            message,
            source: Some(Arc::new(source)),
        }
    }

    /// The whole chain, as the client is shown it.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::chain(self)
    }
}
