//! Times and durations as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time as RFC 3339 in UTC, to the second.
#[cfg(any(test, feature = "local"))]
pub(crate) fn rfc3339(at: SystemTime) -> String {
    format!("{}Z", date_time(since_1970(at).as_secs()))
}

/// A time as RFC 3339 in UTC, to the microsecond.
pub(crate) fn rfc3339_micros(at: SystemTime) -> String {
    let since = since_1970(at);
    format!("{}.{:06}Z", date_time(since.as_secs()), since.subsec_micros())
}

/// A duration as hours, minutes and seconds, such as `0:01:02.500000`.
pub(crate) fn hours(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match duration.subsec_micros() {
        0 => format!("{hour}:{minute:02}:{second:02}"),
        micros => format!("{hour}:{minute:02}:{second:02}.{micros:06}"),
    }
}

/// A time before 1970 counts as its beginning.
fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn date_time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, so that the leap day comes last in its year; then eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_795_180_751, "2026-11-20T13:19:11Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn microseconds_keep_their_zeros() {
        let at = UNIX_EPOCH + Duration::new(1_795_180_751, 16_170_999);
        assert_eq!(rfc3339_micros(at), "2026-11-20T13:19:11.016170Z");
        assert_eq!(rfc3339_micros(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_duration_has_minutes_and_seconds_of_two_digits() {
        for (millis, text) in [
            (0, "0:00:00"),
            (62_500, "0:01:02.500000"),
            (3_599_001, "0:59:59.001000"),
            (90_000_000, "25:00:00"),
        ] {
            assert_eq!(hours(Duration::from_millis(millis)), text);
        }
    }
}
