//! A byte stream inside of binary messages: how current kubectl forwards ports, speaking SPDY over WebSocket.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    LONGEST_MESSAGE,
    frame::{Decoder, Event, Kind, Side, close},
    outgoing::Queue,
};

pub(crate) struct Tunnel<I> {
    socket: I,
    decoder: Decoder,
    queue: Queue,
    /// Why nothing more comes, once that is so.
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Closed,
    Broken(Fault),
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Fault {
    #[error("a text message in a tunnel of bytes")]
    Text,
    #[error(transparent)]
    Frame(#[from] super::frame::FrameError),
    #[error("the peer went without closing the connection")]
    Cut,
}

impl<I> Tunnel<I> {
    pub(crate) fn new(socket: I, side: Side) -> Self {
        Self {
            socket,
            decoder: Decoder::new(side, LONGEST_MESSAGE),
            queue: Queue::new(side),
            end: None,
        }
    }

    /// Leaves of what has come only what it carries, at its front: how much that is.
    fn unwrap(&mut self, came: &mut [u8]) -> usize {
        let (mut kept, mut at) = (0, 0);
        while self.end.is_none() {
            match self.decoder.decode(came, &mut at) {
                Ok(None) => break,
                Ok(Some(Event::Part {
                    kind: Kind::Binary,
                    bytes,
                    ..
                })) => {
                    let count = bytes.len();
                    came.copy_within(bytes, kept);
                    kept += count;
                }
                Ok(Some(Event::Part {
                    kind: Kind::Text, ..
                })) => self.fail(Fault::Text, close::UNSUPPORTED),
                Ok(Some(Event::Ping(said))) => self.queue.answer(said),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(code))) => {
                    self.queue.close(code, "");
                    self.end = Some(End::Closed);
                }
                Err(error) => self.fail(Fault::Frame(error), error.code()),
            }
        }
        kept
    }

    /// A peer that broke the protocol is told why nothing more comes.
    fn fail(&mut self, fault: Fault, code: u16) {
        self.queue.close(Some(code), &fault.to_string());
        self.end = Some(End::Broken(fault));
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.queue.is_empty() {
                // An answer to what has come. What the peer does not take now it takes when it is next looked at.
                let _later = this.queue.poll_send(&mut this.socket, context)?;
            }
            match this.end {
                Some(End::Closed) => return Poll::Ready(Ok(())),
                Some(End::Broken(fault)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
                None => {}
            }
            let before = target.filled().len();
            ready!(Pin::new(&mut this.socket).poll_read(context, target))?;
            if target.filled().len() == before {
                this.end = Some(End::Broken(Fault::Cut));
                continue;
            }
            let kept = this.unwrap(&mut target.filled_mut()[before..]);
            target.set_filled(before + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(source)])
    }

    /// One message for all slices.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.queue.poll_send(&mut this.socket, context))?;
        if this.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut message = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices {
            message.extend_from_slice(slice);
        }
        let count = message.len();
        this.queue.message(Kind::Binary, None, message.into());
        // It has been taken, whatever becomes of it.
        let _sent = this.queue.poll_send(&mut this.socket, context)?;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.queue.poll_send(&mut this.socket, context)
    }

    /// Says goodbye; the socket stays open for the peer's.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.queue.close(Some(close::NORMAL), "");
        this.queue.poll_send(&mut this.socket, context)
    }
}
