//! Points in time.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock_text::{parse_rfc3339, rfc3339, rfc3339_micros};
use crate::error::{Error, Result};

/// A point in time as RFC 3339 text, exactly as the server sent it.
///
/// # Example: convert to `SystemTime` and back
/// ```
/// use std::time::{Duration, SystemTime};
/// use tinkex::types::Timestamp;
///
/// let then: Timestamp = "2026-11-20T13:19:11Z".parse()?;
/// assert_eq!(then.to_system_time(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_180_751)));
/// assert_eq!(Timestamp::from(then.to_system_time().unwrap()), then);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(String);

impl Timestamp {
    /// The time as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Converts to `SystemTime`, exact to the nanosecond. Text without an offset counts as UTC. `None` for text that is
    /// not RFC 3339 and for times before 1970.
    pub fn to_system_time(&self) -> Option<SystemTime> {
        parse_rfc3339(&self.0)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Parses RFC 3339, such as `2026-11-20T13:00:00Z`.
    fn from_str(text: &str) -> Result<Self> {
        match parse_rfc3339(text) {
            Some(_) => Ok(Timestamp(text.trim().into())),
            None => Err(Error::invalid(
                "time",
                format!("{text:?} is not an RFC 3339 time; write it as 2026-11-20T13:00:00Z"),
            )),
        }
    }
}

impl TryFrom<&str> for Timestamp {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl From<&Timestamp> for Timestamp {
    fn from(time: &Timestamp) -> Self {
        time.clone()
    }
}

impl From<SystemTime> for Timestamp {
    /// Formats in UTC: whole seconds without a fraction, other times with microseconds.
    fn from(time: SystemTime) -> Self {
        let whole = rfc3339(time);
        Timestamp(if parse_rfc3339(&whole) == Some(time) { whole } else { rfc3339_micros(time) })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
