//! The other end: exec, attach and port-forward by a URL that a runtime gave out.
//!
//! ```no_run
//! # async fn example(url: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use longshore_streaming::client::{self, Options, Wanted};
//! use tokio::io::AsyncReadExt;
//!
//! let wanted = Wanted { stdout: true, ..Wanted::default() };
//! let mut session = client::command(url, &Options::default(), wanted).await?;
//! let mut output = Vec::new();
//! if let Some(stdout) = &mut session.stdout {
//!     stdout.read_to_end(&mut output).await?;
//! }
//! let ending = session.ending().await?;
//! # Ok(())
//! # }
//! ```

mod ports;
mod upgrade;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    task::JoinHandle,
};

pub use self::ports::{Forwarded, Forwarder, port_forward};
use self::upgrade::upgrade;
use crate::{
    hub::{Bounds, Hub, ReadHalf, StreamId, WriteHalf},
    resize,
    session::{ReadPieces, Reader, TerminalSize, Writer},
    spdy::connection::{Connection, Patience, Role},
    status::Ending,
    websocket::{Codec, connection::Connection as ChannelConnection, frame::Side},
};

/// What a session is carried by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    #[default]
    Spdy,
    WebSocket,
}

/// How to reach a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub transport: Transport,
    /// Whom to trust, for URLs of HTTPS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name that the server is asked for (SNI) and its certificate must have; without one, the host of the URL.
    pub server_name: Option<String>,
}

/// Which streams to open: those that the URL was asked for with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Why there is no session, or nothing is known of how it ended.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url} is no URL of a streaming server: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("connect to {host}")]
    Connect {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("ask {host} for a session")]
    Ask {
        host: String,
        #[source]
        source: hyper::Error,
    },
    /// The server's own words.
    #[error("the server refuses the session ({status}){}", colon(text))]
    Refused {
        status: http::StatusCode,
        text: String,
    },
    #[error("the server has switched to {0:?}, which was not asked for")]
    Protocol(String),
    #[error("the connection to the server has ended before the session did")]
    Lost(#[source] io::Error),
    #[error("the connection has no room for another stream")]
    NoStream,
}

/// Some servers have no words for it.
fn colon(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!(": {text}"),
    }
}

/// A command that runs, or that one is attached to. Dropping it closes the connection.
#[allow(
    missing_debug_implementations,
    reason = "the streams are trait objects"
)]
pub struct Session {
    /// Half-closed by shutting it down, except over `v4.channel.k8s.io`, which cannot tell.
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    resize: Option<WriteHalf>,
    error: Said,
    hears_ends: bool,
    link: Link,
}

/// What the server says on a stream to its end, kept here: whoever waits for it may stop, and wait again.
struct Said {
    stream: ReadHalf,
    text: Vec<u8>,
}

/// An error stream's text that is worth keeping.
const LONGEST_ERROR: usize = 64 * 1024;

impl Session {
    /// Whether the end of stdin can be told to the server. `v4.channel.k8s.io` cannot: a command that reads to the end waits for it in vain.
    pub fn hears_ends(&self) -> bool {
        self.hears_ends
    }

    /// Tells the terminal's size.
    ///
    /// # Errors
    ///
    /// The session is over. Without a terminal, nothing is told.
    pub async fn resize(&mut self, size: TerminalSize) -> io::Result<()> {
        match &mut self.resize {
            Some(resize) => resize.write_all(&resize::encode(size)).await,
            None => Ok(()),
        }
    }

    /// Waits for the session's end. Output that has not been read stays readable. Cancel safe.
    ///
    /// # Errors
    ///
    /// The connection was lost.
    pub async fn ending(&mut self) -> Result<Ending, ClientError> {
        let text = self.error.whole().await.map_err(ClientError::Lost)?;
        Ok(Ending::decode(text))
    }

    /// Leaves: sends what was written, says goodbye, and waits for the server to close, for some seconds at most. Dropping the session leaves as
    /// well, but whoever then ends the event loop at once may cut off what was written last.
    pub async fn close(self) {
        let Self {
            stdin,
            resize,
            link,
            ..
        } = self;
        drop((stdin, resize));
        link.close().await;
    }
}

