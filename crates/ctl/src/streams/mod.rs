//! The streams of exec, attach and port-forward: over what they go, and what this end of them is.

mod detach;
mod interact;
mod stdio;
pub(crate) mod terminal;
mod tls;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use streaming::client::{ClientError, Options};

use crate::error::Error;
pub(crate) use interact::{Leave, interact};

/// How the runtime's streaming server is reached.
#[derive(Debug, Clone, Args)]
pub(crate) struct Transport {
    /// Transport protocol
    #[arg(long, short = 'r', value_enum, default_value_t = Protocol::Spdy)]
    transport: Protocol,
    /// Name that the streaming server is asked for and its certificate must have; "localhost", if the certificate is checked
    #[arg(long, visible_alias = "tls-server-name", value_name = "NAME")]
    tls_sni: Option<String>,
    /// PEM file of who issued the streaming server's certificate
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of our own certificate
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Spdy,
    Websocket,
}

impl Transport {
    pub(crate) fn options(&self) -> Result<Options, Error> {
        let transport = match self.transport {
            Protocol::Spdy => streaming::client::Transport::Spdy,
            Protocol::Websocket => streaming::client::Transport::WebSocket,
        };
        Ok(Options {
            transport,
            tls: Some(tls::config(self)?),
            server_name: tls::server_name(self)?,
        })
    }
}

/// As [`Error`], with what was being done.
pub(crate) fn failed(operation: impl Into<String>) -> impl FnOnce(ClientError) -> Error {
    let operation = operation.into();
    move |source| Error::Streaming {
        operation,
        source: Box::new(source),
    }
}
