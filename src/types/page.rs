//! Parts of long lists.

use serde::{Deserialize, Serialize};

use super::lenient;

/// Where a page stands in its list, as the server says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Cursor {
    /// The number of entries before it.
    #[serde(deserialize_with = "lenient::count")]
    pub offset: u64,
    /// How many entries it may have; 0 if the server does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub limit: u64,
    /// How many entries there are in all, if the server says so.
    #[serde(deserialize_with = "lenient::maybe_count")]
    pub total_count: Option<u64>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// Its entries, in the server's order.
    pub items: Vec<T>,
    /// Where it stands, if the server says so.
    pub cursor: Option<Cursor>,
}

/// Whose things a call looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AccessScope {
    /// The caller's own.
    #[default]
    Owned,
    /// Everything that the caller may see.
    Accessible,
}

impl AccessScope {
    /// As servers read it.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessScope::Owned => "owned",
            AccessScope::Accessible => "accessible",
        }
    }
}
