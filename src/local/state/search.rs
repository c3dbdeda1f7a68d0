//! Search for sessions (PROTOCOL §3.5 #40), their projects, and their traces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock_text::rfc3339_micros;
use crate::wire::json::FinishReason;

use super::super::catalogue::End;
use super::super::futures::session_of;
use super::super::limits::check_name;
use super::super::reply::{Reply, refuse};
use super::super::trace::Trace;
use super::lists::texts;
use super::{Session, State, USER};

/// Criteria of a search.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(in crate::local) struct Search {
    session_id: Option<String>,
    project_ids: Option<Vec<String>>,
    user_metadata: BTreeMap<String, String>,
    display_name: Option<String>,
    owner: Owner,
    statuses: Option<Vec<Status>>,
    limit: usize,
    cursor: Option<Cursor>,
}

impl Default for Search {
    fn default() -> Self {
        Search {
            session_id: None,
            project_ids: None,
            user_metadata: BTreeMap::new(),
            display_name: None,
            owner: Owner::Own,
            statuses: None,
            limit: 50,
            cursor: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Owner {
    Own,
    Accessible,
    User { owner_urns: Vec<String> },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Status {
    Active,
    Cancelled,
    Failed,
    ClientFinished {
        #[serde(default)]
        reasons: Option<Vec<String>>,
    },
}

/// Position after which the page begins: the last session of the previous page.
#[derive(Debug, Deserialize)]
struct Cursor {
    last_created_at: String,
    last_session_id: String,
}

impl Search {
    fn matches(&self, id: &str, session: &Session) -> bool {
        let name = session.display_name.as_deref().unwrap_or_default().to_lowercase();
        let by_id = self.session_id.as_deref().map(|it| it == id);
        let by_name = self.display_name.as_ref().map(|it| name.contains(&it.to_lowercase()));
        let named = match (by_id, by_name) {
            (None, None) => true,
            (a, b) => a == Some(true) || b == Some(true),
        };
        let project = |all: &Vec<String>| {
            all.is_empty() || session.project_id.as_ref().is_some_and(|it| all.contains(it))
        };
        let own = match &self.owner {
            Owner::Own | Owner::Accessible => true,
            Owner::User { owner_urns } => owner_urns.iter().any(|it| it == USER),
        };
        let metadata = texts(session.user_metadata.clone());
        named
            && own
            && self.project_ids.as_ref().is_none_or(project)
            && self.user_metadata.iter().all(|(key, value)| metadata.get(key) == Some(value))
            && self.statuses.as_ref().is_none_or(|all| all.is_empty() || all.iter().any(|it| it.is(session)))
    }
}

impl Status {
    fn is(&self, session: &Session) -> bool {
        match (self, &session.end) {
            (Status::Active, None) | (Status::Cancelled, Some(End::Silent | End::Stopped)) => true,
            (Status::ClientFinished { reasons }, Some(End::Finished { reason, .. })) => {
                let reasons = reasons.as_deref().unwrap_or_default();
                reasons.is_empty() || reasons.iter().any(|it| it == word(*reason))
            }
            // `Failed` matches no session: on this server only requests fail.
            _ => false,
        }
    }
}

fn word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Success => "success",
        FinishReason::Errored => "errored",
        FinishReason::Interrupted => "interrupted",
    }
}

fn status(end: &Option<End>) -> Value {
    match end {
        None => json!({"type": "active"}),
        Some(End::Silent) => json!({"type": "cancelled", "detail": "the client was silent for too long"}),
        Some(End::Stopped) => json!({"type": "cancelled", "detail": "the engine was stopped"}),
        Some(End::Finished { reason, detail }) => {
            let mut status = json!({"type": "client_finished", "reason": {"type": word(*reason)}});
            if let Some(it) = detail {
                status["detail"] = it.as_str().into();
            }
            status
        }
    }
}

impl State {
    /// One page of the sessions that match, newest first.
    pub(in crate::local) fn search_sessions(&self, search: &Search) -> Reply<Value> {
        if !(1..=200).contains(&search.limit) {
            return refuse(422, format!("limit: must be in 1..=200, is {}", search.limit));
        }
        if search.display_name.as_deref() == Some("") {
            return refuse(422, "display_name: is empty");
        }
        if let Owner::User { owner_urns } = &search.owner
            && !(1..=10).contains(&owner_urns.len())
        {
            return refuse(422, format!("owner.owner_urns: takes 1 to 10 users, got {}", owner_urns.len()));
        }
        // Sum up checkpoints per session. The id of a training run starts with the id of its session.
        let mut saved: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for found in self.store.all() {
            if let Some((session, _)) = found.meta.run_id.split_once(":train:") {
                let sum = saved.entry(session.to_string()).or_default();
                *sum = (sum.0 + 1, sum.1 + found.size_bytes);
            }
        }
        let inner = self.inner.lock();
        let found = inner.sessions.iter().filter(|(id, it)| search.matches(id, it));
        let mut found: Vec<(String, &String, &Session)> =
            found.map(|(id, it)| (rfc3339_micros(it.created), id, it)).collect();
        found.sort_by(|a, b| (&b.0, b.1).cmp(&(&a.0, a.1)));
        if let Some(it) = &search.cursor {
            found.retain(|(created, id, _)| {
                (created.as_str(), id.as_str()) < (it.last_created_at.as_str(), it.last_session_id.as_str())
            });
        }
        let more = search.limit < found.len();
        found.truncate(search.limit);
        let next = found.last().filter(|_| more);
        let next = next.map(|it| json!({"last_created_at": it.0, "last_session_id": it.1}));
        let sessions: Vec<Value> = found
            .into_iter()
            .map(|(created, id, session)| {
                let (count, bytes) = saved.get(id).copied().unwrap_or_default();
                json!({
                    "session_id": id, "created_at": created, "owner": USER, "project_id": session.project_id,
                    "status": status(&session.end), "checkpoints_count": count, "checkpoint_storage_bytes": bytes,
                    "display_name": session.display_name, "user_metadata": texts(session.user_metadata.clone()),
                })
            })
            .collect();
        let mut page = json!({ "sessions": sessions });
        if let Some(it) = next {
            page["next_cursor"] = it;
        }
        Ok(page)
    }

    /// Moves a session and its training runs to a project.
    pub(in crate::local) fn assign_project(&self, session_id: &str, project_id: String) -> Reply<()> {
        if project_id.is_empty() {
            return refuse(400, "project_id: is empty");
        }
        check_name("project_id", Some(&project_id)).or_else(|it| refuse(400, it))?;
        let of_session = self.catalogue.runs.all().into_iter().map(|it| it.run_id);
        let of_session: Vec<String> = of_session.filter(|it| session_of(it) == session_id).collect();
        match self.inner.lock().sessions.get_mut(session_id) {
            Some(session) => {
                session.project_id = Some(project_id.clone());
                self.catalogue.sessions.put(session.record(session_id));
            }
            None => return refuse(404, format!("session {session_id} does not exist")),
        }
        for run_id in of_session {
            self.catalogue.runs.change(&run_id, |it| it.project_id = Some(project_id.clone()));
            self.catalogue.runs.write(&run_id);
        }
        self.catalogue.sessions.write(session_id);
        Ok(())
    }

    /// Trace of a session, as a file for Perfetto.
    pub(super) fn trace(&self, session_id: &str) -> Reply<Vec<u8>> {
        let trace = self.trace_of(session_id)?;
        Ok(trace.encode(SystemTime::now()))
    }

    fn trace_of(&self, session_id: &str) -> Reply<Arc<Trace>> {
        match self.inner.lock().sessions.get(session_id).map(|it| it.trace.clone()) {
            Some(Some(it)) => Ok(it),
            Some(None) => refuse(404, format!("the trace of session {session_id} is no longer kept")),
            None => refuse(404, format!("session {session_id} does not exist")),
        }
    }

    /// Creates an address where the trace of a session can be downloaded.
    pub(in crate::local) fn export_trace(&self, session_id: &str) -> Reply<super::checkpoints::Address> {
        self.trace_of(session_id)?;
        let item = super::super::downloads::Item::Trace(session_id.into());
        Ok(self.address(item, &format!("{session_id}.pftrace")))
    }
}
