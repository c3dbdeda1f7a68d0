//! The C interface's form of a [`Pending`]: several threads may wait for the end of the operation at the same time.

use std::time::Instant;

use super::{NET, Pending, Status};
use crate::error::{Error, Result};
use crate::sync::oneshot::oneshot;

/// The handle of an operation whose result goes to a callback. Any number of threads may wait for the end.
pub(crate) struct SharedPending {
    /// Settled after the callback was called.
    pending: Pending<()>,
    cancels_when_freed: bool,
}

impl<T: Send + 'static> Pending<T> {
    /// Passes the result to `settle`: immediately if the result is available, otherwise later, on the thread that
    /// delivers it.
    pub(crate) fn settle_into(mut self, settle: impl FnOnce(Result<T>) + Send + 'static) -> SharedPending {
        let (reply, slot) = oneshot();
        let progress = self.progress.clone();
        self.slot.on_settled(Box::new(move |result| {
            settle(result.map_err(|error| progress.explain(error, Instant::now())));
            reply.send(Ok(()));
        }));
        let mut pending = Pending::new(slot, self.progress.clone(), self.cancel.clone());
        pending.process = self.process;
        pending.is_silent = self.is_silent;
        pending.keep = self.keep.take();
        pending.behind = self.behind.take();
        SharedPending { pending, cancels_when_freed: std::mem::take(&mut self.cancel_on_drop) }
    }

    /// The error of an operation that failed before anything was sent.
    pub(crate) fn failed_unsent(&mut self) -> Option<Error> {
        if !(self.is_done() && self.progress.is_queued()) {
            return None;
        }
        match self.try_wait()? {
            Err(error) => Some(error),
            // Some operations succeed without a request: for example, `create_custom_loss` is called again with the
            // same graph. Put the result back for `settle_into`.
            Ok(value) => {
                let (reply, slot) = oneshot();
                reply.send(Ok(value));
                self.slot = slot;
                None
            }
        }
    }
}

impl SharedPending {
    /// Waits for the end, at most until `deadline`. If `deadline` is `None`, waits at most until
    /// [`limit`](Self::limit). Returns whether the operation has ended.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        self.pending.wait_settled(deadline.or_else(|| self.limit()))
    }

    /// The time at which a wait ends at the latest if the caller sets no limit: 10 s after the deadline of the
    /// operation.
    pub(crate) fn limit(&self) -> Option<Instant> {
        self.pending.deadline().and_then(|deadline| deadline.checked_add(NET))
    }

    /// The operation has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.pending.slot.is_settled()
    }

    /// A wait on this thread would last forever: see `Pending::waits_for_this_thread`.
    pub(crate) fn waits_for_this_thread(&self) -> bool {
        self.pending.waits_for_this_thread()
    }

    /// The current state of the operation.
    pub(crate) fn status(&self) -> Status {
        self.pending.status()
    }

    /// Creates the error of an operation that the caller cancels. Does not cancel the operation.
    pub(crate) fn cancelled(&self) -> Error {
        self.pending.progress.explain(Error::cancelled(), Instant::now())
    }

    /// The error with which the operation ended, if its result never reached the callback.
    pub(crate) fn lost(&self) -> Error {
        let taken = self.pending.slot.try_take();
        let error = taken
            .and_then(Result::err)
            .unwrap_or_else(|| Error::closed("the worker ended without an answer"));
        self.pending.progress.explain(error, Instant::now())
    }

    /// Cancels the operation. Later waits end at once.
    pub(crate) fn cancel(&self) {
        self.pending.cancel();
    }

    /// Returns whether freeing the handle cancels the operation. It does so for samples only.
    pub(crate) fn cancels_when_freed(&self) -> bool {
        self.cancels_when_freed
    }

    /// Cancels an operation whose result nobody wants, and tells the observer.
    pub(crate) fn abandon(&self) {
        self.pending.abandon();
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::super::Progress;
    use super::*;
    use crate::sync::CancelToken;

    #[test]
    fn a_result_without_a_request_is_not_lost() {
        let pending = |result: Result<i32>| {
            let (reply, slot) = oneshot();
            reply.send(result);
            Pending::new(slot, Progress::new("A.b", Instant::now(), None), CancelToken::new())
        };
        assert!(pending(Err(Error::cancelled())).failed_unsent().unwrap().is_cancelled());
        let mut done = pending(Ok(1));
        assert!(done.failed_unsent().is_none());
        let (sender, receiver) = mpsc::channel();
        let shared = done.settle_into(move |result| sender.send(result).unwrap());
        assert!(shared.is_done());
        assert_eq!(receiver.recv().unwrap().unwrap(), 1);
    }
}
