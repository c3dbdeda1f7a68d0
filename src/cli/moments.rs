//! Durations and sizes as people write and read them.

use std::time::{Duration, SystemTime};

use tinkex::types::Timestamp;

/// Reads `500ms`, `90s`, `15m`, `12h`, `30d`, `2w`, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "give a number with a unit (ms, s, m, h, d, w), such as 90s, 15m, 12h, 30d or 2w";
    if text.starts_with('-') {
        return Err(format!("{text:?} must not be negative; {HELP}"));
    }
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        unit => return Err(format!("{unit:?} is not a unit of time; {HELP}")),
    };
    let number: f64 = digits.parse().map_err(|_| HELP.to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| format!("{text:?} is out of range; {HELP}"))
}

/// Reads an age, which has a unit: whoever means days must not get seconds.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    if !text.starts_with('-') && text.ends_with(|it: char| it.is_ascii_digit()) {
        return Err("give a number with a unit, such as 12h, 30d or 2w".into());
    }
    parse_duration(text)
}

/// Reads a day such as `2026-11-20`, an RFC 3339 time (UTC if it names no zone), or a duration before now.
pub(crate) fn parse_date(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = parse_duration(text)
        && text.ends_with(|it: char| it.is_ascii_alphabetic())
    {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text:?} is out of range"));
    }
    let day = format!("{text}T00:00:00Z");
    let time: Result<Timestamp, _> =
        if text.len() == "2026-11-20".len() { day.parse() } else { text.parse() };
    time.ok().and_then(|time| time.to_system_time()).ok_or_else(|| {
        "give a day such as 2026-11-20, a time such as 2026-11-20T08:00:00Z, or how long ago, such as 30d"
            .to_owned()
    })
}

/// A time in minutes, for people: the clock of a server may differ by seconds.
pub(crate) fn minute(at: SystemTime) -> String {
    let time = Timestamp::from(at).to_string();
    format!("{}Z", time.chars().take("2026-11-20T08:00".len()).collect::<String>())
}

/// A size in decimal units, such as `1.5 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while 999.95 <= value && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in
            [("2000ms", 2), ("90", 90), ("90s", 90), ("1.5h", 5400), ("30d", 2_592_000), ("2w", 1_209_600)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "-1h", "3 d", "1y", "nan", "1e99w", "infs"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_need_a_unit() {
        assert_eq!(parse_age("5d"), Ok(Duration::from_secs(432_000)));
        assert!(parse_age("5").is_err() && parse_age("d").is_err());
    }

    #[test]
    fn dates_are_days_times_or_durations_before_now() {
        let at = |text: &str| parse_date(text).map(|it| Timestamp::from(it).to_string());
        for (text, time) in [
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20T08:00:00", "2026-11-20T08:00:00Z"),
            ("2026-11-20T08:00:00+02:00", "2026-11-20T06:00:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(time), "{text}");
        }
        let ago = parse_date("30d").map(|it| it.elapsed().unwrap_or_default().as_secs() / 60);
        assert_eq!(ago, Ok(30 * 24 * 60));
        for text in ["", "yesterday", "2026-13-01", "20261120", "90", "2026-11-20T"] {
            assert!(parse_date(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_decimal_units() {
        let cases =
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (1_500_000_000, "1.5 GB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
