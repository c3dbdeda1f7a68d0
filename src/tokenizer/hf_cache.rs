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
    #[cfg(any(test, feature = "hub"))]
    pub(super) fn at(folder: impl Into<PathBuf>) -> Self {
        HfCache { folder: folder.into() }
    }

    /// The cache that the environment names.
    pub(super) fn of(env: &Env) -> Result<Self> {
        let folder = env.hf_hub_cache().ok_or_else(|| {
            Error::config("the cache of the Hugging Face hub is unknown: set HF_HUB_CACHE, HF_HOME or HOME")
        })?;
        Ok(HfCache { folder })
    }

    #[cfg(feature = "hub")]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
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
            let help = if cfg!(feature = "hub") {
                "download it with `Bpe::download` or the program `hf`"
            } else {
                "download it with the feature `hub` or the program `hf`"
            };
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
fn check_repo(repo: &str) -> Result<()> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_libraries_of_hugging_face_put_it() {
        for (get, expected) in [
            ((|name| (name == "HF_HUB_CACHE").then(|| "/c".into())) as fn(&str) -> Option<String>, "/c"),
            (|name| (name == "HF_HOME").then(|| "/h".into()), "/h/hub"),
            (|name| matches!(name, "HOME" | "USERPROFILE").then(|| "/u".into()), "/u/.cache/huggingface/hub"),
        ] {
            assert_eq!(HfCache::of(&Env::of(get)).unwrap().folder, Path::new(expected));
        }
        assert!(HfCache::of(&Env::empty()).is_err());
    }

    #[test]
    fn a_snapshot_is_found_by_commit_and_by_branch_and_its_absence_is_an_error() {
        let folder = std::env::temp_dir().join(format!("tinkex-hf-cache-{}", std::process::id()));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repo = folder.join("models--org--name");
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
        std::fs::write(repo.join("refs/main"), format!("{commit}\n")).unwrap();
        std::fs::write(repo.join("refs/broken"), "../../etc").unwrap();
        let cache = HfCache::at(&folder);
        for revision in ["main", commit] {
            assert_eq!(cache.snapshot("org/name", revision).unwrap(), repo.join("snapshots").join(commit));
        }
        for (repo, revision, problem) in [
            ("org/name", "v1", "the revision \"v1\" is not in"),
            ("org/name", "broken", "the revision \"broken\" is not in"),
            ("org/name", "../main", "revision: is not a commit, branch or tag: \"../main\""),
            ("org/other", "main", "repo: \"org/other\": the repository is not in"),
            ("../name", "main", "repo: is not a repository organisation/name: \"../name\""),
            ("name", "main", "repo: is not a repository"),
        ] {
            let error = cache.snapshot(repo, revision).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
