//! The threads that send samples: few while the server accepts at once, more when it takes its time.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Threads;
use crate::error::Error;
use crate::policy::admission::{CONCURRENT, CREW, wants_more};
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::{Mutex, unwind};

use super::PoolStatus;

/// Sends one sample, and says how long the server took to accept it.
type Job = Box<dyn FnOnce() -> Duration + Send>;

/// Apart from the senders of training, which thousands of samples must not hold up.
pub(crate) struct Crew {
    pool: Pool,
    /// Threads that take jobs at first, and at most.
    few: usize,
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    hands: usize,
    closed: bool,
}

impl Crew {
    pub(super) fn new(threads: &Threads) -> Arc<Self> {
        let Threads { max_in_flight, stack_size, idle, .. } = *threads;
        let most = CONCURRENT.min(max_in_flight).max(1);
        let pool = Pool::new(PoolConfig { name: "tk-post", max_threads: most, stack_size, idle });
        Arc::new(Crew { pool, few: CREW.min(most), most, state: Mutex::default() })
    }

    /// Has a sample sent, in the order of the calls. If that cannot be, the job is dropped, and the replies in it say why.
    pub(crate) fn send(self: &Arc<Self>, job: impl FnOnce() -> Duration + Send + 'static) {
        let job: Job = Box::new(job);
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return unwind::bury(job, &closed());
        }
        state.queue.push_back(job);
        if self.few <= state.hands {
            return;
        }
        state.hands += 1;
        drop(state);
        self.hire();
    }

    /// Starts a thread for a hand that is counted already.
    fn hire(self: &Arc<Self>) {
        let crew = self.clone();
        let Err(error) = self.pool.spawn(move || crew.work()) else { return };
        let stranded = {
            let mut state = self.state.lock();
            state.hands -= 1;
            if state.hands == 0 { mem::take(&mut state.queue) } else { VecDeque::new() }
        };
        unwind::bury(stranded, &error);
    }

    /// Sends until nothing is queued.
    fn work(self: Arc<Self>) {
        loop {
            let job = {
                let mut state = self.state.lock();
                let job = state.queue.pop_front();
                state.hands -= usize::from(job.is_none());
                job
            };
            let Some(job) = job else { return };
            let mut took = Duration::ZERO;
            unwind::shield("a sample could not be sent", || took = job());
            let grows = {
                let mut state = self.state.lock();
                let grows = state.hands < self.most && wants_more(state.queue.len(), took);
                state.hands += usize::from(grows);
                grows
            };
            if grows {
                self.hire();
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
        unwind::bury(queue, &closed());
        self.pool.close(deadline)
    }

    pub(super) fn status(&self) -> PoolStatus {
        PoolStatus { name: "tk-post", threads: self.pool.n_threads(), queued: self.state.lock().queue.len() }
    }
}

#[cold]
fn closed() -> Error {
    Error::closed("the client was closed before this was sent")
}
