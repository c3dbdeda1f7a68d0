//! The log of the library on stderr.

use log::{Level, LevelFilter, Log, Metadata, Record};

use parking_lot::Mutex;

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
            let text = wording::logged(&record.args().to_string());
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
