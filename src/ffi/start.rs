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

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::ffi::code;
    use crate::ffi::object::{self, Object};
    use crate::ffi::pending::{
        tinkex_pending, tinkex_pending_cancel, tinkex_pending_free, tinkex_pending_wait,
    };

    fn service() -> ServiceClient {
        ServiceClient::builder().api_key("tml-x").base_url("http://127.0.0.1:9").build().unwrap()
    }

    fn wait(pending: *const tinkex_pending) -> i32 {
        // SAFETY: `pending` is a handle.
        unsafe { tinkex_pending_wait(pending, 10_000, std::ptr::null_mut(), std::ptr::null_mut()) }
    }

    #[test]
    fn a_cancellation_ends_the_operation_and_the_late_result_is_dropped() {
        struct Late(mpsc::Sender<()>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (begun, has_begun) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel::<()>();
        let (dropped, was_dropped) = mpsc::channel();
        let late = Late(dropped);
        let make = move |_: &ServiceClient| {
            begun.send(()).unwrap();
            may_finish.recv().unwrap();
            Ok(late)
        };
        let convert = |late: Late| {
            drop(late);
            Outcome::Load(None)
        };
        let mut pending = Object::make(start(service(), make, convert).unwrap());
        has_begun.recv().unwrap();
        // SAFETY: `pending` is a handle.
        unsafe { tinkex_pending_cancel(pending) };
        assert_eq!(wait(pending), code::CANCELLED.number());
        finish.send(()).unwrap();
        was_dropped.recv_timeout(Duration::from_secs(10)).unwrap();
        // SAFETY: as above.
        unsafe { tinkex_pending_free(&raw mut pending) };
    }

    #[test]
    fn a_result_an_error_and_a_panic_end_the_operation() {
        let code = |made: fn() -> crate::Result<()>| {
            let operation = start(service(), move |_| made(), |()| Outcome::Load(None)).unwrap();
            let mut pending = Object::make(operation);
            let code = wait(pending);
            // SAFETY: `pending` is a handle.
            unsafe { object::free(&raw mut pending) };
            code
        };
        assert_eq!(code(|| Ok(())), code::OK);
        assert_eq!(code(|| Err(Error::config("x"))), code::CONFIG.number());
        assert_eq!(code(|| panic!("x")), code::WORKER_PANIC.number());
    }
}
