//! The lock of a data folder: keeps a second engine out, and cleans up after an engine that was killed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::disk::{make_folder, remove, sync_folder};
use super::Kind;

/// Subfolder of the data folder for the engine's own files.
pub(super) const ENGINE_FOLDER: &str = ".tinkex";

/// The file in it that an engine keeps locked.
pub(super) const LOCK_FILE: &str = "lock";

/// The file in it with the address of the engine.
pub(super) const ENGINE_FILE: &str = "engine.json";

/// The reason why a data folder cannot be used.
#[derive(Debug)]
pub(in crate::local) enum Refused {
    /// Another engine has locked it.
    InUse(String),
    Unusable(String),
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Refused::Unusable(text)
    }
}

/// The lock of a data folder. It is released on drop; if the process is killed, the system releases it.
#[derive(Debug)]
pub(super) struct Lease {
    own: PathBuf,
    _lock: File,
}

impl Lease {
    /// Locks a data folder, creates it if necessary, and removes the unfinished files of an earlier engine.
    ///
    /// # Errors
    /// Another engine uses the folder, or it cannot be written to.
    pub(super) fn take(root: &Path) -> Result<Self, Refused> {
        let own = root.join(ENGINE_FOLDER);
        let cannot =
            |doing: &str, path: &Path, it: io::Error| format!("cannot {doing} {}: {it}", path.display());
        make_folder(&own, true)?;
        let path = own.join(LOCK_FILE);
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = opened.map_err(|it| cannot("open", &path, it))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The engine that holds the lock wrote its process id into the file. Reading it may fail, because some
                // systems do not let another process read a locked file.
                let _ = lock.read_to_string(&mut holder);
                let holder =
                    holder.trim().parse().map_or(String::new(), |it: u32| format!(" (process {it})"));
                let folder = root.display();
                return Err(Refused::InUse(format!(
                    "the data folder {folder} is in use by another engine{holder}: two engines would overwrite each \
                     other's checkpoints; stop that one or use another folder"
                )));
            }
            Err(TryLockError::Error(it)) if it.kind() == io::ErrorKind::Unsupported => {
                log::warn!("{} cannot be locked: a second engine would not be refused", root.display());
            }
            Err(TryLockError::Error(it)) => return Err(cannot("lock", &path, it).into()),
        }
        // The process id is informative only, so a failure to write it is ignored.
        let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
        let lease = Lease { own, _lock: lock };
        lease.clear(root).map_err(|it| format!("cannot clear {}: {it}", root.display()))?;
        Ok(lease)
    }

    /// Folder of the engine's own files.
    pub(super) fn folder(&self) -> &Path {
        &self.own
    }

    /// Folder of drafts (checkpoints that are being written) and of folders that are being deleted.
    pub(super) fn drafts(&self) -> PathBuf {
        self.own.join("drafts")
    }

    /// Folder for an old checkpoint between the two steps of its replacement.
    pub(super) fn moved(&self) -> PathBuf {
        self.own.join("moved")
    }

    fn clear(&self, root: &Path) -> io::Result<()> {
        // The address of an engine that was killed.
        remove(&self.own.join(ENGINE_FILE));
        self.restore_moved(root)?;
        remove(&self.moved());
        // Keep the folder itself: on a full disk it could not be created again.
        for entry in fs::read_dir(self.drafts()).into_iter().flatten().flatten() {
            remove(&entry.path());
        }
        remove_empty_runs(root);
        // Earlier versions of the engine wrote drafts beside the folders of the runs.
        for entry in fs::read_dir(root)?.flatten() {
            let name = entry.file_name();
            let number =
                |it: &str| it.strip_prefix(".draft-").or_else(|| it.strip_prefix(".old-")).map(str::to_owned);
            let number = name.to_str().and_then(number);
            if number.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')) {
                remove(&entry.path());
            }
        }
        fs::create_dir_all(self.drafts())?;
        sync_folder(&self.own)?;
        sync_folder(root)?;
        // Sync the folder above, too, because the data folder itself may be new.
        match root.parent() {
            Some(it) if it.as_os_str().is_empty() => sync_folder(Path::new(".")),
            Some(it) => sync_folder(it),
            None => Ok(()),
        }
    }

    /// Moves the old checkpoint of an interrupted replacement back to its name, unless the new checkpoint has that name
    /// already.
    fn restore_moved(&self, root: &Path) -> io::Result<()> {
        let moved = self.moved();
        let within = |it: &Path| fs::read_dir(it).into_iter().flatten().flatten().map(|it| it.path());
        for run in within(&moved) {
            for kind in within(&run) {
                for folder in within(&kind) {
                    let Ok(name) = folder.strip_prefix(&moved) else { continue };
                    let home = root.join(name);
                    if !home.exists() {
                        fs::rename(&folder, &home)?;
                        if let Some(it) = home.parent() {
                            sync_folder(it)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Removes the empty folders of runs whose first save or last deletion was interrupted.
fn remove_empty_runs(root: &Path) {
    let is_run = |path: &Path| {
        let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
        name.contains("_train_") || name.contains("_copy_")
    };
    let folders = fs::read_dir(root).into_iter().flatten().flatten().map(|it| it.path());
    for run in folders.filter(|it| is_run(it)) {
        // The system refuses to remove a folder that is not empty.
        for folder in Kind::ALL.iter().map(|it| run.join(it.segment())).chain([run.clone()]) {
            let _ = fs::remove_dir(folder);
        }
    }
}
