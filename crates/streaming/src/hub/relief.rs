//! What becomes of a stream that nobody reads while its connection carries others.
//!
//! A peer that heeds windows stops by itself. The field's own clients do not: what they send beyond the stream's bound can only be left
//! in the socket, and with it what they send on every other stream. So the connection waits for the reader, with a bound: an application
//! that pauses for less than `Limits::stall` costs the others that time, one that pauses for longer loses this one stream, and is told
//! why on the error stream. A stream that has its connection to itself may pause for ever.
//!
//! Buffering more instead would not tell the two apart: at the speed of a loopback 32 MiB are gone in a blink, and a file to spill to has
//! to have a bound as well, after which the same choice is left.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::Hub;
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
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
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
