//! Operations whose result is a client. The Rust interface creates clients with blocking calls; here a thread makes the
//! call, so that programs with one thread need not block.

use std::time::Instant;

use super::border::Result;
use super::pending::{Operation, begin};
use super::result::Outcome;
use crate::ServiceClient;
use crate::error::{Error, ErrorKind};
use crate::pending::{Pending, Progress};
use crate::sync::oneshot::oneshot;
use crate::sync::{CancelToken, spawn, unwind};

/// Name of the operation in its status. Errors carry the name of the method that creates the client.
const METHOD: &str = "ServiceClient.create_client";

/// Runs `make`, which blocks until a client is created, on a thread of its own.
///
/// A cancellation ends the operation at once, but not a creation that has begun: the client is dropped when it arrives.
/// Until then the thread keeps the session alive, for at most `Timeouts::operation`; the end of the session ends the
/// creation.
///
/// # Errors
/// The system refuses the thread.
pub(super) fn start<T: Send + 'static>(
    service: ServiceClient,
    make: impl FnOnce(&ServiceClient) -> crate::Result<T> + Send + 'static,
    convert: impl FnOnce(T) -> Outcome + Send + 'static,
) -> Result<Operation> {
    let (reply, slot) = oneshot();
    // The creation has a deadline of its own.
    let progress = Progress::new(METHOD, Instant::now(), None);
    progress.submitting();
    let cancel = CancelToken::new();
    // Silent, because the wait inside of `make` logs its state, which says more.
    let pending = Pending::new(slot, progress, cancel.clone()).silent();
    let create = move || {
        if cancel.is_cancelled() { Err(Error::cancelled()) } else { make(&service) }
        // Here the thread's handle of the service is dropped, before anybody learns of the end.
    };
    let thread = spawn::spawn("tk-start".into(), None, move || {
        reply.send(unwind::catch(create).and_then(|made| made));
    });
    // The thread is not joined: it ends with the creation.
    thread.map_err(|cause| {
        Error::new(ErrorKind::System, format!("the thread tk-start could not be started: {cause}"))
    })?;
    begin(pending, convert)
}
