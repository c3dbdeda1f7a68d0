//! Downloads tokenizers from the Hugging Face hub into its cache on this machine (feature `hub`).
//!
//! | module | content |
//! |---|---|
//! | `options` | the settings: token, endpoint, cache |
//! | `connection`, `refusal` | requests with redirects and retries; errors of refused files |
//! | `metadata` | the headers that describe a file; its check |
//! | `repo_folder` | the folder of a repository in the cache |

mod connection;
mod metadata;
mod options;
mod refusal;
mod repo_folder;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Instant;

use connection::{Connection, Reply};
use metadata::not_a_hub;
pub use options::HubOptions;
use options::Settings;
use repo_folder::RepoFolder;

use super::hf_cache::{check_revision, is_commit};
use super::in_flight::InFlight;
use super::{Bpe, TokenizerSource};
use crate::config::address::Address;
use crate::credentials::Secret;
use crate::error::{Error, ErrorKind, Result, words};

const TOKENIZER: &str = "tokenizer.json";
const RANKS: &str = "tiktoken.model";
const CONFIG: &str = "tokenizer_config.json";

/// The settings that decide the outcome of a download. Threads with another token do not share its refusal.
#[derive(Clone, PartialEq)]
struct Key {
    endpoint: Address,
    token: Option<Secret>,
    is_offline: bool,
    folder: PathBuf,
    revision: String,
}

/// The downloads of this process, so that each takes place once if several threads need it.
static DOWNLOADS: InFlight<Key, PathBuf> = InFlight::new();

impl Bpe {
    /// Reads the tokenizer of a repository on the Hugging Face hub. What is not in the cache on this machine is
    /// downloaded: `tokenizer.json`, or `tiktoken.model` if there is none, and `tokenizer_config.json`. The cache is
    /// the one of Hugging Face's libraries, so that these find the files too.
    ///
    /// A revision that is a commit is used from the cache without network if it is there. For a branch, a tag or the
    /// newest commit, one request asks for the commit; if the hub cannot be reached, the commit of the last download is
    /// used and a warning is logged.
    ///
    /// Several threads that need the same revision make one download. A file gets its name in the cache only when it is
    /// complete and its length, and the SHA-256 that the hub states for large files, are right: a cut download is never
    /// used.
    ///
    /// # Errors
    /// `Auth` or `Permission`: the model is gated or private. `NotFound`: the repository, the revision or the files do
    /// not exist. `Decode`: a file that is not what the hub announced, or a server that is not a hub. `System`: the
    /// cache cannot be written. A failed connection, a timeout, an overloaded hub, after four retries at most. As for
    /// [`from_dir`](Self::from_dir) if the files cannot be used.
    ///
    /// # Blocking
    /// Until the files are here, at most [`HubOptions::timeout`].
    ///
    /// # Example: the tokenizer of a model
    /// ```no_run
    /// use tinkex::tokenizer::{Bpe, HubOptions, Tokenizer, TokenizerSource};
    ///
    /// let source = TokenizerSource::of("Qwen/Qwen3-8B", None)?;
    /// let tokenizer = Bpe::download(&source, &HubOptions::default())?;
    /// println!("{:?}", tokenizer.encode_ordinary("hello")?);
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn download(source: &TokenizerSource, options: &HubOptions) -> Result<Self> {
        Bpe::from_dir(fetch(source, &options.resolve()?)?)
    }
}

/// Downloads what is missing of a tokenizer. Returns the folder with its files.
fn fetch(source: &TokenizerSource, settings: &Settings) -> Result<PathBuf> {
    let revision = source.revision.as_deref().unwrap_or("main");
    check_revision(revision)?;
    let folder = settings.cache.repo(&source.repo)?;
    let key = Key {
        endpoint: settings.endpoint.clone(),
        token: settings.token.clone(),
        is_offline: settings.is_offline,
        folder: folder.clone(),
        revision: revision.into(),
    };
    // The wait of other threads takes real time, also if the clock is virtual.
    let deadline = Instant::now() + settings.timeout;
    DOWNLOADS.run(key, deadline, || {
        let repo = RepoFolder::new(folder);
        let connection = Connection::new(settings);
        Download { source, revision, repo, connection, settings }.run()
    })
}

/// One download.
struct Download<'a> {
    source: &'a TokenizerSource,
    revision: &'a str,
    repo: RepoFolder,
    connection: Connection<'a>,
    settings: &'a Settings,
}

