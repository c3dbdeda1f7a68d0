//! Says in the log what callers wait for who send on their own thread, which is too busy to say it. Those who wait for a
//! `Pending` say it themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Threads;
use crate::pending::{FIRST_CONTACT_WARNING, FIRST_WARNING, NEXT_WARNING, Progress};
use crate::sync::Mutex;
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::undo::Undo;

use super::{PoolStatus, Session, pool_status};

/// What is being waited for, and the thread that looks at it from time to time while there is anything.
pub(super) struct Watch {
    pool: Pool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waits: Vec<Wait>,
    n_waits: u64,
    /// A thread looks, or is about to.
    is_watched: bool,
}

struct Wait {
    number: u64,
    progress: Progress,
    since: Instant,
    warn_at: Instant,
}

/// Ends with the wait.
pub(crate) struct Watched {
    session: Arc<Session>,
    number: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.session.watch.state.lock();
        let over = state.waits.iter().position(|it| it.number == self.number);
        let over = over.map(|it| state.waits.swap_remove(it));
        drop(state);
        drop(over);
    }
}

impl Watch {
    pub(super) fn new(threads: &Threads) -> Self {
        let Threads { stack_size, idle, .. } = *threads;
        let pool = Pool::new(PoolConfig { name: "tk-watch", max_threads: 1, stack_size, idle });
        Watch { pool, state: Mutex::default() }
    }

    pub(super) fn status(&self) -> PoolStatus {
        pool_status("tk-watch", &self.pool)
    }

    /// Ends the thread, and returns whether it is left at the deadline.
    pub(super) fn close(&self, deadline: Instant) -> usize {
        self.pool.close(deadline)
    }
}

impl Session {
    /// This thread waits for an operation until the value is dropped. The log says so after a while.
    pub(crate) fn watched(self: &Arc<Self>, progress: &Progress) -> Watched {
        let since = self.clock.now();
        let warn_at = since + self.first_warning();
        let (number, is_watched) = {
            let mut state = self.watch.state.lock();
            state.n_waits += 1;
            let number = state.n_waits;
            state.waits.push(Wait { number, progress: progress.clone(), since, warn_at });
            (number, std::mem::replace(&mut state.is_watched, true))
        };
        if !is_watched {
            let session = self.clone();
            let lost = Undo::new(move |error| {
                // The waits themselves can do without, and the next one tries again.
                log::debug!(target: "tinkex", "nobody watches long waits: {error}");
                session.watch.state.lock().is_watched = false;
            });
            let session = self.clone();
            let _undone_if_refused = self.watch.pool.spawn(move || {
                watch(&session);
                lost.disarm();
            });
        }
        Watched { session: self.clone(), number }
    }

    /// After how long a wait that begins now is worth a word.
    fn first_warning(&self) -> Duration {
        if self.http.has_served() { FIRST_WARNING } else { FIRST_CONTACT_WARNING }
    }
}

/// Looks at the waits until there are none, which is noted then, or the session ends.
fn watch(session: &Session) {
    loop {
        let now = session.clock.now();
        let (long, next) = {
            let mut state = session.watch.state.lock();
            // Who comes while this thread waits is not due before it wakes.
            let mut next = now + session.first_warning();
            let mut long = Vec::new();
            for wait in &mut state.waits {
                let is_early = now < wait.since + FIRST_WARNING && !wait.progress.awaits_first_contact();
                if wait.warn_at <= now && is_early {
                    // The server has answered by now.
                    wait.warn_at = wait.since + FIRST_WARNING;
                } else if wait.warn_at <= now {
                    long.push(wait.progress.clone());
                    wait.warn_at = now + NEXT_WARNING;
                }
                next = next.min(wait.warn_at);
            }
            state.is_watched = !state.waits.is_empty();
            if !state.is_watched {
                return;
            }
            (long, next)
        };
        for progress in long {
            log::warn!(target: "tinkex", "still waiting: {}", progress.describe(false, now));
        }
        if session.clock.tick(next.saturating_duration_since(now), &session.cancel).is_err() {
            return;
        }
    }
}
