//! WebSocket (RFC 6455) as Kubernetes uses it: one connection, and a channel number before the bytes of each message.
//!
//! [`frame`] and [`codec`] are the wire, without any I/O; `connection` drives a socket of channels, `tunnel` makes one of bytes.

pub mod codec;
pub(crate) mod connection;
pub mod frame;
mod outgoing;
pub(crate) mod tunnel;

use base64::{Engine as _, prelude::BASE64_STANDARD};

pub use self::codec::Codec;

/// Bytes of one message at most: the field's bound.
const LONGEST_MESSAGE: u64 = 32 * 1024 * 1024;

/// RFC 6455, 4.2.2: what answers a handshake's key.
pub(crate) fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    BASE64_STANDARD.encode(digest)
}
