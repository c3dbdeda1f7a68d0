//! Threads for many short exchanges, such as sending samples: few while the server answers at once, more when it takes its time.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Threads;
use crate::error::Error;
use crate::policy::admission::{ROUND, threads_to_add};
use crate::sync::fault::{self, Fault};
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::undo::Undo;
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
    pub(crate) fn new(name: &'static str, few: usize, most: usize, threads: &Threads) -> Arc<Self> {
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
            let lost = Undo::new(move |_| crew.state.lock().watched = false);
            let crew = self.clone();
            // If there is no thread for it, the hands that there are have to do, and the next job tries again.
            let _undone_if_refused = self.pool.spawn(move || {
                crew.watch();
                lost.disarm();
            });
        }
    }

    /// Starts a thread for a hand that is counted already; says whether that was possible. However the hand comes to its end
    /// without having worked, it is counted no more.
    fn hire(self: &Arc<Self>) -> bool {
        let crew = self.clone();
        let lost = Undo::new(move |error| crew.dismiss(&error));
        let crew = self.clone();
        let hired = self.pool.spawn(move || {
            crew.work();
            lost.disarm();
        });
        hired.is_ok()
    }

    /// A hand is gone that did not find the queue empty. The last one takes the queue along: nobody else would see it.
    fn dismiss(&self, error: &Error) {
        if fault::is(Fault::KeepsTheHand) {
            return;
        }
        let stranded = {
            let mut state = self.state.lock();
            state.hands -= 1;
            if state.hands == 0 { mem::take(&mut state.queue) } else { VecDeque::new() }
        };
        unwind::bury(stranded, error);
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
    /// It is watched no more when this returns.
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
            let more = threads_to_add(state.hands, state.taken - before, state.queue.len());
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
    pub(crate) fn close(&self, deadline: Instant) -> usize {
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

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sync::oneshot::{Slot, oneshot};
    use crate::sync::spawn::RefusedThreads;

    const LONG: Duration = Duration::from_secs(60);

    fn put(crew: &Arc<Crew>) -> Slot<()> {
        let (reply, slot) = oneshot();
        crew.put(move || reply.send(Ok(())));
        slot
    }

    /// Four hands are refused at the same moment, while each counts on the others.
    #[test]
    fn no_job_is_left_to_hands_that_were_refused() {
        let crew = Crew::new("tkc-refused", 4, 8, &Threads::default());
        let refused = RefusedThreads::together("tkc-refused", 4);
        let bringers: Vec<_> = (0..4)
            .map(|_| {
                let crew = crew.clone();
                std::thread::spawn(move || (0..20).map(|_| put(&crew)).collect::<Vec<_>>())
            })
            .collect();
        for slot in bringers.into_iter().flat_map(|it| it.join().unwrap()) {
            let answer = slot.wait(Some(Instant::now() + LONG)).expect("an answer");
            assert!(answer.unwrap_err().message().starts_with("no thread could be started"));
        }
        let hands = crew.state.lock().hands;
        assert_eq!((hands, crew.status().queued), (0, 0));
        drop(refused);
        put(&crew).wait(Some(Instant::now() + LONG)).expect("an answer").unwrap();
    }
}
