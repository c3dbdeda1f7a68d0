//! File operations: private folders, exchanging two names in one step, and writing files that survive a power failure.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Creates a folder; on Unix, only its owner may use it. If `known` is true, missing parents are created, and it is no
/// error if the folder exists already.
pub(super) fn make_folder(path: &Path, known: bool) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(known);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|it| format!("cannot create {}: {it}", path.display()))
}

/// Writes a new file. When this returns, its contents are on the disk, but its name is not: sync the folder for that.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Syncs the names of the files in a folder to the disk. Does nothing on file systems that cannot sync folders.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match fs::File::open(path)?.sync_all() {
        Err(it) if matches!(it.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

/// Exchanges two names in one step, so that each name exists at all times. Returns `false` if the system or the file
/// system cannot do that.
pub(super) fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            // Some kernels do not have this system call, and some file systems do not support this flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    {
        let _ = (a, b);
        Ok(false)
    }
}

/// A folder or file that is removed on drop: a draft (a checkpoint that is still being written), or a checkpoint that
/// was replaced or deleted.
#[derive(Debug)]
pub(super) struct TempPath(pub(super) PathBuf);

impl Drop for TempPath {
    fn drop(&mut self) {
        // If the removal fails, the next engine that opens the data folder removes the path.
        remove(&self.0);
    }
}

/// Removes a file or folder, if it exists; logs a failure.
pub(super) fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(it) if it.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}
