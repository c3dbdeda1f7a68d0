//! Background work, done by at most one thread at a time.
//!
//! A [`Task`] contains a [`Work`]. [`Task::wake`] starts a thread for the work, unless one is running. The thread calls
//! `turn` until a call returns `Idle` and `wake` was not called during that call. The items to work on (such as a queue
//! or a time) are stored in the `Work`, under its own lock. Store an item first, then call `wake`.
//!
//! | event | effect |
//! |---|---|
//! | `wake` while idle | the task counts as running before its thread starts, so that two threads never run |
//! | `wake` while running | is recorded; if the current turn returns `Idle`, the thread calls `turn` once more |
//! | a refused thread, a closed pool, a panic in a turn | the task becomes idle, then `lost` fails the queued items |
//!
//! `lost` is called when the task is already idle, so that a later `wake` starts a new thread. An item that is stored
//! between these two moments may be failed by `lost`, although the new thread could have done it. It is never left
//! without an answer.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::fault::mutant;
use super::undo::Undo;
use super::workers::Workers;
use super::{Condvar, Mutex};
use crate::error::{Error, Result};

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// More to do: `turn` is called again.
    Again,
    /// Nothing to do until the next `wake`.
    Idle,
}

/// The work of a [`Task`].
pub(crate) trait Work: Send + Sync + 'static {
    /// The value that contains the task. The thread keeps a reference to it while it runs.
    type Owner: Send + Sync + 'static;

    /// Does one unit of work. May block, but only for a bounded time or until the owner is closed.
    fn turn(&self, owner: &Arc<Self::Owner>) -> Turn;

    /// Called if the thread was refused, its job was dropped, or a turn panicked. Fails the items that were queued for
    /// the thread.
    fn lost(&self, owner: &Arc<Self::Owner>, error: &Error);
}

/// Work, and the state that limits it to one thread at a time. Dereferences to the work.
pub(crate) struct Task<W> {
    work: W,
    state: Mutex<State>,
    /// Notified when the task becomes idle.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    /// `wake` was called since the last turn began.
    woken: bool,
}

impl<W: Work> Task<W> {
    pub(crate) fn new(work: W) -> Arc<Self> {
        Arc::new(Task { work, state: Mutex::default(), idle: Condvar::new() })
    }

    /// Ensures that a turn begins after this call. Does not wait for the turn.
    ///
    /// # Errors
    /// No thread could be started, or the workers are closed. `lost` was called before this returns.
    pub(crate) fn wake(self: &Arc<Self>, owner: &Arc<W::Owner>, workers: &Workers) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.woken = true;
            let is_running = mutant!(RunsTwice, false, state.running);
            if is_running {
                return Ok(());
            }
            state.running = true;
        }
        let (task, lost_owner) = (self.clone(), owner.clone());
        let on_loss = Undo::new(move |error| task.stopped(&lost_owner, &error));
        let (task, owner) = (self.clone(), owner.clone());
        workers.spawn(move || {
            task.run(&owner);
            on_loss.disarm();
        })
    }

    /// Waits until the task is idle or the deadline passes; returns whether the task is idle.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        let mut in_time = true;
        while state.running && in_time {
            in_time = super::wait(&self.idle, &mut state, Some(deadline));
        }
        !state.running
    }

    fn run(&self, owner: &Arc<W::Owner>) {
        loop {
            self.state.lock().woken = false;
            if self.work.turn(owner) == Turn::Again {
                continue;
            }
            let mut state = self.state.lock();
            let is_woken = mutant!(MissesTheWake, false, state.woken);
            if !is_woken {
                state.running = false;
                self.idle.notify_all();
                return;
            }
        }
    }

    /// Called if the thread was lost before the task became idle. Makes the task idle, then fails the queued items.
    fn stopped(&self, owner: &Arc<W::Owner>, error: &Error) {
        {
            let mut state = self.state.lock();
            state.running = mutant!(KeepsRunning, true, false);
            state.woken = false;
            self.idle.notify_all();
        }
        self.work.lost(owner, error);
    }
}

impl<W> Deref for Task<W> {
    type Target = W;

    fn deref(&self) -> &W {
        &self.work
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;
    use crate::sync::spawn::RefusedThreads;
    use crate::sync::testing::eventually;
    use crate::sync::workers::Class;

    const LONG: Duration = Duration::from_secs(60);

    /// Moves numbers from one list to another; a negative number panics.
    #[derive(Default)]
    struct Mover {
        waiting: Mutex<VecDeque<i32>>,
        done: Mutex<Vec<i32>>,
        lost: Mutex<Vec<String>>,
    }

    impl Work for Mover {
        type Owner = ();

        fn turn(&self, _: &Arc<()>) -> Turn {
            let next = self.waiting.lock().pop_front();
            let Some(number) = next else { return Turn::Idle };
            assert!(0 <= number, "a negative number");
            self.done.lock().push(number);
            Turn::Again
        }

        fn lost(&self, _: &Arc<()>, error: &Error) {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            self.lost.lock().push(format!("{}: {}", waiting.len(), error.message()));
        }
    }

    fn workers(name: &'static str) -> Workers {
        Workers::new(Class::new(name, 2, 128 << 10, LONG), None)
    }

    #[test]
    fn a_task_does_what_was_queued_and_can_be_woken_again() {
        let (task, workers, owner) = (Task::new(Mover::default()), workers("tkt-again"), Arc::new(()));
        for number in 0..3 {
            task.waiting.lock().push_back(number);
            task.wake(&owner, &workers).unwrap();
            assert!(task.wait_idle(Instant::now() + LONG));
        }
        assert_eq!(*task.done.lock(), [0, 1, 2]);
    }

    #[test]
    fn a_turn_that_panics_fails_what_is_queued_and_a_later_wake_starts_anew() {
        let (task, workers, owner) = (Task::new(Mover::default()), workers("tkt-panic"), Arc::new(()));
        task.waiting.lock().extend([-1, 2]);
        task.wake(&owner, &workers).unwrap();
        eventually("the loss is reported", || !task.lost.lock().is_empty());
        assert!(task.lost.lock()[0].starts_with("1: ") && task.lost.lock()[0].contains("negative"));
        task.waiting.lock().push_back(3);
        task.wake(&owner, &workers).unwrap();
        assert!(task.wait_idle(Instant::now() + LONG));
        assert_eq!(*task.done.lock(), [3]);
    }

    #[test]
    fn a_refused_thread_fails_what_is_queued_and_a_later_wake_starts_anew() {
        let (task, workers, owner) = (Task::new(Mover::default()), workers("tkt-refused"), Arc::new(()));
        let refused = RefusedThreads::named("tkt-refused");
        task.waiting.lock().push_back(1);
        assert!(task.wake(&owner, &workers).is_err());
        assert!(task.lost.lock()[0].starts_with("1: no thread could be started"), "{:?}", task.lost.lock());
        drop(refused);
        task.waiting.lock().push_back(2);
        task.wake(&owner, &workers).unwrap();
        assert!(task.wait_idle(Instant::now() + LONG));
        assert_eq!(*task.done.lock(), [2]);
    }

    #[test]
    fn a_task_whose_workers_are_closed_is_lost_with_the_reason() {
        let (task, workers, owner) = (Task::new(Mover::default()), workers("tkt-closed"), Arc::new(()));
        workers.close();
        task.waiting.lock().push_back(1);
        assert!(task.wake(&owner, &workers).unwrap_err().is_closed());
        assert!(task.wait_idle(Instant::now()));
        assert_eq!(task.lost.lock().len(), 1);
    }
}
