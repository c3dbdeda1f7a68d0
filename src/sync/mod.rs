//! Waiting, cancelling and running: the floor on which everything else of the crate stands.
//!
//! Nothing here knows about Tinker. Four types are public, because a program that drives many operations needs
//! the same things as the crate itself:
//!
//! | type | what it is |
//! |---|---|
//! | [`CancelToken`] | one bit that says "stop", inherited by children, that wakes whoever waits |
//! | [`Semaphore`] | at most so many at once, in order of arrival |
//! | [`Budget`] | at most so many bytes at once, in order of arrival, with one overshoot |
//! | [`Clock`] | the time, and pauses that can be cancelled |
//!
//! # Blocking operations
//! Each comes in up to three forms: `try_x` never blocks, `x` blocks until it succeeds or is cancelled, and
//! `x_deadline` blocks no longer than until an instant. Every wait is a condition variable with a queue of its
//! own: nothing spins, nothing sleeps in a loop, and cancelling wakes the waiter at once.
//!
//! # Locks
//! This module is the only one that names lock types, so that they can be exchanged for model-checked ones. Of
//! them only `lock`, `wait`, `wait_until`, `notify_one` and `notify_all` may be used. No lock of this floor is
//! held while another one is taken, nor while a callback or a foreign destructor runs.
//!
//! For the same reason threads, channels, atomics and thread-locals are named here and taken from here. With
//! `--cfg shuttle` the tests get those of a model checker instead, and `tests/model` is what it checks.

// The clients, which use these, stand above and come later.
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

/// The lock of a static. It is the everyday one under the checker, too, which makes everything anew for each schedule.
pub(crate) use parking_lot::Mutex as StaticMutex;
pub(crate) use primitives::{Condvar, Mutex, MutexGuard};
use primitives::{atomic, channel, thread, thread_local};

pub use budget::{Budget, Bytes};
pub use cancel::CancelToken;
pub use clock::Clock;
#[cfg(any(test, feature = "testing"))]
pub use clock::VirtualClock;
pub use semaphore::{Permit, Semaphore};

/// Waits for a notification, and says whether there is time left. Wake-ups may be spurious: callers loop over
/// their condition.
pub(crate) fn wait<T>(bell: &Condvar, guard: &mut MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
    match deadline {
        Some(deadline) => !bell.wait_until(guard, deadline).timed_out(),
        None => {
            bell.wait(guard);
            true
        }
    }
}
