//! The checkpoints of a data folder, as its subfolders have them.
//!
//! What cannot be read is left out, so that one damaged run does not hide all others. The log names it, once: who deletes
//! checkpoints or adds up their sizes by a list must learn that the list is not complete.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::{CheckpointId, Kind, META, Meta, SavedCheckpoint, Store};

/// The paths that could not be read, each of which was told.
#[derive(Debug, Default)]
pub(super) struct Unread(Mutex<HashSet<PathBuf>>);

impl Unread {
    fn tell(&self, path: &Path, error: &dyn Display) {
        if self.0.lock().insert(path.to_owned()) {
            log::warn!(
                "the embedded engine cannot read {}, and leaves its checkpoints out of lists: {error}",
                path.display()
            );
        }
    }
}

impl Store {
    /// All checkpoints that can be read and have not expired.
    pub(in crate::local) fn all(&self) -> Vec<SavedCheckpoint> {
        let now = SystemTime::now();
        self.all_with_expired().into_iter().filter(|it| !it.meta.is_expired(now)).collect()
    }

    pub(super) fn all_with_expired(&self) -> Vec<SavedCheckpoint> {
        let runs = self.folders(&self.root).into_iter().filter(|it| it != self.lease.folder());
        runs.flat_map(|run| self.checkpoints_in(&run)).collect()
    }

    /// The checkpoints of a run that have not expired.
    pub(in crate::local) fn of_run(&self, run_id: &str) -> Vec<SavedCheckpoint> {
        let Ok(checkpoint) = CheckpointId::new(run_id, Kind::Training, "any") else { return Vec::new() };
        let folder = self.folder(&checkpoint);
        let run = folder.ancestors().nth(2).unwrap_or(&self.root);
        let now = SystemTime::now();
        let here = |it: &SavedCheckpoint| it.meta.run_id == run_id && !it.meta.is_expired(now);
        self.checkpoints_in(run).into_iter().filter(here).collect()
    }

    /// The checkpoints in the folder of a run.
    fn checkpoints_in(&self, run: &Path) -> Vec<SavedCheckpoint> {
        let kinds = Kind::ALL.into_iter();
        let places = kinds
            .flat_map(|kind| self.folders(&run.join(kind.segment())).into_iter().map(move |it| (kind, it)));
        places.filter_map(|(kind, folder)| self.found(kind, &folder)).collect()
    }

    fn found(&self, kind: Kind, folder: &Path) -> Option<SavedCheckpoint> {
        let meta = self.meta_or_told(folder)?;
        let checkpoint = CheckpointId::new(&meta.run_id, kind, folder.file_name()?.to_str()?).ok()?;
        let files = fs::read_dir(folder).ok()?.flatten();
        let size_bytes = files.filter_map(|it| Some(it.metadata().ok()?.len())).sum();
        // Skip a folder that a user copied from another run: its `tinkex.json` names a run other than that of the
        // parent folder.
        (self.folder(&checkpoint) == folder).then_some(SavedCheckpoint { checkpoint, meta, size_bytes })
    }

    /// The description of a checkpoint in a folder. `None` if it has none: the folder is not a checkpoint, or was deleted
    /// a moment ago.
    fn meta_or_told(&self, folder: &Path) -> Option<Meta> {
        match fs::read(folder.join(META)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|it| self.unread.tell(folder, &it)).ok(),
            Err(error) => {
                self.tell_unless_gone(folder, &error);
                None
            }
        }
    }

    /// The subfolders of a folder, sorted by name.
    fn folders(&self, within: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(within).map_err(|it| self.tell_unless_gone(within, &it));
        let mut all: Vec<PathBuf> =
            entries.into_iter().flatten().flatten().map(|it| it.path()).filter(|it| it.is_dir()).collect();
        all.sort();
        all
    }

    fn tell_unless_gone(&self, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.unread.tell(path, error);
        }
    }
}
