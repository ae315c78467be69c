//! Drives one connection of channels, as its counterpart for SPDY does one of streams.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Utf8Bytes,
        protocol::{CloseFrame, Role as Side, frame::coding::CloseCode},
    },
};

use super::codec::{Codec, Message, MessageError};
use crate::{
    hub::{Hub, Outgoing, Relief},
    spdy::connection::Patience,
};

/// Why a connection ended other than by its peer's leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the peer sent a message that means nothing")]
    Message(#[from] MessageError),
    #[error("nothing was sent or received for {0:?}")]
    Idle(std::time::Duration),
    #[error("send or receive")]
    Socket(#[from] tungstenite::Error),
}

pub(crate) struct Connection<I> {
    socket: WebSocketStream<I>,
    hub: Arc<Hub>,
    codec: Codec,
    channels: usize,
    /// Whether the peer wants to hear of half-closes: clients of the field take the message for one of an unknown channel, and complain.
    tells_ends: bool,
    patience: Patience,
    /// When to give up waiting for the peer to close, once we have.
    farewell: Option<(Instant, Option<Broken>)>,
    active: Instant,
    timer: Pin<Box<Sleep>>,
    relief: Relief,
    /// The peer broke the protocol: nothing sensible can come any more.
    deaf: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// The hub has been given the channels already: 0 to `channels` - 1.
    pub(crate) fn new(
        socket: WebSocketStream<I>,
        hub: Arc<Hub>,
        codec: Codec,
        channels: usize,
        side: Side,
        patience: Patience,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket,
            hub,
            codec,
            channels,
            tells_ends: side == Side::Client,
            patience,
            farewell: None,
            active: now,
            timer: Box::pin(tokio::time::sleep_until(now + patience.idle)),
            relief: Relief::new(patience.stall, patience.asks),
            deaf: false,
        }
    }

    /// Runs until the connection is over. Dropping the future drops the connection.
    pub(crate) async fn run(mut self) -> Result<(), Broken> {
        let outcome = poll_fn(|context| self.poll(context)).await;
        self.hub.lose();
        outcome
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.hub.register_driver(context);
        loop {
            let sent = match self.poll_send(context) {
                Poll::Ready(sent) => {
                    sent?;
                    true
                }
                Poll::Pending => false,
            };
            if sent && self.farewell.is_none() && self.hub.is_finished() {
                self.say_goodbye(CloseCode::Normal, "", None)?;
                continue;
            }
            if self.deaf {
                if !sent {
                    ready!(self.poll_timer(context, sent))?;
                }
                return Poll::Ready(self.outcome());
            }
            match self.poll_receive(context) {
                Poll::Ready(Some(Ok(()))) => {}
                Poll::Ready(None) => return Poll::Ready(self.outcome()),
                Poll::Ready(Some(Err(Broken::Message(error)))) => {
                    self.hub.lose();
                    let reason = error.to_string();
                    self.say_goodbye(CloseCode::Policy, &reason, Some(error.into()))?;
                }
                Poll::Ready(Some(Err(Broken::Socket(error))))
                    if self.farewell.is_none()
                        && let Some(code) = fault(&error) =>
                {
                    self.hub.lose();
                    self.deaf = true;
                    let reason = error.to_string();
                    self.say_goodbye(code, &reason, Some(error.into()))?;
                }
                Poll::Ready(Some(Err(broken))) => {
                    return Poll::Ready(if self.farewell.is_some() {
                        self.outcome()
                    } else {
                        Err(broken)
                    });
                }
                Poll::Pending => {
                    ready!(self.poll_timer(context, sent))?;
                    return Poll::Ready(self.outcome());
                }
            }
        }
    }

    fn outcome(&mut self) -> Result<(), Broken> {
        let broken = self.farewell.take().and_then(|(_, broken)| broken);
        broken.map_or(Ok(()), Err)
    }

    fn say_goodbye(
        &mut self,
        code: CloseCode,
        reason: &str,
        broken: Option<Broken>,
    ) -> Result<(), Broken> {
        let until = Instant::now() + self.patience.farewell;
        self.timer.as_mut().reset(until);
        self.farewell = Some((until, broken));
        let reason = Utf8Bytes::from(reason);
        let close = tungstenite::Message::Close(Some(CloseFrame { code, reason }));
        Pin::new(&mut self.socket).start_send(close)?;
        Ok(())
    }

    /// `sent`: nothing is on its way to the peer.
    fn poll_timer(&mut self, context: &mut Context<'_>, sent: bool) -> Poll<Result<(), Broken>> {
        // The reset itself cannot be told on a channel; its reason can, on the one for errors.
        if self.relief.poll(&self.hub, context) && sent && self.farewell.is_none() {
            let ping = tungstenite::Message::Ping(Bytes::new());
            Pin::new(&mut self.socket).start_send(ping)?;
            // What it does not take now it takes when it is next looked at.
            let _flushed = Pin::new(&mut self.socket).poll_flush(context)?;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let end = match &self.farewell {
                Some((until, _)) => *until,
                None => self.active + self.patience.idle,
            };
            if Instant::now() < end {
                self.timer.as_mut().reset(end);
            } else if self.farewell.is_some() {
                return Poll::Ready(Ok(()));
            } else {
                return Poll::Ready(Err(Broken::Idle(self.patience.idle)));
            }
        }
    }

    /// Sends what there is; ready when all of it has been.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.farewell.is_none() {
            ready!(Pin::new(&mut self.socket).poll_ready(context))?;
            let Some(outgoing) = self.hub.next_outgoing() else {
                break;
            };
            // Only data and a half-close can be told; and of these, a half-close in v5 alone, by clients.
            let Outgoing::Data {
                stream,
                payload,
                end,
            } = outgoing
            else {
                continue;
            };
            let channel = u8::try_from(stream).unwrap_or(u8::MAX);
            if !payload.is_empty() {
                self.start_send(self.codec.encode(channel, &payload))?;
            }
            if end
                && self.tells_ends
                && let Some(end) = self.codec.encode_end(channel)
            {
                self.start_send(end)?;
            }
        }
        Pin::new(&mut self.socket)
            .poll_flush(context)
            .map_err(Broken::Socket)
    }

    fn start_send(&mut self, message: Vec<u8>) -> Result<(), Broken> {
        self.active = Instant::now();
        let message = if self.codec.base64 {
            // A digit and base64 are text.
            tungstenite::Message::text(String::from_utf8(message).unwrap_or_default())
        } else {
            tungstenite::Message::binary(message)
        };
        Pin::new(&mut self.socket).start_send(message)?;
        Ok(())
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(), Broken>>> {
        if self.farewell.is_none() && self.hub.is_blocked() {
            return Poll::Pending;
        }
        let Some(message) = ready!(Pin::new(&mut self.socket).poll_next(context)) else {
            return Poll::Ready(None);
        };
        self.active = Instant::now();
        let bytes = match message {
            Ok(tungstenite::Message::Binary(bytes)) => bytes,
            Ok(tungstenite::Message::Text(text)) => Bytes::from(text),
            Ok(tungstenite::Message::Close(Some(close))) if close.code == CloseCode::Normal => {
                for channel in (0..).take(self.channels) {
                    self.hub.receive_end(channel);
                }
                return Poll::Ready(Some(Ok(())));
            }
            // Pings are answered below us, and so is a close.
            Ok(_) => return Poll::Ready(Some(Ok(()))),
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        if self.farewell.is_none() {
            match self.codec.decode(&bytes, self.channels)? {
                // Windows are SPDY's: nothing can be exceeded here.
                Message::Data { channel, bytes } => {
                    let _never = self.hub.receive(u32::from(channel), bytes);
                }
                Message::End { channel } => self.hub.receive_end(u32::from(channel)),
            }
        }
        Poll::Ready(Some(Ok(())))
    }
}

/// How a connection is closed whose peer sends what WebSocket does not have (RFC 6455, 7.4.1); `None` if that is not why it failed.
pub(super) fn fault(error: &tungstenite::Error) -> Option<CloseCode> {
    use tungstenite::error::{Error, ProtocolError};
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        Error::Capacity(_) => Some(CloseCode::Size),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        _ => None,
    }
}

impl<I> Drop for Connection<I> {
    fn drop(&mut self) {
        self.hub.lose();
    }
}
