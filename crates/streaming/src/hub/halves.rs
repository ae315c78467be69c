//! What sessions hold of a stream.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Cut, Hub, StreamId};

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

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = self.hub.poll_read(self.id, context, target);
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
        let polled = self.hub.poll_write(self.id, context, source);
        polled.map_err(io::Error::from)
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
        let polled = self.hub.poll_read(self.id, context, target);
        polled.map_err(io::Error::from)
    }
}

impl AsyncWrite for Both {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.hub.poll_write(self.id, context, source);
        polled.map_err(io::Error::from)
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
