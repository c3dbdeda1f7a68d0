//! The lock of a run's folder, which keeps a second process out.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::path::Path;

use super::log_file::file_error;
use crate::error::{Error, Result};

/// Holds an advisory lock (`flock` on Unix) on the file `.lock` of a run's folder. The operating system releases it when
/// the process ends, also when it is killed, so that a lock never has to be removed by a person.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks the folder, which must exist.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|error| file_error("open", &path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Some systems do not let another process read a locked file; then the error does not name the process.
                let _ = file.read_to_string(&mut holder);
                let holder =
                    holder.trim().parse().map_or(String::new(), |id: u32| format!(" (process {id})"));
                return Err(Error::config(format!(
                    "the run {} is being written by another process or another `Run`{holder}: stop that one, or use \
                     another folder",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(error)) if error.kind() == IoErrorKind::Unsupported => {
                log::warn!("{} cannot be locked: a second process would not be refused", folder.display());
            }
            Err(TryLockError::Error(error)) => return Err(file_error("lock", &path, &error)),
        }
        // The process id is informative only, so a failure to write it is ignored.
        let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(RunLock { _file: file })
    }
}
