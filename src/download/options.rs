//! Settings and result of a download.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::progress::{Callback, DownloadProgress};
use crate::error::{Error, Result};
use crate::sync::CancelToken;
use crate::types::CheckpointPath;

/// Settings of [`RestClient::download`](crate::RestClient::download).
///
/// | setting | default |
/// |---|---|
/// | [`destination`](Self::destination) | in `parent`, the path of the checkpoint with `_` for `/`, and `.tar` for an archive |
/// | [`parent`](Self::parent) | the current folder |
/// | [`force`](Self::force) | false: an existing destination is an error |
/// | [`resume`](Self::resume) | true |
/// | [`concurrency`](Self::concurrency) | 4 files at a time |
/// | [`as_tar`](Self::as_tar) | false: a folder with the files |
/// | [`stall`](Self::stall) | 60 s |
///
/// # Example: the settings of a program with its own progress bar
/// ```
/// use tinkex::download::DownloadOptions;
///
/// let options = DownloadOptions::default()
///     .destination("adapters/pig-latin")
///     .force(true)
///     .on_progress(|progress| println!("{} of {:?} bytes", progress.n_bytes, progress.total_bytes));
/// # let _ = options;
/// ```
#[derive(Clone)]
#[must_use]
pub struct DownloadOptions {
    destination: Option<PathBuf>,
    parent: PathBuf,
    pub(super) force: bool,
    pub(super) resume: bool,
    pub(super) concurrency: usize,
    pub(super) as_tar: bool,
    pub(super) stall: Duration,
    pub(super) cancel: Option<CancelToken>,
    pub(super) callback: Option<Callback>,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        DownloadOptions {
            destination: None,
            parent: PathBuf::from("."),
            force: false,
            resume: true,
            concurrency: 4,
            as_tar: false,
            stall: Duration::from_secs(60),
            cancel: None,
            callback: None,
        }
    }
}

impl DownloadOptions {
    /// Sets the folder that is made, or with [`as_tar`](Self::as_tar) the file. The folder above it is created if it
    /// does not exist.
    pub fn destination(mut self, path: impl Into<PathBuf>) -> Self {
        self.destination = Some(path.into());
        self
    }

    /// Sets the folder in which the destination gets its default name.
    pub fn parent(mut self, path: impl Into<PathBuf>) -> Self {
        self.parent = path.into();
        self
    }

    /// Sets whether an existing destination is replaced, after the download is complete.
    pub fn force(mut self, yes: bool) -> Self {
        self.force = yes;
        self
    }

    /// Sets whether what an earlier download of the same checkpoint left behind is continued. Otherwise it is discarded.
    pub fn resume(mut self, yes: bool) -> Self {
        self.resume = yes;
        self
    }

    /// Sets how many files of exported weights are downloaded at the same time. An archive is one file.
    pub fn concurrency(mut self, n_files: usize) -> Self {
        self.concurrency = n_files;
        self
    }

    /// Sets whether the archive itself is kept, as the server sends it, instead of a folder with its content. Only for
    /// servers that make archives.
    pub fn as_tar(mut self, yes: bool) -> Self {
        self.as_tar = yes;
        self
    }

    /// Sets the longest time without a byte, after which the connection is given up and a new one made.
    pub fn stall(mut self, limit: Duration) -> Self {
        self.stall = limit;
        self
    }

    /// Sets a token that ends the download. What has arrived is kept for a later download.
    pub fn cancelled_by(mut self, cancel: &CancelToken) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Sets a function that is told how far the download is: at each change of the phase, and about ten times a second.
    /// Different threads may call it, but never two at the same time. A panic in it is logged and otherwise ignored.
    pub fn on_progress(mut self, tell: impl Fn(&DownloadProgress) + Send + Sync + 'static) -> Self {
        self.callback = Some(Arc::new(tell));
        self
    }

    /// Where the download of a checkpoint goes.
    pub fn destination_of(&self, path: &CheckpointPath) -> PathBuf {
        self.destination.clone().unwrap_or_else(|| {
            let text = path.as_str();
            let mut name = text.strip_prefix("tinker://").unwrap_or(text).replace('/', "_");
            // The program `tar` takes what stands before a colon for the name of a machine.
            if cfg!(windows) || self.as_tar {
                name = name.replace(':', "_");
            }
            if self.as_tar {
                name.push_str(".tar");
            }
            self.parent.join(name)
        })
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.concurrency == 0 {
            return Err(Error::invalid("concurrency", "is 0"));
        }
        if self.stall.is_zero() {
            return Err(Error::invalid("stall", "is 0"));
        }
        Ok(())
    }
}

impl fmt::Debug for DownloadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadOptions")
            .field("destination", &self.destination)
            .field("parent", &self.parent)
            .field("force", &self.force)
            .field("resume", &self.resume)
            .field("concurrency", &self.concurrency)
            .field("as_tar", &self.as_tar)
            .field("stall", &self.stall)
            .finish_non_exhaustive()
    }
}

/// A downloaded checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Downloaded {
    /// The checkpoint.
    pub path: CheckpointPath,
    /// The folder, or the archive.
    pub destination: PathBuf,
    /// Size of the files, or of the archive, in bytes.
    pub size_bytes: u64,
    /// Number of files; 1 for an archive.
    pub n_files: usize,
}
