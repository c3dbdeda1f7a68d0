//! Runs several jobs in parallel and collects their results.

use std::collections::VecDeque;
use std::mem;

use super::fault::mutant;
use super::{Condvar, Mutex, unwind};
use crate::error::{Error, Result};

/// One job of a `fan_out`.
pub(crate) type Part<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// The jobs of one `fan_out`.
pub(super) struct Group<T> {
    state: Mutex<Progress<T>>,
    /// Notified when the last job has ended.
    done: Condvar,
}

struct Progress<T> {
    waiting: VecDeque<(usize, Part<T>)>,
    n_running: usize,
    results: Vec<Option<Result<T>>>,
}

impl<T> Group<T> {
    pub(super) fn new(jobs: Vec<Part<T>>) -> Self {
        let results = jobs.iter().map(|_| None).collect();
        let waiting = jobs.into_iter().enumerate().collect();
        Group { state: Mutex::new(Progress { waiting, n_running: 0, results }), done: Condvar::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().results.len()
    }

    /// Takes jobs and runs them, one after the other, until none is left to take.
    pub(super) fn help(&self) {
        while let Some((place, job)) = self.begin() {
            // `catch` also covers the destructors of the job's captures, so that no panic skips the counting below.
            let result = unwind::catch(job).flatten();
            let mut state = self.state.lock();
            state.results[place] = Some(result);
            state.n_running -= 1;
            let is_last = state.n_running == 0 && state.waiting.is_empty();
            drop(state);
            if is_last {
                mutant!(FinishesWithoutNotify, {}, self.done.notify_all());
            }
        }
    }

    fn begin(&self) -> Option<(usize, Part<T>)> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        state.n_running += usize::from(next.is_some());
        next
    }

    /// Waits for the jobs that other threads have begun, and takes all results.
    pub(super) fn results(&self) -> Vec<Result<T>> {
        let mut state = self.state.lock();
        while 0 < state.n_running || !state.waiting.is_empty() {
            self.done.wait(&mut state);
        }
        let results = mem::take(&mut state.results);
        drop(state);
        // Every job has ended and has stored a result.
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(Error::closed("the job was not done"))))
            .collect()
    }
}
