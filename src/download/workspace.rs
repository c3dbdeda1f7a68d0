//! The folder beside the destination that holds what has arrived: `<destination>.part`, with the files, a record of the
//! version of each, and the identity of the download. It survives the process, so that a later one can go on.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::download::Version;

/// The folder of one download. Locked against other processes.
#[derive(Debug)]
pub(super) struct Workspace {
    destination: PathBuf,
    folder: PathBuf,
    /// `None` while the folder is removed.
    lock: Option<File>,
}

/// What is being downloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) checkpoint: String,
    /// The export of the checkpoint that is downloaded in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) export: Option<String>,
    #[serde(default)]
    pub(super) files: Vec<String>,
}

/// The version of a file whose beginning is on the disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    etag: Option<String>,
    last_modified: Option<String>,
    size: Option<u64>,
    pub(super) digest: Option<String>,
}

impl Record {
    pub(super) fn new(version: Version, digest: Option<String>) -> Self {
        let Version { etag, last_modified, size } = version;
        Record { etag, last_modified, size, digest }
    }

    pub(super) fn version(&self) -> Version {
        Version { etag: self.etag.clone(), last_modified: self.last_modified.clone(), size: self.size }
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    pub(super) fn set_size(&mut self, size: u64) {
        self.size = Some(size);
    }
}

/// The error of a file or a folder.
pub(super) fn disk(action: &str, path: &Path, error: &io::Error) -> Error {
    let more = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; what has arrived is kept: free some space and repeat the download"
        }
        io::ErrorKind::FileTooLarge => {
            "; what has arrived is kept: the file system, or a limit of the process (ulimit -f), takes no larger files"
        }
        _ => "",
    };
    Error::new(ErrorKind::System, format!("cannot {action} {}: {error}{more}", path.display()))
}

fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Workspace {
    const IDENTITY: &str = "download.json";
    const LOCK: &str = "lock";
    const FILES: &str = "files";
    const UNPACKED: &str = "unpacked";
    const REPLACED: &str = "replaced";

    /// Opens or creates the folder of a download to this destination.
    pub(super) fn open(destination: PathBuf, force: bool) -> Result<Self> {
        let Some(name) = destination.file_name() else {
            return Err(Error::invalid("destination", format!("{} has no name", destination.display())));
        };
        let mut part = name.to_owned();
        part.push(".part");
        let folder = destination.with_file_name(part);
        let is_there = fs::symlink_metadata(&folder).is_ok();
        let replaced = folder.join(Self::REPLACED);
        if is_there && !folder.join(Self::IDENTITY).is_file() {
            // A process may have been killed before it wrote what it downloads.
            let is_new = |mut entries: fs::ReadDir| {
                entries.all(|entry| entry.is_ok_and(|it| it.file_name() == Self::LOCK))
            };
            if !fs::read_dir(&folder).is_ok_and(is_new) {
                let text = format!("{} exists and is not the part of a download", folder.display());
                return Err(Error::invalid("destination", text));
            }
        }
        fs::create_dir_all(&folder).map_err(|error| disk("create", &folder, &error))?;
        let path = folder.join(Self::LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| disk("create", &path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("{} is in use by another download", destination.display());
                return Err(Error::invalid("destination", text));
            }
            // Some file systems have no locks.
            Err(TryLockError::Error(error)) => {
                log::debug!(target: "tinkex", "{} cannot be locked: {error}", path.display());
            }
        }
        let workspace = Workspace { destination, folder, lock: Some(lock) };
        // A process was killed after it had moved the old state away and before the new one was in its place.
        if !workspace.destination.exists() && replaced.exists() {
            fs::rename(&replaced, &workspace.destination)
                .map_err(|error| disk("restore", &workspace.destination, &error))?;
        }
        if !force && workspace.is_occupied() {
            let text =
                format!("{} exists; remove it, or ask for its replacement", workspace.destination.display());
            if !is_there {
                workspace.remove();
            }
            return Err(Error::invalid("destination", text));
        }
        Ok(workspace)
    }

    /// True if the destination exists and is not an empty folder.
    fn is_occupied(&self) -> bool {
        match fs::symlink_metadata(&self.destination) {
            Err(_) => false,
            Ok(it) if it.is_dir() => {
                fs::read_dir(&self.destination).map_or(true, |mut entries| entries.next().is_some())
            }
            Ok(_) => true,
        }
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        serde_json::from_slice(&fs::read(self.folder.join(Self::IDENTITY)).ok()?).ok()
    }

    pub(super) fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.write(&self.folder.join(Self::IDENTITY), identity)
    }

    /// Forgets all that has arrived.
    pub(super) fn clear(&self) -> Result<()> {
        for name in [Self::FILES, "records", Self::UNPACKED] {
            let path = self.folder.join(name);
            ignore_absence(fs::remove_dir_all(&path)).map_err(|error| disk("remove", &path, &error))?;
        }
        Ok(())
    }

    /// Where a file of the checkpoint is, whose name was checked. Its folders are created.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(Self::FILES).join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|error| disk("create", parent, &error))?;
        Ok(path)
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.folder.join("records").join(format!("{}.json", digest::sha256(name)))
    }

    pub(super) fn record(&self, name: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(name)).ok()?).ok()
    }

    pub(super) fn set_record(&self, name: &str, record: &Record) -> Result<()> {
        self.write(&self.record_path(name), record)
    }

    pub(super) fn forget_record(&self, name: &str) -> Result<()> {
        let path = self.record_path(name);
        ignore_absence(fs::remove_file(&path)).map_err(|error| disk("remove", &path, &error))
    }

    /// Writes JSON so that the file always has the old or the new content.
    fn write(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::System, format!("the record of the download cannot be written: {error}"))
        })?;
        let new = path.with_extension("new");
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&new, json))
            .and_then(|()| fs::rename(&new, path))
            .map_err(|error| disk("write", path, &error))
    }

    /// An empty folder for the content of an archive.
    pub(super) fn new_unpacked(&self) -> Result<PathBuf> {
        let path = self.folder.join(Self::UNPACKED);
        ignore_absence(fs::remove_dir_all(&path))
            .and_then(|()| fs::create_dir(&path))
            .map_err(|error| disk("create", &path, &error))?;
        Ok(path)
    }

    pub(super) fn remove_unpacked(&self) {
        let _ = fs::remove_dir_all(self.folder.join(Self::UNPACKED));
    }

    /// The folder of the files themselves.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join(Self::FILES)
    }

    /// Puts the result, a file or a folder in the folder of this download, in its place, and removes the folder.
    pub(super) fn finish(self, result: &Path) -> Result<()> {
        let destination = &self.destination;
        let failed = |error: &io::Error| disk("write", destination, error);
        let replaced = self.folder.join(Self::REPLACED);
        let is_there = fs::symlink_metadata(destination).is_ok();
        if is_there {
            if replaced.is_dir() {
                let _ = fs::remove_dir_all(&replaced);
            }
            fs::rename(destination, &replaced).map_err(|error| failed(&error))?;
        }
        if let Err(error) = fs::rename(result, destination) {
            if is_there {
                let _ = fs::rename(&replaced, destination);
            }
            return Err(failed(&error));
        }
        self.remove();
        Ok(())
    }

    /// Removes the folder. What cannot be removed does no harm.
    pub(super) fn remove(mut self) {
        // Some systems do not remove a folder with an open file.
        self.lock = None;
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::warn!(target: "tinkex", "{} cannot be removed: {error}", self.folder.display());
        }
    }
}
