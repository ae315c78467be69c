//! What can be said of samples whose distribution nobody knows: no figure here supposes one.

use crate::order::Order;

/// A median and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    pub(crate) value: f64,
    /// The interval's ends: two of the samples.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// So many of a hundred intervals hold what they are to hold.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// Samples in order.
#[derive(Debug, Clone)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    /// `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self(sorted))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// By nearest rank: one of the samples.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    /// The interval is that of order statistics: the k-th sample from below and from above, for the largest k with which the true median is
    /// outside of them in no more than 5 of 100 cases. That depends on the number of samples alone. Fewer than six have no such k: then the interval
    /// is from the smallest to the largest, and holds the median less often.
    pub(crate) fn median(&self) -> Median {
        let count = self.0.len();
        let middle = count / 2;
        let value = match count % 2 {
            0 => f64::midpoint(self.0[middle - 1], self.0[middle]),
            _ => self.0[middle],
        };
        let rank = interval_rank(count).unwrap_or(1);
        Median {
            value,
            low: self.0[rank - 1],
            high: self.0[count - rank],
        }
    }
}

/// The largest k, from 1, for which fewer than k of `count` fair coins show heads in at most (1 - [`CONFIDENCE`]) / 2 of all cases.
fn interval_rank(count: usize) -> Option<usize> {
    let most = (1.0 - CONFIDENCE) / 2.0;
    if count > 1000 {
        // 0.5^n is too small for a float soon; the normal distribution is near enough long before.
        let spread = 1.96 * (count as f64).sqrt() / 2.0;
        return Some((count as f64 / 2.0 - spread).floor() as usize);
    }
    let mut exactly = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut fewer = 0.0;
    let mut rank = None;
    for heads in 0..count {
        fewer += exactly;
        if fewer > most {
            break;
        }
        rank = Some(heads + 1);
        exactly *= (count - heads) as f64 / (heads + 1) as f64;
    }
    rank
}

/// How often samples are drawn again for [`ratio`].
const DRAWS: usize = 1000;

/// How many times `base`'s median `other`'s is, with the middle 95 % of what comes out when both are drawn again with replacement (the
/// percentile bootstrap). The draws are the same each time. `None` where the base's median is nothing.
pub(crate) fn ratio(base: &Sorted, other: &Sorted) -> Option<Median> {
    let value = other.median().value / base.median().value;
    if !value.is_finite() {
        return None;
    }
    let mut order = Order::new(1);
    let mut drawn: Vec<f64> = (0..DRAWS)
        .filter_map(|_| {
            let ratio = redrawn(other, &mut order) / redrawn(base, &mut order);
            ratio.is_finite().then_some(ratio)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let tail = (drawn.len() as f64 * (1.0 - CONFIDENCE) / 2.0) as usize;
    Some(Median {
        value,
        low: *drawn.get(tail)?,
        high: *drawn.get(drawn.len().checked_sub(tail + 1)?)?,
    })
}

/// The median of as many samples drawn with replacement.
fn redrawn(samples: &Sorted, order: &mut Order) -> f64 {
    let count = samples.0.len();
    let mut drawn: Vec<f64> = (0..count).map(|_| samples.0[order.below(count)]).collect();
    let middle = count / 2;
    let (below, value, _) = drawn.select_nth_unstable_by(middle, f64::total_cmp);
    let value = *value;
    match count % 2 {
        0 => f64::midpoint(
            below
                .iter()
                .copied()
                .max_by(f64::total_cmp)
                .unwrap_or(value),
            value,
        ),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(count: u32) -> Sorted {
        let samples: Vec<f64> = (1..=count).rev().map(f64::from).collect();
        Sorted::of(&samples).unwrap()
    }

    #[test]
    fn the_interval_has_the_ranks_of_the_tables() {
        // From tables of the sign test at 5 %, two-sided.
        for (count, rank) in [
            (5, None),
            (6, Some(1)),
            (8, Some(1)),
            (9, Some(2)),
            (12, Some(3)),
            (20, Some(6)),
            (25, Some(8)),
            (50, Some(18)),
            (100, Some(40)),
        ] {
            assert_eq!(interval_rank(count), rank, "{count}");
        }
        let large = interval_rank(1001).unwrap();
        assert!(large.abs_diff(interval_rank(1000).unwrap()) <= 1, "{large}");
    }

    #[test]
    fn a_median_lies_in_its_interval() {
        assert_eq!(Sorted::of(&[]).map(|it| it.count()), None);
        let alone = sorted(1).median();
        assert_eq!((alone.value, alone.low, alone.high), (1.0, 1.0, 1.0));
        let few = sorted(4).median();
        assert_eq!((few.value, few.low, few.high), (2.5, 1.0, 4.0));
        let many = sorted(20).median();
        assert_eq!((many.value, many.low, many.high), (10.5, 6.0, 15.0));
        assert_eq!(sorted(200).percentile(90), 180.0);
    }

    /// Of 400 samples of 25 from one distribution, about 20 intervals miss its median.
    #[test]
    fn intervals_hold_what_they_say() {
        let mut order = Order::new(7);
        let missed = (0..400)
            .filter(|_| {
                let samples: Vec<f64> = (0..25)
                    .map(|_| (order.below(1_000_000) as f64 / 1e6).powi(3))
                    .collect();
                let median = Sorted::of(&samples).unwrap().median();
                !(median.low..=median.high).contains(&0.125)
            })
            .count();
        assert!((4..=36).contains(&missed), "{missed}");
    }

    #[test]
    fn a_ratio_is_sure_where_the_samples_are() {
        let twice = Sorted::of(&[20.0, 20.1, 19.9, 20.0, 20.2, 20.0, 19.8]).unwrap();
        let once = Sorted::of(&[10.0, 10.1, 9.9, 10.0, 10.0, 10.2, 9.8]).unwrap();
        let known = ratio(&once, &twice).unwrap();
        assert_eq!(known.value, 2.0);
        assert!(known.low > 1.9 && known.high < 2.1, "{known:?}");
        let wild = Sorted::of(&[1.0, 100.0, 3.0, 50.0, 20.0, 4.0, 80.0]).unwrap();
        let unknown = ratio(&once, &wild).unwrap();
        assert!(unknown.high / unknown.low > 5.0, "{unknown:?}");
        assert_eq!(ratio(&Sorted::of(&[0.0]).unwrap(), &once), None);
        assert_eq!(ratio(&once, &twice), ratio(&once, &twice));
    }
}
