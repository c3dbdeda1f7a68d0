//! REST calls about sessions.

use std::time::Duration;

use super::RestClient;
use super::listing::{Listing, Source};
use super::search::FoundSessions;
use crate::client::blocking_call::RestRequest;
use crate::error::words::presentable;
use crate::error::{Category, Error, ErrorKind, Result};
use crate::http::endpoint;
use crate::session::missing_in_answer;
use crate::types::{Page, SessionInfo, SessionSearch, SignedUrl};
use crate::wire::json::{self, SessionsResponse, TraceExportResponse};
use crate::wire::url::{self, Query};

const SESSIONS: Source<String> = Source {
    verb: "RestClient.list_sessions",
    endpoint: &endpoint::SESSIONS,
    limit: 20,
    read: |body| {
        let response: SessionsResponse = json::response(body)?;
        Ok(Page { items: response.sessions, cursor: response.cursor })
    },
    key: |id| id,
};

/// Pause between two requests for the state of a trace export.
const TRACE_PAUSE: Duration = Duration::from_secs(5);

impl RestClient {
    /// Lists the ids of sessions, by default in pages of 20 (PROTOCOL §3.5 #37). See [`Listing`].
    pub fn list_sessions(&self) -> Listing<String> {
        Listing::new(&self.caller, SESSIONS, Some(self.scope))
    }

    /// Reads the models and samplers of a session.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_session(&self, session_id: &str) -> Result<SessionInfo> {
        let path = endpoint::SESSION.path_with(&[&url::segment("session_id", session_id)?]);
        let query = Query::on(path).with("access_scope", self.scope.as_str());
        self.caller.json("RestClient.get_session", RestRequest::new(&endpoint::SESSION, query.text()))
    }

    /// Moves a session with its training runs to a project (PROTOCOL §3.5 #38). The session can be moved to another
    /// project later, but it cannot be made a session without a project again.
    ///
    /// # Errors
    /// An empty project (nothing is sent), [`Permission`](crate::ErrorKind::Permission),
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn assign_session_project(&self, session_id: &str, project_id: &str) -> Result<()> {
        if project_id.is_empty() {
            return Err(Error::invalid("project_id", "is empty"));
        }
        let path = endpoint::SESSION_PROJECT.path_with(&[&url::segment("session_id", session_id)?]);
        let request = json::AssignProjectRequest { project_id: project_id.into() };
        let request = RestRequest::json(&endpoint::SESSION_PROJECT, path, &request)?;
        self.caller.empty("RestClient.assign_session_project", request)
    }

    /// Exports the events of a session as a Perfetto trace (`.pftrace`), and returns the address of the trace, which is
    /// valid for about one hour (PROTOCOL §3.5 #39).
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`RequestFailed`](crate::ErrorKind::RequestFailed) if the export
    /// failed, and as for [`RestClient`].
    ///
    /// # Blocking
    /// Until the server has written the trace, at most `Timeouts::operation`, with one request every 5 s. Closing the
    /// service client ends the wait.
    pub fn export_session_trace(&self, session_id: &str) -> Result<SignedUrl> {
        let path = endpoint::SESSION_TRACE_EXPORT.path_with(&[&url::segment("session_id", session_id)?]);
        let request = RestRequest::new(&endpoint::SESSION_TRACE_EXPORT, path);
        self.caller.run("RestClient.export_session_trace", |call| {
            loop {
                let reply: TraceExportResponse = call.json(&request)?;
                match (reply.status.as_str(), reply.url) {
                    ("failed", _) => return Err(failed(reply.error)),
                    ("ready", None) => return Err(missing_in_answer("the address of the trace")),
                    // With any other status, an address means that the trace is ready.
                    ("pending", _) | (_, None) => call.pause(TRACE_PAUSE)?,
                    (_, Some(url)) => return call.server_url(&url),
                }
            }
        })
    }

    /// Searches sessions, newest first, page by page (PROTOCOL §3.5 #40, an experimental call). See [`FoundSessions`].
    pub fn search_sessions(&self, search: SessionSearch) -> FoundSessions {
        FoundSessions::new(&self.caller, search)
    }
}

fn failed(error: Option<String>) -> Error {
    let category = Category::Unknown;
    let text = error.map_or_else(|| "the server gave no reason".into(), |text| presentable(&text));
    Error::new(ErrorKind::RequestFailed { category }, format!("the export of the trace failed: {text}"))
}
