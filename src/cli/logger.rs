//! The log of the library on stderr.

use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use parking_lot::Mutex;
use tinkex::Timeouts;

use super::{notes, wording};

/// How warnings begin that a command need not have told if it fails anyway: one that reaches no server, or something else
/// there, says so in its own words.
const OF_CONTACT: [&str; 3] = [
    "the server's flags could not be fetched",
    "the server's dynamic flags could not be fetched",
    "POST /api/v1/client/config: ",
];

/// Such warnings, until the command ends.
static HELD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A server that answers 5xx is told about no more often than this.
const SAY_EVERY: Duration = Duration::from_secs(20);

/// The time for which a request is repeated while the server answers 5xx alone.
static TRIED_FOR: Mutex<Option<Duration>> = Mutex::new(None);

/// When it was first and last told that the server answers 5xx.
static TOLD: Mutex<Option<(Instant, Instant)>> = Mutex::new(None);

/// Tells the limits of the requests that follow.
pub(crate) fn limits_are(timeouts: &Timeouts) {
    *TRIED_FOR.lock() = Some(timeouts.first_contact.min(timeouts.operation));
}

/// A warning of the library about a request that fails.
#[derive(Debug, PartialEq)]
enum Trouble<'a> {
    /// The server has answered with this status of 5xx, and the request is sent again; true for the first request of all.
    Answer(&'a str, bool),
    /// The server has answered nothing but 5xx.
    Silence,
}

impl Trouble<'_> {
    fn of(text: &str) -> Option<Trouble<'_>> {
        if text.starts_with("still waiting: ") && text.contains(" has not answered yet") {
            return Some(Trouble::Silence);
        }
        let (request, rest) = text.split_once(": ")?;
        let (answer, again) = rest.split_once("; attempt ")?;
        let is_repeated = answer.starts_with("HTTP 5") && again.contains(", again in ");
        is_repeated.then(|| Trouble::Answer(answer, request.ends_with("/client/config")))
    }
}

/// The text in place of the warning, which would come with each attempt of each request; an empty text says
/// nothing. `None` for another warning.
fn in_short(text: &str, now: Instant) -> Option<String> {
    let mut told = TOLD.lock();
    let (answer, is_first) = match (Trouble::of(text)?, &*told) {
        (Trouble::Answer(answer, is_first), _) => (answer, is_first),
        // It was said what the server answers.
        (Trouble::Silence, Some(_)) => return Some(String::new()),
        (Trouble::Silence, None) => return None,
    };
    let since = match &mut *told {
        Some((_, last)) if now.saturating_duration_since(*last) < SAY_EVERY => return Some(String::new()),
        Some((first, last)) => {
            *last = now;
            format!(", for {} s by now", now.saturating_duration_since(*first).as_secs())
        }
        told => {
            *told = Some((now, now));
            String::new()
        }
    };
    // Later on, the library repeats requests for longer.
    let is_first = is_first || HELD.lock().iter().any(|line| line.contains(OF_CONTACT[0]));
    let limit = TRIED_FOR.lock().filter(|_| is_first);
    let limit = limit.map(|it| format!(" for up to {} s", it.as_secs_f64().ceil())).unwrap_or_default();
    Some(format!("the server answers {answer}{since}; each request is tried again{limit}"))
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tinkex")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug | Level::Trace => "debug",
            };
            let mut text = wording::logged(&record.args().to_string());
            if log::max_level() <= LevelFilter::Warn
                && let Some(short) = in_short(&text, Instant::now())
            {
                if short.is_empty() {
                    return;
                }
                text = short;
            }
            let is_of_contact = OF_CONTACT.iter().any(|it| text.starts_with(it));
            let line = format!("{level}: {text}");
            if is_of_contact && log::max_level() <= LevelFilter::Warn {
                HELD.lock().push(line);
            } else {
                notes::write(&line);
            }
        }
    }

    fn flush(&self) {}
}

/// Shows warnings, with `verbose` 1 also infos, with 2 details; with `quiet` errors alone.
pub(crate) fn start(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, _) => LevelFilter::Debug,
    };
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Writes the warnings about the first contact with the server, or leaves them out if the failure of the command tells
/// enough.
pub(crate) fn end(is_told: bool) {
    let held = std::mem::take(&mut *HELD.lock());
    held.iter().filter(|_| !is_told).for_each(|line| notes::write(line));
}

/// Shows nothing that is logged meanwhile.
pub(crate) fn silently<T>(work: impl FnOnce() -> T) -> T {
    let level = log::max_level();
    log::set_max_level(LevelFilter::Off);
    let result = work();
    log::set_max_level(level);
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_5xx_is_told_about_now_and_then_and_until_when_it_is_tried() {
        let attempt = |path: &str, n: u32| {
            format!("POST /api/v1/{path}: HTTP 503: busy: later; attempt {n} after 3.2s, again in 3.1s")
        };
        let waits = "still waiting: create_sampling_client is Queued since 6s, http://x has not answered yet";
        let began = Instant::now();
        let at = |text: &str, seconds| in_short(text, began + Duration::from_secs(seconds));
        limits_are(&Timeouts::default());
        assert_eq!(at(waits, 3), None);
        let first = at(&attempt("client/config", 4), 3).unwrap();
        assert_eq!(
            first,
            "the server answers HTTP 503: busy: later; each request is tried again for up to 60 s"
        );
        assert_eq!(at(&attempt("client/config", 5), 6).as_deref(), Some(""));
        assert_eq!(at(waits, 7).as_deref(), Some(""));
        let later = at(&attempt("asample", 5), 30).unwrap();
        assert_eq!(
            later,
            "the server answers HTTP 503: busy: later, for 27 s by now; each request is tried again"
        );
        for other in [
            "POST /api/v1/asample: HTTP 429: slow down; attempt 4 after 3.2s, again in 3.1s",
            "POST /api/v1/asample: cannot connect; attempt 4 after 3.2s, again in 3.1s",
            "the server's flags could not be fetched: HTTP 503",
            "still waiting: forward is Queued since 60s",
        ] {
            assert_eq!(at(other, 60), None, "{other}");
        }
    }
}
