//! Scratch file for data that would take too much memory and are not needed after the process ends. The one file has no
//! name (where the system allows that) and is divided into parts.
//!
//! A freed part is reused for a new part of the same length. When the last part is freed, the file is closed, which
//! frees its disk space.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::checkpoint::StoreError;
use super::room::{Reserved, Room};

/// Allocates parts of the file.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    room: Arc<Room>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<Arc<File>>,
    end: u64,
    /// Offsets of free parts, by length.
    free: HashMap<u64, Vec<u64>>,
    used: usize,
    /// Disk space of the file.
    room: Vec<Reserved>,
}

/// A part of the file, which is freed on drop.
#[derive(Debug)]
pub(super) struct Part {
    inner: Arc<Mutex<Inner>>,
    file: Arc<File>,
    at: u64,
    len: u64,
}

impl Scratch {
    /// Creates the scratch space; its file is made in `folder` when it is first needed. If the system cannot unlink an
    /// open file, the next engine on that folder deletes the file.
    pub(super) fn new(folder: PathBuf, room: Arc<Room>) -> Self {
        Scratch { folder, room, inner: Arc::default() }
    }

    /// Writes bytes to a new part. The file is not synced, because the bytes are not needed after this process ends.
    ///
    /// # Errors
    /// The file cannot be written, or would exceed the limit of the disk space.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<Part, StoreError> {
        let len = bytes.len() as u64;
        let known = self.inner.lock().file.clone();
        let file = match known {
            Some(it) => it,
            None => Arc::new(self.file().map_err(|it| disk(&it))?),
        };
        let part = match self.take(&file, len, None) {
            Some(it) => Some(it),
            None => {
                let room = self.room.reserve(len, || "cannot keep the weights of a sampler".into())?;
                self.take(&file, len, Some(room))
            }
        };
        // Always there, because a part can be taken with its room.
        let part = part.ok_or_else(|| disk(&io::ErrorKind::StorageFull.into()))?;
        write_at(&part.file, bytes, part.at).map_err(|it| disk(&it))?;
        Ok(part)
    }

    /// Takes a free part of this length, or a new one at the end of the file if there is `room` for it. If there is no
    /// current file (this is the first part, or all parts were freed meanwhile), `file` becomes the current file.
    fn take(&self, file: &Arc<File>, len: u64, room: Option<Reserved>) -> Option<Part> {
        let mut inner = self.inner.lock();
        let at = match (inner.free.get_mut(&len).and_then(Vec::pop), room) {
            (Some(at), _) => at,
            (None, Some(room)) => {
                inner.room.push(room);
                inner.end += len;
                inner.end - len
            }
            (None, None) => return None,
        };
        let file = inner.file.get_or_insert_with(|| file.clone()).clone();
        inner.used += 1;
        Some(Part { inner: self.inner.clone(), file, at, len })
    }

    /// Creates a file and unlinks it where the system allows it, so that the system deletes it even if the process is
    /// killed.
    fn file(&self) -> io::Result<File> {
        let path = self.folder.join(format!("scratch-{:016x}", fastrand::u64(..)));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        if cfg!(unix) {
            fs::remove_file(&path)?;
        }
        Ok(file)
    }
}

impl Part {
    /// Reads the bytes of the part.
    pub(super) fn read(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; self.len as usize];
        read_at(&self.file, &mut bytes, self.at).map_err(|it| disk(&it))?;
        Ok(bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        inner.used -= 1;
        inner.free.entry(self.len).or_default().push(self.at);
        if inner.used == 0 {
            // The file itself is closed when the last part drops its handle, after the lock is released.
            *inner = Inner::default();
        }
    }
}

fn disk(error: &io::Error) -> StoreError {
    StoreError::of(error, format!("the engine's scratch file: {error}"))
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => (bytes, at) = (&bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, at) = (&mut bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_bytes_and_freed_parts_are_reused() {
        let folder = std::env::temp_dir().join(format!("tinkex-scratch-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let scratch = Scratch::new(folder.clone(), Arc::new(Room::unlimited()));
        let a = scratch.put(b"first").expect("room");
        let b = scratch.put(b"other").expect("room");
        let c = scratch.put(b"longer than those").expect("room");
        assert_eq!(a.read().expect("bytes"), b"first");
        drop(a);
        let d = scratch.put(b"again").expect("room");
        assert_eq!((d.at, scratch.inner.lock().end), (0, 27));
        for (part, bytes) in [(&b, &b"other"[..]), (&c, b"longer than those"), (&d, b"again")] {
            assert_eq!(part.read().expect("bytes"), bytes);
        }
        if cfg!(unix) {
            assert_eq!(
                fs::read_dir(&folder).expect("the folder").count(),
                0,
                "a killed process leaves no file"
            );
        }
        drop((b, c, d));
        assert!(scratch.inner.lock().file.is_none() && scratch.inner.lock().end == 0);
        assert_eq!(scratch.put(b"anew").expect("room").read().expect("bytes"), b"anew");
        fs::remove_dir_all(&folder).expect("cleaning up");
    }
}
