//! One stream's buffers, windows, and where it is in its life.

use std::{task::Waker, time::Instant};

use tokio::sync::oneshot;

use super::{Announcement, Cut, FRAME, Outgoing, StreamId, pieces::Pieces};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) inbox: Pieces,
    pub(super) in_ended: bool,
    pub(super) cut: Option<Cut>,
    pub(super) reader: Option<Waker>,
    /// Nobody will read: what comes is dropped.
    pub(super) unread: bool,
    /// What the peer may send before it is granted more.
    window: usize,
    /// What it may still send.
    pub(super) receive_window: i64,
    /// Read by the session, and not granted to the peer again yet.
    pub(super) consumed: usize,
    /// The session has read all there was since the peer was last granted anything.
    kept_up: bool,
    pub(super) grant: usize,
    /// When the session last read something, or the first of what is in the inbox came.
    pub(super) unread_since: Option<Instant>,
    /// Who wants to know that it was reset for having held up the others.
    pub(super) stalled: Option<oneshot::Sender<()>>,

    pub(super) announcement: Option<Announcement>,
    pub(super) outbox: Pieces,
    pub(super) out_ending: bool,
    pub(super) out_ended: bool,
    pub(super) reset: Option<u32>,
    pub(super) writer: Option<Waker>,
    /// What we may still send to a peer that heeds windows.
    pub(super) send_window: i64,
    /// Is in the queue of those with something to send.
    pub(super) queued: bool,
    /// Halves that a session still holds.
    pub(super) held: u8,
    /// Nobody has taken a half yet, but somebody will: until then it must not be forgotten, however early it ends.
    pub(super) promised: bool,
    /// The protocol is done with it.
    pub(super) closed: bool,
}

impl Stream {
    /// `window`: what it receives at first before the peer is granted more; `send_window`: the peer's.
    pub(super) fn new(window: usize, send_window: i64, promised: bool) -> Self {
        Self {
            inbox: Pieces::default(),
            in_ended: false,
            cut: None,
            reader: None,
            unread: false,
            window,
            receive_window: i64::try_from(window).unwrap_or(i64::MAX),
            consumed: 0,
            kept_up: false,
            grant: 0,
            unread_since: None,
            stalled: None,
            announcement: None,
            outbox: Pieces::default(),
            out_ending: false,
            out_ended: false,
            reset: None,
            writer: None,
            send_window,
            queued: false,
            held: 0,
            promised,
            closed: false,
        }
    }

    /// Notes what has been read, and whether the peer is to be told: not for every byte, but before its window is used up.
    pub(super) fn consume(&mut self, count: usize, widest: usize) -> bool {
        if self.in_ended || self.cut.is_some() {
            return false;
        }
        self.consumed += count;
        self.kept_up |= self.inbox.is_empty();
        if self.consumed < self.window / 2 {
            return false;
        }
        if std::mem::take(&mut self.kept_up) && self.window < widest {
            // Its reader keeps up, and waits for a peer that waits for us: what carries much gets more room, what stalls does not. It may be just
            // half-way through what came last: in steps that divide the window, it is so each time.
            let wider = (self.window * 2).min(widest);
            self.consumed += wider - self.window;
            self.window = wider;
        }
        self.receive_window += i64::try_from(self.consumed).unwrap_or(i64::MAX);
        self.grant += std::mem::take(&mut self.consumed);
        true
    }

    pub(super) fn next_outgoing(
        &mut self,
        id: StreamId,
        heeds: bool,
        connection: Option<i64>,
    ) -> Option<Outgoing> {
        if let Some(announcement) = self.announcement.take() {
            return Some(Outgoing::Announce(id, announcement));
        }
        if let Some(status) = self.reset.take() {
            self.closed = true;
            return Some(Outgoing::Reset(id, status));
        }
        if self.cut.is_some() || self.closed {
            return None;
        }
        if self.grant > 0 {
            let grant = std::mem::take(&mut self.grant);
            return Some(Outgoing::Grant(
                id,
                u32::try_from(grant).unwrap_or(u32::MAX >> 1),
            ));
        }
        let mut room = FRAME;
        if heeds {
            let window = connection.map_or(self.send_window, |other| other.min(self.send_window));
            room = room.min(usize::try_from(window).unwrap_or(0));
        }
        if room == 0 && !self.outbox.is_empty() {
            return None;
        }
        let payload = self.outbox.take(room);
        let end = self.out_ending && !self.out_ended && self.outbox.is_empty();
        if payload.is_empty() && !end {
            return None;
        }
        self.out_ended = end;
        Some(Outgoing::Data {
            stream: id,
            payload,
            end,
        })
    }

    pub(super) fn has_outgoing(&self) -> bool {
        self.announcement.is_some()
            || self.reset.is_some()
            || self.grant > 0
            || !self.outbox.is_empty()
            || (self.out_ending && !self.out_ended)
    }
}
