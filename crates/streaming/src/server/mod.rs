//! The listening end: URLs, connections, and what becomes of them.

mod client;
mod config;
mod half_open;
mod negotiation;
mod port_forward;
mod remote_command;
mod rounds;
mod tls;
mod token;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
};
use tracing::Instrument;

pub use self::{
    config::{Config, Limits, TlsFiles},
    tls::TlsError,
};
use self::{
    half_open::HalfOpen,
    tls::Certificate,
    token::{Errand, IssueError, Tokens},
};
use crate::session::{AttachRequest, ExecRequest, PortForwardRequest, Sessions};

/// Hands out URLs, and serves those who come with them. Clones are the same server.
#[derive(Debug)]
pub struct Server<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared }
    }
}

#[derive(Debug)]
struct Shared<S> {
    sessions: Arc<S>,
    tokens: Tokens,
    listener: TcpListener,
    address: SocketAddr,
    /// What every URL begins with.
    base: String,
    certificate: Option<Arc<Certificate>>,
    limits: Limits,
    half_open: Arc<HalfOpen>,
    /// One permit a connection.
    connections: Arc<Semaphore>,
    /// Set to true to end every connection.
    ending: watch::Sender<bool>,
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listen on {address} for streaming clients")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("serve TLS to streaming clients")]
    Tls(#[from] TlsError),
}

/// Why a session is refused before anybody connects.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The request contradicts itself.
    #[error("{0}")]
    Invalid(&'static str),
    /// Try again later.
    #[error("{0} streaming URLs have been given out and not been used yet")]
    TooMany(usize),
    #[error("make a streaming URL")]
    Random(#[source] io::Error),
}

impl<S: Sessions> Server<S> {
    /// Binds the address. Clients that connect wait until [`Self::serve`] runs.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on, or the certificate cannot be used.
    pub async fn bind(config: Config, sessions: Arc<S>) -> Result<Self, BindError> {
        let refused = |source| BindError::Listen {
            address: config.listen,
            source,
        };
        let listener = listen(config.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let host = match config.advertise {
            Some(host) if has_port(&host) => host,
            Some(host) => format!("{host}:{}", address.port()),
            None => address.to_string(),
        };
        let certificate = config.tls.map(Certificate::load).transpose()?;
        let limits = config.limits;
        let shared = Shared {
            sessions,
            tokens: Tokens::new(limits.token_lifetime, limits.tokens),
            listener,
            address,
            base: format!("{scheme}://{host}"),
            certificate: certificate.map(Arc::new),
            half_open: HalfOpen::new(limits.half_open),
            connections: Arc::new(Semaphore::new(limits.connections)),
            limits,
            ending: watch::Sender::new(false),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The address that was bound, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// A URL to run this command by, once, within [`Limits::token_lifetime`].
    ///
    /// # Errors
    ///
    /// No stream is asked for; a terminal is to have a standard error of its own; too many URLs are unused.
    pub fn exec_url(&self, request: ExecRequest) -> Result<String, UrlError> {
        check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
        self.url(Errand::Exec(request))
    }

    /// A URL to attach to this container by.
    ///
    /// # Errors
    ///
    /// As [`Self::exec_url`].
    pub fn attach_url(&self, request: AttachRequest) -> Result<String, UrlError> {
        check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
        self.url(Errand::Attach(request))
    }

    /// A URL to forward ports of this sandbox by.
    ///
    /// # Errors
    ///
    /// A port is 0; too many URLs are unused.
    pub fn port_forward_url(&self, request: PortForwardRequest) -> Result<String, UrlError> {
        if request.ports.contains(&0) {
            return Err(UrlError::Invalid("port 0 cannot be forwarded"));
        }
        self.url(Errand::PortForward(request))
    }

    fn url(&self, errand: Errand) -> Result<String, UrlError> {
        let path = errand.path();
        let issued = self.shared.tokens.issue(errand, Instant::now());
        let token = issued.map_err(|error| match error {
            IssueError::TooMany(most) => UrlError::TooMany(most),
            IssueError::Random(error) => UrlError::Random(error.into()),
        })?;
        Ok(format!("{}/{path}/{token}", self.shared.base))
    }

    /// Serves clients until [`Self::shutdown`]. Dropping the future stops accepting, and leaves the sessions that are open.
    pub async fn serve(&self) {
        let mut ending = self.shared.ending.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = ending.wait_for(|ending| *ending) => return,
                accepted = self.shared.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(error) => {
                    tracing::warn!(%error, "accept a streaming client");
                    // Out of descriptors, most likely: asking again at once would only burn the processor.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn welcome(&self, socket: TcpStream, peer: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() else {
            let most = self.shared.limits.connections;
            tracing::warn!(%peer, most, "too many streaming connections: this one is closed");
            return;
        };
        let newcomer = self.shared.half_open.join();
        let number = newcomer.number();
        let shared = Arc::clone(&self.shared);
        let serving = async move {
            client::serve(shared, socket, newcomer).await;
            drop(permit);
        };
        let span = tracing::info_span!("streaming", %peer);
        let task = tokio::spawn(serving.instrument(span));
        self.shared.half_open.arm(number, task.abort_handle());
    }

    /// Ends every session: clients are told that the server goes away, [`Gone`](crate::Gone) resolves, and what has not ended by
    /// [`Limits::farewell`] is dropped. Returns when all is over.
    pub async fn shutdown(&self) {
        self.shared.ending.send_replace(true);
        let all = u32::try_from(self.shared.limits.connections).unwrap_or(u32::MAX);
        // Twice the bound: a session's own, and then its client's.
        let over = self.shared.connections.acquire_many(all);
        let bound = self.shared.limits.farewell * 2;
        if tokio::time::timeout(bound, over).await.is_err() {
            tracing::warn!("streaming clients do not close their connections: they are left");
        }
    }
}

/// After a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Clients that the kernel accepts before we do; it bounds the number by `net.core.somaxconn`. The usual 128 is less than come at once when many
/// probes run, and a client that finds no room sends its SYN again a second later.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A daemon that starts again takes its port back, whatever connections of the last one are still being closed.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether `host` names a port already: `10.0.0.1:80`, `[::1]:80`, and not `[::1]`.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
        && (!host.starts_with('[') || host.contains("]:"))
}

/// What the CRI says of `ExecRequest` and `AttachRequest`.
fn check_streams(tty: bool, streams: [bool; 3]) -> Result<(), UrlError> {
    let [stdin, stdout, stderr] = streams;
    if !(stdin || stdout || stderr) {
        return Err(UrlError::Invalid(
            "one of stdin, stdout and stderr must be asked for",
        ));
    }
    if tty && stderr {
        return Err(UrlError::Invalid(
            "tty and stderr exclude each other: a terminal has one output",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hundreds_of_clients_wait_to_be_accepted() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..300 {
            // One too many would try for minutes: nobody accepts.
            let connected = TcpStream::connect(address);
            let connected = tokio::time::timeout(Duration::from_secs(30), connected).await;
            waiting.push(connected.unwrap().unwrap());
        }
    }
}
