//! Frames on their way to the socket.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::frame::{self, Kind, LONGEST_CONTROL, Side, head, mask};
use crate::{chunks::Chunks, outgoing::Segments};

/// From this size on, memory for masked bytes is used again.
const LARGE: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Queue {
    side: Side,
    segments: Segments,
    /// What the peer's newest ping is answered with (RFC 6455, 5.5.3): older ones need no answer any more.
    pong: Option<Vec<u8>>,
    closed: bool,
    chunks: Chunks,
}

impl Queue {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            segments: Segments::default(),
            pong: None,
            closed: false,
            chunks: Chunks::default(),
        }
    }

    /// A whole message: a channel, where there are channels, and its bytes.
    pub(super) fn message(&mut self, kind: Kind, channel: Option<u8>, bytes: Bytes) {
        let opcode = match kind {
            Kind::Text => frame::TEXT,
            Kind::Binary => frame::BINARY,
        };
        self.frame(opcode, channel, bytes);
    }

    pub(super) fn ping(&mut self) {
        self.frame(frame::PING, None, Bytes::new());
    }

    pub(super) fn answer(&mut self, ping: Vec<u8>) {
        self.pong = Some(ping);
    }

    /// The last frame of all.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        let mut said = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
        if !said.is_empty() {
            let most = reason.floor_char_boundary(LONGEST_CONTROL - said.len());
            said.extend_from_slice(&reason.as_bytes()[..most]);
        }
        self.frame(frame::CLOSE, None, said.into());
        self.closed = true;
    }

    fn frame(&mut self, opcode: u8, first: Option<u8>, bytes: Bytes) {
        if self.closed {
            return;
        }
        let length = usize::from(first.is_some()) + bytes.len();
        match self.side {
            Side::Server => {
                let mut head = head(opcode, length, None);
                head.extend(first.as_slice());
                self.segments.push(head, bytes);
            }
            Side::Client => {
                let mut key = new_key();
                let mut head = head(opcode, length, Some(key));
                if let Some(first) = first {
                    head.extend(&[first ^ key[0]]);
                    key.rotate_left(1);
                }
                let masked = self.masked(bytes, key);
                self.segments.push(head, masked);
            }
        }
    }

    /// Bytes that nobody else holds are masked where they are.
    fn masked(&mut self, bytes: Bytes, key: [u8; 4]) -> Bytes {
        let shared = match bytes.try_into_mut() {
            Ok(mut own) => {
                mask(&mut own, key);
                return own.freeze();
            }
            Err(shared) => shared,
        };
        let mut masked = self.chunks.take(shared.len());
        masked.extend_from_slice(&shared);
        mask(&mut masked, key);
        match masked.len() < LARGE {
            true => masked.into(),
            false => self.chunks.lend(masked),
        }
    }

    /// Nothing more is sent for the time being: who waits holds no memory.
    pub(super) fn forget(&mut self) {
        self.chunks.forget();
    }

    /// Bytes that the socket has taken so far.
    pub(super) fn sent(&self) -> u64 {
        self.segments.sent()
    }

    /// Whether another frame fits the batch.
    pub(super) fn has_room(&self) -> bool {
        self.segments.has_room()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pong.is_none() && self.segments.is_empty()
    }

    /// Sends until all is sent (`Ready`) or the socket takes no more.
    pub(super) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_room()
            && let Some(pong) = self.pong.take()
        {
            self.frame(frame::PONG, None, pong.into());
        }
        self.segments.poll_send(socket, context)
    }
}

/// RFC 6455, 5.3: not to be foreseen by whoever chooses the bytes. It need not be secret, nor even new when the kernel has no entropy yet.
fn new_key() -> [u8; 4] {
    let mut key = [0; 4];
    let _unseeded = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::NONBLOCK);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(queue: &mut Queue) -> Vec<u8> {
        let mut socket = Vec::new();
        std::future::poll_fn(|context| queue.poll_send(&mut socket, context))
            .await
            .unwrap();
        assert!(queue.is_empty());
        socket
    }

    #[tokio::test]
    async fn the_newest_ping_is_answered_and_nothing_comes_after_a_close() {
        let mut queue = Queue::new(Side::Server);
        queue.answer(b"old".to_vec());
        queue.answer(b"new".to_vec());
        assert_eq!(sent(&mut queue).await, b"\x8a\x03new");
        // Words are cut where a character ends.
        queue.close(Some(1008), &"ä".repeat(100));
        queue.message(Kind::Binary, Some(1), Bytes::from_static(b"late"));
        queue.answer(b"late".to_vec());
        let said = sent(&mut queue).await;
        assert_eq!(said[..4], [0x88, 124, 0x03, 0xf0]);
        assert_eq!(said[4..], *"ä".repeat(61).as_bytes());
    }

    #[tokio::test]
    async fn what_clients_send_is_masked_anew_each_time() {
        let mut queue = Queue::new(Side::Client);
        let bytes = Bytes::from(vec![0; 40_000]);
        let mut keys = std::collections::BTreeSet::new();
        for _ in 0..20 {
            queue.message(Kind::Binary, Some(4), bytes.clone());
            let said = sent(&mut queue).await;
            assert_eq!(said[..4], [0x82, 0xfe, 0x9c, 0x41]);
            let key = &said[4..8];
            let mut unmasked = said[8..].to_vec();
            mask(&mut unmasked, key.try_into().unwrap());
            assert!(unmasked[0] == 4 && unmasked[1..] == bytes[..]);
            keys.insert(key.to_vec());
        }
        assert!(keys.len() > 15);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
