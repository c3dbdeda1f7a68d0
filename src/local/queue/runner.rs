//! Runs the tasks that compute samples, on the threads of the pool.
//!
//! Each call of [`Queue::run_tasks`] on the pool is a runner. A runner takes tasks from the list of the queue until none
//! is left, or until an exclusive job has to run. A task that pauses returns to the end of the list. So a paused task
//! occupies no thread, and an exclusive job gets the whole pool.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Runs tasks on this thread. The caller has counted this runner in [`Tasks::spawned`].
    pub(in crate::local) fn run_tasks(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.tasks.spawned -= 1;
        // While a task waits for other threads, rayon runs other work of the pool on its thread, also a runner. Such a
        // nested runner holds up the outer task, so it runs only one step of one task.
        let nested = NESTED.get();
        if MAX_NESTED <= nested {
            return;
        }
        let mut running = None;
        while let Some(task) = self.next_task(&mut inner) {
            running.get_or_insert_with(|| RunningTask::new(self, &mut inner));
            inner.shares.samples_move();
            if nested == 0 && inner.tasks.running < self.threads {
                self.spawn_runner(&mut inner);
            }
            drop(inner);
            let slice =
                Slice { queue: self, nested: 0 < nested, began: Instant::now(), rest: RefCell::default() };
            task(&slice);
            let rest = slice.rest.into_inner();
            inner = self.inner.lock();
            if inner.ended {
                drop(inner);
                // Dropped outside the lock, because its samples report to this queue that they end.
                drop(rest);
                return;
            }
            inner.tasks.ready.extend(rest);
            if 0 < nested {
                self.spawn_runner(&mut inner);
                break;
            }
        }
        // Unlock before `running` is dropped, which locks.
        drop(inner);
    }

    /// Gives the pool another runner if a task waits and no runner comes.
    fn spawn_runner(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.tasks.ready.is_empty() && inner.tasks.spawned == 0 {
            inner.tasks.spawned += 1;
            let queue = self.clone();
            rayon::spawn(move || queue.run_tasks());
        }
    }

    /// Time since the start of the queue.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes the next task, if samples may run.
    fn next_task(&self, inner: &mut Inner) -> Option<Rest> {
        if inner.exclusive_runs || self.samples_are_over(inner) {
            return None;
        }
        inner.tasks.ready.pop_front()
    }

    /// True if samples have to pause for an exclusive job. The job must wait for nothing else: while the engine thread
    /// is busy, samples go on.
    fn samples_are_over(&self, inner: &Inner) -> bool {
        inner.idle && inner.schedule.has_exclusive() && inner.shares.samples_are_over(self.now())
    }
}

/// Counts a runner as running until this value is dropped.
struct RunningTask<'a>(&'a Queue);

impl<'a> RunningTask<'a> {
    fn new(queue: &'a Queue, inner: &mut Inner) -> Self {
        inner.tasks.running += 1;
        NESTED.set(NESTED.get() + 1);
        RunningTask(queue)
    }
}

impl Drop for RunningTask<'_> {
    fn drop(&mut self) {
        NESTED.set(NESTED.get() - 1);
        let mut inner = self.0.inner.lock();
        inner.tasks.running -= 1;
        let last = inner.tasks.running == 0;
        drop(inner);
        if last {
            self.0.changed.notify_one();
        }
    }
}

/// The time slice of a task.
struct Slice<'a> {
    queue: &'a Queue,
    /// True if another task waits below on this thread.
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
        self.queue.samples_are_over(&inner) || task_is_over(ran, !inner.tasks.ready.is_empty())
    }

    fn pause(&self, rest: Rest) {
        self.rest.borrow_mut().push(rest);
    }
}
