//! Endpoints that a server may lack. Once the server is known to lack an endpoint, the endpoint is not called any more.
//! A refusal such as 404 can mean two things: the server lacks the endpoint, or it lacks the object that the call
//! names. [`Http::judged`] tells them apart.

use super::{Answer, Call, Endpoint, Http};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::endpoints::{Endpoints, Names, Presence};
use crate::sync::{CancelToken, Mutex};

impl Http {
    /// The endpoints that the server is known to have or to lack.
    pub(crate) fn offered(&self) -> &Mutex<Endpoints> {
        &self.offered
    }

    /// Refuses an endpoint that the server is known to lack.
    pub(crate) fn check_offered(&self, endpoint: &Endpoint) -> Result<()> {
        if self.offered.lock().lacks(endpoint.name) {
            Err(Error::new(ErrorKind::Incompatible, not_offered(endpoint)))
        } else {
            Ok(())
        }
    }

    /// Sends a call like [`send`](Http::send), to an endpoint that the server may lack.
    pub(crate) fn send_to_optional(&self, call: &Call, cancel: &CancelToken) -> Result<Answer> {
        match self.send(call, cancel) {
            Ok(answer) => {
                self.offered.lock().note_present(call.endpoint.name);
                Ok(answer)
            }
            Err(error) => Err(self.judged(error, call.endpoint, call.names)),
        }
    }

    /// Judges a refusal. If the server lacks the endpoint, or probably lacks it, the error becomes
    /// [`Incompatible`](ErrorKind::Incompatible). If the server lacks it for certain, this is remembered. If this is
    /// unclear, the message of the error says so.
    pub(crate) fn judged(&self, error: Error, endpoint: &Endpoint, names: Names) -> Error {
        // The error may belong to another endpoint: the call may have failed because no token could be fetched.
        let is_of_this = error.endpoint() == Some(endpoint.name);
        let Some(status) = error.http_status().filter(|_| is_of_this) else { return error };
        let detail = error.detail().unwrap_or_default();
        let presence = self.offered.lock().note_refusal(endpoint.name, status, detail, names);
        match presence {
            Presence::Present => error,
            Presence::Absent | Presence::ProbablyAbsent => {
                let text = format!("{} (HTTP {status})", not_offered(endpoint));
                error.renamed(ErrorKind::Incompatible, text)
            }
            Presence::Unclear => {
                let text =
                    format!("{}; a server that does not offer this call says the same", error.message());
                let kind = error.kind().clone();
                error.renamed(kind, text)
            }
        }
    }
}

fn not_offered(endpoint: &Endpoint) -> String {
    format!("this server does not offer {}", endpoint.name)
}
