//! The file of stored keys, `~/.tinker/credentials.json`. The command-line program of the official Python SDK uses the
//! same file (PROTOCOL §1.3).
//!
//! A client uses the default key of this file if neither the builder nor the environment sets a credential.
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

pub(crate) mod claims;
mod secret;
pub(crate) mod source;
mod store;

pub(crate) use secret::Secret;
pub use store::{CredentialStore, StoredCredentials, StoredKey};

#[cfg(test)]
mod tests;
