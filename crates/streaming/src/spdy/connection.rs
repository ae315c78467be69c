//! Drives one connection: a task that owns the socket, reads frames into the hub, and sends what the hub has.
//!
//! ```text
//!  open ──finish, all sent──▶ farewell (GOAWAY, no more from us) ──the peer closes, or a bound──▶ over
//!    ├──frames that are none──▶ farewell (GOAWAY with a reason)
//!    └──the peer closes, idle, I/O error──▶ over
//! ```

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
    sync::mpsc,
    time::{Instant, Sleep},
};

use super::{
    frame::{Decoder, Event, Frame, FrameError, goodbye, status},
    header_block::Headers,
    outgoing::Queue,
};
use crate::{
    hub::{Announcement, DEFAULT_WINDOW, Hub, Outgoing, Relief, StreamId},
    intake::Intake,
};

/// What the connection as a whole may receive before it is granted more. Streams have windows of their own; this one must not bind.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// A stream that the peer has opened and waits to hear about.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: StreamId,
    pub(crate) headers: Headers,
}

/// Which end of the connection this is.
#[derive(Debug)]
pub(crate) enum Role {
    Server(mpsc::Sender<Incoming>),
    Client,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) idle: Duration,
    pub(crate) farewell: Duration,
    /// `None` if a stream that is not read may hold up the others: those of one exec belong together.
    pub(crate) stall: Option<Duration>,
    /// A peer that cannot be read from for now is asked for a sign of life at this interval; `None` if it is not.
    pub(crate) asks: Option<Duration>,
}

/// Why a connection ended other than by its peer's leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
    #[error("the peer opened stream {0} after a later one, or with a number that is not its own")]
    StreamOrder(StreamId),
    #[error("the peer granted more than a window can be")]
    Window,
    #[error("nothing was sent or received for {0:?}")]
    Idle(Duration),
    #[error("send or receive")]
    Socket(#[from] io::Error),
}

pub(crate) struct Connection<I> {
    socket: I,
    hub: Arc<Hub>,
    decoder: Decoder,
    queue: Queue,
    role: Role,
    patience: Patience,
    phase: Phase,
    /// The last stream that the peer has opened.
    last: StreamId,
    /// Received since the connection's window was last restored.
    received: u32,
    active: Instant,
    timer: Pin<Box<Sleep>>,
    relief: Relief,
    /// Signs of life that the peer has been asked for.
    questions: u32,
    /// It has been said that streams are refused.
    refuses: bool,
    intake: Intake,
    /// Why a client sends nothing any more. A server that goes with something of ours unread resets the connection, behind its last words: those are
    /// read first.
    unheard: Option<io::Error>,
}

#[derive(Debug)]
enum Phase {
    Open,
    Farewell {
        until: Instant,
        shut: bool,
        broken: Option<Broken>,
    },
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// `headers`: bytes that a block of headers may have.
    pub(crate) fn new(
        socket: I,
        hub: Arc<Hub>,
        role: Role,
        headers: usize,
        patience: Patience,
    ) -> Self {
        let mut queue = Queue::default();
        queue.control(&Frame::Settings {
            initial_window: u32::try_from(hub.bounds().stream).ok(),
        });
        queue.control(&Frame::WindowUpdate {
            stream: 0,
            delta: CONNECTION_WINDOW - u32::try_from(DEFAULT_WINDOW).unwrap_or_default(),
        });
        let now = Instant::now();
        Self {
            socket,
            hub,
            decoder: Decoder::new(headers),
            queue,
            role,
            patience,
            phase: Phase::Open,
            last: 0,
            received: 0,
            active: now,
            timer: Box::pin(tokio::time::sleep_until(now + patience.idle)),
            relief: Relief::new(patience.stall, patience.asks),
            questions: 0,
            refuses: false,
            intake: Intake::default(),
            unheard: None,
        }
    }

