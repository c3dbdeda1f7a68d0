//! Runs the tasks that compute samples, on the threads of the pool.
//!
//! Each call of [`Queue::run_tasks`] on the pool is a runner. A runner runs the first task in the list of the queue for a
//! time slice. A task that pauses returns to the end of the list, and another runner comes for it, unless an exclusive
//! job has to run. So a paused task occupies no thread, and an exclusive job gets the whole pool.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::super::nn::{Rest, TimeSlice};
use super::super::shares::task_is_over;
use super::{Inner, Queue};

/// Limit of the runners that are nested on one thread.
const MAX_NESTED: u32 = 2;

thread_local! {
    /// Number of runners on this thread that run a task.
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// The tasks that wait for a thread, and the runners.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) ready: VecDeque<Rest>,
    /// Number of runners that run a task.
    pub(super) running: usize,
    /// Number of runners that were given to the pool and have not begun.
    pub(super) spawned: usize,
}

impl Queue {
    /// Runs one task on this thread for a time slice. The caller has counted this runner in [`Tasks::spawned`].
    ///
    /// While a task waits for other threads, rayon runs other work of the pool on its thread, also a runner, and
    /// likewise on a thread that computes a part of a task. Such a runner holds up the outer task, and nothing tells
    /// whether one is there. So no runner stays longer than a time slice.
    pub(in crate::local) fn run_tasks(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.tasks.spawned -= 1;
        let nested = NESTED.get();
        if MAX_NESTED <= nested {
            // The runner below on this thread gives the pool another one.
            return;
        }
        let Some(task) = self.next_task(&mut inner) else {
            self.unlock_and_wake(inner);
            return;
        };
        inner.shares.samples_move();
        inner.tasks.running += 1;
        NESTED.set(nested + 1);
        let slice =
            Slice { queue: self, nested: 0 < nested, began: Instant::now(), rest: RefCell::default() };
        if !slice.nested {
            self.spawn_runner(&mut inner);
        }
        drop(inner);
        task(&slice);
    }

    /// Gives the pool another runner if a task waits that no runner will take.
    fn spawn_runner(self: &Arc<Self>, inner: &mut Inner) {
        let Tasks { ready, running, spawned } = &inner.tasks;
        if *spawned < ready.len() && running + spawned < self.threads && self.samples_may_run(inner) {
            inner.tasks.spawned += 1;
            let queue = self.clone();
            rayon::spawn(move || queue.run_tasks());
        }
    }

    /// Wakes the engine thread if what it waits for may have happened: it gives the pool runners if there are none, and
    /// starts exclusive jobs once no runner runs a task.
    fn unlock_and_wake(&self, inner: MutexGuard<'_, Inner>) {
        let tasks = &inner.tasks;
        let wakes = tasks.running == 0 && (tasks.spawned == 0 || inner.schedule.has_exclusive());
        drop(inner);
        if wakes {
            self.changed.notify_one();
        }
    }

    /// Time since the start of the queue.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes the next task, if samples may run.
    fn next_task(&self, inner: &mut Inner) -> Option<Rest> {
        if self.samples_may_run(inner) { inner.tasks.ready.pop_front() } else { None }
    }

    fn samples_may_run(&self, inner: &Inner) -> bool {
        !inner.exclusive_runs && !self.samples_are_over(inner)
    }

    /// True if samples have to pause for an exclusive job. The job must wait for nothing else: while the engine thread
    /// is busy, samples go on.
    fn samples_are_over(&self, inner: &Inner) -> bool {
        inner.idle && inner.schedule.has_exclusive() && inner.shares.samples_are_over(self.now())
    }
}

/// The time slice of a task, whose runner counts as running until this value is dropped.
struct Slice<'a> {
    queue: &'a Arc<Queue>,
    /// True if another runner waits below on this thread.
    nested: bool,
    began: Instant,
    rest: RefCell<Vec<Rest>>,
}

impl TimeSlice for Slice<'_> {
    fn is_over(&self) -> bool {
        if self.nested {
            return true;
        }
        let ran = self.began.elapsed();
        let inner = self.queue.inner.lock();
        let others = 1 < inner.tasks.running || !inner.tasks.ready.is_empty();
        self.queue.samples_are_over(&inner) || task_is_over(ran, others)
    }

    fn pause(&self, rest: Rest) {
        self.rest.borrow_mut().push(rest);
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        NESTED.set(NESTED.get() - 1);
        let rest = self.rest.take();
        let mut inner = self.queue.inner.lock();
        inner.tasks.running -= 1;
        if inner.ended {
            drop(inner);
            // Dropped outside the lock, because its samples report to this queue that they end.
            drop(rest);
            return;
        }
        inner.tasks.ready.extend(rest);
        self.queue.spawn_runner(&mut inner);
        self.queue.unlock_and_wake(inner);
    }
}
