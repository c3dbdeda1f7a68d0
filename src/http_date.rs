//! Converts between times and dates in HTTP headers, such as `Sun, 06 Nov 1994 08:49:37 GMT`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Parses a date in the preferred format, `IMF-fixdate` (RFC 9110 §5.6.7). The two obsolete formats are not parsed. The
/// day of the week is not checked.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (weekday, rest) = text.trim().split_once(", ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = words[..] else { return None };
    if weekday.len() != 3 {
        return None;
    }
    let month = MONTHS.iter().position(|it| *it == month)? as u64 + 1;
    let (day, year) = (number(day, 2)?, number(year, 4)?);
    let mut parts = time.split(':').map(|it| number(it, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // Second 60, a leap second, counts as second 59.
    let in_range = hour < 24 && minute < 60 && second <= 60 && parts.next().is_none();
    if !in_range || !(1..=days_in(year, month)).contains(&day) || year < 1970 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Formats a time in the preferred format.
#[cfg(feature = "local")]
pub(crate) fn write(at: SystemTime) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    // Copy the fields from a text such as `1994-11-06T08:49:37Z`.
    let text = crate::clock_text::rfc3339(at);
    let days = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month = text[5..7].parse::<usize>().unwrap_or(1).clamp(1, 12);
    let (year, day, time) = (&text[..4], &text[8..10], &text[11..19]);
    format!("{weekday}, {day} {} {year} {time} GMT", MONTHS[month - 1])
}

/// Parses a number of exactly `digits` digits.
fn number(text: &str, digits: usize) -> Option<u64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let leap_days = |before: u64| {
        let last = before - 1;
        last / 4 - last / 100 + last / 400
    };
    let whole_years = (year - 1970) * 365 + leap_days(year) - leap_days(1970);
    let whole_months: u64 = (1..month).map(|it| days_in(year, it)).sum();
    whole_years + whole_months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        parse(text).map(|it| it.duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
    }

    #[test]
    fn dates_around_leap_days_are_right() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Mon, 28 Feb 2000 23:59:59 GMT", 951_782_399),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("Fri, 20 Nov 2026 13:19:11 GMT", 1_795_180_751),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            (" Sat, 31 Dec 2016 23:59:60 GMT ", 1_483_228_799),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn text_in_other_formats_is_not_parsed() {
        for text in [
            "",
            "120",
            "soon",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 30 Feb 2000 00:00:00 GMT",
            "Sun, 00 Jan 2000 00:00:00 GMT",
            "Sun, 01 Jan 2000 24:00:00 GMT",
            "Sun, 01 Jan 2000 00:00:00:00 GMT",
            "Sun, 01 Jan 1969 00:00:00 GMT",
            "Sun, 1 Jan 2000 00:00:00 GMT",
            "Sun, +1 Jan 2000 00:00:00 GMT",
            "Sun, 01 Jan 2000 00:00:00 GMT x",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[cfg(feature = "local")]
    #[test]
    fn parsing_a_formatted_date_gives_the_same_date() {
        let at = |text: &str| crate::clock_text::parse_rfc3339(text).unwrap_or(UNIX_EPOCH);
        assert_eq!(write(at("1994-11-06T08:49:37Z")), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(write(at("2024-02-29T23:00:01Z")), "Thu, 29 Feb 2024 23:00:01 GMT");
        assert_eq!(parse(&write(at("2030-12-31T00:00:00Z"))), Some(at("2030-12-31T00:00:00Z")));
    }
}
