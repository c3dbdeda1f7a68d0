//! Conditions of a search for sessions, as JSON in the protocol's form.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ffi::border::{Fault, Result};
use crate::types::{FinishReason, SessionCursor, SessionOwner, SessionSearch, StatusFilter};

/// [`SessionSearch`] without unknown names.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Query {
    session_id: Option<String>,
    project_ids: Vec<String>,
    user_metadata: BTreeMap<String, String>,
    display_name: Option<String>,
    owner: Owner,
    statuses: Vec<Status>,
    limit: u32,
}

#[derive(Default, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Owner {
    #[default]
    Own,
    Accessible,
    User {
        owner_urns: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Status {
    Active,
    Cancelled,
    Failed,
    ClientFinished {
        #[serde(default)]
        reasons: Vec<FinishReason>,
    },
}

impl Default for Query {
    fn default() -> Self {
        Query {
            session_id: None,
            project_ids: Vec::new(),
            user_metadata: BTreeMap::new(),
            display_name: None,
            owner: Owner::default(),
            statuses: Vec::new(),
            limit: SessionSearch::default().limit,
        }
    }
}

/// Reads the conditions.
pub(super) fn search(json: &str) -> Result<SessionSearch> {
    let query: Query = object(json, "query_json")?;
    let owner = match query.owner {
        Owner::Own => SessionOwner::Own,
        Owner::Accessible => SessionOwner::Accessible,
        Owner::User { owner_urns } => SessionOwner::User { owner_urns },
    };
    let status = |status| match status {
        Status::Active => StatusFilter::Active,
        Status::Cancelled => StatusFilter::Cancelled,
        Status::Failed => StatusFilter::Failed,
        Status::ClientFinished { reasons } => StatusFilter::ClientFinished { reasons },
    };
    Ok(SessionSearch {
        session_id: query.session_id,
        project_ids: query.project_ids,
        user_metadata: query.user_metadata,
        display_name: query.display_name,
        owner,
        statuses: query.statuses.into_iter().map(status).collect(),
        limit: query.limit,
    })
}

/// Reads the `next_cursor` of an earlier page.
pub(super) fn cursor(json: &str) -> Result<SessionCursor> {
    object(json, "cursor")
}

/// Reads a JSON object. The derived readers alone would also take an array of the fields' values.
fn object<T: DeserializeOwned>(json: &str, name: &str) -> Result<T> {
    let map: serde_json::Result<Map<String, Value>> = serde_json::from_str(json);
    map.and_then(|map| serde_json::from_value(map.into()))
        .map_err(|error| Fault::invalid(name, format!("`{name}` cannot be read: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ffi::code;

    #[test]
    fn a_query_is_read_as_it_is_sent() {
        let full = json!({
            "session_id": "s", "project_ids": ["p"], "user_metadata": { "a": "b" }, "display_name": "night",
            "owner": { "type": "user", "owner_urns": ["tml:user:1"] },
            "statuses": [
                { "type": "active" }, { "type": "cancelled" }, { "type": "failed" },
                { "type": "client_finished", "reasons": ["success"] }, { "type": "client_finished" },
            ],
            "limit": 10,
        });
        assert_eq!(serde_json::to_value(search(&full.to_string()).unwrap()).unwrap(), full);
        assert_eq!(search("{}").unwrap(), SessionSearch::default());
        let position = json!({ "last_created_at": "2026-11-20 13:00:00+00:00", "last_session_id": "s" });
        assert_eq!(serde_json::to_value(cursor(&position.to_string()).unwrap()).unwrap(), position);
    }

    #[test]
    fn an_error_names_what_is_wrong() {
        for (json, part) in [
            ("", "EOF"),
            ("[\"s\"]", "invalid type: sequence"),
            ("{\"sesion_id\": \"s\"}", "sesion_id"),
            ("{\"limit\": -1}", "-1"),
            ("{\"owner\": {\"type\": \"them\"}}", "them"),
            ("{\"statuses\": [{\"type\": \"lost\"}]}", "lost"),
        ] {
            let fault = search(json).unwrap_err();
            assert_eq!(fault.code(), code::INVALID_INPUT);
            let Fault::Misuse { message, path, .. } = fault else { panic!("an error of the arguments") };
            assert_eq!(path.as_deref(), Some("query_json"));
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(cursor("null").unwrap_err().code(), code::INVALID_INPUT);
    }
}
