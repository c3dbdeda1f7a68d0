//! The process that made something. `fork` copies memory and descriptors and none of the threads.

use crate::error::{Error, Result};

/// The process in which this value was made. In a child that was forked off there are no threads that could do anything, any
/// lock may be held for ever, and the sockets are the parent's: nothing of the parent may be used or ended there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Process(std::process::id())
    }

    /// This is a forked child of that process.
    pub(crate) fn is_other(self) -> bool {
        self != Process::this()
    }

    /// # Errors
    /// This is a forked child of that process.
    pub(crate) fn check(self) -> Result<()> {
        match self.is_other() {
            true => Err(forked()),
            false => Ok(()),
        }
    }
}

/// The error of everything that a forked child tries with what its parent made.
#[cold]
pub(crate) fn forked() -> Error {
    Error::closed(
        "this process was forked off the one that made the client, whose threads and connections it does not have: make a new \
         client here, or fork before the client is made",
    )
}

/// Keeps what belongs to the parent from ever being dropped in a forked child.
pub(crate) fn leak<T: Clone>(parents: &T) {
    std::mem::forget(parents.clone());
}
