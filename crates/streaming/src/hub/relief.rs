//! What becomes of a stream that nobody reads while its connection carries others.
//!
//! A peer that heeds windows stops by itself. The field's own clients do not: what they send beyond the stream's bound can only be left
//! in the socket, and with it what they send on every other stream. So the connection waits for the reader, with a bound: an application
//! that pauses for less than `Limits::stall` costs the others that time, one that pauses for longer loses this one stream.
//!
//! A stream that nobody shares the connection with may have more unread, 32 times `Limits::overrun`, before that bound counts: it is more
//! than two kernels hold of a connection on its way, so that one who comes behind what is unread is seen. Beyond it, whether anybody waits cannot be known.
//! Streams that are all that a connection will ever have pause for ever.
//!
//! Buffering more instead would not tell the two apart: at the speed of a loopback any memory is gone in a blink, and a file to spill to has
//! to have a bound as well, after which the same choice is left.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{Hub, PAIR, State};
use crate::spdy::frame::status;

/// Asked again at this interval at least.
const SOONEST: Duration = Duration::from_millis(10);

/// The driver's clocks for connections that are not read from.
#[derive(Debug)]
pub(crate) struct Relief {
    /// `None` if a stream that is not read may hold up the others: those of one exec belong together.
    patience: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Between two questions; `None` if the peer is not to be asked.
    asks: Option<Duration>,
    question: Option<Pin<Box<Sleep>>>,
}

impl Relief {
    pub(crate) fn new(patience: Option<Duration>, asks: Option<Duration>) -> Self {
        Self {
            patience,
            timer: None,
            asks,
            question: None,
        }
    }

    /// Resets what has held up the connection for too long. Whether the peer is to be asked for a sign of life. To be called whenever the driver
    /// has nothing else to do.
    pub(crate) fn poll(&mut self, hub: &Hub, context: &mut Context<'_>) -> bool {
        if !hub.is_blocked() {
            (self.timer, self.question) = (None, None);
            return false;
        }
        if let Some(patience) = self.patience {
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::ZERO)));
            while let Poll::Ready(()) = timer.as_mut().poll(context) {
                let next = hub.relieve(patience, status::FLOW_CONTROL_ERROR);
                let next = next.unwrap_or(patience).max(SOONEST);
                timer.as_mut().reset(Instant::now() + next);
            }
        }
        let Some(asks) = self.asks else { return false };
        let question = self
            .question
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(asks)));
        let due = question.as_mut().poll(context).is_ready();
        if due {
            question.as_mut().reset(Instant::now() + asks);
        }
        due
    }
}

impl Hub {
    /// Whether the connection must not be read on for now.
    pub(crate) fn is_blocked(&self) -> bool {
        let state = self.lock();
        let most = self.most_unread(&state);
        state.buffered > self.bounds.connection
            || (state.buffered > most
                && state
                    .streams
                    .values()
                    .any(|stream| stream.inbox.len() > most))
    }

    /// Bytes of an inbox at which the connection is not read on: while it carries nothing else, as much as it may have in all, for another stream may
    /// be announced behind them.
    fn most_unread(&self, state: &State) -> usize {
        if self.bounds.newcomers && state.open <= PAIR {
            self.bounds.connection
        } else {
            self.bounds.overrun
        }
    }

    /// Resets streams that block the connection, and of which nothing has been read for `patience`, if others can be there that suffer
    /// from it. Otherwise, when to ask again.
    pub(crate) fn relieve(&self, patience: Duration, status: u32) -> Option<Duration> {
        let now = std::time::Instant::now();
        let (mut stuck, mut next) = (Vec::new(), None::<Duration>);
        {
            let state = self.lock();
            if state.open <= PAIR && !self.bounds.newcomers {
                return Some(patience);
            }
            let most = self.most_unread(&state);
            // Where none has too much, but all of them together, the one with most has to go.
            let unread = state.streams.values().map(|stream| stream.inbox.len());
            let heaviest = unread
                .max()
                .filter(|_| state.buffered > self.bounds.connection);
            for (id, stream) in &state.streams {
                let unread = stream.inbox.len();
                let blocks = unread > most || heaviest == Some(unread);
                let Some(since) = stream.unread_since.filter(|_| blocks) else {
                    continue;
                };
                match (since + patience).checked_duration_since(now) {
                    Some(left) if !left.is_zero() => {
                        next = Some(next.map_or(left, |next| next.min(left)));
                    }
                    _ => stuck.push(*id),
                }
            }
        }
        for id in stuck {
            // Its session is told before it learns of the reset, which has no reason.
            let session = self
                .lock()
                .streams
                .get_mut(&id)
                .and_then(|stream| stream.stalled.take());
            if session.is_none_or(|session| session.send(()).is_err()) {
                tracing::warn!(
                    stream = id,
                    "nobody reads this stream, and it holds up the others of its connection: reset"
                );
            }
            self.reset(id, status);
        }
        next
    }
}
