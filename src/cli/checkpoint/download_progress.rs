//! How far a download is, on stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tinkex::download::{DownloadPhase, DownloadProgress};

use crate::args::Progress;
use crate::connection::App;
use crate::{moments, notes, wording};

/// Shortest time between two plain lines of progress.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Shows the progress on stderr.
#[derive(Debug)]
pub(super) enum Display {
    Bar(ProgressBar),
    Lines(Mutex<Option<Instant>>),
    Nothing,
}

impl Display {
    pub(super) fn new(app: &App) -> Self {
        let has_bar = match app.global.progress {
            Progress::Bar => true,
            Progress::Auto => notes::are_read(),
            Progress::Plain | Progress::Json | Progress::None => false,
        };
        let has_lines = matches!(app.global.progress, Progress::Auto | Progress::Plain);
        match (has_bar, has_lines) {
            _ if app.global.quiet => Display::Nothing,
            (true, _) => {
                let bar = notes::add(ProgressBar::new_spinner());
                bar.enable_steady_tick(Duration::from_millis(200));
                Display::Bar(bar)
            }
            // A download that is short needs no lines unless they are asked for.
            (false, true) if app.global.progress == Progress::Auto => {
                Display::Lines(Mutex::new(Some(Instant::now())))
            }
            (false, true) => Display::Lines(Mutex::new(None)),
            (false, false) => Display::Nothing,
        }
    }

    pub(super) fn show(&self, progress: &DownloadProgress) {
        match self {
            Display::Bar(bar) => {
                if let Some(total) = progress.total_bytes
                    && bar.length() != Some(total)
                {
                    bar.set_length(total);
                    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                    if let Ok(style) = ProgressStyle::with_template(template) {
                        bar.set_style(style);
                    }
                }
                bar.set_position(progress.n_bytes);
                bar.set_message(phase(progress));
            }
            Display::Lines(last) => {
                let now = Instant::now();
                let is_due = {
                    let mut last = last.lock();
                    let is_due = last.is_none_or(|last| LINE_PERIOD <= now.duration_since(last));
                    if is_due {
                        *last = Some(now);
                    }
                    is_due
                };
                if is_due || matches!(progress.phase, DownloadPhase::Retrying(_)) {
                    notes::write(&line(progress));
                }
            }
            Display::Nothing => {}
        }
    }

    pub(super) fn clear(&self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn phase(progress: &DownloadProgress) -> String {
    match &progress.phase {
        DownloadPhase::Preparing => "preparing".to_owned(),
        DownloadPhase::Receiving => match progress.total_files {
            Some(total) if 1 < total => format!("downloading ({} of {total} files)", progress.n_files),
            _ => "downloading".to_owned(),
        },
        DownloadPhase::Retrying(error) => format!("trying again: {}", wording::line(error)),
        DownloadPhase::Verifying => "verifying".to_owned(),
        DownloadPhase::Unpacking => "unpacking".to_owned(),
        _ => "working".to_owned(),
    }
}

fn line(progress: &DownloadProgress) -> String {
    let size = match (progress.n_bytes, progress.total_bytes) {
        (0, None) => String::new(),
        (n, None) => format!(": {}", moments::size(n)),
        (n, Some(total)) => format!(": {} of {}", moments::size(n), moments::size(total)),
    };
    format!("{}{size}", phase(progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_says_what_is_known() {
        let mut progress = DownloadProgress::default();
        assert_eq!(line(&progress), "preparing");
        progress.phase = DownloadPhase::Receiving;
        (progress.n_bytes, progress.total_bytes) = (1 << 20, Some(1 << 21));
        assert!(line(&progress).starts_with("downloading: "), "{}", line(&progress));
        (progress.n_files, progress.total_files) = (1, Some(3));
        assert!(line(&progress).contains("1 of 3 files"));
    }
}
