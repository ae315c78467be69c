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

/// The driver's clock for streams that hold up their connection.
#[derive(Debug)]
pub(crate) struct Relief {
    /// `None` if a stream that is not read may hold up the others: those of one exec belong together.
    patience: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Relief {
    pub(crate) fn new(patience: Option<Duration>) -> Self {
        let timer = None;
        Self { patience, timer }
    }

    /// Resets what has held up the connection for too long. To be called whenever the driver has nothing else to do.
    pub(crate) fn poll(&mut self, hub: &Hub, context: &mut Context<'_>) {
        let Some(patience) = self.patience.filter(|_| hub.is_blocked()) else {
            self.timer = None;
            return;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        while let Poll::Ready(()) = timer.as_mut().poll(context) {
            let next = hub.relieve(patience, status::FLOW_CONTROL_ERROR);
            let next = next.unwrap_or(patience).max(SOONEST);
            timer.as_mut().reset(Instant::now() + next);
        }
    }
}
