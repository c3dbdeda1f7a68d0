//! Detects a deadlock: a client runs a function of its caller (a custom loss), and the function waits for an operation
//! that the client continues only after the function has returned. These are the pass that the function belongs to, and
//! all operations of the client that are not started yet.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use crate::sync::Mutex;

/// The thread on which a client runs a function of its caller, and the operation to which the function belongs; `None`
/// if no function is running. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct OwnThread(Arc<Mutex<Option<(ThreadId, OperationId)>>>);

/// Identifies an operation as long as it exists.
pub(crate) type OperationId = usize;

impl OwnThread {
    /// Runs the function of an operation on the current thread. Both are recorded until the function returns.
    pub(crate) fn run<T>(&self, operation: OperationId, function: impl FnOnce() -> T) -> T {
        *self.0.lock() = Some((thread::current().id(), operation));
        let _reset = Reset(self);
        function()
    }

    /// Returns true if the function is running on the current thread.
    pub(crate) fn is_this(&self) -> bool {
        self.operation().is_some()
    }

    /// The operation whose function is running on the current thread.
    pub(crate) fn operation(&self) -> Option<OperationId> {
        let running = *self.0.lock();
        running.filter(|(thread, _)| *thread == thread::current().id()).map(|(_, operation)| operation)
    }
}

struct Reset<'a>(&'a OwnThread);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        // Reset only the id of this thread: if the operation of this function (the custom loss pass) was cancelled, the
        // client may already run the next function on another thread.
        let mut running = self.0.0.lock();
        if running.is_some_and(|(thread, _)| thread == thread::current().id()) {
            *running = None;
        }
    }
}
