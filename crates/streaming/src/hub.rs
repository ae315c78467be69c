//! The streams of one connection: what has come for a session and was not read yet, and what a session wrote and was not sent yet.
//!
//! ```text
//!  socket ──▶ driver ──▶ inbox ──▶ session        one driver a connection, one hub between it
//!         ◀──        ◀── outbox ◀──               and the sessions; a lock for the time of a copy
//! ```
//!
//! The driver is the task that owns the socket and speaks the protocol. Sessions see readers and writers only. Every buffer is bounded:
//! a writer waits when its outbox is full, and the driver asks [`Hub::is_blocked`] before it reads on.

mod halves;
mod pieces;
mod relief;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

pub(crate) use self::halves::{Both, ReadHalf, WriteHalf};
pub(crate) use self::relief::Relief;
use self::{pieces::Pieces, stream::Stream};

/// The number of a stream (SPDY) or of a channel (WebSocket).
pub(crate) type StreamId = u32;

/// Bytes of one data frame at most: large enough to make its header and the system call cheap, small enough to take turns.
pub(crate) const FRAME: usize = 64 * 1024;

/// SPDY/3.1's window of a stream whose receiver has announced no other.
pub(crate) const DEFAULT_WINDOW: i64 = 64 * 1024;

/// Bounds on buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of a stream's outbox, and for peers that heed it its window at first.
    pub(crate) stream: usize,
    /// Bytes of an inbox at which the connection is not read on, and what a window grows to.
    pub(crate) overrun: usize,
    /// Bytes of all inboxes at which the connection is not read on.
    pub(crate) connection: usize,
    /// Streams at once.
    pub(crate) streams: usize,
    /// Whether the peer opens streams whenever it likes. One that it opens behind bytes of another goes unseen until those are read.
    pub(crate) newcomers: bool,
}

/// Streams of one forwarded connection: with no more than these, nobody is known to wait for them.
const PAIR: usize = 2;

/// Why nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The peer reset the stream, or closed the channel in both directions.
    Reset,
    /// The connection has ended.
    Lost,
}

/// What the driver is to tell the peer about a stream before its first data.
#[derive(Debug)]
pub(crate) enum Announcement {
    Open(Vec<(String, String)>),
    Reply,
}

#[derive(Debug)]
struct State {
    streams: HashMap<StreamId, Stream>,
    ready: VecDeque<StreamId>,
    driver: Option<Waker>,
    next: StreamId,
    buffered: usize,
    open: usize,
    /// Whether windows count: only for peers that show that they know them. Until a peer has shown anything, it may send what it likes,
    /// and we send what the default window allows.
    heeds: Option<bool>,
    initial_send_window: i64,
    /// The window of the connection as a whole. It counts for peers that have granted any of it.
    connection_window: i64,
    connection_counts: bool,
    finishing: bool,
    lost: bool,
}

#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// True once the connection has ended.
    lost: watch::Sender<bool>,
    bounds: Bounds,
}

/// One step of what a stream has to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Announce(StreamId, Announcement),
    Grant(StreamId, u32),
    Data {
        stream: StreamId,
        payload: Bytes,
        end: bool,
    },
    Reset(StreamId, u32),
}

/// A stream that the peer overfilled although it knows its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowExceeded;

