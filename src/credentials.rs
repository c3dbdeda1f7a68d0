//! The file in which keys are kept for later: `~/.tinker/credentials.json`, which the official command line writes and
//! reads as well (PROTOCOL §1.3).
//!
//! A client that is told of no credential uses the default key of this file.
//!
//! # Example: keep a key and make it the default
//! ```
//! use tinkex::credentials::{CredentialStore, StoredKey};
//!
//! # let dir = std::env::temp_dir().join(format!("tinkex-doc-{}", std::process::id()));
//! let store = CredentialStore::at(dir.join("credentials.json")); // or CredentialStore::of_user()?
//! let mut stored = store.load()?; // a file that does not exist holds no keys
//! stored.insert("123", StoredKey::new("tml-example").named("laptop"));
//! stored.set_default("123");
//! store.save(&stored)?;
//! assert_eq!(store.load()?.default_key().unwrap().key(), "tml-example");
//! # std::fs::remove_dir_all(&dir).unwrap();
//! # Ok::<(), tinkex::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// The version of the file's format that is written into new files.
const VERSION: u64 = 1;

/// A file with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialStore {
    path: PathBuf,
}

/// What such a file holds. What this version does not know is kept when it is written again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredCredentials {
    #[serde(default = "version")]
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(default)]
    keys: BTreeMap<String, StoredKey>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// One key, and what is known of it. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredKey {
    #[serde(rename = "type", default = "manual")]
    kind: String,
    key: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

fn version() -> u64 {
    VERSION
}

fn manual() -> String {
    "manual".into()
}

impl CredentialStore {
    /// The user's own: `.tinker/credentials.json` in the folder that `HOME` names (`USERPROFILE` on Windows).
    ///
    /// # Errors
    /// That variable is not set.
    pub fn of_user() -> Result<Self> {
        match Env::process().home() {
            Some(home) => Ok(CredentialStore::in_home(&home)),
            None => Err(Error::config("the folder of the stored credentials is unknown: HOME is not set")),
        }
    }

    /// Another file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        CredentialStore { path: path.into() }
    }

    pub(crate) fn in_home(home: &Path) -> Self {
        CredentialStore::at(home.join(".tinker").join("credentials.json"))
    }

    /// Where the file is, whether or not it exists.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. One that does not exist holds no keys.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it should be. The error names the place in the file, and nothing that stands
    /// there.
    pub fn load(&self) -> Result<StoredCredentials> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StoredCredentials::default()),
            Err(error) => return Err(self.failed("cannot be read", &error)),
        };
        let mut value: Value = serde_json::from_slice(&bytes).map_err(|it| self.malformed(&it))?;
        drop_nulls(&mut value);
        // Read from the text again, so that an error has a place.
        match serde_json::from_value(value) {
            Ok(stored) => Ok(stored),
            Err(error) => {
                Err(self
                    .malformed(&serde_json::from_slice::<StoredCredentials>(&bytes).err().unwrap_or(error)))
            }
        }
    }

    /// Writes the file: first beside it, then in its place, so that whoever reads it meanwhile sees the old one or the new
    /// one, whole. The folder is made if it does not exist. Only the user may read either (on Unix: modes 0700 and 0600).
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn save(&self, stored: &StoredCredentials) -> Result<()> {
        let mut value = serde_json::to_value(stored)
            .map_err(|_| Error::new(ErrorKind::System, "the credentials cannot be written as JSON"))?;
        drop_nulls(&mut value);
        let write = || -> io::Result<()> {
            let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
            make_private_folder(folder)?;
            let name = format!(".credentials-{}-{:016x}.tmp", std::process::id(), fastrand::u64(..));
            let beside = folder.join(name);
            let written = write_private(&beside, &format!("{value:#}\n"))
                .and_then(|()| fs::rename(&beside, &self.path));
            if written.is_err() {
                // It holds keys. If it cannot be removed, the first error says more.
                let _gone_or_not = fs::remove_file(&beside);
            }
            written
        };
        write().map_err(|it| self.failed("cannot be written", &it))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        Error::config(format!("the credentials in {} {what}: {error}", self.path.display()))
    }

    fn malformed(&self, error: &serde_json::Error) -> Error {
        let (line, column) = (error.line(), error.column());
        let path = self.path.display();
        Error::config(format!("the credentials in {path} are malformed at line {line}, column {column}"))
    }
}

impl Default for StoredCredentials {
    fn default() -> Self {
        StoredCredentials { version: VERSION, default: None, keys: BTreeMap::new(), more: Map::new() }
    }
}

impl StoredCredentials {
    /// The keys, by the ids that the server gave them.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &StoredKey)> {
        self.keys.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// The key of an id.
    pub fn get(&self, id: &str) -> Option<&StoredKey> {
        self.keys.get(id)
    }

    /// Puts a key under an id, and returns the one that was there.
    pub fn insert(&mut self, id: impl Into<String>, key: StoredKey) -> Option<StoredKey> {
        self.keys.insert(id.into(), key)
    }

    /// Removes the key of an id. If it was the default, there is none then.
    pub fn remove(&mut self, id: &str) -> Option<StoredKey> {
        if self.default.as_deref() == Some(id) {
            self.default = None;
        }
        self.keys.remove(id)
    }

    /// The id of the default key. There may be no key of this id, and then there is no default.
    pub fn default_id(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The key to use where nothing else is said.
    pub fn default_key(&self) -> Option<&StoredKey> {
        self.keys.get(self.default.as_deref()?)
    }

    /// Makes the key of an id the default.
    pub fn set_default(&mut self, id: impl Into<String>) {
        self.default = Some(id.into());
    }

    /// No key is the default any more.
    pub fn clear_default(&mut self) {
        self.default = None;
    }
}

impl StoredKey {
    /// A key that somebody entered.
    pub fn new(key: impl Into<String>) -> Self {
        StoredKey {
            kind: manual(),
            key: Secret::new(key),
            name: None,
            note: None,
            details: None,
            more: Map::new(),
        }
    }

    /// This key with a name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// This key with a note about what it is for.
    #[must_use]
    pub fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// This key with what the server says of its owner: `org_details` and `user_details`.
    #[must_use]
    pub fn detailed(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The key itself. Do not print it.
    pub fn key(&self) -> &str {
        self.key.expose()
    }

    /// How it came here: `manual`, or `generated` by older programs.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it is for.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What the server says of its owner.
    pub fn details(&self) -> Option<&Value> {
        self.details.as_ref()
    }
}

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredKey")
            .field("kind", &self.kind)
            .field("key", &self.key)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Fields that are null are left out.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, it| !it.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The folder, which only the user may look into. One that exists already keeps whatever mode it has, unless it is the
/// one that this file names by itself.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    let existed = folder.is_dir();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    #[cfg(unix)]
    if existed && folder.file_name().is_some_and(|it| it == ".tinker") {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    #[cfg(not(unix))]
    let _modes_are_of_unix = existed;
    Ok(())
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
