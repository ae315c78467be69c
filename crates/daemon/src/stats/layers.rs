//! What containers have written, known from walks in the background: a walk may take minutes on a busy disk, or never end on a dead one,
//! and nobody else is to wait for it.

use std::{sync::Arc, time::Duration};

use snapshot::Usage;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::runtime::now_ns;

/// How long a layer is left alone after a walk.
const REST: Duration = Duration::from_secs(10);

/// After a long walk it is left alone for this many times as long.
const REST_PER_WALK: u32 = 4;

/// Layers lie on one file system: more walks at once are not done sooner, and where it hangs no more threads than these hang with it.
const WALKS_AT_ONCE: usize = 2;

/// What a container has written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    /// When its walk began.
    pub(crate) measured_at_ns: i64,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The right to walk.
#[derive(Debug, Clone)]
pub(super) struct Walks(Arc<Semaphore>);

impl Default for Walks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WALKS_AT_ONCE)))
    }
}

/// What is known of one layer.
#[derive(Debug, Clone, Default)]
pub(super) struct LayerMeter {
    knowledge: Arc<watch::Sender<Knowledge>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Knowledge {
    last: Option<Layer>,
    /// Since when a walk is under way, or waits for its turn.
    walk_since: Option<Instant>,
    rest_until: Option<Instant>,
}

impl LayerMeter {
    /// As of the last walk.
    fn known(&self) -> Option<Layer> {
        self.knowledge.borrow().last
    }

    /// The last known figure. For a first one this waits until its walk has taken `within`, counted from when the walk was asked for: a layer
    /// that hangs costs those who ask then, and nobody later.
    pub(super) async fn figure(&self, within: Duration) -> Option<Layer> {
        let Knowledge {
            last: None,
            walk_since: Some(since),
            ..
        } = *self.knowledge.borrow()
        else {
            return self.known();
        };
        let mut knowledge = self.knowledge.subscribe();
        let walked = knowledge.wait_for(|now| now.last.is_some() || now.walk_since.is_none());
        // The sender lives in `self`: late is all that it can be.
        let _late = tokio::time::timeout_at(since + within, walked).await;
        self.known()
    }

    /// Has the layer walked in the background, unless it is being walked, was walked of late, or has not changed since `settled_at_ns`,
    /// before the last walk. `None` from a walk leaves the last figure standing.
    pub(super) fn refresh(
        &self,
        walks: &Walks,
        settled_at_ns: Option<i64>,
        walk: impl FnOnce() -> Option<Usage> + Send + 'static,
    ) {
        let now = Instant::now();
        let begun = self.knowledge.send_if_modified(|known| {
            let settled = known
                .last
                .zip(settled_at_ns)
                .is_some_and(|(last, settled)| last.measured_at_ns > settled);
            let rests = known.rest_until.is_some_and(|until| now < until);
            let due = known.walk_since.is_none() && !rests && !settled;
            if due {
                known.walk_since = Some(now);
            }
            due
        });
        if !begun {
            return;
        }
        let (knowledge, Walks(walks)) = (Arc::clone(&self.knowledge), walks.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = walks.acquire().await;
            let (begun, measured_at_ns) = (Instant::now(), now_ns());
            // A panic is no figure either.
            let usage = tokio::task::spawn_blocking(walk).await.ok().flatten();
            let rest = REST.max(begun.elapsed() * REST_PER_WALK);
            knowledge.send_modify(|known| {
                known.walk_since = None;
                known.rest_until = Some(Instant::now() + rest);
                if let Some(usage) = usage {
                    known.last = Some(Layer {
                        measured_at_ns,
                        bytes: usage.bytes,
                        inodes: usage.inodes,
                    });
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn used(bytes: u64) -> Option<Usage> {
        Some(Usage { bytes, inodes: 1 })
    }

    /// A rest that is over.
    fn rested(meter: &LayerMeter) {
        meter
            .knowledge
            .send_modify(|known| known.rest_until = Some(Instant::now()));
    }

    async fn idle(meter: &LayerMeter) {
        let mut knowledge = meter.knowledge.subscribe();
        knowledge
            .wait_for(|known| known.walk_since.is_none())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_walk_that_hangs_is_not_waited_for_and_not_repeated() {
        let (walks, meter) = (Walks::default(), LayerMeter::default());
        meter.refresh(&walks, None, || used(1));
        assert_eq!(meter.figure(LONG).await.unwrap().bytes, 1);
        idle(&meter).await;

        rested(&meter);
        let (go, gate) = mpsc::channel::<()>();
        meter.refresh(&walks, None, move || {
            let _open = gate.recv();
            used(2)
        });
        // The last figure, at once, however long one would wait for a first.
        assert_eq!(meter.figure(LONG).await.unwrap().bytes, 1);
        meter.refresh(&walks, None, || panic!("a second walk of the same layer"));
        assert_eq!(meter.figure(LONG).await.unwrap().bytes, 1);
        go.send(()).unwrap();
        idle(&meter).await;
        assert_eq!(meter.figure(LONG).await.unwrap().bytes, 2);

        // And then it rests.
        meter.refresh(&walks, None, || panic!("a walk without a rest"));
        assert!(meter.knowledge.borrow().walk_since.is_none());
    }

    #[tokio::test]
    async fn a_first_figure_is_waited_for_within_bounds() {
        let (walks, meter) = (Walks::default(), LayerMeter::default());
        assert!(meter.figure(LONG).await.is_none());
        let (go, gate) = mpsc::channel::<()>();
        meter.refresh(&walks, None, move || {
            let _open = gate.recv();
            used(3)
        });
        assert!(meter.figure(Duration::from_millis(20)).await.is_none());
        drop(go);
        assert_eq!(meter.figure(LONG).await.unwrap().bytes, 3);
    }

    #[tokio::test]
    async fn layers_that_hang_take_no_more_threads_than_are_theirs() {
        let (walks, gates) = (Walks::default(), mpsc::channel::<u64>());
        let (begun, mut meters, mut doors) = (gates.0, Vec::new(), Vec::new());
        for number in 0..5 {
            let meter = LayerMeter::default();
            let (go, gate) = mpsc::channel::<()>();
            let begun = begun.clone();
            meter.refresh(&walks, None, move || {
                let _told = begun.send(number);
                let _open = gate.recv();
                used(number)
            });
            meters.push(meter);
            doors.push(go);
        }
        for meter in &meters {
            assert!(meter.figure(Duration::from_millis(20)).await.is_none());
        }
        assert!(gates.1.try_iter().count() <= WALKS_AT_ONCE);
        drop(doors);
        for (number, meter) in (0..).zip(&meters) {
            assert_eq!(meter.figure(LONG).await.unwrap().bytes, number);
        }
    }

    #[tokio::test]
    async fn a_failed_walk_leaves_the_last_figure_and_what_has_settled_is_left_alone() {
        let (walks, meter) = (Walks::default(), LayerMeter::default());
        meter.refresh(&walks, None, || panic!("not a figure"));
        assert!(meter.figure(LONG).await.is_none());
        for walk in [used(4), None] {
            rested(&meter);
            meter.refresh(&walks, None, move || walk);
            idle(&meter).await;
            assert_eq!(meter.figure(LONG).await.unwrap().bytes, 4);
        }

        rested(&meter);
        meter.refresh(&walks, Some(0), || panic!("it has not changed"));
        assert!(meter.knowledge.borrow().walk_since.is_none());
        // Its container ended after the walk.
        meter.refresh(&walks, Some(i64::MAX), || used(5));
        idle(&meter).await;
        assert_eq!(meter.figure(LONG).await.unwrap().bytes, 5);
    }
}
