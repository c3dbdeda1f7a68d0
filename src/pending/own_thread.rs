//! Detects a caller's function that waits for an operation that cannot begin before the function returns.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use crate::sync::Mutex;

/// The thread on which a client runs a function of its caller. Operations submitted to the client meanwhile begin only
/// after the function has returned. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct OwnThread(Arc<Mutex<Option<ThreadId>>>);

impl OwnThread {
    /// Runs the function on this thread.
    pub(crate) fn run<T>(&self, function: impl FnOnce() -> T) -> T {
        *self.0.lock() = Some(thread::current().id());
        let _reset = Reset(self);
        function()
    }

    /// The current thread is that thread, and the function is running.
    pub(crate) fn is_this(&self) -> bool {
        *self.0.lock() == Some(thread::current().id())
    }
}

struct Reset<'a>(&'a OwnThread);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        // Another function may run meanwhile, if the operation of this one was cancelled.
        let mut running = self.0.0.lock();
        if *running == Some(thread::current().id()) {
            *running = None;
        }
    }
}
