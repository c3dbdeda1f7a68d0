//! Detects forked processes. After `fork` the child has copies of the parent's memory and file descriptors, but none of
//! the parent's other threads.

use super::StaticMutex;
use crate::error::{Error, Result};

/// The process that created a value. A forked child must neither use nor drop the value. The value's threads run in the
/// parent only. A lock that another thread held during the fork stays locked forever in the child. The sockets belong
/// to the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Process(std::process::id())
    }

    /// Returns whether the current process is another one, that is, a forked child.
    pub(crate) fn is_other(self) -> bool {
        self != Process::this()
    }

    /// Fails in a forked child.
    ///
    /// # Errors
    /// Closed: the current process is a forked child of this one.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_other() { Err(forked()) } else { Ok(()) }
    }
}

/// The error of each call in a forked child on a value that its parent created.
#[cold]
pub(crate) fn forked() -> Error {
    Error::closed(
        "this process was forked from the one that created the client, and has none of its threads and connections: create \
         a new client here, or fork before creating the client",
    )
}

/// Leaks one clone of a reference-counted value of the parent, so that a forked child never runs the value's
/// destructor.
pub(crate) fn leak<T: Clone>(value: &T) {
    std::mem::forget(value.clone());
}

/// In a forked process, returns the minimum stack size of a new thread. The stack is so large that the C library maps
/// fresh memory for it. Returns `None` in the process that used this crate first.
///
/// The C library reuses stacks of earlier threads for new threads. In a forked child it also reuses the stacks of the
/// parent's threads. This is dangerous, because the locks (of the crate `parking_lot`) keep all waiting threads of a
/// process in one table, whose entries lie on the stacks of the waiting threads. The child has a copy of the table with
/// the parent's entries. A new thread on the same memory overwrites one of these entries, and then threads may wait
/// forever. The C library does not reuse a stack that is smaller than the requested size. Therefore a new thread
/// requests a larger stack than all earlier threads.
pub(super) fn fresh_stack() -> Option<usize> {
    /// At least as large as usual stacks: 2 MiB in Rust, 8 MiB in C. Unused pages take no memory.
    const LARGE: usize = 8 << 20;
    const MORE: usize = 256 << 10;
    /// The id of the process that called this function last, and the number of forks since the first process that
    /// called it.
    static LATEST: StaticMutex<Option<(u32, usize)>> = StaticMutex::new(None);
    let id = std::process::id();
    // Held only briefly, and not while a thread is started, so that a fork rarely happens while the lock is held.
    let mut latest = LATEST.lock();
    let generation = match *latest {
        None => 0,
        Some((known, generation)) if known == id => generation,
        Some((_, generation)) => generation + 1,
    };
    *latest = Some((id, generation));
    (0 < generation).then(|| LARGE + MORE * generation)
}
