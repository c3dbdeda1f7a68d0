//! A calendar day.

use std::fmt;
use std::str::FromStr;

use crate::clock_text::parse_day;
use crate::error::{Error, Result};

/// A day in UTC, `YYYY-MM-DD`.
///
/// # Example: a day that does not exist is refused
/// ```
/// use tinkex::types::Day;
///
/// assert_eq!("2026-11-20".parse::<Day>()?.as_str(), "2026-11-20");
/// assert!("2026-02-30".parse::<Day>().is_err());
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(String);

impl Day {
    /// The day as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Day {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match parse_day(text) {
            Some(_) => Ok(Day(text.into())),
            None => Err(Error::invalid("day", format!("{text:?} is not a valid date; use YYYY-MM-DD"))),
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
