//! The download of checkpoints to the disk: [`RestClient::download`].
//!
//! # What arrives
//! A folder with the files of the checkpoint, or with [`DownloadOptions::as_tar`] the archive that the server sends. What
//! is incomplete is in the folder `<destination>.part` beside it. The destination appears in one step, when all files
//! are complete and checked, so that a destination is never incomplete.
//!
//! # Guarantees
//! - Files go to the disk piece by piece, so that the memory does not depend on their size.
//! - After a broken connection, a stall or the end of the process, the download continues where it stopped, if the
//!   storage server supports ranges and identifies versions of files by a strong `ETag` or a date. If the file has
//!   changed meanwhile, it is downloaded from its start: two versions are never mixed.
//! - Addresses of files expire. They are replaced a few minutes before, and after the storage refuses one.
//! - The size of each file is checked, and its digest if the storage states one: SHA-256, CRC-32C or CRC-32 in the
//!   headers `Repr-Digest`, `Digest`, `x-amz-checksum-*` or `x-goog-hash`.
//! - Storage servers do not get the credential. Addresses, which grant access, occur in no error and no log.
//! - Names of files come from the server. A name that leads out of the folder, or that some operating system reads
//!   otherwise, fails the download, as do links, devices and pipes in an archive. Nothing of such an archive is kept.
//!
//! | module | content |
//! |---|---|
//! | `options`, `progress` | settings and result; what the caller is told |
//! | `addresses`, `export` | the addresses of files; exports for servers without archives |
//! | `storage`, `transfer` | one request; one file, over several attempts |
//! | `workspace`, `digest` | the folder `.part`; digests |
//! | `names`, `tar`, `unpack` | which names are accepted; reading and unpacking archives |

mod addresses;
mod digest;
mod export;
mod names;
mod options;
mod progress;
mod storage;
mod tar;
mod transfer;
mod unpack;
mod workspace;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use crate::client::RestClient;
use crate::error::{Error, Result};
use crate::sync::cancel::Wake;
use crate::sync::{CancelToken, Clock, Mutex, spawn, unwind};
use crate::types::CheckpointPath;

pub use options::{DownloadOptions, Downloaded};
pub use progress::{DownloadPhase, DownloadProgress};

use addresses::{ARCHIVE, Addresses, Source};
use progress::Progress;
use storage::Storage;
use transfer::{Shared, transfer};
use workspace::{Identity, Workspace};

impl RestClient {
    /// Downloads a checkpoint to the disk (PROTOCOL §3.5 #33, #34 and §9.10); see [`download`](crate::download) for what
    /// is guaranteed.
    ///
    /// Exported weights are downloaded file by file. Of other checkpoints the server makes an archive, which is
    /// unpacked. If the server makes no archives, as the Tinker service, a training state is exported first: the service
    /// client opens its session, loads the state into a new training run, and exports its weights for one hour.
    /// Weights for sampling cannot be downloaded from such a server.
    ///
    /// # Errors
    /// A destination that exists, or is in use by another download (nothing is sent);
    /// [`NotFound`](crate::ErrorKind::NotFound), also for weights for sampling on a server without archives;
    /// [`Cancelled`](crate::ErrorKind::Cancelled); [`System`](crate::ErrorKind::System) if the disk is full or a file
    /// cannot be written; [`Decode`](crate::ErrorKind::Decode) for an archive or a name that is refused, a digest that
    /// does not match, and a file that keeps changing; the failure of the last attempt if eight attempts in a row
    /// brought less than 64 KiB each, or if the storage refused three new addresses in a row; and as for [`RestClient`].
    /// After an error the old destination is untouched, and what has arrived is kept, except for a refused archive.
    ///
    /// # Blocking
    /// Until all files have arrived, without a limit of the whole. An attempt ends if no byte arrives for
    /// [`stall`](DownloadOptions::stall). An export takes at most `Timeouts::operation` for each of its two
    /// operations. [`DownloadOptions::cancelled_by`] and [`ServiceClient::close`](crate::ServiceClient::close) end the
    /// download.
    ///
    /// # Example: from training to a folder that other tools load
    /// ```
    /// # #[cfg(feature = "local")] {
    /// use tinkex::download::DownloadOptions;
    /// use tinkex::types::{LoraConfig, Ttl};
    ///
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let parent = std::env::temp_dir().join(format!("tinkex-download-{}", std::process::id()));
    /// let training = service.create_lora_training_client("tinkex/nano", LoraConfig::default())?;
    /// let saved = training.save_weights_external("release", Ttl::Never, &[]).wait()?;
    /// let options = DownloadOptions::default().destination(parent.join("release"));
    /// let downloaded = service.create_rest_client().download(saved.path, &options)?;
    /// assert!(downloaded.destination.join("adapter_config.json").is_file());
    /// # std::fs::remove_dir_all(parent).unwrap();
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn download<P>(&self, path: P, options: &DownloadOptions) -> Result<Downloaded>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        let path = path.try_into()?;
        options.check()?;
        let session = self.service().session();
        session.check_open()?;
        let cancel = self.cancel_token().child();
        let link: Arc<dyn Wake> = Arc::new(Cancels(cancel.clone()));
        let _link = options.cancel.as_ref().map(|it| it.on_cancel(link));
        let download = Download {
            rest: self.clone().cancelled_by(&cancel),
            progress: Arc::new(Progress::new(options.callback.clone())),
            path,
            options,
            cancel: &cancel,
        };
        let result = download.run();
        if result.is_err() && cancel.is_cancelled() {
            session.check_open()?;
            return Err(Error::cancelled());
        }
        result.map_err(|error| session.http.without_secrets(error))
    }
}

