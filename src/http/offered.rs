//! Endpoints that not every server has: asked for once, and told from things that are missing.

use super::{Answer, Call, Http};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::endpoints::{Endpoints, Names, Presence};
use crate::sync::{CancelToken, Mutex};

/// An endpoint, as it is remembered and as errors name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    /// Method and path, such as `GET sessions/{id}`.
    pub(crate) name: &'static str,
    pub(crate) names: Names,
}

impl Http {
    /// What is known of the endpoints that the server has and lacks.
    pub(crate) fn offered(&self) -> &Mutex<Endpoints> {
        &self.offered
    }

    /// Refuses what the server is known to lack.
    pub(crate) fn check_offered(&self, endpoint: Endpoint) -> Result<()> {
        match self.offered.lock().lacks(endpoint.name) {
            true => Err(Error::new(ErrorKind::Incompatible, not_offered(endpoint))),
            false => Ok(()),
        }
    }

    /// As [`send`](Http::send), to an endpoint that the server may lack.
    pub(crate) fn send_to(&self, endpoint: Endpoint, call: &Call, cancel: &CancelToken) -> Result<Answer> {
        match self.send(call, cancel) {
            Ok(answer) => {
                self.offered.lock().note_present(endpoint.name);
                Ok(answer)
            }
            Err(error) => Err(self.judged(error, endpoint, &call.path)),
        }
    }

    /// A refusal as the caller should see it: that of an endpoint which the server lacks is told apart where that is
    /// possible, and remembered where it is certain.
    pub(crate) fn judged(&self, error: Error, endpoint: Endpoint, path: &str) -> Error {
        // The token's own address may be what is missing.
        let is_of_this = error.url().is_some_and(|it| it.ends_with(path));
        let Some(status) = error.http_status().filter(|_| is_of_this) else { return error };
        let detail = error.message().split_once(": ").map_or("", |it| it.1);
        let presence = self.offered.lock().note_refusal(endpoint.name, status, detail, endpoint.names);
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

fn not_offered(endpoint: Endpoint) -> String {
    format!("this server does not offer {}", endpoint.name)
}
