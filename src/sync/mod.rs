//! Waiting, cancelling and running: the foundation of all other modules of the crate.
//!
//! Nothing here knows about Tinker. Four types are public, because a program that runs many operations needs them as
//! well:
//!
//! | type | meaning |
//! |---|---|
//! | [`CancelToken`] | a request to stop, inherited by children; it wakes all waiters |
//! | [`Semaphore`] | a limit on the number of users, in order of arrival |
//! | [`Budget`] | a limit on the number of bytes, in order of arrival; one item may overdraw it |
//! | [`Clock`] | the time, and pauses that can be cancelled |
//!
//! # Blocking operations
//! Each has up to three forms: `try_x` never blocks, `x` blocks until it succeeds or is cancelled, and `x_deadline`
//! blocks at most until an instant. Each wait uses a condition variable: no thread spins or sleeps in a loop, and
//! cancelling wakes the waiter at once.
//!
//! # Locks
//! Only this module names lock types, so that they can be replaced by model-checked ones. Only `lock`, `wait`,
//! `wait_until`, `notify_one` and `notify_all` of them may be used. No lock of this module is held while another one is
//! taken, nor while a callback or a foreign destructor runs.
//!
//! For the same reason threads, channels, atomics and thread-locals are imported from here. With `--cfg shuttle` the
//! tests use those of a model checker, which checks `tests/model`.

pub(crate) mod actor;
mod budget;
pub(crate) mod cancel;
#[cfg(all(test, shuttle))]
mod checked;
pub(crate) mod clock;
mod fan_out;
pub(crate) mod fault;
mod gate;
pub(crate) mod oneshot;
pub(crate) mod pool;
pub(crate) mod process;
mod semaphore;
pub(crate) mod spawn;
pub(crate) mod task;
#[cfg(all(test, not(shuttle)))]
mod testing;
pub(crate) mod undo;
pub(crate) mod unwind;
pub(crate) mod workers;

use std::time::Instant;

#[cfg(all(test, shuttle))]
use checked as primitives;
#[cfg(not(all(test, shuttle)))]
use real as primitives;

#[cfg(not(all(test, shuttle)))]
mod real {
    pub(crate) use crossbeam_channel as channel;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::atomic;
    pub(crate) use std::{thread, thread_local};
}

/// The lock of a static. The checker does not replace it, because a static outlives the schedule that the checker runs.
pub(crate) use parking_lot::Mutex as StaticMutex;
pub(crate) use primitives::{Condvar, Mutex, MutexGuard};
use primitives::{atomic, channel, thread, thread_local};

pub use budget::{Budget, BudgetShare};
pub use cancel::CancelToken;
pub use clock::Clock;
#[cfg(any(test, feature = "testing"))]
pub use clock::VirtualClock;
pub use semaphore::{Permit, Semaphore};

/// Waits for a notification; returns `false` if the deadline has passed. Wake-ups may be spurious: callers check their
/// condition in a loop.
pub(crate) fn wait<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
    match deadline {
        Some(deadline) => !condvar.wait_until(guard, deadline).timed_out(),
        None => {
            condvar.wait(guard);
            true
        }
    }
}
