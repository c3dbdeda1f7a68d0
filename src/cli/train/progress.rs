//! How a run is shown while it trains: a bar, plain lines, or rows of JSON.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::best::Evaluation;
use super::log::Log;
use super::plan::{rate, usd};
use super::seen::Seen;
use crate::args::Progress as How;
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;
use crate::notes;

/// Time between plain lines.
const PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Progress {
    shown: Shown,
    /// The last evaluation.
    test: Option<Evaluation>,
    n_steps: u64,
    /// The step with which this process began, and when.
    first: u64,
    started: Instant,
    last_line: Instant,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Plain,
    Json,
    Nothing,
}

/// The figures of a step that are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Steps that are done.
    pub(super) n_done: u64,
    pub(super) loss: f64,
    /// The smoothed loss.
    pub(super) smooth: f64,
    /// An evaluation that is new.
    pub(super) test: Option<Evaluation>,
    pub(super) learning_rate: f64,
    pub(super) tokens_per_s: f64,
    /// Of the whole run; `None` if the price is unknown.
    pub(super) usd: Option<f64>,
}

impl Progress {
    pub(super) fn new(app: &App, seen: &Seen, first: u64, n_steps: u64) -> Self {
        let shown = match app.global.progress {
            How::None => Shown::Nothing,
            How::Json => Shown::Json,
            _ if app.global.quiet => Shown::Nothing,
            How::Bar => Shown::Bar(bar(seen, first, n_steps)),
            How::Auto if notes::are_read() => Shown::Bar(bar(seen, first, n_steps)),
            How::Auto | How::Plain => Shown::Plain,
        };
        let now = Instant::now();
        Progress { shown, test: None, n_steps, first, started: now, last_line: now }
    }

    /// Shows a step. `row` is its row of metrics.
    pub(super) fn step(
        &mut self,
        figures: &Figures,
        row: &Value,
        app: &App,
        log: &Log,
    ) -> Result<(), Failure> {
        self.test = figures.test.or(self.test);
        let text = self.text(figures);
        let is_due =
            is_line_due(figures.n_done, self.n_steps, figures.test.is_some(), self.last_line.elapsed());
        let line = format!("step {}/{} {text}", figures.n_done, self.n_steps);
        if is_due {
            self.last_line = Instant::now();
        }
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_position(figures.n_done);
                bar.set_prefix("");
                bar.set_message(text);
                if figures.test.is_some() { log.say(&line) } else { log.write(&line) }
            }
            Shown::Plain if is_due => log.say(&line),
            Shown::Json => {
                app.out.line(&row.to_string())?;
                log.write(&line);
            }
            Shown::Plain | Shown::Nothing => log.write(&line),
        }
        Ok(())
    }

    /// Tells what is rarer than steps: a line above the bar. Without a bar, only the log has it.
    pub(super) fn tell_above(&self, text: &str, log: &Log) {
        match self.shown {
            Shown::Bar(_) => log.say(text),
            Shown::Plain | Shown::Json | Shown::Nothing => log.write(text),
        }
    }

    pub(super) fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    fn text(&self, figures: &Figures) -> String {
        let mut text = format!("loss {:.3} ({:.3})", figures.loss, figures.smooth);
        if let Some(Evaluation { loss, n_done }) = self.test {
            text.push_str(&format!(" eval {loss:.3} after {}", counted(n_done, "step")));
        }
        text.push_str(&format!(" lr {} {} tok/s", rate(figures.learning_rate), speed(figures.tokens_per_s)));
        if let Some(cost) = figures.usd.filter(|cost| 0.0 < *cost) {
            text.push_str(&format!(" {}", usd(cost)));
        }
        let n_here = figures.n_done.saturating_sub(self.first).max(1);
        let n_left = self.n_steps.saturating_sub(figures.n_done);
        let left = self.started.elapsed().as_secs_f64() * n_left as f64 / n_here as f64;
        if 0 < n_left {
            text.push_str(&format!(" ETA {}", clock(left)));
        }
        text
    }
}

/// True if a plain line is due after `n_done` of `n_steps` steps: at the beginning, at each tenth of the run, with each
/// evaluation, and after a pause.
fn is_line_due(n_done: u64, n_steps: u64, has_test: bool, since: Duration) -> bool {
    let tenth = |n: u64| n.saturating_mul(10) / n_steps.max(1);
    let is_tenth = tenth(n_done.saturating_sub(1)) < tenth(n_done);
    matches!(n_done, 1 | 2 | 5 | 10) || is_tenth || has_test || PAUSE <= since
}

fn bar(seen: &Seen, first: u64, n_steps: u64) -> ProgressBar {
    let bar = notes::add(ProgressBar::new(n_steps));
    // The template is valid, so the fallback is never used.
    let style = ProgressStyle::with_template("step {pos}/{len} {bar:20} {prefix}{msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_position(first);
    seen.show_in(bar.clone());
    bar
}

fn speed(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0}") } else { format!("{:.1}k", value / 1000.0) }
}

/// A duration as on a clock: `3:10`, `1:02:03`.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 { format!("{minutes}:{seconds:02}") } else { format!("{hours}:{minutes:02}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_become_rare() {
        let due: Vec<u64> = (1..=404).filter(|n| is_line_due(*n, 404, *n == 50, Duration::ZERO)).collect();
        assert_eq!(due, [1, 2, 5, 10, 41, 50, 81, 122, 162, 202, 243, 283, 324, 364, 404]);
        assert!(is_line_due(77, 1000, false, PAUSE));
    }

    #[test]
    fn times_and_speeds_are_short() {
        assert_eq!([0.4, 59.6, 190.0, 3723.0].map(clock), ["0:00", "1:00", "3:10", "1:02:03"]);
        assert_eq!([12.3, 12_300.0].map(speed), ["12", "12.3k"]);
    }
}
