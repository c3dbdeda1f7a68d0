//! What is said on stderr: notes, warnings, progress.

use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use parking_lot::Mutex;

/// The bars that are on the terminal: text is written above them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Writes a line to stderr. If stderr is closed, nothing can be told.
pub(crate) fn write(line: &str) {
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