impl Hub {
    /// `next` is the first number of streams that this end opens.
    pub(crate) fn new(bounds: Bounds, next: StreamId) -> Arc<Self> {
        let state = State {
            streams: HashMap::new(),
            ready: VecDeque::new(),
            driver: None,
            next,
            buffered: 0,
            open: 0,
            heeds: None,
            initial_send_window: DEFAULT_WINDOW,
            connection_window: DEFAULT_WINDOW,
            connection_counts: false,
            finishing: false,
            lost: false,
        };
        let state = Mutex::new(state);
        Arc::new(Self {
            state,
            lost: watch::Sender::new(false),
            bounds,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    // What sessions do.

    /// Opens a stream from this end. `None` when the connection is over or has its fill of streams.
    pub(crate) fn open(self: &Arc<Self>, headers: Vec<(String, String)>) -> Option<StreamId> {
        let mut state = self.lock();
        if state.lost || state.finishing || state.open >= self.bounds.streams {
            return None;
        }
        let id = state.next;
        state.next = id.checked_add(2).filter(|next| *next < 1 << 31)?;
        self.insert(&mut state, id, true);
        state.with(id, |stream| {
            stream.announcement = Some(Announcement::Open(headers));
        });
        state.make_ready(id);
        Some(id)
    }

    /// Tells the peer that its stream is welcome.
    pub(crate) fn reply(&self, id: StreamId) {
        let mut state = self.lock();
        state.with(id, |stream| {
            stream.announcement = Some(Announcement::Reply);
        });
        state.make_ready(id);
    }

    /// Drops what the stream has buffered, and tells the peer `status`.
    pub(crate) fn reset(&self, id: StreamId, status: u32) {
        let mut state = self.lock();
        if state
            .streams
            .get(&id)
            .is_none_or(|stream| stream.cut.is_some())
        {
            // One of the two ends has said so already.
            return;
        }
        state.cut(id, Cut::Reset);
        state.with(id, |stream| {
            stream.announcement = None;
            stream.reset = Some(status);
            stream.closed = false;
        });
        state.make_ready(id);
    }

    /// Resets a stream that has not ended in both directions.
    pub(crate) fn abandon(&self, id: StreamId, status: u32) {
        let over = {
            let state = self.lock();
            let stream = state.streams.get(&id);
            stream.is_none_or(|stream| stream.in_ended && stream.out_ending)
        };
        if !over {
            self.reset(id, status);
        }
    }

    /// Half-closes our direction.
    pub(crate) fn end(&self, id: StreamId) {
        let mut state = self.lock();
        state.with(id, |stream| stream.out_ending = true);
        state.make_ready(id);
    }

    /// No stream will be opened any more, and none written to: once everything has been sent, the connection may close.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.finishing = true;
        for stream in state.streams.values_mut() {
            stream.out_ending = true;
        }
        state.requeue_all();
        state.wake_driver();
    }

    pub(crate) fn read_half(self: &Arc<Self>, id: StreamId) -> ReadHalf {
        ReadHalf::new(Arc::clone(self), id)
    }

    /// What the peer sends on the stream is dropped.
    pub(crate) fn write_half(self: &Arc<Self>, id: StreamId) -> WriteHalf {
        self.forsake(id);
        WriteHalf::new(Arc::clone(self), id)
    }

    /// Resolves when the stream is reset because it held up the others: never, if that does not happen.
    pub(crate) fn stall(&self, id: StreamId) -> impl Future<Output = ()> + use<> {
        let (sender, stalled) = oneshot::channel();
        self.lock().with(id, |stream| stream.stalled = Some(sender));
        async move {
            if stalled.await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Whether the stream was reset by one of the two ends, or has ended in both directions.
    pub(crate) fn is_over(&self, id: StreamId) -> bool {
        let state = self.lock();
        let stream = state.streams.get(&id);
        stream.is_none_or(|stream| stream.cut.is_some())
    }

    /// Whether the connection has ended.
    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Resolves when the connection has ended.
    pub(crate) async fn lost(&self) {
        // The sender is ours.
        drop(self.lost.subscribe().wait_for(|lost| *lost).await);
    }

    // What the driver does.

    /// A channel that exists from the start, and of which a half will be taken.
    pub(crate) fn provide(&self, id: StreamId) {
        let mut state = self.lock();
        self.insert(&mut state, id, true);
    }

    /// A stream that the peer has opened. False when there are too many already.
    pub(crate) fn admit(&self, id: StreamId) -> bool {
        let mut state = self.lock();
        if state.finishing || state.open >= self.bounds.streams {
            return false;
        }
        self.insert(&mut state, id, false);
        true
    }

    fn insert(&self, state: &mut State, id: StreamId, promised: bool) {
        let stream = Stream::new(self.bounds.stream, state.initial_send_window, promised);
        state.streams.insert(id, stream);
        state.open += 1;
    }

    /// Whether the peer may still send on this stream.
    pub(crate) fn is_receiving(&self, id: StreamId) -> bool {
        let state = self.lock();
        let stream = state.streams.get(&id);
        stream.is_some_and(|stream| !stream.in_ended && stream.cut.is_none() && !stream.closed)
    }

    /// Bytes that have come for a stream.
    pub(crate) fn receive(&self, id: StreamId, bytes: Bytes) -> Result<(), WindowExceeded> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(stream) = state.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.receive_window -= i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        if state.heeds == Some(true) && stream.receive_window < 0 {
            return Err(WindowExceeded);
        }
        if stream.unread || stream.cut.is_some() {
            if stream.consume(bytes.len(), self.bounds.overrun) {
                state.make_ready(id);
            }
            return Ok(());
        }
        state.buffered += bytes.len();
        stream.inbox.push(bytes);
        stream.unread_since.get_or_insert_with(Instant::now);
        if let Some(reader) = stream.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    /// The peer's half-close.
    pub(crate) fn receive_end(&self, id: StreamId) {
        let mut state = self.lock();
        state.with(id, |stream| {
            stream.in_ended = true;
            if let Some(reader) = stream.reader.take() {
                reader.wake();
            }
        });
        state.settle(id);
    }

    /// The peer's reset. Servers in Go reset every stream when they are done, right behind its last bytes: those count.
    pub(crate) fn receive_reset(&self, id: StreamId) {
        let mut state = self.lock();
        state.cut_readable(id, Cut::Reset);
        state.with(id, |stream| stream.closed = true);
        state.settle(id);
    }

    /// The peer lets us send more: on one stream, or (0) on the connection as a whole. False if that is more than a window can be.
    pub(crate) fn receive_grant(&self, id: StreamId, delta: u32) -> bool {
        const LARGEST: i64 = i32::MAX as i64;
        let mut guard = self.lock();
        let state = &mut *guard;
        state.heeds = Some(true);
        if id == 0 {
            state.connection_counts = true;
            state.connection_window += i64::from(delta);
            let possible = state.connection_window <= LARGEST;
            state.requeue_all();
            return possible;
        }
        let Some(stream) = state.streams.get_mut(&id) else {
            return true;
        };
        stream.send_window += i64::from(delta);
        let possible = stream.send_window <= LARGEST;
        state.make_ready(id);
        possible
    }

    /// The peer's `SETTINGS_INITIAL_WINDOW_SIZE`, which also changes the windows of streams that are open.
    pub(crate) fn receive_initial_window(&self, size: u32) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.heeds = Some(true);
        let change = i64::from(size) - state.initial_send_window;
        state.initial_send_window = i64::from(size);
        for stream in state.streams.values_mut() {
            stream.send_window += change;
        }
        state.requeue_all();
    }

    /// The peer has come to where it would have announced windows, had it any.
    pub(crate) fn presume_heedless(&self) {
        let mut state = self.lock();
        if state.heeds.is_none() {
            state.heeds = Some(false);
            state.requeue_all();
        }
    }

    /// Whether the peer has had the occasion to announce windows, and has not.
    pub(crate) fn is_presumed_heedless(&self) -> bool {
        self.lock().heeds == Some(false)
    }

    /// The next thing to send, one stream after the other.
    pub(crate) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut guard = self.lock();
        let state = &mut *guard;
        while let Some(id) = state.ready.pop_front() {
            let heeds = state.heeds;
            let connection = state.connection_counts.then_some(state.connection_window);
            let Some(stream) = state.streams.get_mut(&id) else {
                continue;
            };
            stream.queued = false;
            let outgoing = stream.next_outgoing(id, heeds != Some(false), connection);
            let Some(outgoing) = outgoing else {
                state.settle(id);
                continue;
            };
            if let Outgoing::Data { payload, .. } = &outgoing {
                let sent = i64::try_from(payload.len()).unwrap_or(i64::MAX);
                stream.send_window -= sent;
                state.connection_window -= sent;
                if let Some(writer) = stream.writer.take() {
                    writer.wake();
                }
            }
            state.make_ready_quietly(id);
            state.settle(id);
            return Some(outgoing);
        }
        None
    }

    /// Everything was sent that will ever be.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.finishing
            && state.streams.values().all(|stream| {
                stream.outbox.is_empty()
                    && stream.announcement.is_none()
                    && stream.reset.is_none()
                    && (stream.out_ended || !stream.out_ending)
            })
    }

    /// The connection has ended: whoever waits is told.
    pub(crate) fn lose(&self) {
        self.lost.send_replace(true);
        let mut state = self.lock();
        state.lost = true;
        let ids: Vec<StreamId> = state.streams.keys().copied().collect();
        for id in ids {
            state.cut(id, Cut::Lost);
            state.with(id, |stream| stream.closed = true);
            state.settle(id);
        }
    }

    /// Wakes the driver when there is something to send, or to read on.
    pub(crate) fn register_driver(&self, context: &Context<'_>) {
        let mut state = self.lock();
        let known = state.driver.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(context.waker())) {
            state.driver = Some(context.waker().clone());
        }
    }

