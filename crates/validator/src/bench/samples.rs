use std::time::Duration;

use serde::Serialize;

/// Durations of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

/// The distribution of durations of one kind, milliseconds. Percentiles are by nearest rank: each is a duration that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many were taken.
    pub count: usize,
    /// The shortest.
    pub min: f64,
    /// Half took no longer.
    pub p50: f64,
    /// Nine of ten took no longer.
    pub p90: f64,
    /// 99 of 100 took no longer; the longest where there are fewer than 100.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Samples {
    pub(crate) fn keep(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// In the order in which they were taken.
    pub(crate) fn milliseconds(&self) -> Vec<f64> {
        self.0.iter().copied().map(milliseconds).collect()
    }

    /// `None` without samples.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().map(milliseconds)
        };
        Some(Summary {
            count: sorted.len(),
            min: milliseconds(*sorted.first()?),
            p50: rank(50)?,
            p90: rank(90)?,
            p99: rank(99)?,
            max: milliseconds(*sorted.last()?),
        })
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut samples = Samples::default();
        assert_eq!(samples.summary(), None);
        for ms in (1..=200).rev() {
            samples.keep(Duration::from_millis(ms));
        }
        let summary = samples.summary().unwrap();
        assert_eq!((summary.count, summary.min, summary.max), (200, 1.0, 200.0));
        assert_eq!(
            (summary.p50, summary.p90, summary.p99),
            (100.0, 180.0, 198.0)
        );
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let mut samples = Samples::default();
        samples.keep(Duration::from_millis(7));
        let summary = samples.summary().unwrap();
        assert_eq!((summary.min, summary.p50, summary.p99), (7.0, 7.0, 7.0));
    }
}
