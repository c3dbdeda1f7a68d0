//! The download of one file, in as many attempts as it takes.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::addresses::Addresses;
use super::digest;
use super::progress::{DownloadPhase, Progress};
use super::storage::{Failed, Reply, Storage};
use super::workspace::{Record, Workspace, disk};
use crate::error::{Error, Result};
use crate::http::Answer;
use crate::policy::download::{self, Head, MOST_CHANGES, MOST_FRUITLESS, PROGRESS, Step};
use crate::sync::{CancelToken, Clock};

/// Number of addresses in a row that a storage may refuse although they are new.
const MOST_REFUSALS: u32 = 3;

/// Number of times that a complete file may have another digest than the storage states.
const MOST_WRONG_DIGESTS: u32 = 3;

/// What the threads of a download share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) addresses: &'a Addresses,
    pub(super) storage: &'a Storage,
    pub(super) progress: &'a Progress,
    pub(super) clock: &'a Clock,
    pub(super) cancel: &'a CancelToken,
}

/// The end of an attempt that did not complete the file.
enum Stop {
    Again(Error, Option<std::time::Duration>),
    /// The storage refused the address.
    Renew(Error),
    /// The part on the disk is of another version than the file on the server.
    Changed,
    Fail(Error),
}

/// One file.
struct Transfer<'a> {
    shared: Shared<'a>,
    name: &'a str,
    path: PathBuf,
    /// Number of times that the whole file came in another version than the part on the disk.
    n_changes: Cell<u32>,
    /// Number of times that the complete file had a wrong digest.
    n_wrong: Cell<u32>,
}

/// Downloads a file, unless it is complete. Returns its size in bytes.
pub(super) fn transfer(shared: Shared<'_>, name: &str) -> Result<u64> {
    let path = shared.workspace.file(name)?;
    Transfer { shared, name, path, n_changes: Cell::new(0), n_wrong: Cell::new(0) }.run()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map(|it| it.len()).unwrap_or(0)
}

