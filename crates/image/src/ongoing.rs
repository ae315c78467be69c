use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::{Digest, Image, PullCause, PullError, PullProgress, Timeouts};

/// What makes two pulls one. Credentials are part of it: nobody gets an image by joining that he could not have got himself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PullKey {
    pub(crate) reference: String,
    pub(crate) credentials: Digest,
    /// The policy for signatures may tell them apart.
    pub(crate) namespace: String,
}

pub(crate) type Outcome = Result<Arc<Image>, PullError>;

/// A pull in flight, for others to join.
#[derive(Debug)]
pub(crate) struct Ongoing {
    outcome: watch::Sender<Option<Outcome>>,
    progress: watch::Receiver<PullProgress>,
    since: Instant,
}

impl Ongoing {
    pub(crate) fn new(progress: watch::Receiver<PullProgress>) -> Self {
        Self {
            outcome: watch::Sender::new(None),
            progress,
            since: Instant::now(),
        }
    }

    pub(crate) fn join(&self) -> watch::Receiver<Option<Outcome>> {
        self.outcome.subscribe()
    }

    pub(crate) fn progress(&self) -> watch::Receiver<PullProgress> {
        self.progress.clone()
    }

    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Runs the pull to its end, its deadline, or until nobody has waited for it for a while.
    pub(crate) async fn drive(
        &self,
        work: impl Future<Output = Result<Arc<Image>, PullCause>>,
        timeouts: &Timeouts,
    ) -> Result<Arc<Image>, PullCause> {
        tokio::select! {
            outcome = tokio::time::timeout(timeouts.pull, work) => {
                outcome.unwrap_or(Err(PullCause::TimedOut { seconds: timeouts.pull.as_secs() }))
            }
            () = self.abandoned(timeouts) => Err(PullCause::Abandoned),
        }
    }

    async fn abandoned(&self, timeouts: &Timeouts) {
        loop {
            self.outcome.closed().await;
            tokio::time::sleep(timeouts.abandon).await;
            if self.outcome.receiver_count() == 0 {
                return;
            }
        }
    }

    pub(crate) fn finish(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}
