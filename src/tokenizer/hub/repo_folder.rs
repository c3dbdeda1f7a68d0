//! The folder of one repository in the cache, as the libraries of Hugging Face lay it out: `blobs/ETAG` has the
//! contents of a file, `snapshots/COMMIT/NAME` is a symbolic link to it, `refs/BRANCH` has the commit of a branch, and
//! `.no_exist/COMMIT/NAME` says that a commit has no such file.
//!
//! Each file gets its name only after its contents are complete and on the disk. Several processes may write the same
//! folder: a rename replaces a file with an equal one.

use std::fs::{self, File};
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::hf_cache;

/// The folder `models--ORGANISATION--NAME`.
#[derive(Debug)]
pub(super) struct RepoFolder {
    folder: PathBuf,
}

impl RepoFolder {
    pub(super) fn new(folder: PathBuf) -> Self {
        RepoFolder { folder }
    }

    /// The folder with the files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit of a revision, if it is known here.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        hf_cache::commit(&self.folder, revision)
    }

    /// True if a file of a commit is here. A link whose target is gone does not count.
    pub(super) fn has(&self, commit: &str, name: &str) -> bool {
        self.snapshot(commit).join(name).is_file()
    }

    /// True if a commit is known to have no such file.
    pub(super) fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.absence(commit, name).exists()
    }

    /// Records that a commit has no such file.
    pub(super) fn set_absent(&self, commit: &str, name: &str) -> Result<()> {
        let path = self.absence(commit, name);
        if path.exists() { Ok(()) } else { write(&path, b"") }
    }

    /// True if the contents of a file are here, under the name that the hub gives them.
    pub(super) fn has_blob(&self, name: &str, metadata: &Metadata) -> bool {
        fs::metadata(self.blob(name)).is_ok_and(|it| it.is_file() && metadata.fits(it.len()))
    }

    /// Writes the contents of a file.
    pub(super) fn put_blob(&self, name: &str, contents: &[u8]) -> Result<()> {
        write(&self.blob(name), contents)
    }

    /// Gives the contents of a file their name in a commit.
    pub(super) fn link(&self, commit: &str, name: &str, blob: &str) -> Result<()> {
        self.link_by(symlink, commit, name, blob)
    }

    fn link_by(
        &self,
        symlink: impl FnOnce(&Path, &Path) -> io::Result<()>,
        commit: &str,
        name: &str,
        blob: &str,
    ) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        let target = Path::new("..").join("..").join("blobs").join(blob);
        match symlink(&target, &path) {
            Ok(()) => Ok(()),
            // Not every file system has symbolic links, and Windows wants a permission for them: copy.
            Err(error) => {
                log::debug!(target: "tinkex", "no symbolic link {}: {error}; the file is copied", path.display());
                let blob = self.blob(blob);
                let contents = fs::read(&blob).map_err(|error| system("read", &blob, &error))?;
                write(&path, &contents)
            }
        }
    }

    /// Records the commit of a branch.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.folder.join("refs").join(revision), commit.as_bytes())
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    fn absence(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(name)
    }
}

/// A file under a name of its own, which is removed unless it gets its final name.
struct Draft {
    path: PathBuf,
    is_kept: bool,
}

impl Draft {
    /// A new name beside `path`. Unlike the names of other libraries, it is never continued or read by anyone.
    fn beside(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let own = format!(".{name}.{}-{:016x}.incomplete", std::process::id(), fastrand::u64(..));
        Draft { path: path.with_file_name(own), is_kept: false }
    }

    fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // Fails if the file was not created.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a file in one step: at any time its name has the whole contents or is not there.
fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(|error| system("create", folder, &error))?;
    let draft = Draft::beside(path);
    let written = File::create_new(&draft.path).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    written.and_then(|()| draft.rename(path)).map_err(|error| system("write", path, &error))
}

/// Makes a symbolic link, or replaces one, in one step.
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    let draft = Draft::beside(path);
    #[cfg(unix)]
    std::os::unix::fs::symlink(target, &draft.path)?;
    #[cfg(windows)]
    std::os::windows::fs::symlink_file(target, &draft.path)?;
    #[cfg(not(any(unix, windows)))]
    return Err(IoErrorKind::Unsupported.into());
    #[cfg(any(unix, windows))]
    draft.rename(path)
}

/// The error of a file that cannot be read or written.
fn system(verb: &str, path: &Path, error: &io::Error) -> Error {
    let help = match error.kind() {
        IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded => {
            "; free space, or set HF_HUB_CACHE or HF_HOME to a folder on another disk"
        }
        IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem | IoErrorKind::NotADirectory => {
            "; set HF_HUB_CACHE or HF_HOME to a folder in which this program may write"
        }
        _ => "",
    };
    Error::new(ErrorKind::System, format!("cannot {verb} {}: {error}{help}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_folder_without_permission_are_named_with_a_way_out() {
        for (kind, help) in [
            (IoErrorKind::StorageFull, "free space"),
            (IoErrorKind::ReadOnlyFilesystem, "HF_HUB_CACHE"),
            (IoErrorKind::PermissionDenied, "HF_HUB_CACHE"),
        ] {
            let error = system("write", Path::new("/c/blobs/x"), &kind.into());
            let text = error.to_string();
            assert!(text.starts_with("cannot write /c/blobs/x: ") && text.contains(help), "{text}");
            assert_eq!(error.kind(), &ErrorKind::System);
        }
    }

    #[test]
    fn where_links_are_impossible_the_contents_are_copied() {
        let folder = std::env::temp_dir().join(format!("tinkex-hub-copy-{}", std::process::id()));
        let repo = RepoFolder::new(folder.clone());
        repo.put_blob("abc", b"contents").unwrap();
        let refused = |_: &Path, _: &Path| Err(IoErrorKind::PermissionDenied.into());
        repo.link_by(refused, "c", "a", "abc").unwrap();
        let name = repo.snapshot("c").join("a");
        assert_eq!(fs::read(&name).unwrap(), b"contents");
        assert!(!name.is_symlink());
        // A link replaces it.
        repo.link("c", "a", "abc").unwrap();
        assert_eq!(name.is_symlink(), cfg!(unix));
        assert_eq!(fs::read(&name).unwrap(), b"contents");
        let left: Vec<_> = fs::read_dir(repo.snapshot("c")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
