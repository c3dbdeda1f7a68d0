//! The process that made something. `fork` copies memory and descriptors and none of the threads.

use super::StaticMutex;
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

/// In a forked process, a stack size for which the C library maps fresh memory; `None` in the process that used this crate first.
///
/// The C library gives the stacks of the parent's threads to new threads of the child. The locks keep their queues of waiting
/// threads in one table of the process, whose entries lie in the waiting threads' stacks. After `fork` the parent's entries are
/// still in the table; a new thread on the same memory overwrites one of them, and then threads may wait forever. Cached stacks
/// that are smaller than the size asked for are not used again, so that a size above those of all earlier threads avoids this.
pub(super) fn fresh_stack() -> Option<usize> {
    /// Above the stacks of common threads: 2 MiB in Rust, 8 MiB in C. Only what is used takes memory.
    const LARGE: usize = 8 << 20;
    const MORE: usize = 256 << 10;
    /// The process that called this last, and how many forks it is away from the first one.
    static LATEST: StaticMutex<Option<(u32, usize)>> = StaticMutex::new(None);
    let id = std::process::id();
    // Held for a moment only, and never while a thread is started: a fork in that moment is not a concern.
    let mut latest = LATEST.lock();
    let generation = match *latest {
        None => 0,
        Some((known, generation)) if known == id => generation,
        Some((_, generation)) => generation + 1,
    };
    *latest = Some((id, generation));
    (0 < generation).then(|| LARGE + MORE * generation)
}
