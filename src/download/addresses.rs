//! The temporary addresses of the files of a checkpoint, which are replaced before they expire.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::client::RestClient;
use crate::error::{Error, Result};
use crate::policy::download::useful_life;
use crate::sync::{Clock, Mutex};
use crate::types::{CheckpointPath, ExternalPath, SignedUrl, Timestamp, Ttl};

/// The name of an archive in the folder of the download.
pub(super) const ARCHIVE: &str = "archive";

/// Lifetime of an export, which is renewed with its addresses.
pub(super) const EXPORT_TTL: Ttl = Ttl::After(Duration::from_secs(3600));

/// What is downloaded.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// One archive with all files.
    Archive(CheckpointPath),
    /// The files of exported weights.
    Files {
        path: ExternalPath,
        /// The export was made for this download, with a short lifetime.
        is_temporary: bool,
    },
}

/// The addresses, shared by the threads of a download.
#[derive(Debug)]
pub(super) struct Addresses {
    rest: RestClient,
    clock: Clock,
    source: Source,
    signed: Mutex<Signed>,
}

#[derive(Debug, Default)]
struct Signed {
    /// Counts the replacements.
    generation: u64,
    urls: BTreeMap<String, SignedUrl>,
    /// Time until which the addresses are used. `None` if nothing useful is known about it.
    until: Option<Instant>,
    /// The storage has refused an address.
    is_refused: bool,
}

impl Addresses {
    /// Asks the server for the first addresses.
    pub(super) fn sign(rest: RestClient, clock: Clock, source: Source) -> Result<Self> {
        let addresses = Addresses { rest, clock, source, signed: Mutex::default() };
        addresses.renew(0)?;
        Ok(addresses)
    }

    /// The names of the files, as the server states them.
    pub(super) fn names(&self) -> Vec<String> {
        self.signed.lock().urls.keys().cloned().collect()
    }

    /// The address of a file, and its generation.
    pub(super) fn of(&self, name: &str) -> Result<(SignedUrl, u64)> {
        let (is_due, generation) = {
            let signed = self.signed.lock();
            let is_late = signed.until.is_some_and(|until| until <= self.clock.now());
            (signed.is_refused || is_late, signed.generation)
        };
        if is_due {
            self.renew(generation)?;
        }
        let signed = self.signed.lock();
        match signed.urls.get(name) {
            Some(url) => Ok((url.clone(), signed.generation)),
            None => {
                Err(Error::decode(format!("the server no longer names the file {name:?} of the checkpoint")))
            }
        }
    }

    /// The storage has refused an address of this generation.
    pub(super) fn refused(&self, generation: u64) {
        let mut signed = self.signed.lock();
        if signed.generation == generation {
            signed.is_refused = true;
        }
    }

    /// Asks for new addresses without holding the lock. Two threads may ask at the same time; that does no harm.
    fn renew(&self, generation: u64) -> Result<()> {
        let asked = self.clock.now();
        let (urls, expires) = match &self.source {
            Source::Archive(path) => {
                let archive = self.rest.get_checkpoint_archive_url(path.clone())?;
                (BTreeMap::from([(ARCHIVE.to_owned(), archive.url)]), archive.expires)
            }
            Source::Files { path, is_temporary } => {
                if *is_temporary
                    && let Err(error) = self.rest.set_checkpoint_ttl_from_tinker_path(
                        CheckpointPath::External(path.clone()),
                        EXPORT_TTL,
                    )
                {
                    log::debug!(target: "tinkex", "the lifetime of the export {path} cannot be extended: {error}");
                }
                let files = self.rest.get_external_weights_urls(path.clone())?;
                (files.urls, files.expires)
            }
        };
        let life = expires.as_ref().and_then(Timestamp::to_system_time);
        // An expiry in the past says that the clocks differ: then the storage has the last word.
        let life = life.and_then(|it| it.duration_since(SystemTime::now()).ok()).filter(|it| !it.is_zero());
        let until = life.and_then(|life| asked.checked_add(useful_life(life)));
        let mut signed = self.signed.lock();
        if signed.generation == generation {
            *signed = Signed { generation: generation + 1, urls, until, is_refused: false };
        }
        Ok(())
    }
}
