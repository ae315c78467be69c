//! The streaming protocols of Kubernetes: what stands behind `kubectl exec`, `attach` and `port-forward`.
//!
//! A runtime is asked for a session over its CRI, and answers with a URL. The client (the kubelet, on behalf of somebody) then connects to
//! that URL, and speaks SPDY/3.1 or WebSocket over it. An embedder implements [`Sessions`], makes a [`Server`], and hands out the URLs
//! that [`Server::exec_url`] and its like give it. [`client`] is the other end.

mod chunks;
pub mod client;
mod hub;
mod intake;
mod keepalive;
mod outgoing;
mod resize;
mod server;
mod session;
pub mod spdy;
mod status;
pub mod websocket;

pub use chunks::Chunks;
pub use server::{BindError, Config, Limits, Server, TlsError, TlsFiles, UrlError};
pub use session::{
    AttachRequest, Duplex, ExecRequest, ExitStatus, Gone, PortForwardRequest, ReadPieces,
    ReadWrite, Reader, Resizes, SessionError, Sessions, Streams, TerminalSize, WritePieces, Writer,
};

pub use status::Ending;

/// An error and its causes, in one line: what clients are told, and what logs say.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
