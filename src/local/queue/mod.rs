//! The queue of the engine thread: the jobs that wait, and the tasks that compute samples.

mod runner;

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use self::runner::Tasks;
use super::job::Job;
use super::nn::Rest;
use super::schedule::Schedule;
use super::shares::{Samples, Shares, Turn};

/// Next action of the engine thread.
pub(super) enum Next {
    /// Run this job now.
    Run(Box<Job>),
    /// Run [`Queue::run_tasks`] on this number of threads of the pool: tasks that paused go on.
    Resume(usize),
    /// The sample with this id panicked.
    SamplePanicked(String),
    /// The queue is closed and empty, and no sample runs.
    End,
}

/// Jobs that wait for the engine thread. Any thread may add jobs; only the engine thread takes them.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Limit of the samples that run concurrently.
    max: usize,
    /// The end of a sample wakes the engine thread only if at most this many samples still run. So the thread starts
    /// several samples each time that it wakes.
    wake_at: usize,
    /// Number of threads of the pool that runs the tasks.
    threads: usize,
    /// Zero of the times that `shares` sees.
    started: Instant,
}

struct Inner {
    schedule: Schedule<Job>,
    shares: Shares,
    /// Number of samples that started and have not ended; those that are paused count, too.
    samples: usize,
    tasks: Tasks,
    /// True while the engine thread runs an exclusive job.
    exclusive_runs: bool,
    /// True while the engine thread waits.
    idle: bool,
    panicked: Vec<String>,
    closed: bool,
    /// True after the engine thread has ended.
    ended: bool,
}

impl Inner {
    /// The samples that compete with exclusive jobs.
    fn samples(&self, max: usize) -> Samples {
        if 0 < self.tasks.running {
            Samples::Running
        } else if !self.tasks.ready.is_empty() || (self.samples < max && self.schedule.has_shared()) {
            Samples::Waiting
        } else {
            Samples::None
        }
    }
}

impl Queue {
    /// A queue that lets `max` samples run concurrently, on a pool of `threads` threads.
    pub(super) fn new(max: usize, threads: usize) -> Self {
        let inner = Inner {
            schedule: Schedule::new(),
            shares: Shares::default(),
            samples: 0,
            tasks: Tasks::default(),
            exclusive_runs: false,
            idle: false,
            panicked: Vec::new(),
            closed: false,
            ended: false,
        };
        Queue {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            max: max.max(1),
            wake_at: max / 2,
            threads,
            started: Instant::now(),
        }
    }

    /// Adds jobs of a session.
    pub(super) fn push(&self, session: &str, jobs: impl IntoIterator<Item = Job>) {
        let mut inner = self.inner.lock();
        for job in jobs {
            inner.schedule.push(session, job.concurrency(), job.cell(), job);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Removes all jobs of a session and returns them. Immediate jobs (see [`Concurrency`](super::schedule::Concurrency)) stay in the queue.
    pub(super) fn remove_session(&self, session: &str) -> Vec<Job> {
        let jobs = self.inner.lock().schedule.remove_session(session).collect();
        self.changed.notify_one();
        jobs
    }

    /// Runs no more jobs of a session until it is resumed, except immediate ones (see [`Concurrency`](super::schedule::Concurrency)).
    pub(super) fn pause(&self, session: &str) {
        self.inner.lock().schedule.pause(session);
        self.changed.notify_one();
    }

    pub(super) fn resume(&self, session: &str) {
        self.inner.lock().schedule.resume(session);
        self.changed.notify_one();
    }

    /// True if no exclusive job of a session waits in its queue.
    pub(super) fn is_idle(&self, session: &str) -> bool {
        self.inner.lock().schedule.is_idle(session)
    }

    /// Ends the engine thread once the queue is empty and no sample runs.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_one();
    }

    /// Drops the tasks that wait, after the engine thread has ended. From now on, tasks that pause are dropped.
    pub(super) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.ended = true;
        let tasks = std::mem::take(&mut inner.tasks.ready);
        // Drop them outside the lock: their samples report to this queue that they end.
        drop(inner);
        drop(tasks);
    }

    /// Waits for the next action. A sample that this returns counts as running until
    /// [`sample_ended`](Self::sample_ended). An exclusive job counts as running until the next call.
    pub(super) fn next(&self) -> Next {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.exclusive_runs) {
            inner.shares.exclusive_ends(self.now());
        }
        loop {
            if let Some(next) = self.look(&mut inner) {
                return next;
            }
            inner.idle = true;
            self.changed.wait(&mut inner);
            inner.idle = false;
        }
    }

    /// The next action, if there is one.
    fn look(&self, inner: &mut Inner) -> Option<Next> {
        if let Some(id) = inner.panicked.pop() {
            return Some(Next::SamplePanicked(id));
        }
        if let Some(job) = inner.schedule.take_immediate() {
            return Some(Next::Run(Box::new(job)));
        }
        let has_exclusive = inner.schedule.has_exclusive();
        let samples = inner.samples(self.max);
        match inner.shares.turn(self.now(), has_exclusive, samples) {
            Turn::Exclusive => {
                let job = inner.schedule.take_exclusive()?;
                inner.exclusive_runs = true;
                inner.shares.exclusive_begins(self.now());
                Some(Next::Run(Box::new(job)))
            }
            Turn::Pausing => None,
            Turn::Samples => {
                if inner.samples < self.max
                    && let Some(job) = inner.schedule.take_shared()
                {
                    inner.samples += 1;
                    return Some(Next::Run(Box::new(job)));
                }
                let tasks = &mut inner.tasks;
                if tasks.running + tasks.spawned == 0 && !tasks.ready.is_empty() {
                    let runners = tasks.ready.len().min(self.threads);
                    tasks.spawned += runners;
                    return Some(Next::Resume(runners));
                }
                (inner.closed && inner.samples == 0 && !has_exclusive).then_some(Next::End)
            }
        }
    }

    /// Adds a task. The caller has to call [`run_tasks`](Self::run_tasks) on the pool.
    pub(super) fn start_task(&self, task: Rest) {
        let mut inner = self.inner.lock();
        inner.tasks.ready.push_back(task);
        inner.tasks.spawned += 1;
    }

    /// Takes the next job as if no sample were running.
    #[cfg(test)]
    pub(super) fn take_next(&self) -> Option<Job> {
        let schedule = &mut self.inner.lock().schedule;
        let exclusive = schedule.take_immediate().or_else(|| schedule.take_exclusive());
        exclusive.or_else(|| schedule.take_shared())
    }

    /// Records the end of a sample; `panicked` is its id if it panicked.
    pub(super) fn sample_ended(&self, panicked: Option<String>) {
        let mut inner = self.inner.lock();
        inner.samples -= 1;
        let wakes = inner.samples <= self.wake_at || panicked.is_some();
        inner.panicked.extend(panicked);
        drop(inner);
        if wakes {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
