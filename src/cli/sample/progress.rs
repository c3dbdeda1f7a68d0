//! How far a long command is.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Progress as How;
use crate::connection::App;
use crate::notes;

/// How often a line is written where no bar can be.
const PERIOD: Duration = Duration::from_secs(60);
/// How often the bar changes at most.
const REFRESH: Duration = Duration::from_millis(100);

/// A line that changes on a terminal, or a line a minute elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new(app: &App) -> Self {
        let has_bar = match app.global.progress {
            How::Bar => true,
            How::Auto => notes::are_read() && !app.global.quiet,
            How::Plain | How::Json | How::None => false,
        };
        let bar = has_bar.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            notes::add(bar)
        });
        let is_shown = !matches!(app.global.progress, How::Json | How::None);
        Progress { bar, last: Instant::now(), is_shown }
    }

    /// Says how far the command is, if it is time to.
    pub(crate) fn say(&mut self, app: &App, state: impl FnOnce() -> String) {
        if self.is_due() {
            self.show(app, &state());
        }
    }

    /// True if it is time to say something.
    pub(crate) fn is_due(&self) -> bool {
        let period = if self.bar.is_some() { REFRESH } else { PERIOD };
        self.is_shown && period <= self.last.elapsed()
    }

    pub(crate) fn show(&mut self, app: &App, state: &str) {
        self.last = Instant::now();
        match &self.bar {
            Some(bar) => {
                bar.set_message(state.to_owned());
                bar.tick();
            }
            None => app.note(state),
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
