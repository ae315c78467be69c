//! Drives one connection of channels, as its counterpart for SPDY does one of streams.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

use super::{
    LONGEST_MESSAGE,
    codec::{Codec, Message, MessageError, Messages},
    frame::{Decoder, Event, FrameError, Kind, Side, close},
    outgoing::Queue,
};
use crate::{
    hub::{Hub, Outgoing, Relief},
    intake::Intake,
    spdy::{connection::Patience, frame::status},
};

/// Why a connection ended other than by its peer's leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the peer sent a message that means nothing")]
    Message(#[from] MessageError),
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
    #[error("the peer went without closing the connection")]
    Cut,
    #[error("nothing was sent or received for {0:?}")]
    Idle(Duration),
    #[error("send or receive")]
    Socket(#[from] io::Error),
}

pub(crate) struct Connection<I> {
    socket: I,
    hub: Arc<Hub>,
    codec: Codec,
    channels: u8,
    decoder: Decoder,
    messages: Messages,
    intake: Intake,
    queue: Queue,
    /// Half-closes are for servers to hear: clients of the field take the message for one of an unknown channel, and complain.
    side: Side,
    /// As with SPDY: why a client sends nothing any more.
    unheard: Option<io::Error>,
    patience: Patience,
    farewell: Option<Farewell>,
    active: Instant,
    timer: Pin<Box<Sleep>>,
    relief: Relief,
}

/// The last frame is on its way to the peer.
#[derive(Debug)]
struct Farewell {
    /// When to give up waiting for the peer's.
    until: Instant,
    broken: Option<Broken>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The peer has still to say that it has heard us.
    Waiting,
    /// It has.
    Mutual,
    /// The peer broke the protocol: nothing sensible can come any more but the end.
    Deaf,
    /// The same, and it has been told that nothing more comes from us either.
    Shut,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// The hub has been given the channels already: 0 to `channels` - 1.
    pub(crate) fn new(
        socket: I,
        hub: Arc<Hub>,
        codec: Codec,
        channels: u8,
        side: Side,
        patience: Patience,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket,
            hub,
            codec,
            channels,
            decoder: Decoder::new(side, LONGEST_MESSAGE),
            messages: Messages::new(codec, channels.into()),
            intake: Intake::default(),
            queue: Queue::new(side),
            side,
            unheard: None,
            patience,
            farewell: None,
            active: now,
            timer: Box::pin(tokio::time::sleep_until(now + patience.idle)),
            relief: Relief::new(patience.stall, patience.asks),
        }
    }

    /// Sends a message before all that the hub will have.
    pub(crate) fn greet(&mut self, channel: u8, bytes: &[u8]) {
        self.say(channel, Bytes::copy_from_slice(bytes));
    }

    /// Closes the connection with a reason. It is still to be run.
    pub(crate) fn refuse(&mut self, reason: &str) {
        self.hub.lose();
        self.say_goodbye(Some(close::POLICY), reason, None);
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
                Err(_) if self.farewell.is_some() => return Poll::Ready(self.outcome()),
                sent => sent?,
            };
            match &mut self.farewell {
                None if sent && self.hub.is_finished() => {
                    self.say_goodbye(Some(close::NORMAL), "", None);
                    continue;
                }
                Some(farewell) if sent && farewell.stage == Stage::Mutual => {
                    return Poll::Ready(self.outcome());
                }
                Some(farewell) if sent && farewell.stage == Stage::Deaf => {
                    match Pin::new(&mut self.socket).poll_shutdown(context) {
                        Poll::Ready(Ok(())) => farewell.stage = Stage::Shut,
                        Poll::Ready(Err(_)) => return Poll::Ready(self.outcome()),
                        Poll::Pending => {}
                    }
                }
                _ => {}
            }
            match self.poll_receive(context) {
                Poll::Ready(Ok(())) if self.intake.takes_turns() => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) if self.farewell.is_some() => {
                    return Poll::Ready(self.outcome());
                }
                Poll::Ready(Err(Broken::Message(error))) => {
                    self.hub.lose();
                    let reason = error.to_string();
                    self.say_goodbye(Some(error.code()), &reason, Some(error.into()));
                }
                Poll::Ready(Err(Broken::Frame(error))) => {
                    self.hub.lose();
                    let reason = error.to_string();
                    self.say_goodbye(Some(error.code()), &reason, Some(error.into()));
                    self.farewell_is(Stage::Deaf);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    ready!(self.poll_timer(context, sent))?;
                    return Poll::Ready(self.outcome());
                }
            }
        }
    }

    fn outcome(&mut self) -> Result<(), Broken> {
        let broken = self.farewell.take().and_then(|farewell| farewell.broken);
        broken.map_or(Ok(()), Err)
    }

    fn say_goodbye(&mut self, code: Option<u16>, reason: &str, broken: Option<Broken>) {
        let until = Instant::now() + self.patience.farewell;
        self.timer.as_mut().reset(until);
        let stage = Stage::Waiting;
        self.farewell = Some(Farewell {
            until,
            broken,
            stage,
        });
        self.queue.close(code, reason);
    }

    fn farewell_is(&mut self, stage: Stage) {
        if let Some(farewell) = &mut self.farewell {
            farewell.stage = stage;
        }
    }

    /// `sent`: nothing is on its way to the peer.
    fn poll_timer(&mut self, context: &mut Context<'_>, sent: bool) -> Poll<Result<(), Broken>> {
        // The reset itself cannot be told on a channel; its reason can, on the one for errors.
        if self.relief.poll(&self.hub, context) && sent && self.farewell.is_none() {
            self.queue.ping();
            // It carries nothing: the connection is as idle as before.
            let active = self.active;
            self.poll_send(context)?;
            self.active = active;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if let Some(Farewell { until, .. }) = self.farewell {
                if Instant::now() >= until {
                    return Poll::Ready(Ok(()));
                }
                self.timer.as_mut().reset(until);
                continue;
            }
            if let Some(paused) = self.intake.pause(self.active) {
                self.timer.as_mut().reset(paused);
                continue;
            }
            self.queue.forget();
            let end = self.active + self.patience.idle;
            if Instant::now() >= end {
                return Poll::Ready(Err(Broken::Idle(self.patience.idle)));
            }
            self.timer.as_mut().reset(end);
        }
    }

    /// Sends what there is. True when nothing is left.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        if self.unheard.is_some() {
            return Ok(false);
        }
        loop {
            while self.farewell.is_none() && self.queue.has_room() {
                let Some(outgoing) = self.hub.next_outgoing() else {
                    break;
                };
                self.enqueue(outgoing);
            }
            if self.queue.is_empty() {
                return Ok(true);
            }
            let before = self.queue.sent();
            let sent = self.queue.poll_send(&mut self.socket, context);
            if self.queue.sent() > before {
                self.active = Instant::now();
            }
            match sent {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) if self.side == Side::Client && self.farewell.is_none() => {
                    self.unheard = Some(error);
                    return Ok(false);
                }
                Poll::Ready(sent) => sent?,
            }
        }
    }

    fn enqueue(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Data {
                stream,
                payload,
                end,
            } => {
                let channel = u8::try_from(stream).unwrap_or(u8::MAX);
                if !payload.is_empty() {
                    self.say(channel, payload);
                }
                // A half-close can be told in v5 alone, by clients.
                if end
                    && self.side == Side::Client
                    && let Some(end) = self.codec.encode_end(channel)
                {
                    self.queue.message(Kind::Binary, None, end.into());
                }
            }
            // A channel has no reset of its own. What makes no sense on one is told for all.
            Outgoing::Reset(channel, status::PROTOCOL_ERROR) => {
                self.refuse(&format!("what came on channel {channel} makes no sense"));
            }
            Outgoing::Announce(..) | Outgoing::Grant(..) | Outgoing::Reset(..) => {}
        }
    }

    fn say(&mut self, channel: u8, bytes: Bytes) {
        if self.codec.base64 {
            let text = self.codec.encode(channel, &bytes);
            self.queue.message(Kind::Text, None, text.into());
        } else {
            self.queue.message(Kind::Binary, Some(channel), bytes);
        }
    }

    /// Reads once, and takes in what has come.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.farewell.is_none() && self.hub.is_blocked() {
            return Poll::Pending;
        }
        let chunk = ready!(self.intake.poll_read(&mut self.socket, context))?;
        if chunk.is_empty() {
            return Poll::Ready(Err(Broken::Cut));
        }
        if let Some(paused) = self.intake.note(chunk.len()) {
            self.timer.as_mut().reset(paused);
        }
        self.active = Instant::now();
        let stage = self.farewell.as_ref().map(|farewell| farewell.stage);
        match stage {
            Some(Stage::Deaf | Stage::Shut) => Poll::Ready(Ok(())),
            Some(Stage::Waiting | Stage::Mutual) | None => Poll::Ready(self.take_in(chunk)),
        }
    }

    fn take_in(&mut self, mut chunk: Vec<u8>) -> Result<(), Broken> {
        let (mut events, mut at) = (Vec::new(), 0);
        let decoded = loop {
            match self.decoder.decode(&mut chunk, &mut at) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let chunk = self.intake.lend(chunk);
        for event in events {
            match event {
                Event::Part { kind, bytes, end } => self.part(kind, chunk.slice(bytes), end)?,
                Event::Ping(said) => self.queue.answer(said),
                Event::Pong => {}
                Event::Close(code) => {
                    self.closed(code);
                    return Ok(());
                }
            }
        }
        Ok(decoded?)
    }

    fn part(&mut self, kind: Kind, bytes: Bytes, end: bool) -> Result<(), Broken> {
        if self.farewell.is_some() {
            return Ok(());
        }
        match self.messages.read(kind, bytes, end)? {
            // Windows are SPDY's: nothing can be exceeded here.
            Some(Message::Data { channel, bytes }) => {
                let _never = self.hub.receive(u32::from(channel), bytes);
            }
            Some(Message::End { channel }) => self.hub.receive_end(u32::from(channel)),
            None => {}
        }
        Ok(())
    }

    /// The peer has said its last words, and hears ours.
    fn closed(&mut self, code: Option<u16>) {
        if self.farewell.is_none() {
            if code == Some(close::NORMAL) {
                for channel in 0..self.channels {
                    self.hub.receive_end(u32::from(channel));
                }
            }
            self.say_goodbye(code, "", None);
        }
        self.farewell_is(Stage::Mutual);
    }
}

impl<I> Drop for Connection<I> {
    fn drop(&mut self) {
        self.hub.lose();
    }
}
