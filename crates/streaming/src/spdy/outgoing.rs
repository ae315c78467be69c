//! Frames on their way to the socket.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::frame::{Encoder, Frame, data_head};
use crate::outgoing::{Head, Segments};

/// Control frames that wait for the peer to read, before it is no longer read from itself: whoever provokes answers must take them.
const MOST_CONTROL: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    encoder: Encoder,
    control: Vec<u8>,
    segments: Segments,
}

impl Queue {
    pub(super) fn control(&mut self, frame: &Frame) {
        self.encoder.control(frame, &mut self.control);
    }

    pub(super) fn data(&mut self, stream: u32, payload: Bytes, end: bool) {
        self.commit();
        let mut head = Head::default();
        head.extend(&data_head(stream, payload.len(), end));
        self.segments.push(head, payload);
    }

    /// Keeps control and data frames in order.
    fn commit(&mut self) {
        if !self.control.is_empty() {
            let control = Bytes::from(std::mem::take(&mut self.control));
            self.segments.push(Head::default(), control);
        }
    }

    /// Bytes that the socket has taken so far.
    pub(super) fn sent(&self) -> u64 {
        self.segments.sent()
    }

    /// Whether another frame fits the batch.
    pub(super) fn has_room(&self) -> bool {
        self.segments.has_room()
    }

    /// The peer provokes more than it takes.
    pub(super) fn is_flooded(&self) -> bool {
        self.control.len() > MOST_CONTROL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.segments.is_empty()
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
        self.segments.poll_send(socket, context)
    }
}
