//! Connections that have not said yet what they are for. There may be some, and each only for a time; a newcomer that is one too many
//! closes the one that has been silent longest, so that those who hold connections open keep nobody out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;

#[derive(Debug)]
pub(super) struct HalfOpen {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    newcomers: VecDeque<(u64, Option<AbortHandle>)>,
}

/// A place among those that wait. Dropping it leaves.
#[derive(Debug)]
pub(super) struct Newcomer {
    of: Arc<HalfOpen>,
    number: u64,
}

impl HalfOpen {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let waiting = Mutex::default();
        Arc::new(Self { most, waiting })
    }

    pub(super) fn join(self: &Arc<Self>) -> Newcomer {
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.newcomers.push_back((number, None));
        if waiting.newcomers.len() > self.most
            && let Some((_, Some(oldest))) = waiting.newcomers.pop_front()
        {
            tracing::warn!(
                most = self.most,
                "too many streaming clients that ask for nothing: the oldest is closed"
            );
            oldest.abort();
        }
        let of = Arc::clone(self);
        Newcomer { of, number }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newcomer {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl HalfOpen {
    /// Says how to close the connection. It may have left already.
    pub(super) fn arm(&self, number: u64, abort: AbortHandle) {
        let mut waiting = self.lock();
        let found = waiting
            .newcomers
            .iter_mut()
            .find(|(known, _)| *known == number);
        if let Some((_, slot)) = found {
            *slot = Some(abort);
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut waiting = self.of.lock();
        waiting.newcomers.retain(|(known, _)| *known != self.number);
    }
}
