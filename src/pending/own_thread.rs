//! Detects a deadlock: a client runs a function of its caller (a custom loss), and the function waits for an operation
//! that it has submitted to the same client. The client starts the operation only after the function has returned.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use crate::sync::Mutex;

/// The thread on which a client runs a function of its caller, if a function is running. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct OwnThread(Arc<Mutex<Option<ThreadId>>>);

impl OwnThread {
    /// Runs the function on the current thread, which is recorded until the function returns.
    pub(crate) fn run<T>(&self, function: impl FnOnce() -> T) -> T {
        *self.0.lock() = Some(thread::current().id());
        let _reset = Reset(self);
        function()
    }

    /// Returns true if the function is running on the current thread.
    pub(crate) fn is_this(&self) -> bool {
        *self.0.lock() == Some(thread::current().id())
    }
}

struct Reset<'a>(&'a OwnThread);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        // Reset only the id of this thread: if the operation of this function (the custom loss pass) was cancelled, the
        // client may already run the next function on another thread.
        let mut running = self.0.0.lock();
        if *running == Some(thread::current().id()) {
            *running = None;
        }
    }
}
