//! Detects forked processes. `fork` copies memory and descriptors, but no threads.

use super::StaticMutex;
use crate::error::{Error, Result};

/// The process that created a value. A forked child has none of the parent's threads, any lock may stay held for ever
/// there, and the sockets belong to the parent: the child must neither use nor close anything of the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Process(std::process::id())
    }

    /// The current process is a forked child of this one.
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

/// Leaks one clone of the parent's value, so that a forked child never runs its destructor.
pub(crate) fn leak<T: Clone>(value: &T) {
    std::mem::forget(value.clone());
}

/// In a forked process, a stack size for which the C library maps fresh memory; `None` in the process that used this
/// crate first.
///
/// The C library reuses the stacks of the parent's threads for new threads of the child. The locks keep their queues of
/// waiting threads in one table of the process, whose entries lie in the waiting threads' stacks. After `fork` the
/// table still has the parent's entries; a new thread on the same memory overwrites one of them, and then threads may
/// wait forever. The C library does not reuse cached stacks that are smaller than the requested size, so that a size
/// above those of all earlier threads avoids this.
pub(super) fn fresh_stack() -> Option<usize> {
    /// Not below the stacks of common threads: 2 MiB in Rust, 8 MiB in C. Unused pages take no memory.
    const LARGE: usize = 8 << 20;
    const MORE: usize = 256 << 10;
    /// The process that called this last, and the number of forks between the first process and it.
    static LATEST: StaticMutex<Option<(u32, usize)>> = StaticMutex::new(None);
    let id = std::process::id();
    // Held for a moment only, and never while a thread is started, so that a fork at that moment is unlikely.
    let mut latest = LATEST.lock();
    let generation = match *latest {
        None => 0,
        Some((known, generation)) if known == id => generation,
        Some((_, generation)) => generation + 1,
    };
    *latest = Some((id, generation));
    (0 < generation).then(|| LARGE + MORE * generation)
}
