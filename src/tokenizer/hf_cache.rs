//! The folder in which the libraries of Hugging Face keep downloaded files:
//! `models--ORGANISATION--NAME/{refs/BRANCH,snapshots/COMMIT/FILE,blobs/…}`.

use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::error::{Error, Result};

/// The cache of the Hugging Face hub.
#[derive(Clone, Debug)]
pub(super) struct HfCache {
    folder: PathBuf,
}

impl HfCache {
    /// The cache that the environment names.
    pub(super) fn of(env: &Env) -> Result<Self> {
        let folder = env.hf_hub_cache().ok_or_else(|| {
            Error::config("the cache of the Hugging Face hub is unknown: set HF_HUB_CACHE, HF_HOME or HOME")
        })?;
        Ok(HfCache { folder })
    }

    /// The folder of a repository.
    pub(super) fn repo(&self, repo: &str) -> Result<PathBuf> {
        check_repo(repo)?;
        Ok(self.folder.join(format!("models--{}", repo.replace('/', "--"))))
    }

    /// The folder with the files of a revision.
    pub(super) fn snapshot(&self, repo: &str, revision: &str) -> Result<PathBuf> {
        check_revision(revision)?;
        let folder = self.repo(repo)?;
        let missing = |problem: String| {
            let help = "download it with Bpe::download (feature `hub`) or the program `hf`";
            Error::invalid("repo", format!("{repo:?}: {problem} in {}; {help}", self.folder.display()))
        };
        if !folder.is_dir() {
            return Err(missing("the repository is not".into()));
        }
        let commit =
            commit(&folder, revision).ok_or_else(|| missing(format!("the revision {revision:?} is not")))?;
        let snapshot = folder.join("snapshots").join(commit);
        if snapshot.is_dir() {
            Ok(snapshot)
        } else {
            Err(missing(format!("the revision {revision:?} is not")))
        }
    }
}

/// The commit of a revision, if it is known here.
pub(super) fn commit(repo: &Path, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.into());
    }
    let text = std::fs::read_to_string(repo.join("refs").join(revision)).ok()?;
    Some(text.trim().to_string()).filter(|commit| is_commit(commit))
}

/// A commit: 40 hexadecimal digits.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Checks that a repository is `organisation/name`, so that it names no other place in a path or URL.
pub(super) fn check_repo(repo: &str) -> Result<()> {
    let parts: Vec<&str> = repo.split('/').collect();
    if matches!(parts[..], [organisation, name] if is_name(organisation) && is_name(name)) {
        return Ok(());
    }
    Err(Error::invalid("repo", format!("is not a repository organisation/name: {repo:?}")))
}

/// Checks that a revision is a commit, branch or tag, and names no other place in a path or URL.
pub(super) fn check_revision(revision: &str) -> Result<()> {
    if revision.split('/').all(is_name) {
        return Ok(());
    }
    Err(Error::invalid("revision", format!("is not a commit, branch or tag: {revision:?}")))
}

fn is_name(name: &str) -> bool {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && !name.contains("..") && name.chars().all(is_valid)
}
