//! A byte stream inside of binary messages: how current kubectl forwards ports, speaking SPDY over WebSocket.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::connection::fault;

pub(crate) struct Tunnel<I> {
    socket: WebSocketStream<I>,
    /// The rest of the last message.
    rest: Bytes,
}

impl<I> Tunnel<I> {
    pub(crate) fn new(socket: WebSocketStream<I>) -> Self {
        let rest = Bytes::new();
        Self { socket, rest }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Tunnel<I> {
    /// Tells a peer that broke the protocol why nothing more comes, if it takes that at once.
    fn close(&mut self, context: &mut Context<'_>, code: CloseCode, reason: &str) {
        let reason = reason.into();
        let close = Message::Close(Some(CloseFrame { code, reason }));
        if Pin::new(&mut self.socket).start_send(close).is_ok() {
            let _at_once = Pin::new(&mut self.socket).poll_flush(context);
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    let reason = "a text message in a tunnel of bytes";
                    self.close(context, CloseCode::Unsupported, reason);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
                }
                Some(Ok(_)) => {}
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    if let Some(code) = fault(&error) {
                        self.close(context, code, &error.to_string());
                    }
                    return Poll::Ready(Err(into_io(error)));
                }
            }
        }
        let count = self.rest.len().min(target.remaining());
        target.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        if self.rest.is_empty() {
            // The message's memory goes with its last byte.
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
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
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(&mut self.socket);
        ready!(socket.poll_ready(context)).map_err(into_io)?;
        let mut message = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices {
            message.extend_from_slice(slice);
        }
        let count = message.len();
        let socket = Pin::new(&mut self.socket);
        socket
            .start_send(Message::binary(message))
            .map_err(into_io)?;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_flush(context)
            .map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_close(context)
            .map_err(into_io)
    }
}

fn into_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        other => io::Error::other(other),
    }
}
