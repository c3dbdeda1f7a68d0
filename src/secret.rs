//! Text that must not be seen.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A credential, a password or a token. Its `Debug` shows only its kind, and it has no `Display`. In a body it is a text
/// like any other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that has to carry it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match () {
            () if self.0.starts_with("tml-") => "tml-***",
            () if self.0.starts_with("eyJ") => "eyJ***",
            () => "***",
        })
    }
}
