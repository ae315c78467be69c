//! Frames on their way to the socket.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::frame::{Encoder, Frame, data_head};

/// Frames that are gathered for one system call.
const BATCH: usize = 256 * 1024;
const SLICES: usize = 32;

/// Control frames that wait for the peer to read, before it is no longer read from itself: whoever provokes answers must take them.
const MOST_CONTROL: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    encoder: Encoder,
    control: Vec<u8>,
    segments: VecDeque<Segment>,
    bytes: usize,
    /// Bytes that the socket has taken so far.
    sent: u64,
    unflushed: bool,
}

/// What goes before a payload, and the payload.
#[derive(Debug)]
struct Segment {
    head: [u8; 8],
    /// Bytes of the head that have been sent.
    sent: usize,
    payload: Bytes,
}

impl Queue {
    pub(super) fn control(&mut self, frame: &Frame) {
        self.encoder.control(frame, &mut self.control);
    }

    pub(super) fn data(&mut self, stream: u32, payload: Bytes, end: bool) {
        self.commit();
        let head = data_head(stream, payload.len(), end);
        self.push(head, 0, payload);
    }

    /// Keeps control and data frames in order.
    fn commit(&mut self) {
        if !self.control.is_empty() {
            let control = Bytes::from(std::mem::take(&mut self.control));
            self.push([0; 8], 8, control);
        }
    }

    fn push(&mut self, head: [u8; 8], sent: usize, payload: Bytes) {
        self.bytes += 8 - sent + payload.len();
        self.segments.push_back(Segment {
            head,
            sent,
            payload,
        });
    }

    /// Bytes that the socket has taken so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether another frame fits the batch.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < BATCH && self.segments.len() < SLICES / 2
    }

    /// The peer provokes more than it takes.
    pub(super) fn is_flooded(&self) -> bool {
        self.control.len() > MOST_CONTROL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.segments.is_empty() && !self.unflushed
    }

    /// Sends until all is sent (`Ready`) or the socket takes no more.
    pub(super) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_room() {
            self.commit();
        }
        while !self.segments.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for segment in self.segments.iter().take(SLICES / 2) {
                for part in [&segment.head[segment.sent..], &segment.payload[..]] {
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
        while let Some(segment) = self.segments.front_mut() {
            let head = count.min(8 - segment.sent);
            segment.sent += head;
            count -= head;
            let payload = count.min(segment.payload.len());
            segment.payload.advance(payload);
            count -= payload;
            if segment.sent < 8 || !segment.payload.is_empty() {
                break;
            }
            self.segments.pop_front();
        }
    }
}
