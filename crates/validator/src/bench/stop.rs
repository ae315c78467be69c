use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::BenchError;

/// That a run is to end: told once, and asked before every call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<OnceLock<Reason>>);

#[derive(Debug, Clone, Copy)]
enum Reason {
    Interrupted,
    TimeLimit(Duration),
}

impl Stop {
    /// Fails once the run is to end.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        match self.0.get() {
            None => Ok(()),
            Some(Reason::Interrupted) => Err(BenchError::Interrupted),
            Some(Reason::TimeLimit(limit)) => Err(BenchError::TimeLimit { limit: *limit }),
        }
    }

    /// Runs `work` to its end. Once `interrupt` is ready, or `limit` is over, its next call is refused, and those under way end by themselves:
    /// one that were dropped might make its pod yet, behind the back of who removes them.
    pub(crate) async fn bound<T>(
        &self,
        work: impl Future<Output = Result<T, BenchError>>,
        interrupt: impl Future<Output = ()>,
        limit: Option<Duration>,
    ) -> Result<T, BenchError> {
        let mut work = pin!(work);
        let late = async {
            match limit {
                None => std::future::pending().await,
                Some(limit) => tokio::time::sleep(limit).await,
            }
        };
        let reason = tokio::select! {
            biased;
            result = &mut work => return result,
            () = interrupt => Reason::Interrupted,
            () = late => Reason::TimeLimit(limit.unwrap_or_default()),
        };
        // Whoever told first has told.
        let _ = self.0.set(reason);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_is_under_way_ends_and_nothing_else_begins() {
        let stop = Stop::default();
        let work = async {
            let mut calls = 0;
            while stop.check().is_ok() {
                tokio::task::yield_now().await;
                calls += 1;
            }
            Ok((calls, stop.check()))
        };
        let (calls, why) = stop.bound(work, ready(()), None).await.unwrap();
        assert_eq!(calls, 1);
        assert!(matches!(why, Err(BenchError::Interrupted)));
    }

    #[tokio::test]
    async fn time_runs_out() {
        let stop = Stop::default();
        let limit = Some(Duration::from_millis(1));
        let work = async {
            while stop.check().is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.check()
        };
        let late = stop.bound(work, pending(), limit).await;
        assert_eq!(late.unwrap_err().to_string(), "not over after 1ms");
    }
}
