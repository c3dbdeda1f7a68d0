//! Endpoints that a server may lack: such an endpoint is called once, and its absence is told apart from that of the
//! thing which the call names.

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

    /// As [`send`](Http::send), to an endpoint that the server may lack.
    pub(crate) fn send_to_optional(&self, call: &Call, cancel: &CancelToken) -> Result<Answer> {
        match self.send(call, cancel) {
            Ok(answer) => {
                self.offered.lock().note_present(call.endpoint.name);
                Ok(answer)
            }
            Err(error) => Err(self.judged(error, call.endpoint, call.names)),
        }
    }

    /// Turns the refusal of an endpoint that the server lacks into [`Incompatible`](ErrorKind::Incompatible) where it
    /// can be told, and remembers the endpoint where that is certain.
    pub(crate) fn judged(&self, error: Error, endpoint: &Endpoint, names: Names) -> Error {
        // A failed fetch of the token is an error of another endpoint.
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
