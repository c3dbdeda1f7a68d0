//! A caller's function that waits for what can only come after it.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use crate::sync::Mutex;

/// The thread on which a client runs a function of its caller's, while everything that is submitted to the client waits for
/// that function. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct OwnThread(Arc<Mutex<Option<ThreadId>>>);

impl OwnThread {
    /// Runs the function on this thread.
    pub(crate) fn run<T>(&self, function: impl FnOnce() -> T) -> T {
        *self.0.lock() = Some(thread::current().id());
        let _until_it_ends = Leave(self);
        function()
    }

    /// This is that thread, and the function is running.
    pub(crate) fn is_this(&self) -> bool {
        *self.0.lock() == Some(thread::current().id())
    }
}

struct Leave<'a>(&'a OwnThread);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        // Another function may have begun meanwhile, if this one was given up.
        let mut running = self.0.0.lock();
        if *running == Some(thread::current().id()) {
            *running = None;
        }
    }
}