impl Download<'_> {
    fn run(mut self) -> Result<PathBuf> {
        let cached = self.cached();
        let TokenizerSource { repo, .. } = self.source;
        if let Some(folder) = cached.clone().filter(|_| is_commit(self.revision) || self.settings.is_offline)
        {
            return Ok(folder);
        }
        if self.settings.is_offline {
            let text = format!(
                "{repo:?}: the revision {:?} is not complete in {}, and downloads are turned off (HF_HUB_OFFLINE)",
                self.revision,
                self.settings.cache.folder().display()
            );
            return Err(Error::invalid("repo", text));
        }
        match (self.refresh(), cached) {
            (Err(error), Some(folder)) if error.is_retryable() => {
                log::warn!(
                    target: "tinkex",
                    "the hub cannot be asked for the newest tokenizer of {repo}; that of the last download is used: \
                     {error}"
                );
                Ok(folder)
            }
            (outcome, _) => outcome,
        }
    }

    /// The folder of the revision as this machine knows it, if all files are there.
    fn cached(&self) -> Option<PathBuf> {
        let commit = self.repo.commit(self.revision)?;
        let has = |name: &str| self.repo.has(&commit, name);
        let is_complete = if has(CONFIG) {
            has(TOKENIZER) || has(RANKS)
        } else {
            // Without this file nothing names the beginning and the end of a sequence: it must be known to be absent.
            has(TOKENIZER) && self.repo.is_absent(&commit, CONFIG)
        };
        is_complete.then(|| self.repo.snapshot(&commit))
    }

    /// Asks the hub for the commit and downloads what is missing. The file with the tokens comes last, and the commit
    /// of the branch is recorded after it: what a killed process leaves behind does not count as complete.
    fn refresh(&mut self) -> Result<PathBuf> {
        let mut commit = None;
        let first = self.look(TOKENIZER, &mut commit)?;
        let (name, tokens) = match first {
            Some(reply) => (TOKENIZER, reply),
            None => match self.look(RANKS, &mut commit)? {
                Some(reply) => (RANKS, reply),
                None => return Err(self.no_tokenizer()),
            },
        };
        let commit = commit.ok_or_else(|| not_a_hub("the answer has no header X-Repo-Commit"))?;
        let mut known = Some(commit.clone());
        if !self.repo.has(&commit, CONFIG)
            && !self.repo.is_absent(&commit, CONFIG)
            && let Some(reply) = self.look(CONFIG, &mut known)?
        {
            self.store(CONFIG, &commit, &reply)?;
        }
        self.store(name, &commit, &tokens)?;
        if !is_commit(self.revision) {
            self.repo.set_commit(self.revision, &commit)?;
        }
        Ok(self.repo.snapshot(&commit))
    }

    /// Asks for the properties of a file, and for the commit if it is not known yet. `None` if the repository has no
    /// such file.
    fn look(&mut self, name: &str, commit: &mut Option<String>) -> Result<Option<Reply>> {
        let asked = commit.as_deref().unwrap_or(self.revision);
        let reply = self.connection.head(&self.source.repo, asked, name)?;
        let stated = reply.metadata.commit.clone();
        if is_commit(asked) && stated.as_deref().is_some_and(|stated| !stated.eq_ignore_ascii_case(asked)) {
            let problem =
                format!("asked for the commit {asked}, it answers for {}", stated.unwrap_or_default());
            let url = self.connection.url(&self.source.repo, asked, name);
            return Err(self.connection.at(not_a_hub(&problem), &url));
        }
        if commit.is_none() {
            *commit = if is_commit(asked) { Some(asked.to_string()) } else { stated };
        }
        if reply.is_success() {
            return Ok(Some(reply));
        }
        let is_certain = reply.answer.header("x-error-code") == Some("EntryNotFound");
        if let Some(commit) = commit.as_deref().filter(|_| is_certain) {
            self.repo.set_absent(commit, name)?;
        }
        Ok(None)
    }

    /// Puts a file into the cache, unless it is there.
    fn store(&mut self, name: &str, commit: &str, head: &Reply) -> Result<()> {
        if self.repo.has(commit, name) {
            return Ok(());
        }
        let repo = &self.source.repo;
        let url = self.connection.url(repo, commit, name);
        let blob = head.metadata.blob_name().map_err(|error| self.connection.at(error, &url))?;
        if !self.repo.has_blob(blob, &head.metadata) {
            log::info!(target: "tinkex", "downloading {url}");
            let reply = self.connection.get(repo, commit, name)?;
            check(name, head, &reply).map_err(|error| self.connection.at(error, &url))?;
            self.repo.put_blob(blob, &reply.answer.body)?;
        }
        self.repo.link(commit, name, blob)
    }

    fn no_tokenizer(&self) -> Error {
        let text = format!("the repository has neither {TOKENIZER} nor {RANKS}");
        let url = self.connection.url(&self.source.repo, self.revision, TOKENIZER);
        self.connection.at(Error::new(ErrorKind::NotFound, text), &url)
    }
}

/// Checks a downloaded file. A page comes first: some proxies answer with that of a login and status 200, and the wrong
/// length of the page would hide the cause.
fn check(name: &str, head: &Reply, reply: &Reply) -> Result<()> {
    let body = &reply.answer.body;
    let wrong = |wanted: &str| {
        let found = words::excerpt(body);
        Error::decode(format!(
            "the server answered with {found} instead of {wanted}; check HF_ENDPOINT and the proxy"
        ))
    };
    let is_json = name.ends_with(".json");
    let wanted = if is_json { "JSON" } else { "ranks" };
    if reply.answer.is_page() {
        return Err(wrong(wanted));
    }
    head.metadata.check(body)?;
    if is_json {
        serde_json::from_slice::<serde::de::IgnoredAny>(body).map(drop).map_err(|_| wrong(wanted))
    } else if body.is_empty() {
        Err(wrong(wanted))
    } else {
        Ok(())
    }
}
