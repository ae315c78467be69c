use oci_plan::Resources;
use rustix::io::Errno;

use super::{Directory, Place, Target, no_hierarchy};
use crate::error::Error;
use crate::hierarchy::Controller;

const SMALLEST_SHARES: u64 = 2;
const LARGEST_SHARES: u64 = 262_144;

pub(super) fn apply(target: &Target<'_>, resources: &Resources) -> Result<(), Error> {
    let (quota, period) = (resources.cpu_quota_us, resources.cpu_period_us);
    let shares = resources.cpu_shares;
    if shares.is_none() && quota.is_none() && period.is_none() {
        return Ok(());
    }
    let place = match target.place(Controller::Cpu) {
        Place::Here(place) => place,
        Place::Foreign => return Ok(()),
        Place::Nowhere => {
            return match (shares, quota) {
                (Some(shares), _) => Err(no_hierarchy("cpu_shares", shares, Controller::Cpu)),
                (None, Some(quota)) if quota >= 0 => {
                    Err(no_hierarchy("cpu_quota_us", quota, Controller::Cpu))
                }
                // No limit, and a period alone limits nothing.
                (None, _) => Ok(()),
            };
        }
    };
    if place.v2() {
        if let Some(shares) = shares {
            place.write("cpu.weight", &shares_to_weight(shares).to_string())?;
        }
        return bandwidth_v2(&place, quota, period);
    }
    if let Some(shares) = shares {
        place.write("cpu.shares", &shares.to_string())?;
    }
    bandwidth_v1(&place, quota, period)
}

/// The kernel checks each write against the ancestors' and descendants' ratio of quota to period, so which of the two must go
/// first depends on the old values: if one order is refused, the other is tried.
fn bandwidth_v1(
    place: &Directory<'_>,
    quota: Option<i64>,
    period: Option<u64>,
) -> Result<(), Error> {
    let write_period = |period: u64| place.write("cpu.cfs_period_us", &period.to_string());
    let write_quota = |quota: i64| place.write("cpu.cfs_quota_us", &quota.max(-1).to_string());
    match (quota, period) {
        (None, None) => Ok(()),
        (Some(quota), None) => write_quota(quota),
        (None, Some(period)) => write_period(period),
        (Some(quota), Some(period)) => match write_period(period) {
            Ok(()) => write_quota(quota),
            Err(refused) if refused.errno() == Some(Errno::INVAL) => {
                write_quota(quota)?;
                write_period(period)
            }
            Err(error) => Err(error),
        },
    }
}

/// One file takes both; a quota alone keeps the period.
fn bandwidth_v2(
    place: &Directory<'_>,
    quota: Option<i64>,
    period: Option<u64>,
) -> Result<(), Error> {
    let quota = match quota {
        Some(quota) if quota < 0 => Some("max".to_owned()),
        Some(quota) => Some(quota.to_string()),
        None => None,
    };
    match (quota, period) {
        (None, None) => Ok(()),
        (Some(quota), None) => place.write("cpu.max", &quota),
        (Some(quota), Some(period)) => place.write("cpu.max", &format!("{quota} {period}")),
        (None, Some(period)) => {
            let now = place.read("cpu.max")?;
            let Some(quota) = now.split_whitespace().next() else {
                return Err(place.parse_error("cpu.max", &now));
            };
            place.write("cpu.max", &format!("{quota} {period}"))
        }
    }
}

/// v1 `cpu.shares` (2 to 262144) as v2 `cpu.weight` (1 to 10000), such that the ends meet and the two defaults, 1024 and 100, do
/// too: a quadratic in the logarithm, the conversion that Kubernetes agreed on in 2025. The linear one that it replaces made 39 of
/// 1024.
pub fn shares_to_weight(shares: u64) -> u64 {
    if shares <= SMALLEST_SHARES {
        return 1;
    }
    if shares >= LARGEST_SHARES {
        return 10_000;
    }
    let log = (shares as f64).log2();
    // (l² + 125·l)/612 − 7/34 with one division, which is exact at 1024.
    let exponent = (log * log + 125.0 * log - 126.0) / 612.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_defaults_meet() {
        assert_eq!(shares_to_weight(0), 1);
        assert_eq!(shares_to_weight(2), 1);
        assert_eq!(shares_to_weight(1024), 100);
        assert_eq!(shares_to_weight(262_144), 10_000);
        assert_eq!(shares_to_weight(u64::MAX), 10_000);
    }

    #[test]
    fn more_shares_never_weigh_less() {
        let mut last = 0;
        for shares in 2..=262_144 {
            let weight = shares_to_weight(shares);
            assert!(weight >= last, "{shares} shares weigh {weight} < {last}");
            last = weight;
        }
    }
}
