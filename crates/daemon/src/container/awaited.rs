use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Ends that a supervisor tells of later, and who waits for each, by the id that the daemon chose.
#[derive(Debug)]
pub(crate) struct Awaited<T> {
    waiting: Mutex<HashMap<String, oneshot::Sender<T>>>,
}

impl<T> Default for Awaited<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
        }
    }
}

impl<T> Awaited<T> {
    /// Must come before what it waits for is asked for. It fails when nobody will tell any more.
    pub(crate) fn expect(&self, id: &str) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id.to_owned(), sender);
        receiver
    }

    pub(crate) fn tell(&self, id: &str, end: T) {
        if let Some(waiter) = self.lock().remove(id) {
            // A caller that has gone does not want it.
            let _gone = waiter.send(end);
        }
    }

    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The supervisor is gone.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
