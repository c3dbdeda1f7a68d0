//! Cells of tables: relative times and rounded sizes for people, exact ones for programs.

use std::time::{Duration, SystemTime};

use tinkex::types::Timestamp;

use super::args::Format;
use super::connection::App;
use super::moments;

/// Writes the cells of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells {
    for_people: bool,
    now: SystemTime,
}

impl Cells {
    pub(crate) fn of(app: &App) -> Self {
        Cells { for_people: app.out.format() == Format::Table, now: SystemTime::now() }
    }

    pub(crate) fn for_programs() -> Self {
        Cells { for_people: false, now: SystemTime::now() }
    }

    /// A time in the past or in the future; RFC 3339 for programs.
    pub(crate) fn time(&self, time: Option<&Timestamp>) -> String {
        let Some(time) = time else { return self.unknown() };
        match time.to_system_time() {
            Some(at) if self.for_people => relative(at, self.now),
            Some(at) => Timestamp::from(at).to_string(),
            None => time.to_string(),
        }
    }

    /// A time as RFC 3339 for people, too: as of entries of a log.
    pub(crate) fn exact_time(&self, time: Option<&Timestamp>) -> String {
        Cells { for_people: false, ..*self }.time(time)
    }

    /// The time at which something expires, if it does.
    pub(crate) fn expiry(&self, time: Option<&Timestamp>) -> String {
        match time {
            None if self.for_people => "Never".to_owned(),
            time => self.time(time),
        }
    }

    /// A size; in bytes for programs.
    pub(crate) fn size(&self, bytes: Option<u64>) -> String {
        match bytes {
            None => self.unknown(),
            Some(bytes) if self.for_people => moments::size(bytes),
            Some(bytes) => bytes.to_string(),
        }
    }

    pub(crate) fn text(&self, text: Option<&str>) -> String {
        text.filter(|it| !it.is_empty()).map_or_else(|| self.unknown(), str::to_owned)
    }

    pub(crate) fn number<T: ToString>(&self, number: Option<T>) -> String {
        number.map_or_else(|| self.unknown(), |it| it.to_string())
    }

    /// An amount in USD with all its digits for programs.
    pub(crate) fn usd(&self, amount: Option<f64>) -> String {
        match amount {
            Some(amount) if self.for_people => usd(amount),
            amount => self.number(amount),
        }
    }

    pub(crate) fn unknown(&self) -> String {
        if self.for_people { "N/A".to_owned() } else { String::new() }
    }
}

pub(crate) fn yes_or_no(yes: bool) -> String {
    if yes { "Yes" } else { "No" }.to_owned()
}

/// An amount with at least two significant digits.
pub(crate) fn usd(amount: f64) -> String {
    if amount == 0.0 || 0.1 <= amount.abs() { format!("${amount:.2}") } else { format!("${amount:.4}") }
}

/// A time seen from `now`; a date if it is more than 30 days away.
fn relative(at: SystemTime, now: SystemTime) -> String {
    const UNITS: [(u64, &str); 4] = [(7 * 86_400, "week"), (86_400, "day"), (3600, "hour"), (60, "minute")];
    let (away, is_past) = match now.duration_since(at) {
        Ok(ago) => (ago, true),
        Err(error) => (error.duration(), false),
    };
    if Duration::from_secs(30 * 86_400) < away {
        return Timestamp::from(at).as_str().chars().take(10).collect();
    }
    let Some((seconds, unit)) = UNITS.into_iter().find(|(seconds, _)| *seconds <= away.as_secs()) else {
        return "just now".to_owned();
    };
    let n = away.as_secs() / seconds;
    let plural = if n == 1 { "" } else { "s" };
    if is_past { format!("{n} {unit}{plural} ago") } else { format!("in {n} {unit}{plural}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cells(for_people: bool) -> Cells {
        Cells { for_people, now: moments::parse_date("2026-11-20T12:00:00Z").unwrap() }
    }

    #[test]
    fn people_read_how_long_ago_a_time_was_and_programs_the_time() {
        let cases = [
            ("2026-11-20T11:59:30Z", "just now"),
            ("2026-11-20T12:00:30Z", "just now"),
            ("2026-11-20T11:59:00Z", "1 minute ago"),
            ("2026-11-20 07:00:00+00:00", "5 hours ago"),
            ("2026-11-18T12:00:00Z", "2 days ago"),
            ("2026-11-01T12:00:00Z", "2 weeks ago"),
            ("2026-10-01T12:00:00Z", "2026-10-01"),
            ("2026-11-22T13:00:00Z", "in 2 days"),
            ("2027-11-22T13:00:00Z", "2027-11-22"),
            ("soon", "soon"),
        ];
        for (time, shown) in cases {
            let time: Timestamp = serde_json::from_value(time.into()).unwrap();
            assert_eq!(cells(true).time(Some(&time)), shown);
        }
        let time: Timestamp = serde_json::from_value("2026-11-20 07:00:00+00:00".into()).unwrap();
        assert_eq!(cells(false).time(Some(&time)), "2026-11-20T07:00:00Z");
    }

    #[test]
    fn what_is_unknown_is_an_empty_cell_for_programs() {
        let (people, program) = (cells(true), cells(false));
        assert_eq!((people.size(None), program.size(None)), ("N/A".into(), String::new()));
        assert_eq!((people.expiry(None), program.expiry(None)), ("Never".into(), String::new()));
        assert_eq!((people.size(Some(1500)), program.size(Some(1500))), ("1.5 kB".into(), "1500".into()));
        assert_eq!(
            (people.usd(Some(0.01234)), program.usd(Some(0.01234))),
            ("$0.0123".into(), "0.01234".into())
        );
    }
}
