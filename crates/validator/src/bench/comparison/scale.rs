/// Where a value lies between two ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    /// From nothing.
    Linear { high: f64 },
    /// Equal ratios are equally far apart.
    Log { low: f64, high: f64 },
}

impl Scale {
    pub(super) fn linear(values: impl IntoIterator<Item = f64>) -> Self {
        let high = values.into_iter().fold(0.0, f64::max);
        Self::Linear {
            high: if high > 0.0 { high * 1.05 } else { 1.0 },
        }
    }

    /// Values that are nothing lie at the lower end.
    pub(super) fn log(values: impl IntoIterator<Item = f64>) -> Self {
        let positive = values.into_iter().filter(|value| *value > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| {
            (low.min(value), high.max(value))
        });
        match low <= high {
            true => Self::Log {
                low: low / 1.15,
                high: high * 1.15,
            },
            false => Self::Log {
                low: 0.1,
                high: 1.0,
            },
        }
    }

    /// Logarithmic only where the values are far apart: from nothing is easier to read.
    pub(super) fn fitting(values: &[f64]) -> Self {
        let positive = || values.iter().copied().filter(|value| *value > 0.0);
        let low = positive().fold(f64::INFINITY, f64::min);
        match values.iter().copied().fold(0.0, f64::max) / low > 6.0 {
            true => Self::log(positive()),
            false => Self::linear(positive()),
        }
    }

    /// From 0 to 1.
    pub(super) fn position(self, value: f64) -> f64 {
        let position = match self {
            Self::Linear { high } => value / high,
            Self::Log { low, high } => (value.max(low) / low).ln() / (high / low).ln(),
        };
        position.clamp(0.0, 1.0)
    }

    /// Round values in between, about so many.
    pub(super) fn ticks(self, about: usize) -> Vec<f64> {
        match self {
            Self::Linear { high } => {
                let rough = high / about.max(1) as f64;
                let power = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .map(|factor| factor * power)
                    .into_iter()
                    .find(|step| *step >= rough)
                    .unwrap_or(rough);
                let count = (high / step).floor() as usize;
                (0..=count).map(|index| index as f64 * step).collect()
            }
            Self::Log { low, high } => {
                let decades = (high / low).log10();
                let factors: &[f64] = match decades {
                    few if few < about as f64 / 3.0 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                let first = low.log10().floor() as i32;
                let last = high.log10().ceil() as i32;
                (first..=last)
                    .flat_map(|power| {
                        factors
                            .iter()
                            .map(move |factor| factor * 10_f64.powi(power))
                    })
                    .filter(|tick| (low..=high).contains(tick))
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_ticks_lie_within() {
        for scale in [
            Scale::linear([3.0, 40.0]),
            Scale::log([0.3, 4.0, 900.0]),
            Scale::log([5.0]),
            Scale::linear([]),
            Scale::log([0.0]),
            Scale::fitting(&[1.0, 100.0]),
            Scale::fitting(&[50.0, 100.0]),
        ] {
            let ticks = scale.ticks(6);
            assert!(ticks.len() <= 14, "{scale:?}: {ticks:?}");
            assert!(ticks.is_sorted(), "{ticks:?}");
            for value in ticks.iter().copied().chain([0.0, 1e9]) {
                let position = scale.position(value);
                assert!((0.0..=1.0).contains(&position), "{scale:?}: {value}");
            }
        }
        assert!(matches!(Scale::fitting(&[1.0, 100.0]), Scale::Log { .. }));
        assert!(matches!(
            Scale::fitting(&[50.0, 100.0]),
            Scale::Linear { .. }
        ));
        assert_eq!(
            Scale::Linear { high: 10.0 }.ticks(5),
            [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        );
    }
}
