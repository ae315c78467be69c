//! Forwarding ports: one connection to the server, and as many through it as are asked for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::io::AsyncReadExt;

use super::{ClientError, LONGEST_ERROR, Link, Options, Transport, spdy, upgrade::upgrade};
use crate::{
    hub::{Both, Hub, ReadHalf, StreamId},
    session::Duplex,
    spdy::frame::status,
    websocket::{frame::Side, tunnel::Tunnel},
};

/// A connection to the server, through which ports are reached. Dropping it closes all.
#[derive(Debug)]
pub struct Forwarder {
    hub: Arc<Hub>,
    requests: AtomicU64,
    _link: Link,
}

/// A connection to a port. Dropping it before both directions have ended resets it.
#[allow(missing_debug_implementations, reason = "the stream is a trait object")]
pub struct Forwarded {
    pub stream: Duplex,
    error: ReadHalf,
    _reset: ResetOnDrop,
}

/// Connects to the server. WebSocket carries SPDY in its messages, as current kubectl's does.
///
/// # Errors
///
/// The server cannot be reached, or refuses.
pub async fn port_forward(url: &str, options: &Options) -> Result<Forwarder, ClientError> {
    let (hub, link) = match options.transport {
        Transport::Spdy => {
            let offered = ["portforward.k8s.io"];
            spdy(upgrade(url, options, &offered).await?.socket)
        }
        Transport::WebSocket => {
            let offered = ["SPDY/3.1+portforward.k8s.io"];
            let socket = upgrade(url, options, &offered).await?.socket;
            spdy(Tunnel::new(socket, Side::Client))
        }
    };
    Ok(Forwarder {
        hub,
        requests: AtomicU64::new(0),
        _link: link,
    })
}

impl Forwarder {
    /// Connects to a port. Whether anybody listens there shows when the stream is used.
    ///
    /// # Errors
    ///
    /// The connection to the server has ended, or carries too much already.
    pub fn connect(&self, port: u16) -> Result<Forwarded, ClientError> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let open = |kind: &str| {
            let headers = [
                ("streamtype", kind.to_owned()),
                ("port", port.to_string()),
                ("requestid", request.to_string()),
            ];
            let headers = headers.map(|(name, value)| (name.to_owned(), value));
            self.hub.open(headers.into()).ok_or(ClientError::NoStream)
        };
        let error = open("error")?;
        // Words come from the server alone.
        self.hub.end(error);
        let error = self.hub.read_half(error);
        let data = open("data")?;
        Ok(Forwarded {
            stream: Box::new(Both::new(&self.hub, data)),
            error,
            _reset: ResetOnDrop {
                hub: Arc::clone(&self.hub),
                id: data,
            },
        })
    }

    /// Resolves when the server has gone.
    pub async fn closed(&self) {
        self.hub.lost().await;
    }
}

impl Forwarded {
    /// What the server has to say about why the connection failed, if it did. Waits for its end.
    ///
    /// # Errors
    ///
    /// The connection to the server was lost.
    pub async fn failure(&mut self) -> io::Result<Option<String>> {
        let mut text = String::new();
        let mut words = (&mut self.error).take(LONGEST_ERROR as u64);
        words.read_to_string(&mut text).await?;
        Ok((!text.is_empty()).then_some(text))
    }
}

struct ResetOnDrop {
    hub: Arc<Hub>,
    id: StreamId,
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        self.hub.abandon(self.id, status::CANCEL);
    }
}
