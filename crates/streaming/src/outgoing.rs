//! Bytes on their way to a socket: a head of a few bytes each, and payloads that are sent from where they are.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Bytes that are gathered for one system call.
const BATCH: usize = 256 * 1024;
const SLICES: usize = 32;

/// What goes before a payload: there is room for that of any frame.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Head {
    bytes: [u8; 16],
    len: usize,
}

impl Head {
    /// Appends bytes; there are 16 at most.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[derive(Debug)]
struct Segment {
    head: Head,
    /// Bytes of the head that have been sent.
    sent: usize,
    payload: Bytes,
}

impl Segment {
    fn head(&self) -> &[u8] {
        &self.head.as_bytes()[self.sent..]
    }
}

#[derive(Debug, Default)]
pub(crate) struct Segments {
    queue: VecDeque<Segment>,
    bytes: usize,
    /// Bytes that the socket has taken so far.
    sent: u64,
    unflushed: bool,
}

impl Segments {
    pub(crate) fn push(&mut self, head: Head, payload: Bytes) {
        self.bytes += head.len + payload.len();
        self.queue.push_back(Segment {
            head,
            sent: 0,
            payload,
        });
    }

    /// Bytes that the socket has taken so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether another one fits the batch.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < BATCH && self.queue.len() < SLICES / 2
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.unflushed
    }

    /// Sends until all is sent (`Ready`) or the socket takes no more.
    pub(crate) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for segment in self.queue.iter().take(SLICES / 2) {
                for part in [segment.head(), &segment.payload[..]] {
                    if !part.is_empty() {
                        slices[used] = IoSlice::new(part);
                        used += 1;
                    }
                }
            }
            let polled = Pin::new(&mut *socket).poll_write_vectored(context, &slices[..used]);
            let Poll::Ready(count) = polled? else {
                return Poll::Pending;
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.sent += count as u64;
            self.advance(count);
        }
        if self.unflushed {
            let Poll::Ready(()) = Pin::new(socket).poll_flush(context)? else {
                return Poll::Pending;
            };
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(segment) = self.queue.front_mut() {
            let head = count.min(segment.head().len());
            segment.sent += head;
            count -= head;
            let payload = count.min(segment.payload.len());
            segment.payload.advance(payload);
            count -= payload;
            if !segment.head().is_empty() || !segment.payload.is_empty() {
                break;
            }
            self.queue.pop_front();
        }
    }
}
