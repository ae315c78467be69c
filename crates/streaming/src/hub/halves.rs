//! What sessions hold of a stream.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Cut, Hub, StreamId, pieces::Pieces};
use crate::session::{ReadPieces, WritePieces};

impl From<Cut> for io::Error {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Reset => Self::new(
                io::ErrorKind::ConnectionReset,
                "the peer has reset the stream",
            ),
            Cut::Lost => Self::new(io::ErrorKind::ConnectionAborted, "the connection has ended"),
        }
    }
}

impl Hub {
    fn poll_copy(
        &self,
        id: StreamId,
        context: &Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wants = target.remaining() > 0;
        let polled = self.poll_read(id, context, wants, |inbox| inbox.read(target));
        polled.map_ok(drop).map_err(io::Error::from)
    }

    fn poll_gather(
        &self,
        id: StreamId,
        context: &Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = |outbox: &mut Pieces, count| outbox.extend(&source[..count]);
        let polled = self.poll_write(id, context, source.len(), write);
        polled.map_err(io::Error::from)
    }
}

#[derive(Debug)]
pub(crate) struct ReadHalf {
    hub: Arc<Hub>,
    id: StreamId,
}

impl ReadHalf {
    pub(super) fn new(hub: Arc<Hub>, id: StreamId) -> Self {
        hub.hold(id);
        Self { hub, id }
    }
}

impl ReadHalf {
    /// Tells the peer that what it sends makes no sense. With a channel, that is the end of the connection.
    pub(crate) fn refuse(&self, status: u32) {
        self.hub.reset(self.id, status);
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.hub.poll_copy(self.id, context, target)
    }
}

impl ReadPieces for ReadHalf {
    fn poll_pieces(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let read = |inbox: &mut Pieces| inbox.move_to(most, pieces);
        let polled = self.hub.poll_read(self.id, context, most > 0, read);
        polled.map_err(io::Error::from)
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.hub.forsake(self.id);
        self.hub.release(self.id);
    }
}

/// Half-closes when it is dropped.
#[derive(Debug)]
pub(crate) struct WriteHalf {
    hub: Arc<Hub>,
    id: StreamId,
}

impl WriteHalf {
    pub(super) fn new(hub: Arc<Hub>, id: StreamId) -> Self {
        hub.hold(id);
        Self { hub, id }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hub.poll_gather(self.id, context, source)
    }

    /// What was written is on its way; nobody has to wait for it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hub.end(self.id);
        Poll::Ready(Ok(()))
    }
}

impl WritePieces for WriteHalf {
    fn poll_put(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        let wanted = bytes.len();
        let write = |outbox: &mut Pieces, count| outbox.push(bytes.split_to(count));
        let polled = self.hub.poll_write(self.id, context, wanted, write);
        polled.map_ok(drop).map_err(io::Error::from)
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.hub.end(self.id);
        self.hub.release(self.id);
    }
}

/// Both directions. Dropping it does not half-close: whoever opened the stream decides whether it ends or is reset.
#[derive(Debug)]
pub(crate) struct Both {
    hub: Arc<Hub>,
    id: StreamId,
}

impl Both {
    pub(crate) fn new(hub: &Arc<Hub>, id: StreamId) -> Self {
        hub.hold(id);
        let hub = Arc::clone(hub);
        Self { hub, id }
    }
}

impl AsyncRead for Both {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.hub.poll_copy(self.id, context, target)
    }
}

impl AsyncWrite for Both {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hub.poll_gather(self.id, context, source)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hub.end(self.id);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        self.hub.forsake(self.id);
        self.hub.release(self.id);
    }
}
