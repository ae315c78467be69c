//! SPDY/3.1, as far as Kubernetes uses it: streams in both directions over an upgraded HTTP/1.1 connection.
//!
//! [`frame`] is the wire, without any I/O; `connection` drives a socket. What the Go implementation that the field's clients share does, and
//! this one has to live with: it ignores windows in both directions and sends none, so windows count only for peers that have shown that
//! they know them; it sends each block of headers compressed; and it waits for a reply to each stream before it opens the next.

pub(crate) mod connection;
mod dictionary;
pub mod frame;
mod header_block;
mod outgoing;

pub use self::header_block::Headers;

/// The value of one of a stream's headers.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}