impl Transfer<'_> {
    fn run(&self) -> Result<u64> {
        let Shared { clock, cancel, progress, .. } = self.shared;
        let (mut n_fruitless, mut n_refusals) = (0, 0);
        // The largest part so far: a server that starts again and again from zero makes no progress.
        let mut best = length(&self.path);
        loop {
            cancel.check()?;
            let n_changes = self.n_changes.get();
            let stop = match self.attempt() {
                Ok(size) => match self.verify() {
                    Ok(()) => {
                        progress.complete(self.name);
                        return Ok(size);
                    }
                    Err(stop) => stop,
                },
                Err(stop) => stop,
            };
            cancel.check()?;
            if n_changes != self.n_changes.get() {
                best = 0;
                if MOST_CHANGES < self.n_changes.get() {
                    let text =
                        format!("the file {:?} changes on the server while it is downloaded", self.name);
                    return Err(Error::decode(text));
                }
            }
            let n_bytes = length(&self.path);
            let has_progress = best.saturating_add(PROGRESS) <= n_bytes;
            best = best.max(n_bytes);
            n_fruitless = if has_progress { 0 } else { n_fruitless + 1 };
            let (error, hint) = match stop {
                Stop::Fail(error) => return Err(error),
                Stop::Again(error, hint) => (error, hint),
                Stop::Renew(error) => {
                    n_refusals = if has_progress { 1 } else { n_refusals + 1 };
                    if MOST_REFUSALS < n_refusals {
                        return Err(error);
                    }
                    // A new address is usually accepted: no pause.
                    if n_refusals == 1 {
                        continue;
                    }
                    (error, None)
                }
                Stop::Changed => {
                    let name = self.name;
                    log::debug!(target: "tinkex::http", "the file {name:?} has changed: it is downloaded from its start");
                    continue;
                }
            };
            if has_progress {
                n_refusals = 0;
            }
            if MOST_FRUITLESS <= n_fruitless {
                return Err(error.with(|context| context.attempts = Some(n_fruitless)));
            }
            let pause = download::pause(n_fruitless, hint, fastrand::f64());
            log::debug!(target: "tinkex::http", "the download of {:?}: {error}; again in {pause:.1?}", self.name);
            progress.enter(DownloadPhase::Retrying(error));
            clock.pause(pause, cancel)?;
        }
    }

    /// Makes one attempt. Returns the size of the complete file.
    fn attempt(&self) -> Result<u64, Stop> {
        let Shared { workspace, addresses, storage, progress, .. } = self.shared;
        let mut record = workspace.record(self.name);
        let part = length(&self.path);
        let known = record.as_ref().map(Record::version);
        if known.as_ref().is_some_and(|it| it.size == Some(part)) && self.path.exists() {
            progress.at(self.name, part, Some(part));
            return Ok(part);
        }
        let asked = download::ask(part, known.as_ref());
        let mut headers = Vec::new();
        if 0 < asked.offset {
            headers.push(("Range", format!("bytes={}-", asked.offset)));
            headers
                .extend(known.as_ref().and_then(|it| it.validator()).map(|it| ("If-Range", it.to_owned())));
        }
        let (url, generation) = addresses.of(self.name).map_err(Stop::Fail)?;
        let reply = storage.get(&url, &headers).map_err(|Failed { error, is_final }| {
            if is_final { Stop::Fail(error) } else { Stop::Again(error, None) }
        });
        let mut reply = reply?;
        let hint = reply.answer().facts().hint();
        let offset = match download::judge(asked, known.as_ref(), &head(reply.answer())) {
            Step::Whole(version) => {
                // In this order: a part is never beside the record of another version.
                if 0 < part && known.as_ref().is_some_and(|it| *it != version) {
                    self.count_change();
                }
                self.truncate().map_err(Stop::Fail)?;
                let new = Record::new(version, digest::stated(reply.answer()));
                workspace.set_record(self.name, &new).map_err(Stop::Fail)?;
                record = Some(new);
                0
            }
            Step::Rest => asked.offset,
            Step::Restart => {
                workspace.forget_record(self.name).map_err(Stop::Fail)?;
                self.count_change();
                return Err(Stop::Changed);
            }
            Step::Renew(text) => {
                addresses.refused(generation);
                return Err(Stop::Renew(reply.refusal(text)));
            }
            Step::Again => return Err(Stop::Again(reply.refusal("the storage is not available"), hint)),
            Step::Fail(text) => return Err(Stop::Fail(reply.refusal(text))),
        };
        let size = record.as_ref().and_then(Record::size);
        let n_bytes = self.receive(&mut reply, offset, size)?;
        match size {
            Some(size) if n_bytes < size => {
                Err(Stop::Again(Error::decode(format!("{n_bytes} of {size} bytes arrived")), None))
            }
            Some(_) => Ok(n_bytes),
            None => {
                let mut record = record.unwrap_or_default();
                record.set_size(n_bytes);
                workspace.set_record(self.name, &record).map_err(Stop::Fail)?;
                Ok(n_bytes)
            }
        }
    }

    fn count_change(&self) {
        self.n_changes.set(self.n_changes.get() + 1);
    }

    fn open(&self) -> Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
        file.map_err(|error| disk("write", &self.path, &error))
    }

    fn truncate(&self) -> Result<()> {
        self.open()?.set_len(0).map_err(|error| disk("write", &self.path, &error))
    }

    /// Appends the body of an answer. Returns the length of the file.
    fn receive(&self, reply: &mut Reply, offset: u64, size: Option<u64>) -> Result<u64, Stop> {
        let Shared { storage, progress, cancel, .. } = self.shared;
        let unwritable = |error: std::io::Error| Stop::Fail(disk("write", &self.path, &error));
        let mut file = self.open().map_err(Stop::Fail)?;
        file.seek(SeekFrom::Start(offset)).map_err(unwritable)?;
        let mut n_bytes = offset;
        let mut piece = vec![0; 128 << 10];
        loop {
            progress.at(self.name, n_bytes, size);
            cancel.check().map_err(Stop::Fail)?;
            let server = reply.server().clone();
            let n = reply.stream.read(&mut piece).map_err(|broken| {
                let Failed { error, is_final } = storage.failed(&server, &broken);
                if is_final { Stop::Fail(error) } else { Stop::Again(error, None) }
            })?;
            if n == 0 {
                file.sync_data().map_err(unwritable)?;
                return Ok(n_bytes);
            }
            if size.is_some_and(|size| size < n_bytes + n as u64) {
                return Err(Stop::Again(Error::decode("more bytes arrived than the file has"), None));
            }
            file.write_all(&piece[..n]).map_err(unwritable)?;
            n_bytes += n as u64;
        }
    }

    /// Compares a complete file with the digest that the storage stated.
    fn verify(&self) -> Result<(), Stop> {
        let Shared { workspace, progress, cancel, .. } = self.shared;
        let stated = workspace.record(self.name).and_then(|record| record.digest);
        let Some(stated) = stated else { return Ok(()) };
        progress.enter(DownloadPhase::Verifying);
        let found = digest::of_file(&stated, &self.path, || !cancel.is_cancelled());
        let found = found.map_err(|error| Stop::Fail(disk("read", &self.path, &error)))?;
        cancel.check().map_err(Stop::Fail)?;
        match found {
            Some(found) if found != stated => {
                self.truncate().map_err(Stop::Fail)?;
                workspace.forget_record(self.name).map_err(Stop::Fail)?;
                let text = format!(
                    "the file {:?} has the digest {found}, but the storage states {stated}",
                    self.name
                );
                self.n_wrong.set(self.n_wrong.get() + 1);
                // Each attempt fetches the whole file.
                let is_given_up = MOST_WRONG_DIGESTS <= self.n_wrong.get();
                let error = Error::decode(text);
                Err(if is_given_up { Stop::Fail(error) } else { Stop::Again(error, None) })
            }
            _ => Ok(()),
        }
    }
}

fn head(answer: &Answer) -> Head<'_> {
    Head {
        status: answer.status,
        content_range: answer.header("content-range"),
        content_length: answer.header("content-length").and_then(|it| it.trim().parse().ok()),
        content_encoding: answer.header("content-encoding"),
        is_chunked: answer
            .header("transfer-encoding")
            .is_some_and(|it| it.to_ascii_lowercase().contains("chunked")),
        etag: answer.header("etag"),
        last_modified: answer.header("last-modified"),
    }
}
