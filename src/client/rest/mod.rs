//! The client for training runs, checkpoints and sessions. Modules by topic: `account` (the caller's identity and key),
//! `checkpoints`, `runs`, `sessions`; `listing` and `search` iterate over lists that the server sends in pages.

mod account;
mod checkpoints;
mod listing;
mod runs;
mod search;
mod sessions;

use super::ServiceClient;
use super::blocking_call::Caller;
use crate::sync::CancelToken;
use crate::types::AccessScope;

pub use listing::Listing;
pub use search::FoundSessions;

/// Lists and manages training runs, checkpoints and sessions (PROTOCOL §3.5).
///
/// Created by [`ServiceClient::create_rest_client`]. A REST client shares the connections and the credential of the
/// service client, and is closed with the service client. It has no thread and opens no session. Cheap to clone.
/// Several threads may call it at the same time.
///
/// # Errors
/// In addition to the errors of each call: no connection, a refused credential, an account that cannot pay, a rate
/// limit, a closed client. [`ErrorKind::Incompatible`](crate::ErrorKind::Incompatible) means that the server lacks the
/// endpoint; later calls of the endpoint return the same error without sending a request. The client returns this error
/// after status 405, and after status 404 if the call names no object. A 404 for a named object is
/// [`NotFound`](crate::ErrorKind::NotFound), even if the server lacks the endpoint.
///
/// # Blocking
/// Unless stated otherwise, each call sends one request on the caller's thread, for at most `Timeouts::exchange` per
/// attempt and `Timeouts::submit` for all attempts. If the server has never answered, retries end earlier: after
/// `Timeouts::connect` if no connection can be made, else after `Timeouts::first_contact`. While the account cannot pay
/// (HTTP 402), a call waits according to the client's [`PausePolicy`](crate::PausePolicy), for at most one hour unless
/// the server sets another limit. The first call also fetches the server's flags. [`ServiceClient::close`] ends all
/// calls immediately.
///
/// # Example: list runs and checkpoints
/// ```
/// # #[cfg(feature = "testing")] {
/// # use tinkex::{testing::FakeServer, types::{LoraConfig, Ttl}};
/// # let server = FakeServer::new();
/// # let service = server.in_memory().build()?;
/// # let training = service.create_lora_training_client("fake/model", LoraConfig::default())?;
/// # training.save_state("final", Ttl::Never).wait()?;
/// let rest = service.create_rest_client();
/// for run in rest.list_training_runs() {
///     let run = run?;
///     println!("{} {:?}", run.training_run_id, run.base_model);
///     for checkpoint in rest.list_checkpoints(&run.training_run_id)? {
///         println!("  {} {:?} bytes", checkpoint.path()?, checkpoint.size_bytes);
///     }
/// }
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RestClient {
    caller: Caller,
    scope: AccessScope,
}

impl RestClient {
    pub(super) fn new(service: &ServiceClient) -> Self {
        RestClient { caller: Caller::new(service), scope: AccessScope::default() }
    }

    /// Sets the token that cancels the calls: a child of the session's.
    pub(crate) fn cancelled_by(mut self, cancel: &CancelToken) -> Self {
        self.caller = self.caller.cancelled_by(cancel);
        self
    }

    /// The service client of the calls.
    pub(crate) fn service(&self) -> &ServiceClient {
        self.caller.service()
    }

    /// The token that cancels the calls.
    pub(crate) fn cancel_token(&self) -> &CancelToken {
        self.caller.cancel_token()
    }

    /// Sets which objects the results contain: only the objects of the caller (the default), or all objects that the
    /// caller may read. Applies to `list_training_runs`, `get_training_run`, `list_sessions` and `get_session`.
    pub fn access_scope(mut self, scope: AccessScope) -> Self {
        self.scope = scope;
        self
    }
}