impl Said {
    async fn whole(&mut self) -> io::Result<&[u8]> {
        while self.text.len() < LONGEST_ERROR {
            match self.stream.read_buf(&mut self.text).await {
                Ok(0) => break,
                Ok(_) => {}
                // A server in Go ends its streams by resetting them.
                Err(reset)
                    if reset.kind() == io::ErrorKind::ConnectionReset && !self.text.is_empty() =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(&self.text)
    }
}

/// Runs a command, or attaches to one: the URL knows which.
///
/// # Errors
///
/// The server cannot be reached, or refuses.
pub async fn command(url: &str, options: &Options, wanted: Wanted) -> Result<Session, ClientError> {
    match options.transport {
        Transport::Spdy => spdy_command(url, options, wanted).await,
        Transport::WebSocket => channel_command(url, options, wanted).await,
    }
}

async fn spdy_command(
    url: &str,
    options: &Options,
    wanted: Wanted,
) -> Result<Session, ClientError> {
    let offered = ["v4.channel.k8s.io", "v3.channel.k8s.io"];
    let upgraded = upgrade(url, options, &offered).await?;
    let (hub, link) = spdy(upgraded.socket);
    // In the order of the Go client.
    let open = |kind: &str| {
        let headers = vec![("streamtype".to_owned(), kind.to_owned())];
        hub.open(headers).ok_or(ClientError::NoStream)
    };
    let open_if = |wanted: bool, kind| wanted.then(|| open(kind)).transpose();
    let error = open("error")?;
    let stdin = open_if(wanted.stdin, "stdin")?;
    let stdout = open_if(wanted.stdout, "stdout")?;
    let stderr = open_if(wanted.stderr, "stderr")?;
    let resize = open_if(wanted.tty, "resize")?;
    let streams = [Some(error), stdin, stdout, stderr, resize];
    Ok(session(&hub, streams, true, link))
}

async fn channel_command(
    url: &str,
    options: &Options,
    wanted: Wanted,
) -> Result<Session, ClientError> {
    let offered = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
    let upgraded = upgrade(url, options, &offered).await?;
    let codec = Codec {
        base64: false,
        closes: upgraded.protocol.as_deref() == Some("v5.channel.k8s.io"),
    };
    let hub = Hub::new(BOUNDS, 0);
    hub.presume_heedless();
    for channel in 0..CHANNELS {
        hub.provide(u32::from(channel));
    }
    let (socket, driven, side) = (upgraded.socket, Arc::clone(&hub), Side::Client);
    let connection = ChannelConnection::new(socket, driven, codec, CHANNELS, side, PATIENCE);
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.run().await {
            let error = crate::chain(&error);
            tracing::debug!(error, "the connection of a streaming session");
        }
    });
    let link = Link::new(&hub, driver);
    let channel = |wanted: bool, channel| wanted.then_some(channel);
    let streams = [
        Some(3),
        channel(wanted.stdin, 0),
        channel(wanted.stdout, 1),
        channel(wanted.stderr, 2),
        channel(wanted.tty, 4),
    ];
    Ok(session(&hub, streams, codec.closes, link))
}

const CHANNELS: u8 = 5;

fn session(
    hub: &Arc<Hub>,
    streams: [Option<StreamId>; 5],
    hears_ends: bool,
    link: Link,
) -> Session {
    let [error, stdin, stdout, stderr, resize] = streams;
    let read = |id| Box::new(Output(hub.read_half(id))) as Reader;
    Session {
        stdin: stdin.map(|id| Box::new(hub.write_half(id)) as Writer),
        stdout: stdout.map(read),
        stderr: stderr.map(read),
        resize: resize.map(|id| hub.write_half(id)),
        error: Said {
            stream: hub.read_half(error.unwrap_or_default()),
            text: Vec::new(),
        },
        hears_ends,
        link,
    }
}

/// A command's output. A server in Go ends it by resetting the stream behind the last byte; whether the command itself went well, its
/// status says.
struct Output(ReadHalf);

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.0).poll_read(context, target);
        polled.map(|read| read.or_else(reset_is_end))
    }
}

