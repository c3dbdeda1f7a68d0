//! Tells the caller how far a download is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sync::{Mutex, unwind};

/// Shortest time between two calls of the callback in the same phase.
const PERIOD: Duration = Duration::from_millis(100);

/// What a download is doing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum DownloadPhase {
    /// Asking the server for addresses. For a training state on a server without archives this includes its export,
    /// which may take minutes.
    #[default]
    Preparing,
    /// Receiving files.
    Receiving,
    /// The last attempt failed with this error; another one follows.
    Retrying(Error),
    /// Comparing what has arrived with the digest that the storage stated.
    Verifying,
    /// Unpacking the archive.
    Unpacking,
}

/// How far a download is. Given to the callback of [`DownloadOptions::on_progress`](super::DownloadOptions::on_progress).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DownloadProgress {
    /// What the download is doing.
    pub phase: DownloadPhase,
    /// Bytes on the disk, with those of earlier downloads that this one continues. Becomes smaller if a file has changed
    /// on the server.
    pub n_bytes: u64,
    /// Size of all files together in bytes, once it is known.
    pub total_bytes: Option<u64>,
    /// Number of complete files.
    pub n_files: usize,
    /// Number of files, once it is known. An archive is one file.
    pub total_files: Option<usize>,
}

pub(super) type Callback = Arc<dyn Fn(&DownloadProgress) + Send + Sync>;

/// Collects the progress of all files. The callback runs without a lock.
pub(super) struct Progress {
    callback: Option<Callback>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, OneFile>,
    phase: DownloadPhase,
    last_told: Option<Instant>,
    /// The callback runs on some thread.
    is_telling: bool,
    /// A change came meanwhile that must be told.
    is_owed: bool,
}

#[derive(Clone, Copy, Default)]
struct OneFile {
    n_bytes: u64,
    size: Option<u64>,
    is_complete: bool,
}

impl Progress {
    pub(super) fn new(callback: Option<Callback>) -> Self {
        Progress { callback, state: Mutex::default() }
    }

    pub(super) fn set_files<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        self.state.lock().files = names.into_iter().map(|name| (name.clone(), OneFile::default())).collect();
        self.tell(true);
    }

    pub(super) fn enter(&self, phase: DownloadPhase) {
        self.state.lock().phase = phase;
        self.tell(true);
    }

    /// A file has this many bytes on the disk, of this many.
    pub(super) fn at(&self, name: &str, n_bytes: u64, size: Option<u64>) {
        let is_new_phase = {
            let mut state = self.state.lock();
            let is_new_phase = !matches!(state.phase, DownloadPhase::Receiving);
            state.phase = DownloadPhase::Receiving;
            if let Some(file) = state.files.get_mut(name) {
                (file.n_bytes, file.size) = (n_bytes, size);
            }
            is_new_phase
        };
        self.tell(is_new_phase);
    }

    pub(super) fn complete(&self, name: &str) {
        if let Some(file) = self.state.lock().files.get_mut(name) {
            file.is_complete = true;
        }
        self.tell(true);
    }

    fn tell(&self, at_once: bool) {
        let Some(callback) = &self.callback else { return };
        let mut next = {
            let mut state = self.state.lock();
            let is_due = at_once || state.last_told.is_none_or(|last| PERIOD <= last.elapsed());
            if !is_due {
                return;
            }
            if state.is_telling {
                // The thread in the callback tells it afterwards.
                state.is_owed |= at_once;
                return;
            }
            state.is_telling = true;
            Some(state.sum())
        };
        while let Some(progress) = next {
            unwind::shield("the progress callback of a download panicked", || callback(&progress));
            let mut state = self.state.lock();
            state.last_told = Some(Instant::now());
            state.is_telling = std::mem::take(&mut state.is_owed);
            next = state.is_telling.then(|| state.sum());
        }
    }
}

impl State {
    fn sum(&self) -> DownloadProgress {
        let files = self.files.values();
        let total = files.clone().map(|file| file.size).sum::<Option<u64>>();
        DownloadProgress {
            phase: self.phase.clone(),
            n_bytes: files.clone().map(|file| file.n_bytes).sum(),
            total_bytes: total.filter(|_| !self.files.is_empty()),
            n_files: files.filter(|file| file.is_complete).count(),
            total_files: Some(self.files.len()).filter(|n| *n != 0),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    #[test]
    fn a_file_that_ends_while_the_callback_runs_is_told_after_it() {
        static PROGRESS: OnceLock<Arc<Progress>> = OnceLock::new();
        static SEEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
        let tell = |progress: &DownloadProgress| {
            let is_first = SEEN.lock().is_empty();
            SEEN.lock().push(progress.n_files);
            if is_first {
                let other = PROGRESS.get().unwrap().clone();
                std::thread::spawn(move || other.complete("b")).join().unwrap();
            }
        };
        let progress = PROGRESS.get_or_init(|| Arc::new(Progress::new(Some(Arc::new(tell)))));
        progress.set_files(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(*SEEN.lock(), [0, 1]);
        progress.complete("a");
        assert_eq!(*SEEN.lock(), [0, 1, 2]);
    }
}
