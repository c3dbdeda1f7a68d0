//! Threads for many short exchanges, such as sending samples: few while the server answers at once, more when it takes its time.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Threads;
use crate::error::Error;
use crate::policy::admission::{ROUND, more_hands};
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::{self, Condvar, Mutex, unwind};

use super::PoolStatus;

/// One exchange.
type Job = Box<dyn FnOnce() + Send>;

/// Does jobs in the order in which they come.
pub(crate) struct Crew {
    name: &'static str,
    pool: Pool,
    /// Threads that take jobs at first, and at most.
    few: usize,
    most: usize,
    state: Mutex<State>,
    /// Notified when the queue has become empty, or the crew is closed: the foreman may go.
    over: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    hands: usize,
    /// Jobs taken so far.
    taken: u64,
    /// Somebody watches whether the hands are enough.
    watched: bool,
    closed: bool,
}

impl Crew {
    /// So many threads at first and at most, or as many as there may be.
    pub(super) fn new(name: &'static str, few: usize, most: usize, threads: &Threads) -> Arc<Self> {
        let Threads { max_in_flight, stack_size, idle, .. } = *threads;
        let [few, most] = [few, most].map(|it| it.min(max_in_flight).max(1));
        // One more is the foreman.
        let pool = Pool::new(PoolConfig { name, max_threads: most + 1, stack_size, idle });
        Arc::new(Crew { name, pool, few, most, state: Mutex::default(), over: Condvar::new() })
    }

    /// Has a job done. If that cannot be, it is dropped, and the replies in it say why.
    pub(crate) fn put(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(job);
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return unwind::bury(job, &closed());
        }
        state.queue.push_back(job);
        if state.hands < self.few {
            state.hands += 1;
            drop(state);
            self.hire();
        } else if !state.watched && state.hands < self.most {
            state.watched = true;
            drop(state);
            let crew = self.clone();
            if self.pool.spawn(move || crew.watch()).is_err() {
                self.state.lock().watched = false;
            }
        }
    }

    /// Starts a thread for a hand that is counted already; says whether that was possible.
    fn hire(self: &Arc<Self>) -> bool {
        let crew = self.clone();
        let Err(error) = self.pool.spawn(move || crew.work()) else { return true };
        let stranded = {
            let mut state = self.state.lock();
            state.hands -= 1;
            if state.hands == 0 { mem::take(&mut state.queue) } else { VecDeque::new() }
        };
        unwind::bury(stranded, &error);
        false
    }

    /// Works until nothing is queued.
    fn work(&self) {
        while let Some(job) = self.take() {
            unwind::shield("an exchange failed", job);
        }
    }

    fn take(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let job = state.queue.pop_front();
        match &job {
            Some(_) => state.taken += 1,
            None => state.hands -= 1,
        }
        if state.queue.is_empty() && state.watched {
            self.over.notify_all();
        }
        job
    }

    /// Adds hands while jobs queue up behind a server that takes its time, until nothing is queued.
    fn watch(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            let before = state.taken;
            let until = Instant::now() + ROUND;
            let mut in_time = true;
            while in_time && !state.queue.is_empty() {
                in_time = sync::wait(&self.over, &mut state, Some(until));
            }
            if state.closed || state.queue.is_empty() || self.most <= state.hands {
                state.watched = false;
                return;
            }
            let more = more_hands(state.hands, state.taken - before, state.queue.len());
            let more = more.min(self.most - state.hands);
            state.hands += more;
            drop(state);
            let hired = (0..more).filter(|_| self.hire()).count();
            state = self.state.lock();
            if hired < more {
                state.watched = false;
                return;
            }
        }
    }

    /// Ends the threads, and returns how many are left at the deadline.
    pub(super) fn close(&self, deadline: Instant) -> usize {
        let queue = {
            let mut state = self.state.lock();
            state.closed = true;
            mem::take(&mut state.queue)
        };
        self.over.notify_all();
        unwind::bury(queue, &closed());
        self.pool.close(deadline)
    }

    pub(super) fn status(&self) -> PoolStatus {
        PoolStatus { name: self.name, threads: self.pool.n_threads(), queued: self.state.lock().queue.len() }
    }
}

#[cold]
fn closed() -> Error {
    Error::closed("the client was closed before this was done")
}
