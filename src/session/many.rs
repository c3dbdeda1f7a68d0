//! What the samples of a session share whose results are waited for together: threads, and the pollers.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::{Config, Threads};
use crate::error::Result;
use crate::policy::admission::CONCURRENT;
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::{Mutex, Semaphore};

use super::crew::Crew;
use super::poll_many::Poller;
use super::{Flags, PoolStatus, pool_status};

/// Threads that send samples, apart from the senders of training, which thousands of samples must not hold up. The permits are
/// the limit and not the threads, so that there are always some who wait for one.
const SENDERS: [usize; 2] = [48, CONCURRENT + 48];
/// Threads that fetch the results of samples that are known to be finished.
const FETCHERS: [usize; 2] = [28, 256];

/// The threads that the pollers of a session share, and the pollers.
pub(crate) struct Many {
    /// Sends samples.
    pub(crate) crew: Arc<Crew>,
    /// Fetch the results of finished samples.
    fetchers: Arc<Crew>,
    /// One thread for each sampling session with samples in flight.
    loops: Pool,
    pollers: Mutex<Vec<Weak<Poller>>>,
    /// How many samples may wait each on a thread of its own.
    alone: Mutex<Semaphore>,
    /// The most that the threads allow.
    most: usize,
}

impl Many {
    pub(super) fn new(config: &Config) -> Self {
        let Threads { max_in_flight, stack_size, idle, .. } = config.threads;
        let crew = |name, [few, most]: [usize; 2]| Crew::new(name, few, most, &config.threads);
        Many {
            crew: crew("tk-post", SENDERS),
            fetchers: crew("tk-fetch", FETCHERS),
            loops: Pool::new(PoolConfig { name: "tk-many", max_threads: max_in_flight, stack_size, idle }),
            pollers: Mutex::default(),
            alone: Mutex::new(Semaphore::new(max_in_flight.max(1))),
            most: max_in_flight.max(1),
        }
    }

    /// Takes over how many samples the server wants at once, for those that come from now on.
    pub(super) fn resize(&self, flags: &Flags) {
        let wanted = usize::try_from(flags.config.sample_max_concurrent_requests).unwrap_or(usize::MAX);
        *self.alone.lock() = Semaphore::new(wanted.clamp(1, self.most));
    }

    /// The permits of samples that wait each on a thread of its own.
    pub(crate) fn alone(&self) -> Semaphore {
        self.alone.lock().clone()
    }

    pub(super) fn adopt(&self, poller: &Arc<Poller>) {
        let mut pollers = self.pollers.lock();
        pollers.retain(|it| 0 < it.strong_count());
        pollers.push(Arc::downgrade(poller));
    }

    /// Has a poller run. One that cannot start must not wait until others end, which may be never.
    pub(super) fn poll(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.loops.spawn_apart(job)
    }

    pub(super) fn fetch(&self, job: impl FnOnce() + Send + 'static) {
        self.fetchers.put(job);
    }

    /// Reports what the server does not know yet, because the session is about to be finished.
    pub(super) fn farewell(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let pollers = std::mem::take(&mut *self.pollers.lock());
        for poller in pollers.iter().filter_map(Weak::upgrade) {
            poller.farewell(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Ends the threads, and returns how many are left at the deadline.
    pub(super) fn close(&self, deadline: Instant) -> usize {
        let alone = self.alone.lock().clone();
        alone.close();
        self.crew.close(deadline) + self.fetchers.close(deadline) + self.loops.close(deadline)
    }

    pub(super) fn status(&self) -> [PoolStatus; 3] {
        [self.crew.status(), self.fetchers.status(), pool_status("tk-many", &self.loops)]
    }
}
