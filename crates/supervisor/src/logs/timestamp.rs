use rustix::time::{ClockId, clock_gettime};

/// `2026-11-21T08:00:00.123456789Z`: RFC 3339 in UTC, always with nine digits of nanoseconds.
#[derive(Debug)]
pub(crate) struct Timestamp([u8; 30]);

impl Timestamp {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Realtime);
        Self::at(now.tv_sec, now.tv_nsec)
    }

    /// `seconds` and `nanoseconds` since the Unix epoch, from the year 0 to 9999.
    pub(crate) fn at(seconds: i64, nanoseconds: i64) -> Self {
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second_of_day / 3600);
        digits(&mut text[14..16], second_of_day / 60 % 60);
        digits(&mut text[17..19], second_of_day % 60);
        digits(&mut text[20..29], nanoseconds);
        Self(text)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn digits(field: &mut [u8], mut value: i64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value.rem_euclid(10)) as u8;
        value /= 10;
    }
}

/// The Gregorian date of a day counted from 1970-01-01. Years are taken to begin in March, so that the leap day is the last;
/// an era is 400 years, 146,097 days.
fn civil_date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: i64, nanoseconds: i64) -> String {
        String::from_utf8(Timestamp::at(seconds, nanoseconds).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn known_instants() {
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_399, 1), "2000-02-28T23:59:59.000000001Z");
        assert_eq!(
            text(951_782_400, 999_999_999),
            "2000-02-29T00:00:00.999999999Z"
        );
        assert_eq!(
            text(1_795_248_000, 123_456_789),
            "2026-11-21T08:00:00.123456789Z"
        );
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }
}