    // What the halves do.

    /// Has `read` take something out of the inbox, and say how much. What it finds nothing of is waited for, unless it `wants` nothing.
    fn poll_read(
        &self,
        id: StreamId,
        context: &Context<'_>,
        wants: bool,
        read: impl FnOnce(&mut Pieces) -> usize,
    ) -> Poll<Result<usize, Cut>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(stream) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(Cut::Lost));
        };
        let blocked =
            stream.inbox.len() > self.bounds.overrun || state.buffered > self.bounds.connection;
        let count = read(&mut stream.inbox);
        if count > 0 {
            stream.unread_since = (!stream.inbox.is_empty()).then(Instant::now);
            state.buffered -= count;
            if stream.consume(count, self.bounds.overrun) {
                state.make_ready(id);
            } else if blocked {
                state.wake_driver();
            }
            return Poll::Ready(Ok(count));
        }
        if !wants || stream.in_ended {
            return Poll::Ready(Ok(0));
        }
        if let Some(cut) = stream.cut {
            return Poll::Ready(Err(cut));
        }
        stream.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Has `write` put as much into the outbox as it is told, if there is room for any of `wanted` bytes. How much that was.
    fn poll_write(
        &self,
        id: StreamId,
        context: &Context<'_>,
        wanted: usize,
        write: impl FnOnce(&mut Pieces, usize),
    ) -> Poll<Result<usize, Cut>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(stream) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(Cut::Lost));
        };
        if stream.cut.is_some() || stream.out_ending {
            return Poll::Ready(Err(stream.cut.unwrap_or(Cut::Reset)));
        }
        let count = wanted.min(self.bounds.stream - stream.outbox.len());
        if count == 0 && wanted > 0 {
            stream.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        write(&mut stream.outbox, count);
        state.make_ready(id);
        Poll::Ready(Ok(count))
    }

    fn hold(&self, id: StreamId) {
        self.lock().with(id, |stream| {
            stream.held += 1;
            stream.promised = false;
        });
    }

    fn release(&self, id: StreamId) {
        let mut state = self.lock();
        state.with(id, |stream| stream.held -= 1);
        state.settle(id);
    }

    /// Nobody reads any more: what has come and what will is dropped.
    fn forsake(&self, id: StreamId) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(stream) = state.streams.get_mut(&id) else {
            return;
        };
        stream.unread = true;
        stream.unread_since = None;
        let dropped = std::mem::take(&mut stream.inbox).len();
        state.buffered -= dropped;
        stream.consume(dropped, self.bounds.overrun);
        state.make_ready(id);
    }
}

