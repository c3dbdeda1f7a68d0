//! One engine at a time on a data folder, and what an engine that was killed left there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::disk::{remove, sync_folder};

/// Where an engine keeps what is no checkpoint, below its data folder.
const OWN: &str = ".tinkex";

/// The right to use a data folder. The system takes it back when it is dropped, and when the process is killed.
#[derive(Debug)]
pub(super) struct Lease {
    own: PathBuf,
    _lock: File,
}

impl Lease {
    /// Takes a data folder, which is made if it is not there, and clears what an earlier engine left half done.
    ///
    /// # Errors
    /// Another engine uses the folder, or it cannot be written to.
    pub(super) fn take(root: &Path) -> Result<Self, String> {
        let own = root.join(OWN);
        let cannot =
            |doing: &str, path: &Path, it: io::Error| format!("cannot {doing} {}: {it}", path.display());
        fs::create_dir_all(&own).map_err(|it| cannot("create", &own, it))?;
        let path = own.join("lock");
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = opened.map_err(|it| cannot("open", &path, it))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Whoever has it wrote its number; some systems do not let others read a locked file.
                let _ = lock.read_to_string(&mut holder);
                let holder =
                    holder.trim().parse().map_or(String::new(), |it: u32| format!(" (process {it})"));
                let folder = root.display();
                return Err(format!(
                    "the data folder {folder} is in use by another engine{holder}: two would spoil each other's \
                     checkpoints; stop that one or use another folder"
                ));
            }
            Err(TryLockError::Error(it)) if it.kind() == io::ErrorKind::Unsupported => {
                log::warn!("{} cannot be locked: nothing keeps a second engine off it", root.display());
            }
            Err(TryLockError::Error(it)) => return Err(cannot("lock", &path, it)),
        }
        // For people only; that it could not be written changes nothing.
        let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
        let lease = Lease { own, _lock: lock };
        lease.clear(root).map_err(|it| format!("cannot clear {}: {it}", root.display()))?;
        Ok(lease)
    }

    /// Where all that is.
    pub(super) fn folder(&self) -> &Path {
        &self.own
    }

    /// Where drafts are written, and where goes what is deleted.
    pub(super) fn drafts(&self) -> PathBuf {
        self.own.join("drafts")
    }

    /// Where a checkpoint waits while its name changes hands, if that takes two steps.
    pub(super) fn moved(&self) -> PathBuf {
        self.own.join("moved")
    }

    fn clear(&self, root: &Path) -> io::Result<()> {
        self.put_back(root)?;
        remove(&self.moved());
        remove(&self.drafts());
        // Earlier versions wrote beside the checkpoints.
        for entry in fs::read_dir(root)?.flatten() {
            let name = entry.file_name();
            let number =
                |it: &str| it.strip_prefix(".draft-").or_else(|| it.strip_prefix(".old-")).map(str::to_owned);
            let number = name.to_str().and_then(number);
            if number.is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit() || it == b'-')) {
                remove(&entry.path());
            }
        }
        fs::create_dir_all(self.drafts())?;
        sync_folder(&self.own)?;
        sync_folder(root)?;
        // The folder itself may be new.
        match root.parent() {
            Some(it) if it.as_os_str().is_empty() => sync_folder(Path::new(".")),
            Some(it) => sync_folder(it),
            None => Ok(()),
        }
    }

    /// Gives checkpoints their names back that were taken in the first of two steps, unless the second was done, too.
    fn put_back(&self, root: &Path) -> io::Result<()> {
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
