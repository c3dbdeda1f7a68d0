//! The queue of the engine thread: the jobs that wait, and the number of samples that run.

use parking_lot::{Condvar, Mutex};

use super::job::Job;
use super::schedule::{Concurrency, Schedule};

/// Next action of the engine thread.
pub(super) enum Next {
    /// Run this job now.
    Run(Box<Job>),
    /// The sample with this id panicked.
    SamplePanicked(String),
    /// The queue is closed and empty, and no sample runs.
    End,
}

/// Jobs that wait for the engine thread. Any thread may add jobs; only the engine thread takes them.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The end of a sample wakes the engine thread only if at most this many samples still run. So the thread starts
    /// several samples each time that it wakes.
    wake_at: usize,
}

struct Inner {
    schedule: Schedule<Job>,
    running: usize,
    panicked: Vec<String>,
    closed: bool,
}

impl Queue {
    /// A queue that lets `max` samples run concurrently.
    pub(super) fn new(max: usize) -> Self {
        let inner = Inner { schedule: Schedule::new(max), running: 0, panicked: Vec::new(), closed: false };
        Queue { inner: Mutex::new(inner), changed: Condvar::new(), wake_at: max / 2 }
    }

    /// Adds jobs of a session.
    pub(super) fn push(&self, session: &str, jobs: impl IntoIterator<Item = Job>) {
        let mut inner = self.inner.lock();
        for job in jobs {
            inner.schedule.push(session, job.concurrency(), job);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Removes all jobs of a session and returns them. Immediate jobs (see [`Concurrency`]) stay in the queue.
    pub(super) fn remove_session(&self, session: &str) -> Vec<Job> {
        let jobs = self.inner.lock().schedule.remove_session(session).collect();
        self.changed.notify_one();
        jobs
    }

    /// Runs no more jobs of a session until it is resumed, except immediate ones (see [`Concurrency`]).
    pub(super) fn pause(&self, session: &str) {
        self.inner.lock().schedule.pause(session);
        self.changed.notify_one();
    }

    pub(super) fn resume(&self, session: &str) {
        self.inner.lock().schedule.resume(session);
        self.changed.notify_one();
    }

    /// True if no job of a session waits in its queue.
    pub(super) fn is_idle(&self, session: &str) -> bool {
        self.inner.lock().schedule.is_idle(session)
    }

    /// Ends the engine thread once the queue is empty and no sample runs.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for the next action. A sample that this returns counts as running until
    /// [`sample_ended`](Self::sample_ended).
    pub(super) fn next(&self) -> Next {
        let mut inner = self.inner.lock();
        loop {
            if let Some(id) = inner.panicked.pop() {
                return Next::SamplePanicked(id);
            }
            let running = inner.running;
            if let Some((concurrency, job)) = inner.schedule.take(running) {
                inner.running += usize::from(concurrency == Concurrency::Shared);
                return Next::Run(Box::new(job));
            }
            if inner.closed && running == 0 {
                return Next::End;
            }
            self.changed.wait(&mut inner);
        }
    }

    /// Takes the next job as if no sample were running.
    #[cfg(test)]
    pub(super) fn take_next(&self) -> Option<Job> {
        self.inner.lock().schedule.take(0).map(|it| it.1)
    }

    /// Records the end of a sample; `panicked` is its id if it panicked.
    pub(super) fn sample_ended(&self, panicked: Option<String>) {
        let mut inner = self.inner.lock();
        inner.running -= 1;
        let wakes = inner.running <= self.wake_at || panicked.is_some();
        inner.panicked.extend(panicked);
        drop(inner);
        if wakes {
            self.changed.notify_one();
        }
    }
}