    /// Runs until the connection is over. Streams that are still open then are told so. Dropping the future drops the connection.
    pub(crate) async fn run(mut self) -> Result<(), Broken> {
        let hub = Arc::clone(&self.hub);
        let _lost = LoseOnDrop(&hub);
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.hub.register_driver(context);
        loop {
            let sent = self.poll_send(context)?;
            if let Phase::Open = self.phase
                && sent
                && self.hub.is_finished()
            {
                self.say_goodbye(goodbye::OK, None);
                continue;
            }
            if let Phase::Farewell { shut, broken, .. } = &mut self.phase
                && sent
                && !*shut
            {
                let down = Pin::new(&mut self.socket).poll_shutdown(context);
                match down {
                    Poll::Ready(Ok(())) => *shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(broken.take().map_or(Ok(()), Err)),
                    Poll::Pending => {}
                }
            }
            match self.poll_receive(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.outcome()),
                Poll::Ready(Ok(_)) if self.intake.takes_turns() => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(Broken::Socket(error))) => {
                    return Poll::Ready(match &mut self.phase {
                        Phase::Open => Err(Broken::Socket(error)),
                        Phase::Farewell { .. } => self.outcome(),
                    });
                }
                Poll::Ready(Err(broken)) => {
                    let reason = goodbye::PROTOCOL_ERROR;
                    self.hub.lose();
                    self.say_goodbye(reason, Some(broken));
                }
                Poll::Pending => {
                    ready!(self.poll_timers(context))?;
                    return Poll::Ready(self.outcome());
                }
            }
        }
    }

    fn outcome(&mut self) -> Result<(), Broken> {
        match &mut self.phase {
            Phase::Open => self
                .unheard
                .take()
                .map_or(Ok(()), |error| Err(error.into())),
            Phase::Farewell { broken, .. } => broken.take().map_or(Ok(()), Err),
        }
    }

    fn say_goodbye(&mut self, status: u32, broken: Option<Broken>) {
        let last = self.last;
        self.queue.control(&Frame::GoAway { last, status });
        let until = Instant::now() + self.patience.farewell;
        self.timer.as_mut().reset(until);
        self.phase = Phase::Farewell {
            until,
            shut: false,
            broken,
        };
    }

    /// Ready when the connection has outlived its time.
    fn poll_timers(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.relief.poll(&self.hub, context) && self.queue.is_empty() {
            // What is on its way to the peer already is as good a question.
            self.questions = self.questions.wrapping_add(1) % (1 << 30);
            self.queue.control(&Frame::Ping(self.questions * 2));
            // It carries nothing: the connection is as idle as before.
            let active = self.active;
            self.poll_send(context)?;
            self.active = active;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            match &self.phase {
                Phase::Farewell { until, .. } if Instant::now() >= *until => {
                    return Poll::Ready(Ok(()));
                }
                Phase::Farewell { until, .. } => self.timer.as_mut().reset(*until),
                Phase::Open => {
                    if let Some(paused) = self.intake.pause(self.active) {
                        self.timer.as_mut().reset(paused);
                        continue;
                    }
                    let end = self.active + self.patience.idle;
                    if Instant::now() >= end {
                        return Poll::Ready(Err(Broken::Idle(self.patience.idle)));
                    }
                    self.timer.as_mut().reset(end);
                }
            }
        }
    }

    /// Sends what there is. True when nothing is left.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        if self.unheard.is_some() {
            return Ok(false);
        }
        loop {
            while self.queue.has_room() {
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
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error))
                    if matches!((&self.role, &self.phase), (Role::Client, Phase::Open)) =>
                {
                    self.unheard = Some(error);
                    return Ok(false);
                }
                // In a farewell, nobody is owed anything more.
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
    }

    fn enqueue(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Data {
                stream,
                payload,
                end,
            } => self.queue.data(stream, payload, end),
            Outgoing::Announce(stream, Announcement::Open(headers)) => {
                let end = false;
                self.queue.control(&Frame::SynStream {
                    stream,
                    end,
                    headers,
                });
            }
            Outgoing::Announce(stream, Announcement::Reply) => {
                let (end, headers) = (false, Headers::new());
                self.queue.control(&Frame::SynReply {
                    stream,
                    end,
                    headers,
                });
            }
            Outgoing::Grant(stream, delta) => {
                if !self.grants_are_litter() {
                    self.queue.control(&Frame::WindowUpdate { stream, delta });
                }
            }
            Outgoing::Reset(stream, status) => {
                self.queue.control(&Frame::RstStream { stream, status });
            }
        }
    }

    /// Reads once, and takes in what has come: how many bytes, 0 at the end.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let farewell = matches!(self.phase, Phase::Farewell { .. });
        if !farewell && (self.hub.is_blocked() || self.queue.is_flooded()) {
            return Poll::Pending;
        }
        let chunk = ready!(self.intake.poll_read(&mut self.socket, context))?;
        let count = chunk.len();
        if let Some(paused) = self.intake.note(count) {
            self.timer.as_mut().reset(paused);
        }
        // After a goodbye nothing counts but the end.
        if !farewell {
            self.active = Instant::now();
            let chunk = self.intake.lend(chunk);
            self.take_in(&chunk)?;
        }
        Poll::Ready(Ok(count))
    }

    fn take_in(&mut self, read: &Bytes) -> Result<(), Broken> {
        let mut rest = &read[..];
        while let Some(event) = self.decoder.decode(&mut rest)? {
            match event {
                Event::Data { stream, bytes, end } => {
                    self.data(stream, read.slice_ref(bytes), end);
                }
                Event::Control(frame) => self.control(frame)?,
            }
        }
        Ok(())
    }

    fn data(&mut self, stream: StreamId, bytes: Bytes, end: bool) {
        self.received = self
            .received
            .saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if self.received > CONNECTION_WINDOW / 4 {
            let delta = std::mem::take(&mut self.received);
            self.queue
                .control(&Frame::WindowUpdate { stream: 0, delta });
        }
        if !self.hub.is_receiving(stream) {
            // After our reset the peer's last words may still be on their way; before it opened the stream they cannot be.
            if self.is_peers(stream) && stream > self.last {
                let status = status::INVALID_STREAM;
                self.queue.control(&Frame::RstStream { stream, status });
            }
            return;
        }
        if self.hub.receive(stream, bytes).is_err() {
            tracing::warn!(stream, "the peer sent more than the stream's window: reset");
            self.hub.reset(stream, status::FLOW_CONTROL_ERROR);
        } else if end {
            self.hub.receive_end(stream);
        }
    }

    fn control(&mut self, frame: Frame) -> Result<(), Broken> {
        if let Frame::SynStream { .. } | Frame::SynReply { .. } = frame {
            self.hub.presume_heedless();
        }
        match frame {
            Frame::SynStream {
                stream,
                end,
                headers,
            } => return self.opened(stream, end, headers),
            // Headers that come later have no meaning here.
            Frame::SynReply { stream, end, .. } | Frame::Headers { stream, end, .. } => {
                if end {
                    self.hub.receive_end(stream);
                }
            }
            Frame::RstStream { stream, .. } => self.hub.receive_reset(stream),
            Frame::Settings { initial_window } => {
                if let Some(size) = initial_window {
                    self.hub.receive_initial_window(size);
                }
            }
            // One of ours comes back, unless its number is the peer's.
            Frame::Ping(id) => {
                if self.is_peers(id) {
                    self.queue.control(&Frame::Ping(id));
                }
            }
            // The peer opens no more streams, and closes when it is done.
            Frame::GoAway { .. } | Frame::Unknown(_) => {}
            Frame::WindowUpdate { stream, delta } => {
                if !self.hub.receive_grant(stream, delta) {
                    if stream == 0 {
                        return Err(Broken::Window);
                    }
                    self.hub.reset(stream, status::FLOW_CONTROL_ERROR);
                }
            }
        }
        Ok(())
    }

    /// A server that knows no windows does not look for more frames once its session is over, and closes. What it has not read by then makes that
    /// a reset (RFC 1122, 4.2.2.13), which takes away what is still on its way to us. A client, on the other hand, may heed windows
    /// without having had a reason to say so.
    fn grants_are_litter(&self) -> bool {
        matches!(self.role, Role::Client) && self.hub.is_presumed_heedless()
    }

    /// Numbers of clients are odd.
    fn is_peers(&self, id: u32) -> bool {
        match self.role {
            Role::Server(_) => id % 2 == 1,
            Role::Client => id.is_multiple_of(2),
        }
    }

    fn opened(&mut self, id: StreamId, end: bool, headers: Headers) -> Result<(), Broken> {
        if !self.is_peers(id) || id <= self.last {
            return Err(Broken::StreamOrder(id));
        }
        self.last = id;
        let refused = match &self.role {
            Role::Client => true,
            Role::Server(incoming) => {
                !self.hub.admit(id) || incoming.try_send(Incoming { id, headers }).is_err()
            }
        };
        if refused {
            if !std::mem::replace(&mut self.refuses, true) {
                let most = self.hub.bounds().streams;
                tracing::warn!(
                    stream = id,
                    most,
                    "too many streams: this one, and any more, is refused"
                );
            }
            self.hub.receive_reset(id);
            let (stream, status) = (id, status::REFUSED_STREAM);
            self.queue.control(&Frame::RstStream { stream, status });
        } else if end {
            self.hub.receive_end(id);
        }
        Ok(())
    }
}

/// Tells the sessions that the connection is over, also when its driver is dropped.
struct LoseOnDrop<'a>(&'a Hub);

impl Drop for LoseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lose();
    }
}
