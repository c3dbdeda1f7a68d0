//! The function `strftime_now` of chat templates, for a given date.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    year: usize,
    /// From 1.
    month: usize,
    /// From 1.
    day: usize,
}

impl Date {
    /// Reads `2026-11-27`.
    pub(super) fn read(text: &str) -> Option<Date> {
        let bytes = text.as_bytes();
        let is_digit = |i: usize| {
            (i == 4 || i == 7) == (bytes[i] == b'-') && (i == 4 || i == 7 || bytes[i].is_ascii_digit())
        };
        if bytes.len() != 10 || !(0..10).all(is_digit) {
            return None;
        }
        let number = |range: std::ops::Range<usize>| text[range].parse::<usize>().ok();
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let date = Date { year, month, day };
        (1 <= year && (1..=12).contains(&month) && (1..=date.days_of(month)).contains(&day)).then_some(date)
    }

    fn days_of(self, month: usize) -> usize {
        let is_leap =
            self.year.is_multiple_of(4) && !self.year.is_multiple_of(100) || self.year.is_multiple_of(400);
        match month {
            2 => 28 + usize::from(is_leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// The number of the day in its year, from 1.
    fn ordinal(self) -> usize {
        (1..self.month).map(|month| self.days_of(month)).sum::<usize>() + self.day
    }

    /// The day of the week, 0 for Sunday.
    fn weekday(self) -> usize {
        let before = self.year - 1;
        (before * 365 + before / 4 - before / 100 + before / 400 + self.ordinal()) % 7
    }

    /// Writes the date as Python's `strftime` does in the locale `C`. `None` for a directive that needs the time, or
    /// that is not known.
    pub(super) fn format(self, format: &str) -> Option<String> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let mut directive = letters.next()?;
            let pads = directive != '-';
            if !pads {
                directive = letters.next()?;
            }
            let two = |n: usize| if pads { format!("{n:02}") } else { n.to_string() };
            let month = MONTHS[self.month - 1];
            let weekday = DAYS[self.weekday()];
            out += &match directive {
                'd' => two(self.day),
                'm' => two(self.month),
                'y' => two(self.year % 100),
                'j' if pads => format!("{:03}", self.ordinal()),
                'j' => self.ordinal().to_string(),
                'e' if pads => format!("{:2}", self.day),
                'Y' if pads => self.year.to_string(),
                'B' if pads => month.to_owned(),
                'b' | 'h' if pads => month[..3].to_owned(),
                'A' if pads => weekday.to_owned(),
                'a' if pads => weekday[..3].to_owned(),
                'F' if pads => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
                '%' if pads => "%".to_owned(),
                _ => return None,
            };
        }
        Some(out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        let all = "%Y-%m-%d %d %b %Y|%B %-d, %y|%A %a %j %e %F %%";
        for (date, text) in [
            ("2026-11-27", "2026-11-27 27 Nov 2026|November 27, 26|Friday Fri 331 27 2026-11-27 %"),
            ("2024-02-29", "2024-02-29 29 Feb 2024|February 29, 24|Thursday Thu 060 29 2024-02-29 %"),
            ("2000-01-02", "2000-01-02 02 Jan 2000|January 2, 00|Sunday Sun 002  2 2000-01-02 %"),
        ] {
            assert_eq!(Date::read(date).unwrap().format(all).unwrap(), text);
        }
        for format in ["%H:%M", "%", "%-", "%Q", "%-B"] {
            assert_eq!(Date::read("2026-11-27").unwrap().format(format), None, "{format}");
        }
    }

    #[test]
    fn what_is_not_a_day_is_refused() {
        for text in
            ["", "2026-11-31", "2023-02-29", "2026-00-10", "2026-1-1", "26-11-27", "2026-11-2é", "0000-01-01"]
        {
            assert_eq!(Date::read(text), None, "{text}");
        }
    }
}
