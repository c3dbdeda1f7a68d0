//! What is said on stderr: notes, warnings, progress.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use parking_lot::Mutex;

use super::printable;

/// The bars that are on the terminal: text is written above them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// True with `--quiet`.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Sets that [`say`] says nothing.
pub(crate) fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Writes a line to stderr, unless `--quiet`.
pub(crate) fn say(line: &str) {
    if !IS_QUIET.load(Ordering::Relaxed) {
        write(line);
    }
}

/// Writes a line to stderr, without what could control a terminal. If stderr is closed, nothing can be told.
pub(crate) fn write(line: &str) {
    let line = printable::text(line);
    let write = || {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    };
    let bars = BARS.lock().clone();
    match bars {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Writes a text to stderr without an end of line, after which a person answers.
pub(crate) fn ask(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Adds a bar on stderr, above which later notes are written.
pub(crate) fn add(bar: ProgressBar) -> ProgressBar {
    let mut bars = BARS.lock();
    let bars = bars.get_or_insert_with(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
    bars.add(bar)
}

/// True if a person reads stderr.
pub(crate) fn are_read() -> bool {
    std::io::stderr().is_terminal()
}
