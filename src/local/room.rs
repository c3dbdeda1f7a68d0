//! Limit of the disk space of the data folder ([`Options::max_disk_bytes`](super::Options::max_disk_bytes)).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Disk space of a data folder, with or without a limit.
#[derive(Debug)]
pub(super) struct Room {
    limit: Option<Limit>,
    /// Bytes that are being written or are in the scratch file.
    reserved: AtomicU64,
}

#[derive(Debug)]
struct Limit {
    max: u64,
    root: PathBuf,
    /// Folder of files whose space is reserved, and of files that are being deleted. It is not counted.
    drafts: PathBuf,
}

/// Refusal to write bytes, with the reason.
#[derive(Debug)]
pub(super) struct Full(pub(super) String);

/// Disk space that counts as used until this value is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    pub(super) fn unlimited() -> Self {
        Room { limit: None, reserved: AtomicU64::new(0) }
    }

    /// Limits the space of the folder `root` without its subfolder `drafts`, together with all reserved space.
    pub(super) fn limited(max: u64, root: PathBuf, drafts: PathBuf) -> Self {
        Room { limit: Some(Limit { max, root, drafts }), reserved: AtomicU64::new(0) }
    }

    /// Reserves space before anything is written.
    ///
    /// # Errors
    /// The space would exceed the limit. `what` says what is not done.
    pub(super) fn reserve(
        self: &Arc<Self>,
        bytes: u64,
        what: impl FnOnce() -> String,
    ) -> Result<Reserved, Full> {
        let before = self.reserved.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Reserved { room: self.clone(), bytes };
        if let Some(Limit { max, root, drafts }) = &self.limit {
            // Counted anew each time, because users may change the folder by hand.
            let used = size_of(root, drafts).saturating_add(before);
            if *max < used.saturating_add(bytes) {
                return Err(Full(format!(
                    "{}: it needs {bytes} bytes, and {} of the {max} bytes that Options::max_disk_bytes allows are \
                     free; delete checkpoints, or raise the limit",
                    what(),
                    max.saturating_sub(used)
                )));
            }
        }
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of all files in a folder, without those in `skipped`. Links are not followed.
fn size_of(folder: &Path, skipped: &Path) -> u64 {
    let mut sum = 0u64;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(it) if it.is_dir() && entry.path() != *skipped => folders.push(entry.path()),
                Ok(it) if it.is_file() => sum = sum.saturating_add(it.len()),
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn files_and_reservations_count_but_drafts_do_not() {
        let root = std::env::temp_dir().join(format!("tinkex-room-{}", std::process::id()));
        let drafts = root.join("own/drafts");
        fs::create_dir_all(&drafts).expect("a folder");
        fs::create_dir_all(root.join("run")).expect("a folder");
        fs::write(root.join("run/file"), [0; 60]).expect("a file");
        fs::write(drafts.join("file"), [0; 1000]).expect("a file");
        let room = Arc::new(Room::limited(100, root.clone(), drafts));
        let reserve = |bytes| room.reserve(bytes, || "cannot save x".into());
        let error = reserve(41).expect_err("too much").0;
        assert!(error.starts_with("cannot save x: it needs 41 bytes, and 40 of the 100 bytes"), "{error}");
        let first = reserve(30).expect("room");
        let error = reserve(11).expect_err("too much").0;
        assert!(error.contains("10 of the 100"), "{error}");
        drop((first, reserve(10).expect("room")));
        drop(reserve(40).expect("room"));
        fs::remove_file(root.join("run/file")).expect("deleting by hand");
        drop(reserve(100).expect("room"));
        assert!(reserve(u64::MAX).is_err());
        drop(Arc::new(Room::unlimited()).reserve(u64::MAX, String::new).expect("room"));
        fs::remove_dir_all(&root).expect("cleaning up");
    }
}
