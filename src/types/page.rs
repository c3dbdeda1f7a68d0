//! Pages of lists.

use serde::{Deserialize, Serialize};

use super::field_reader;

/// Position of a page in its list, as the server reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Cursor {
    /// Number of entries before the page.
    #[serde(deserialize_with = "field_reader::count")]
    pub offset: u64,
    /// Largest number of entries on the page; 0 if the server does not report it.
    #[serde(deserialize_with = "field_reader::count")]
    pub limit: u64,
    /// Number of entries of the whole list, if the server reports it.
    #[serde(deserialize_with = "field_reader::maybe_count")]
    pub total_count: Option<u64>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// Entries in the server's order.
    pub items: Vec<T>,
    /// Position in the list, if the server reports it.
    pub cursor: Option<Cursor>,
}

/// Selects the objects that a call lists, by their owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AccessScope {
    /// Objects of the caller.
    #[default]
    Owned,
    /// All objects that the caller may read.
    Accessible,
}

impl AccessScope {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessScope::Owned => "owned",
            AccessScope::Accessible => "accessible",
        }
    }
}
