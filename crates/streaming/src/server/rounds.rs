//! A session and its connection on one task, and on one processor.
//!
//! The two wake each other all the time: what one has read the other sends, which makes room for more. To the runtime, a task that is woken while
//! it runs is one more that waits, and it wakes another of its threads to take it: a stream that carries much would move to
//! another processor with every chunk, and leave what it has just read in the cache of the one before. So a wake-up that comes
//! while the two are looked at means another round, and the runtime hears of it only after some of those, when others have to have their turn.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Rounds without a break: some hundred microseconds of a stream that carries much.
const MOST: usize = 8;

const IDLE: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// What both are given as their waker.
#[derive(Debug, Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Of those that ring while it is polled, or has been woken, none needs to tell the runtime.
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

/// Runs both to their end. The outcome is that of `connection`.
pub(super) async fn side_by_side<T>(
    // On the heap: a future that is handed on by value has room for what it was given beside what it makes of it, at each step once more.
    session: Pin<Box<impl Future<Output = ()>>>,
    connection: Pin<Box<impl Future<Output = T>>>,
) -> T {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut both = pin!(async move { tokio::join!(session, connection).1 });
    poll_fn(move |context| {
        bell.task.register(context.waker());
        for _ in 0..MOST {
            // A swap, not a store: what was written before a wake-up that this one forgets is seen by the round that follows.
            bell.state.swap(POLLED, Ordering::AcqRel);
            if let Poll::Ready(outcome) = both.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(outcome);
            }
            let quiet =
                bell.state
                    .compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if quiet.is_ok() {
                return Poll::Pending;
            }
        }
        bell.state.store(IDLE, Ordering::Release);
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tokio::sync::mpsc;

    use super::*;

    /// Counts how often the runtime is told.
    #[derive(Default)]
    struct Counted(AtomicU8);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes itself each time.
    async fn restless(polls: &Cell<usize>) {
        poll_fn(|context| {
            polls.set(polls.get() + 1);
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    #[test]
    fn the_restless_go_round_and_let_others_have_their_turn() {
        let (polls, told) = (Cell::new(0), Arc::new(Counted::default()));
        let waker = Waker::from(Arc::clone(&told));
        let mut both = pin!(side_by_side(
            Box::pin(std::future::pending()),
            Box::pin(restless(&polls))
        ));
        for turn in 1..4 {
            let polled = both.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            assert_eq!(polls.get(), turn * MOST);
            assert_eq!(usize::from(told.0.load(Ordering::Relaxed)), turn);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost() {
        let (there, mut arrived) = mpsc::channel::<usize>(1);
        let (back, mut returned) = mpsc::channel::<usize>(1);
        let elsewhere = tokio::spawn(async move {
            while let Some(number) = arrived.recv().await {
                if back.send(number).await.is_err() {
                    break;
                }
            }
        });
        let session = async move {
            for number in 0..20_000 {
                there.send(number).await.unwrap();
            }
        };
        let connection = async move {
            for number in 0..20_000 {
                assert_eq!(returned.recv().await, Some(number));
            }
        };
        let both = side_by_side(Box::pin(session), Box::pin(connection));
        let hang = Duration::from_secs(60);
        tokio::time::timeout(hang, both).await.expect("it goes on");
        elsewhere.await.unwrap();
    }
}
