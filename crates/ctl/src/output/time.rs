//! Ages as people say them, and RFC 3339 as programs do. Times are nanoseconds since the Unix epoch, as CRI has them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

pub(crate) fn now_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// `3 minutes ago`; crictl's words.
pub(crate) fn ago(then_ns: i64, now_ns: i64) -> String {
    format!("{} ago", age(now_ns.saturating_sub(then_ns)))
}

fn age(ns: i64) -> String {
    let seconds = ns.max(0) / 1_000_000_000;
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// `2026-11-21T08:00:00.5Z`; no trailing zeros in the fraction.
pub(crate) fn rfc3339(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns))
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

/// `2026-11-21 08:00:00.5 +0000 UTC`, as Go prints a time.
pub(crate) fn spaced(ns: i64) -> String {
    let text = rfc3339(ns).replace('T', " ");
    format!("{} +0000 UTC", text.trim_end_matches('Z'))
}

/// Reads `2026-11-21T08:00:00[.fraction][Z|±hh:mm]`; without a zone it is UTC. A date alone is its midnight.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let time = text.parse::<Timestamp>().or_else(|_| {
        let local: DateTime = text.parse()?;
        TimeZone::UTC.to_timestamp(local)
    });
    i64::try_from(time.ok()?.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn ages_read_like_speech() {
        for (seconds, words) in [
            (-5, "Less than a second ago"),
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "About a minute ago"),
            (185, "3 minutes ago"),
            (3599, "59 minutes ago"),
            (3600, "About an hour ago"),
            (5400, "2 hours ago"),
            (47 * 3600, "47 hours ago"),
            (3 * 86_400, "3 days ago"),
            (20 * 86_400, "2 weeks ago"),
            (90 * 86_400, "3 months ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(ago(0, seconds * SECOND), words, "{seconds}");
        }
    }

    #[test]
    fn rfc3339_goes_both_ways() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00Z"),
            (
                1_795_248_000 * SECOND + 500_000_000,
                "2026-11-21T08:00:00.5Z",
            ),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(rfc3339(ns), text);
            assert_eq!(parse_rfc3339(text), Some(ns));
        }
        assert_eq!(
            parse_rfc3339("2026-11-21T09:00:00.5+01:00"),
            Some(1_795_248_000 * SECOND + 500_000_000)
        );
        assert_eq!(
            parse_rfc3339("2026-11-21T08:00"),
            parse_rfc3339("2026-11-21T08:00:00Z")
        );
        for wrong in [
            "",
            "now",
            "2026-13-01T00:00:00Z",
            "2026-11-21T25:00:00Z",
            "2026-11-21T08:00:00+1",
            "é-é-é",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }
}