impl ReadPieces for Output {
    fn poll_pieces(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.0).poll_pieces(context, most, pieces);
        polled.map(|read| read.or_else(reset_is_end))
    }
}

fn reset_is_end<T: Default>(error: io::Error) -> io::Result<T> {
    match error.kind() {
        io::ErrorKind::ConnectionReset => Ok(T::default()),
        _ => Err(error),
    }
}

const BOUNDS: Bounds = Bounds {
    stream: 256 * 1024,
    overrun: 2 * 1024 * 1024,
    connection: 128 * 1024 * 1024,
    streams: 4096,
    newcomers: false,
};

/// Servers have an idle timeout of their own; this one must not be the first.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(24 * 60 * 60),
    farewell: Duration::from_secs(5),
    stall: None,
    asks: None,
};

const HEADERS: usize = 64 * 1024;

/// Starts to speak SPDY.
fn spdy(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> (Arc<Hub>, Link) {
    let hub = Hub::new(BOUNDS, 1);
    let driven = Arc::clone(&hub);
    let connection = Connection::new(socket, driven, Role::Client, HEADERS, PATIENCE);
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.run().await {
            let error = crate::chain(&error);
            tracing::debug!(error, "the connection of a streaming session");
        }
    });
    let link = Link::new(&hub, driver);
    (hub, link)
}

/// The connection. Dropped, it sends what is left to send, says goodbye, and closes.
#[derive(Debug)]
struct Link {
    hub: Arc<Hub>,
    driver: JoinHandle<()>,
}

impl Link {
    fn new(hub: &Arc<Hub>, driver: JoinHandle<()>) -> Self {
        Self {
            hub: Arc::clone(hub),
            driver,
        }
    }

    async fn close(mut self) {
        self.hub.finish();
        // Bytes that the server's windows do not let through are given up.
        let _closed = tokio::time::timeout(PATIENCE.farewell, &mut self.driver).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hub.finish();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_stops_waiting_for_the_end_loses_nothing_of_it() {
        let hub = Hub::new(BOUNDS, 0);
        hub.provide(3);
        let mut said = Said {
            stream: hub.read_half(3),
            text: Vec::new(),
        };
        for piece in ["exit ", "code 9"] {
            hub.receive(3, piece.into()).unwrap();
            assert!(said.whole().now_or_never().is_none(), "it goes on");
        }
        hub.receive_end(3);
        let whole = said.whole().now_or_never().expect("it has ended");
        assert_eq!(whole.unwrap(), b"exit code 9");
    }

    /// A server that has said its last words, and hears nothing any more.
    struct Gone(&'static [u8]);

    impl AsyncRead for Gone {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            target: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, target)
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn last_words_are_heard_by_who_can_say_nothing_any_more() {
        let websocket = Gone(b"\x82\x05\x03gone\x88\x02\x03\xe8");
        let spdy = Gone(b"\0\0\0\x03\x01\0\0\x04gone");
        let codec = Codec {
            base64: false,
            closes: true,
        };
        for transport in [Transport::WebSocket, Transport::Spdy] {
            let hub = Hub::new(BOUNDS, 0);
            (0..u32::from(CHANNELS)).for_each(|channel| hub.provide(channel));
            let mut error = hub.read_half(3);
            let mut stdin = hub.write_half(0);
            stdin.write_all(b"for nobody").await.unwrap();
            let driven = Arc::clone(&hub);
            match transport {
                Transport::WebSocket => {
                    let (gone, side) = (Gone(websocket.0), Side::Client);
                    let connection =
                        ChannelConnection::new(gone, driven, codec, CHANNELS, side, PATIENCE);
                    let _over = connection.run().await;
                }
                Transport::Spdy => {
                    let (gone, role) = (Gone(spdy.0), Role::Client);
                    let connection = Connection::new(gone, driven, role, HEADERS, PATIENCE);
                    let _over = connection.run().await;
                }
            }
            let mut words = String::new();
            error.read_to_string(&mut words).await.unwrap();
            assert_eq!(words, "gone", "{transport:?}");
        }
    }
}
