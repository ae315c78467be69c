//! A reader's own queue: in order, bounded by items and by bytes. One that is not emptied in time is cut off: what it holds is still read, and
//! then that there was more.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Why there is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The bound was passed: what came after is lost to this reader.
    Overrun,
    /// Whoever told it has stopped.
    Closed,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    end: Option<End>,
    waker: Option<Waker>,
}

/// The end that is told. Dropping it ends the queue.
#[derive(Debug)]
pub(crate) struct Teller<T> {
    queue: Arc<Mutex<Queue<T>>>,
    bound: Bound,
}

/// The end that is read.
#[derive(Debug)]
pub(crate) struct Listener<T> {
    queue: Arc<Mutex<Queue<T>>>,
}

pub(crate) fn bounded<T>(bound: Bound) -> (Teller<T>, Listener<T>) {
    let queue = Arc::new(Mutex::new(Queue {
        items: VecDeque::new(),
        bytes: 0,
        end: None,
        waker: None,
    }));
    let listener = Listener {
        queue: Arc::clone(&queue),
    };
    (Teller { queue, bound }, listener)
}

impl<T> Teller<T> {
    /// Never waits. `false`: there is no room, and this queue takes no more. One item always has room, whatever its size.
    pub(crate) fn tell(&self, item: T, bytes: usize) -> bool {
        let mut queue = lock(&self.queue);
        let full = queue.items.len() >= self.bound.items
            || (!queue.items.is_empty() && queue.bytes + bytes > self.bound.bytes);
        if full {
            queue.end = Some(End::Overrun);
        } else {
            queue.items.push_back((item, bytes));
            queue.bytes += bytes;
        }
        wake(queue);
        !full
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.end.get_or_insert(End::Closed);
        wake(queue);
    }
}

impl<T> Listener<T> {
    /// The next item, or, after the last, why there is no more.
    pub(crate) fn poll_next(&self, context: &Context<'_>) -> Poll<Result<T, End>> {
        let mut queue = lock(&self.queue);
        if let Some((item, bytes)) = queue.items.pop_front() {
            queue.bytes -= bytes;
            return Poll::Ready(Ok(item));
        }
        match queue.end {
            Some(end) => Poll::Ready(Err(end)),
            None => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Off the lock: whom it wakes may look at once.
fn wake<T>(mut queue: MutexGuard<'_, Queue<T>>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn lock<T>(queue: &Mutex<Queue<T>>) -> MutexGuard<'_, Queue<T>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const BOUND: Bound = Bound {
        items: 3,
        bytes: 100,
    };

    async fn next<T>(listener: &Listener<T>) -> Result<T, End> {
        poll_fn(|context| listener.poll_next(context)).await
    }

    #[tokio::test]
    async fn what_has_room_is_read_in_order_and_then_that_there_was_more() {
        let (teller, listener) = bounded(BOUND);
        for item in 0..3 {
            assert!(teller.tell(item, 1));
        }
        assert!(!teller.tell(3, 1));
        for item in 0..3 {
            assert_eq!(next(&listener).await, Ok(item));
        }
        assert_eq!(next(&listener).await, Err(End::Overrun));
        drop(teller);
        assert_eq!(next(&listener).await, Err(End::Overrun));
    }

    #[tokio::test]
    async fn bytes_bound_it_too_but_one_item_always_has_room() {
        let (teller, listener) = bounded(BOUND);
        assert!(teller.tell("large", 1_000));
        assert!(!teller.tell("small", 1));
        assert_eq!(next(&listener).await, Ok("large"));
        assert_eq!(next(&listener).await, Err(End::Overrun));

        let (teller, listener) = bounded(BOUND);
        for _ in 0..10 {
            assert!(teller.tell("half", 50));
            assert!(teller.tell("half", 50));
            assert_eq!(next(&listener).await, Ok("half"));
            assert_eq!(next(&listener).await, Ok("half"));
        }
    }

    #[tokio::test]
    async fn one_that_waits_is_woken_by_an_item_and_by_the_end() {
        let (teller, listener) = bounded(BOUND);
        let reader = tokio::spawn(async move { (next(&listener).await, next(&listener).await) });
        tokio::task::yield_now().await;
        assert!(teller.tell("item", 1));
        tokio::task::yield_now().await;
        drop(teller);
        assert_eq!(reader.await.unwrap(), (Ok("item"), Err(End::Closed)));
    }
}
