//! Primitives for threads: waiting, cancelling, and running jobs. All other modules of the crate are built on them.
//!
//! No code here depends on the Tinker API. Four types are public, because a program that runs many operations needs
//! them as well:
//!
//! | type | meaning |
//! |---|---|
//! | [`CancelToken`] | a request to stop, inherited by children; it wakes all waiters |
//! | [`Semaphore`] | a limit on the number of users, in order of arrival |
//! | [`Budget`] | a limit on the number of bytes in use, in order of arrival; one item may exceed it |
//! | [`Clock`] | the time, and pauses that can be cancelled |
//!
//! The other modules are internal:
//!
//! | module | content |
//! |---|---|
//! | `actor` | a thread that owns a state and handles one message at a time |
//! | `workers`, `pool` | threads that run jobs, grouped into classes |
//! | `task` | background work, done by at most one thread at a time |
//! | `oneshot` | the answer to one request |
//! | `unwind` | catches panics and answers the requests that a panic dropped |
//! | `undo` | calls a function if a job is dropped instead of run |
//! | `spawn`, `process` | start threads; detect a forked process |
//! | `gate` | the queue of `Semaphore` and `Budget` |
//! | `checked`, `fault` | for tests with a model checker |
//!
//! # Blocking operations
//! A blocking operation has up to three variants: `try_x` never blocks, `x` blocks until it succeeds or is cancelled,
//! and `x_deadline` blocks at most until an instant. Each wait uses a condition variable: no thread spins or sleeps in
//! a loop, and cancelling wakes the waiter immediately.
//!
//! # Locks
//! Import lock types from here, never from `parking_lot` or `std`: tests replace these types by types of a model
//! checker. Use only their methods `lock`, `wait`, `wait_until`, `notify_one` and `notify_all`. Code of this module
//! takes no second lock while it holds one, and holds no lock while it runs a callback or a destructor of other code.
//!
//! Import threads, channels, atomics and thread-locals from here as well. Under `--cfg shuttle`, tests use the types of
//! the model checker shuttle, which runs the models in `tests/model`.

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

/// The type of locks in statics, also under the model checker: a static outlives a run of a model, and a lock of the
/// checker does not.
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
