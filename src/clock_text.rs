//! Converts between times and text in the format of RFC 3339, such as `2026-11-20T13:19:11Z`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Formats a time in UTC, without fractions of a second.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    format!("{}Z", date_time(since_1970(at).as_secs()))
}

/// Formats a time in UTC, with microseconds.
pub(crate) fn rfc3339_micros(at: SystemTime) -> String {
    let since = since_1970(at);
    format!("{}.{:06}Z", date_time(since.as_secs()), since.subsec_micros())
}

/// Formats a duration as hours, minutes and seconds, such as `0:01:02.500000`.
pub(crate) fn hours(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match duration.subsec_micros() {
        0 => format!("{hour}:{minute:02}:{second:02}"),
        micros => format!("{hour}:{minute:02}:{second:02}.{micros:06}"),
    }
}

/// The time since 1970. Earlier times become zero.
fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// Parses RFC 3339. A time without an offset counts as UTC, and a space may replace the `T`. `None` if the text is not
/// a valid time, or the time is before 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let days = parse_day(date)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    // The UTC offset begins with one of these characters.
    let end = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, offset) = (rest.get(..end)?, rest.get(end..)?);
    let (whole, fraction) = time.split_once('.').map_or((time, None), |(it, more)| (it, Some(more)));
    let seconds = days * 86_400 + parse_time(whole)? - parse_offset(offset)?;
    let nanos = fraction.map_or(Some(0), parse_nanos)?;
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, nanos))
}

/// Parses `YYYY-MM-DD` into days since 1970.
pub(crate) fn parse_day(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let lengths = (year.len(), month.len(), day.len(), parts.next());
    (lengths == (4, 2, 2, None)).then_some(())?;
    days_since_1970(digits(year)?, digits(month)?, digits(day)?)
}

fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=last).contains(&day) || !(0..=9999).contains(&year) {
        return None;
    }
    // Inverse of the calculation in `date_time`. The year begins in March, so that the leap day is its last day.
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Parses `HH:MM:SS` or `HH:MM` into seconds. Second 60, a leap second, counts as the first second of the next minute.
fn parse_time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("00"));
    let lengths = (hour.len(), minute.len(), second.len(), parts.next());
    (lengths == (2, 2, 2, None)).then_some(())?;
    let (hour, minute, second) = (digits(hour)?, digits(minute)?, digits(second)?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Parses a UTC offset: `Z`, `+HH:MM`, `-HH:MM`, the same without the colon, or an empty text. Returns seconds; the
/// result is positive if the local time is ahead of UTC.
fn parse_offset(text: &str) -> Option<i64> {
    let sign = match text.bytes().next() {
        None => return Some(0),
        Some(b'Z' | b'z') => return (text.len() == 1).then_some(0),
        Some(b'+') => 1,
        Some(_) => -1,
    };
    let digits_of = text.get(1..)?.replace(':', "");
    let (hour, minute) = (digits_of.get(..2)?, digits_of.get(2..)?);
    (minute.len() == 2).then_some(sign * (digits(hour)? * 3600 + digits(minute)? * 60))
}

/// Parses the digits after the decimal point of seconds into nanoseconds. Digits after the ninth are ignored; more than
/// 18 digits are refused.
fn parse_nanos(text: &str) -> Option<u32> {
    digits(text)?;
    let nine: String = text.chars().chain(std::iter::repeat('0')).take(9).collect();
    nine.parse().ok()
}

fn digits(text: &str) -> Option<i64> {
    let good = (1..=18).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten()
}

fn date_time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Count days from 1 March of year 0, in eras of 400 years. The year begins in March, so that the leap day is its
    // last day.
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
    fn every_format_of_rfc3339_is_parsed_and_other_text_is_not() {
        let at = |seconds, nanos| Some(UNIX_EPOCH + Duration::new(seconds, nanos));
        for (text, time) in [
            ("1970-01-01T00:00:00Z", at(0, 0)),
            ("2000-02-29T00:00:00Z", at(951_782_400, 0)),
            ("2026-11-20T13:19:11Z", at(1_795_180_751, 0)),
            ("2026-11-20t13:19:11z", at(1_795_180_751, 0)),
            ("2026-11-20 13:19:11+00:00", at(1_795_180_751, 0)),
            ("2026-11-20T15:19:11+02:00", at(1_795_180_751, 0)),
            ("2026-11-20T08:49:11-0430", at(1_795_180_751, 0)),
            ("2026-11-20T13:19:11.937975", at(1_795_180_751, 937_975_000)),
            ("2026-11-20T13:19:11.1234567891Z", at(1_795_180_751, 123_456_789)),
            ("2026-11-20T13:19Z", at(1_795_180_740, 0)),
            ("2100-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-20T24:00:00Z", None),
            ("2026-11-20T13:19:11.Z", None),
            ("2026-11-20T13:19:11+1", None),
            ("2026-11-20", None),
            ("20261120T131911Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("äöü-äöü-äöüT", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), time, "{text}");
        }
    }

    #[test]
    fn parsing_a_formatted_time_gives_the_same_time() {
        for day in (0..146_097u64).step_by(97) {
            let at = UNIX_EPOCH + Duration::from_secs(day * 86_400 + 86_399);
            assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        }
    }

    #[test]
    fn microseconds_are_written_with_six_digits() {
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
