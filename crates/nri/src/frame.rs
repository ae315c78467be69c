//! Bytes on the trunk: frames of connections, and in each connection messages of ttrpc.
//!
//! ```text
//!  frame     connection: u32   bytes: u32   …              big endian
//!  message   bytes: u32   stream: u32   type: u8   flags: u8   …
//! ```
//!
//! Frames and messages need not begin together. But a reader in Go takes each frame in one piece, into a buffer of 4096 bytes where it looks
//! for the beginning of a message, and drops the trunk if it does not fit, or if 256 frames wait. So a message is written as one frame that fits, and one with the rest.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::MESSAGE_BYTES;

const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;

/// What fits into a reader's buffer at the beginning of a message.
const FIRST_FRAME: usize = 4096;

pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;

/// One message of ttrpc.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

/// Why a trunk is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the connection was closed")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
    #[error("a frame announces {0} bytes")]
    Frame(u32),
    #[error("a message announces {0} bytes")]
    Message(u32),
}

/// The next frame: its connection, and what it carries.
pub(crate) async fn read(
    trunk: &mut (impl AsyncRead + Unpin),
) -> Result<(u32, Vec<u8>), FrameError> {
    let mut header = [0; FRAME_HEADER];
    let closed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => FrameError::Closed,
        _ => FrameError::Io(error),
    };
    trunk.read_exact(&mut header).await.map_err(closed)?;
    let [a, b, c, d, e, f, g, h] = header;
    let (connection, bytes) = (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    );
    let length = bytes as usize;
    if length > MESSAGE_BYTES + MESSAGE_HEADER {
        return Err(FrameError::Frame(bytes));
    }
    let mut body = vec![0; length];
    trunk.read_exact(&mut body).await.map_err(closed)?;
    Ok((connection, body))
}

pub(crate) async fn write(
    trunk: &mut (impl AsyncWrite + Unpin),
    connection: u32,
    message: &Message,
) -> io::Result<()> {
    let length = u32::try_from(message.body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(2 * FRAME_HEADER + MESSAGE_HEADER + message.body.len());
    let first = message.body.len().min(FIRST_FRAME - MESSAGE_HEADER);
    let (head, rest) = message.body.split_at(first);
    frame_header(&mut bytes, connection, MESSAGE_HEADER + head.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&message.stream.to_be_bytes());
    bytes.extend_from_slice(&[message.kind, 0]);
    bytes.extend_from_slice(head);
    if !rest.is_empty() {
        frame_header(&mut bytes, connection, rest.len());
        bytes.extend_from_slice(rest);
    }
    trunk.write_all(&bytes).await
}

fn frame_header(bytes: &mut Vec<u8>, connection: u32, length: usize) {
    bytes.extend_from_slice(&connection.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// What has come on one connection and is not a whole message yet.
#[derive(Debug, Default)]
pub(crate) struct Assembly(Vec<u8>);

impl Assembly {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message, if all of it is here.
    pub(crate) fn take(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(header) = self.0.first_chunk::<MESSAGE_HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h, kind, _flags] = *header;
        let bytes = u32::from_be_bytes([a, b, c, d]);
        let stream = u32::from_be_bytes([e, f, g, h]);
        let length = bytes as usize;
        if length > MESSAGE_BYTES {
            return Err(FrameError::Message(bytes));
        }
        if self.0.len() < MESSAGE_HEADER + length {
            return Ok(None);
        }
        let rest = self.0.split_off(MESSAGE_HEADER + length);
        let mut whole = std::mem::replace(&mut self.0, rest);
        let body = whole.split_off(MESSAGE_HEADER);
        Ok(Some(Message { stream, kind, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_survive_the_trunk_whatever_their_size() {
        for size in [0, 1, 4085, 4086, 4087, 100_000, MESSAGE_BYTES] {
            let message = Message {
                stream: 7,
                kind: REQUEST,
                body: (0..size).map(|at| at as u8).collect(),
            };
            let mut bytes = Vec::new();
            write(&mut bytes, 2, &message).await.unwrap();
            let mut trunk = bytes.as_slice();
            let (mut assembly, mut frames) = (Assembly::default(), 0);
            let whole = loop {
                let (connection, body) = read(&mut trunk).await.unwrap();
                assert_eq!(connection, 2);
                assert!(frames > 0 || body.len() <= FIRST_FRAME);
                frames += 1;
                assembly.add(&body);
                if let Some(whole) = assembly.take().unwrap() {
                    break whole;
                }
            };
            assert_eq!(whole, message);
            assert!(frames <= 2 && trunk.is_empty());
        }
    }

    #[tokio::test]
    async fn what_announces_too_much_is_refused() {
        let mut frame: &[u8] = &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(read(&mut frame).await, Err(FrameError::Frame(_))));
        let mut half: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 9, 1];
        assert!(matches!(read(&mut half).await, Err(FrameError::Closed)));
        let mut assembly = Assembly::default();
        assembly.add(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]);
        assert!(matches!(assembly.take(), Err(FrameError::Message(_))));
    }
}
