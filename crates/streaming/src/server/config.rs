use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Where a [`Server`](super::Server) listens, and what it lets its clients do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// `HOST` or `HOST:PORT` that URLs name instead of the address that was bound: what clients reach the server by.
    pub advertise: Option<String>,
    /// Serve HTTPS.
    pub tls: Option<TlsFiles>,
    pub limits: Limits,
}

impl Default for Config {
    /// Loopback, a port of the kernel's choice, no TLS.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            tls: None,
            limits: Limits::default(),
        }
    }
}

/// PEM files. They are read again when they change; a pair that cannot be used leaves the one before in service.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, then those of its issuers.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Bounds on what clients can make the server hold, and for how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a URL is good for.
    pub token_lifetime: Duration,
    /// URLs that were given out and not used yet.
    pub tokens: usize,
    /// Connections at once.
    pub connections: usize,
    /// Connections that have sent no complete request yet, or not all streams of their session. A newcomer closes the oldest.
    pub half_open: usize,
    /// From the connection to the last stream of an exec or attach, and from the first to the second stream of a forwarded port.
    pub creation: Duration,
    /// A connection that carries nothing in either direction, pings included, is closed after this.
    pub idle: Duration,
    /// A client that has acknowledged nothing for this long has vanished.
    pub vanished: Duration,
    /// How long a session may go on after its client has vanished, and the server waits for a client to take the end of its streams.
    pub farewell: Duration,
    /// Streams of one SPDY connection. A forwarded connection takes two.
    pub streams: usize,
    /// Bytes of one block of SPDY headers, inflated; and of the head of an HTTP request.
    pub headers: usize,
    /// Bytes that a stream buffers in each direction; to peers that heed flow control, its window.
    pub stream_buffer: usize,
    /// Bytes that a stream buffers from a peer that does not heed flow control, so that a stream that nobody reads does not hold up the
    /// others of its connection.
    pub overrun: usize,
    /// A stream that is over its `overrun`, and of which nothing has been read for this long, is reset. Until then its connection waits.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_secs(60),
            tokens: 1024,
            connections: 4096,
            half_open: 512,
            creation: Duration::from_secs(30),
            idle: Duration::from_secs(4 * 60 * 60),
            vanished: Duration::from_secs(150),
            farewell: Duration::from_secs(10),
            streams: 2048,
            headers: 16 * 1024,
            stream_buffer: 256 * 1024,
            overrun: 1024 * 1024,
            stall: Duration::from_secs(10),
        }
    }
}
