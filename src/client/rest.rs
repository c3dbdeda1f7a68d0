//! The client for everything that is not training or sampling.

mod account;
mod checkpoints;
mod listing;
mod runs;
mod search;
mod sessions;

use super::ServiceClient;
use super::asking::Asker;
use crate::types::AccessScope;

pub use listing::Listing;
pub use search::FoundSessions;

/// Lists and manages training runs, checkpoints and sessions (PROTOCOL §3.5).
///
/// Made by [`ServiceClient::create_rest_client`]; shares the service client's connections, credential and end, has no thread of
/// its own and opens no session. Cheap to clone. Several threads may call it at the same time.
///
/// # Errors
/// Besides what each call names: no connection, a refused credential, an account that cannot pay, a limit, a closed client.
/// Servers do not all offer everything. [`ErrorKind::Incompatible`](crate::ErrorKind::Incompatible) means that this one
/// lacks what the call needs; it is then not asked again. It is known by status 405, or 404 for a call that names nothing
/// which could be missing itself. A 404 for a thing that was named is
/// [`NotFound`](crate::ErrorKind::NotFound), even though some servers mean the endpoint.
///
/// # Blocking
/// Each call sends one request, unless it says otherwise, on the caller's thread: at most `Timeouts::exchange` for an
/// attempt and `Timeouts::submit` for all of them; a server that was never reached is given up after
/// `Timeouts::connect`. While the account cannot pay (HTTP 402), a call waits as its
/// [`PausePolicy`](crate::PausePolicy) says, an hour at most unless the server says otherwise. The first call also learns the server's flags. [`ServiceClient::close`] ends all calls at once.
///
/// # Example: what was trained, and where it is kept
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
    asker: Asker,
    scope: AccessScope,
}

impl RestClient {
    pub(super) fn new(service: &ServiceClient) -> Self {
        RestClient { asker: Asker::new(service), scope: AccessScope::default() }
    }

    /// This client, looking at what belongs to the caller (the default) or at everything that the caller may see. It
    /// matters to `list_training_runs`, `get_training_run`, `list_sessions` and `get_session`.
    pub fn access_scope(mut self, scope: AccessScope) -> Self {
        self.scope = scope;
        self
    }
}
