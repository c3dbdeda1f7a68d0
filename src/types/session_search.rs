//! Finding sessions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient;
use super::odd::or_absent;
use super::{SessionStatus, Timestamp};
use crate::error::{Error, Result};

/// Which sessions to find (PROTOCOL §3.5 #40). `session_id` and `display_name` are alternatives; all other conditions must
/// hold together.
///
/// # Example: those that failed
/// ```
/// use tinkex::types::{SessionSearch, StatusFilter};
///
/// let search = SessionSearch { statuses: vec![StatusFilter::Failed], ..SessionSearch::default() };
/// assert_eq!(search.limit, 50);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionSearch {
    /// With this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// In one of these projects; none: in any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub project_ids: Vec<String>,
    /// With all of these.
    pub user_metadata: BTreeMap<String, String>,
    /// With this in its name. At least one character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Whose. Default: the caller's own.
    pub owner: SessionOwner,
    /// In one of these states; none: in any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<StatusFilter>,
    /// Entries of one page, 1 to 200. Default 50.
    pub limit: u32,
}

impl Default for SessionSearch {
    fn default() -> Self {
        SessionSearch {
            session_id: None,
            project_ids: Vec::new(),
            user_metadata: BTreeMap::new(),
            display_name: None,
            owner: SessionOwner::default(),
            statuses: Vec::new(),
            limit: 50,
        }
    }
}

impl SessionSearch {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=200).contains(&self.limit) {
            return Err(Error::invalid("limit", format!("must be in 1..=200, is {}", self.limit)));
        }
        if self.display_name.as_deref() == Some("") {
            return Err(Error::invalid("display_name", "is empty"));
        }
        match &self.owner {
            SessionOwner::User { owner_urns } if !(1..=10).contains(&owner_urns.len()) => {
                let n = owner_urns.len();
                Err(Error::invalid("owner.owner_urns", format!("must be 1 to 10 users, are {n}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whose sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionOwner {
    /// The caller's own.
    #[default]
    Own,
    /// All that the caller may see.
    Accessible,
    /// Those of some users.
    User {
        /// The users, 1 to 10 of them.
        owner_urns: Vec<String>,
    },
}

/// A state of sessions to look for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StatusFilter {
    /// Going on.
    Active,
    /// Cancelled.
    Cancelled,
    /// Failed.
    Failed,
    /// Ended by its client.
    ClientFinished {
        /// For one of these reasons; none: for any.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<super::FinishReason>,
    },
}

/// The end of one page, where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCursor {
    /// When the last session of the page was created.
    pub last_created_at: Timestamp,
    /// Its id.
    #[serde(deserialize_with = "lenient::id")]
    pub last_session_id: String,
}

/// A session that was found.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FoundSession {
    /// Its id.
    #[serde(deserialize_with = "lenient::id")]
    pub session_id: String,
    /// When it was created.
    #[serde(deserialize_with = "or_absent")]
    pub created_at: Option<Timestamp>,
    /// Whose it is.
    #[serde(deserialize_with = "or_absent")]
    pub owner: Option<String>,
    /// The project that it belongs to.
    #[serde(deserialize_with = "or_absent")]
    pub project_id: Option<String>,
    /// Its state, if the server says so.
    #[serde(deserialize_with = "or_absent")]
    pub status: Option<SessionStatus>,
    /// How many checkpoints it saved.
    #[serde(deserialize_with = "lenient::count")]
    pub checkpoints_count: u64,
    /// Its name for people.
    #[serde(deserialize_with = "or_absent")]
    pub display_name: Option<String>,
    /// What it was given to find it by.
    #[serde(deserialize_with = "lenient::texts")]
    pub user_metadata: BTreeMap<String, String>,
    /// What its checkpoints take, in bytes.
    #[serde(deserialize_with = "lenient::maybe_count")]
    pub checkpoint_storage_bytes: Option<u64>,
}

/// One page of sessions that were found, newest first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions.
    pub sessions: Vec<FoundSession>,
    /// Where the next page begins. `None`: this is the last one.
    pub next_cursor: Option<SessionCursor>,
}