/// Cancels a token with another one that is not its parent.
struct Cancels(CancelToken);

impl Wake for Cancels {
    fn wake(&self) {
        self.0.cancel();
    }
}

/// One download.
struct Download<'a> {
    rest: RestClient,
    progress: Arc<Progress>,
    path: CheckpointPath,
    options: &'a DownloadOptions,
    cancel: &'a CancelToken,
}

impl Download<'_> {
    fn run(self) -> Result<Downloaded> {
        let destination = self.options.destination_of(&self.path);
        if self.options.as_tar && matches!(self.path, CheckpointPath::External(_)) {
            let problem = "is not possible for exported weights, which are not in an archive";
            return Err(Error::invalid("as_tar", problem));
        }
        let workspace = Workspace::open(destination.clone(), self.options.force)?;
        self.progress.enter(DownloadPhase::Preparing);
        let (source, addresses) = match self.prepare(&workspace) {
            Ok(it) => it,
            Err(error) => {
                // Without files and without an export there is nothing to continue.
                let has_export = workspace.identity().is_some_and(|it| it.export.is_some());
                if !has_export && !workspace.files().exists() {
                    workspace.remove();
                }
                return Err(error);
            }
        };
        let names = addresses.names();
        let files = Files::new(&self, workspace, addresses, &names);
        let (workspace, size_bytes) = files.download(self.options.concurrency)?;
        let result = match &source {
            Source::Archive(_) if self.options.as_tar => workspace.file(ARCHIVE)?,
            Source::Archive(_) => return self.unpack(workspace, destination),
            Source::Files { .. } => workspace.files(),
        };
        workspace.finish(&result)?;
        self.remove_export(&source);
        Ok(Downloaded { path: self.path, destination, size_bytes, n_files: names.len() })
    }

    /// Finds out what to download, and discards what is left of another download.
    fn prepare(&self, workspace: &Workspace) -> Result<(Source, Addresses)> {
        let old = workspace.identity().filter(|_| self.options.resume);
        let old = old.filter(|old| old.checkpoint == self.path.as_str());
        let clock = self.clock();
        let sign = |source: &Source| Addresses::sign(self.rest.clone(), clock.clone(), source.clone());
        let (source, addresses) = match &self.path {
            CheckpointPath::External(path) => {
                let source = Source::Files { path: path.clone(), is_temporary: false };
                let addresses = sign(&source)?;
                (source, addresses)
            }
            path => {
                let archive = Source::Archive(path.clone());
                match sign(&archive) {
                    Ok(addresses) => (archive, addresses),
                    Err(error) if error.is_not_found() || error.is_incompatible() => {
                        let export = self.export(workspace, old.as_ref(), error)?;
                        let addresses = sign(&export)?;
                        (export, addresses)
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let files = addresses.names();
        if files.is_empty() {
            return Err(Error::decode("the server names no files of the checkpoint"));
        }
        let mut known = names::Names::default();
        for name in &files {
            let checked = names::checked(name).and_then(|checked| {
                known.add(name, false)?;
                if checked.as_deref() == Some(name) { Ok(()) } else { Err("is not that of a file".into()) }
            });
            checked.map_err(|problem| {
                Error::decode(format!("the name of a file of the checkpoint {problem}"))
            })?;
        }
        let export = match &source {
            Source::Files { path, is_temporary: true } => Some(path.as_str().to_owned()),
            _ => None,
        };
        let identity = Identity { checkpoint: self.path.as_str().into(), export, files };
        if old.as_ref() != Some(&identity) {
            workspace.clear()?;
            workspace.set_identity(&identity)?;
        }
        Ok((source, addresses))
    }

    fn clock(&self) -> Clock {
        self.rest.service().session().clock.clone()
    }

    /// The export that an earlier download made, or a new one. `error` is that of the request for an archive.
    fn export(&self, workspace: &Workspace, old: Option<&Identity>, error: Error) -> Result<Source> {
        let CheckpointPath::Training(path) = &self.path else {
            return Err(error.adding(
                "; if the server makes no archives, it has no download of weights for sampling: download a training state",
            ));
        };
        if self.options.as_tar {
            let problem =
                "is not possible: the server has no archive of the checkpoint; download it as a folder";
            return Err(Error::invalid("as_tar", problem).caused_by(error));
        }
        if let Some(export) = old.and_then(|old| old.export.as_ref()?.parse().ok())
            && self.rest.get_external_weights_urls(&export).is_ok()
        {
            return Ok(Source::Files { path: export, is_temporary: true });
        }
        let path = export::export(&self.rest, path, self.cancel).map_err(|failed| failed.caused_by(error))?;
        let export = Some(path.as_str().to_owned());
        workspace.clear()?;
        workspace.set_identity(&Identity {
            checkpoint: self.path.as_str().into(),
            export,
            files: Vec::new(),
        })?;
        Ok(Source::Files { path, is_temporary: true })
    }

    /// The export costs storage until the end of its lifetime.
    fn remove_export(&self, source: &Source) {
        if let Source::Files { path, is_temporary: true } = source
            && let Err(error) =
                self.rest.delete_checkpoint_from_tinker_path(CheckpointPath::External(path.clone()))
        {
            log::debug!(target: "tinkex", "the export {path} cannot be deleted, it will expire: {error}");
        }
    }

    fn unpack(self, workspace: Workspace, destination: PathBuf) -> Result<Downloaded> {
        self.progress.enter(DownloadPhase::Unpacking);
        let archive = workspace.file(ARCHIVE)?;
        let folder = workspace.new_unpacked()?;
        match unpack::unpack(&archive, &folder, self.cancel) {
            Ok(unpacked) => {
                workspace.finish(&folder)?;
                let unpack::Unpacked { n_files, n_bytes } = unpacked;
                Ok(Downloaded { path: self.path, destination, size_bytes: n_bytes, n_files })
            }
            Err(error) => {
                workspace.remove_unpacked();
                if matches!(error.kind(), crate::ErrorKind::Decode) {
                    workspace.remove();
                }
                Err(error)
            }
        }
    }
}

/// The files of one download, which several threads take one after the other.
struct Files {
    workspace: Workspace,
    addresses: Addresses,
    storage: Arc<Storage>,
    progress: Arc<Progress>,
    clock: Clock,
    /// Cancelled with the download, and after the first failure.
    cancel: CancelToken,
    waiting: Mutex<VecDeque<String>>,
    results: Mutex<Vec<Result<u64>>>,
}

impl Files {
    fn new(download: &Download<'_>, workspace: Workspace, addresses: Addresses, names: &[String]) -> Self {
        let config = &download.rest.service().session().config;
        let storage = Storage::new(config.other_servers.clone(), &config.timeouts, download.options.stall);
        download.progress.set_files(names);
        Files {
            workspace,
            addresses,
            storage: Arc::new(storage),
            progress: download.progress.clone(),
            clock: download.clock(),
            cancel: download.cancel.child(),
            waiting: Mutex::new(names.iter().cloned().collect()),
            results: Mutex::default(),
        }
    }

    /// Downloads all files; returns their size in bytes.
    fn download(self, concurrency: usize) -> Result<(Workspace, u64)> {
        let link = self.cancel.on_cancel(self.storage.clone());
        let n_helpers = concurrency.min(self.waiting.lock().len()).saturating_sub(1);
        let files = Arc::new(self);
        let mut helpers = Vec::new();
        for n in 0..n_helpers {
            let files = files.clone();
            match spawn::spawn(format!("tk-download-{n}"), None, move || files.help()) {
                Ok(helper) => helpers.push(helper),
                // This thread downloads the files alone.
                Err(error) => {
                    log::debug!(target: "tinkex", "a thread of a download cannot be started: {error}")
                }
            }
        }
        files.help();
        for helper in helpers {
            // A panic was caught and is among the results.
            let _ = helper.join();
        }
        drop(link);
        let results = std::mem::take(&mut *files.results.lock());
        let size_bytes = results.into_iter().sum::<Result<u64>>()?;
        match Arc::into_inner(files) {
            Some(files) => Ok((files.workspace, size_bytes)),
            None => Err(Error::closed("a thread of the download has not ended")),
        }
    }

    fn help(&self) {
        loop {
            let next = self.waiting.lock().pop_front();
            let Some(name) = next else { return };
            let Files { workspace, addresses, storage, progress, clock, cancel, .. } = self;
            let shared = Shared { workspace, addresses, storage, progress, clock, cancel };
            let result = unwind::catch(|| transfer(shared, &name)).flatten();
            let has_failed = result.is_err();
            // The first failure comes first, and the others are its consequences.
            self.results.lock().push(result);
            if has_failed {
                cancel.cancel();
            }
        }
    }
}
