//! The file of stored keys.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Secret;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// Version of the format of new files.
const VERSION: u64 = 1;

/// Reads and writes a credential file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialStore {
    path: PathBuf,
}

/// The content of a credential file. Fields that this version does not know are kept and written back.
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

/// A stored key with its metadata. `Debug` does not show the key.
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
    /// The file of the user: `.tinker/credentials.json` in the folder `HOME` (`USERPROFILE` on Windows).
    ///
    /// # Errors
    /// The variable is not set.
    pub fn of_user() -> Result<Self> {
        match Env::process().home() {
            Some(home) => Ok(CredentialStore::in_home(&home)),
            None => Err(Error::config("the folder of the stored credentials is unknown: set HOME")),
        }
    }

    /// The file at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        CredentialStore { path: path.into() }
    }

    pub(crate) fn in_home(home: &Path) -> Self {
        CredentialStore::at(home.join(".tinker").join("credentials.json"))
    }

    /// The path of the file. The file may not exist.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. A missing file counts as one without keys.
    ///
    /// # Errors
    /// The file cannot be read or is malformed. The error names line and column and shows no content.
    pub fn load(&self) -> Result<StoredCredentials> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StoredCredentials::default()),
            Err(error) => return Err(self.failed("cannot be read", &error)),
        };
        let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| self.malformed(&error))?;
        drop_nulls(&mut value);
        // On failure decode the bytes directly: only that error contains line and column.
        match serde_json::from_value(value) {
            Ok(stored) => Ok(stored),
            Err(error) => {
                Err(self
                    .malformed(&serde_json::from_slice::<StoredCredentials>(&bytes).err().unwrap_or(error)))
            }
        }
    }

    /// Writes the file atomically: a concurrent reader sees the whole old or the whole new file. Creates the folder if
    /// needed. On Unix only the user can read folder and file (modes 0700 and 0600).
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn save(&self, stored: &StoredCredentials) -> Result<()> {
        let mut value = serde_json::to_value(stored)
            .map_err(|_| Error::new(ErrorKind::System, "the credentials cannot be written as JSON"))?;
        drop_nulls(&mut value);
        let write = || -> io::Result<()> {
            let folder =
                self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            make_private_folder(folder)?;
            let name = format!(".credentials-{}-{:016x}.tmp", std::process::id(), fastrand::u64(..));
            let temporary = folder.join(name);
            let written = write_private(&temporary, &format!("{value:#}\n"))
                .and_then(|()| fs::rename(&temporary, &self.path));
            if written.is_err() {
                // Remove the temporary file, because it contains keys. Only the first error is reported.
                let _ = fs::remove_file(&temporary);
            }
            written
        };
        write().map_err(|error| self.failed("cannot be written", &error))
    }

    fn failed(&self, problem: &str, error: &io::Error) -> Error {
        Error::config(format!("the credentials in {} {problem}: {error}", self.path.display()))
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
    /// The keys with their ids, which the server assigned.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &StoredKey)> {
        self.keys.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// The key with an id.
    pub fn get(&self, id: &str) -> Option<&StoredKey> {
        self.keys.get(id)
    }

    /// Stores a key under an id and returns the previous one.
    pub fn insert(&mut self, id: impl Into<String>, key: StoredKey) -> Option<StoredKey> {
        self.keys.insert(id.into(), key)
    }

    /// Removes the key with an id. Removing the default key leaves no default.
    pub fn remove(&mut self, id: &str) -> Option<StoredKey> {
        if self.default.as_deref() == Some(id) {
            self.default = None;
        }
        self.keys.remove(id)
    }

    /// The id of the default key. If no stored key has this id, [`default_key`](Self::default_key) is `None`.
    pub fn default_id(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The default key, which clients without another credential use.
    pub fn default_key(&self) -> Option<&StoredKey> {
        self.keys.get(self.default.as_deref()?)
    }

    /// Makes the key with an id the default.
    pub fn set_default(&mut self, id: impl Into<String>) {
        self.default = Some(id.into());
    }

    /// Removes the default; the keys stay.
    pub fn clear_default(&mut self) {
        self.default = None;
    }
}

impl StoredKey {
    /// Creates a key of the kind `manual`.
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

    /// Sets the name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets a note about the purpose of the key.
    #[must_use]
    pub fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Sets the server's data about the owner: `org_details` and `user_details`.
    #[must_use]
    pub fn detailed(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The key. Do not print it.
    pub fn key(&self) -> &str {
        self.key.expose()
    }

    /// The origin of the key: `manual`, or `generated` by older programs.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The note about the purpose of the key.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The server's data about the owner.
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

/// Removes fields that are null.
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

/// Creates the folder with mode 0700: access for the user only. An existing folder keeps its mode, unless its name is
/// `.tinker`.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    let existed = folder.is_dir();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    #[cfg(unix)]
    if existed && folder.file_name().is_some_and(|name| name == ".tinker") {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    #[cfg(not(unix))]
    let _ = existed;
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