impl State {
    fn with(&mut self, id: StreamId, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.streams.get_mut(&id) {
            change(stream);
        }
    }

    fn make_ready(&mut self, id: StreamId) {
        self.make_ready_quietly(id);
        self.wake_driver();
    }

    fn make_ready_quietly(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
            && stream.has_outgoing()
        {
            stream.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Windows have changed: whoever waited for one gets another turn.
    fn requeue_all(&mut self) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.make_ready_quietly(id);
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Nothing more comes or goes, and what has come is dropped, unless its end came too.
    fn cut(&mut self, id: StreamId, cut: Cut) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.in_ended
            && stream.cut.is_none()
        {
            self.buffered -= std::mem::take(&mut stream.inbox).len();
            stream.unread_since = None;
        }
        self.cut_readable(id, cut);
    }

    /// Nothing more comes or goes; what has come stays readable.
    fn cut_readable(&mut self, id: StreamId, cut: Cut) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.cut.is_none() {
            stream.cut = Some(cut);
        }
        stream.outbox = Pieces::default();
        stream.out_ended = true;
        let waiting = [stream.reader.take(), stream.writer.take()];
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Forgets a stream that neither the protocol nor a session will ask for.
    fn settle(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let both_ended = stream.in_ended && stream.out_ended;
        let done = stream.closed || (both_ended && stream.reset.is_none());
        if done && stream.held == 0 && !stream.promised {
            self.buffered -= stream.inbox.len();
            self.streams.remove(&id);
            self.open -= 1;
            if self.buffered > 0 {
                // One that is alone now may have more in its inbox than before.
                self.wake_driver();
            }
        }
    }
}

#[cfg(test)]
mod tests;
