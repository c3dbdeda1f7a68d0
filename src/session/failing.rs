//! How the requests for one result fail, while it is waited for: in the log, and in the record of the operation.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::pending::Progress;

/// Failures are said quietly until they have lasted so long.
const FIRST_WARNING: Duration = Duration::from_secs(5);
/// How often they are said aloud.
const NEXT_WARNING: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Failing {
    since: Option<Instant>,
    count: u32,
    warned: Option<Instant>,
}

impl Failing {
    /// Takes note of how a request ended.
    pub(super) fn note(&mut self, failure: Option<Error>, progress: &Progress, now: Instant) {
        let Some(error) = failure else {
            *self = Failing::default();
            return progress.recovered();
        };
        self.count += 1;
        let lasted = now.saturating_duration_since(*self.since.get_or_insert(now));
        let said = self.warned.is_some_and(|it| now.saturating_duration_since(it) < NEXT_WARNING);
        let level = if lasted < FIRST_WARNING || said { log::Level::Debug } else { log::Level::Warn };
        if level == log::Level::Warn {
            self.warned = Some(now);
        }
        log::log!(
            target: "tinkex", level,
            "{}: asking for the result has failed {} times in a row, for {lasted:.0?}; it is asked for again: {error}",
            progress.operation(), self.count
        );
        progress.failed(error);
    }
}
