//! Limits on what is in flight: permits for sending samples, places to wait for results, budgets for bytes (PROTOCOL §4.4, §8.3,
//! §9.2).

use std::time::{Duration, Instant};

use crate::config::Threads;
use crate::error::{Error, Phase, Result};
use crate::event::{Backoff, Observed};
use crate::policy::admission::{CONCURRENT, CONCURRENT_THROTTLED, cost};
use crate::policy::backoff::Window;
use crate::sync::clock::Clock;
use crate::sync::{Budget, BudgetShare, CancelToken, Mutex, Permit, Semaphore};

use super::Flags;

/// The limits that the clients of a session share.
pub(crate) struct Dispatch {
    samples: Semaphore,
    throttled: Semaphore,
    window: Mutex<Window>,
    /// What the server said when it last asked to send no samples.
    refusal: Mutex<Option<Error>>,
    budgets: Mutex<Budgets>,
    /// Samples of which each has a thread that waits for its result.
    places: Mutex<Semaphore>,
    /// Upper bound of the places: the number of threads there may be.
    max_places: usize,
}

#[derive(Clone)]
struct Budgets {
    samples: Budget,
    training: Budget,
    responses: Budget,
}

impl Budgets {
    fn of(flags: &Flags) -> Self {
        let flags = &flags.config;
        // A size that the machine cannot even count is no limit.
        let budget = |n: u64| Budget::new(usize::try_from(n).unwrap_or(usize::MAX));
        Budgets {
            samples: budget(flags.sample_dispatch_bytes_semaphore_size),
            training: budget(flags.fwdbwd_dispatch_bytes_semaphore_size),
            responses: budget(flags.inflight_response_bytes_semaphore_size),
        }
    }
}

/// The right to send one sample. Dropping it admits the next one.
#[derive(Debug)]
pub(crate) struct Admission {
    _bytes: BudgetShare,
    _throttled: Option<Permit>,
    _sample: Permit,
}

impl Dispatch {
    pub(super) fn new(threads: &Threads) -> Self {
        let max_places = threads.max_in_flight.max(1);
        Dispatch {
            samples: Semaphore::new(CONCURRENT),
            throttled: Semaphore::new(CONCURRENT_THROTTLED),
            window: Mutex::new(Window::default()),
            refusal: Mutex::default(),
            budgets: Mutex::new(Budgets::of(&Flags::default())),
            places: Mutex::new(Semaphore::new(max_places)),
            max_places,
        }
    }

    /// Applies the sizes that the server wants to everything that is dispatched from now on.
    pub(super) fn resize(&self, flags: &Flags) {
        *self.budgets.lock() = Budgets::of(flags);
        let wanted = usize::try_from(flags.config.sample_max_concurrent_requests).unwrap_or(usize::MAX);
        *self.places.lock() = Semaphore::new(wanted.clamp(1, self.max_places));
    }

    /// Waits for the right to have a thread wait for the result of one sample.
    pub(crate) fn place(&self, deadline: Option<Instant>, cancel: &CancelToken) -> Result<Permit> {
        let places = self.places.lock().clone();
        places.acquire_deadline(1, deadline, cancel)
    }

    pub(super) fn response_budget(&self) -> Budget {
        self.budgets.lock().responses.clone()
    }

    pub(crate) fn training_budget(&self) -> Budget {
        self.budgets.lock().training.clone()
    }

    /// Waits for the right to send a sample of an estimated size. The server's load is looked at again after each wait.
    pub(crate) fn admit(
        &self,
        estimate: usize,
        clock: &Clock,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<Admission> {
        let sample = self.samples.acquire_deadline(1, deadline, cancel)?;
        let throttled = if self.is_throttled(clock) {
            Some(self.throttled.acquire_deadline(1, deadline, cancel)?)
        } else {
            None
        };
        let budget = self.budgets.lock().samples.clone();
        let bytes = budget.acquire_deadline(cost(estimate, self.is_throttled(clock)), deadline, cancel)?;
        self.wait_out(clock, deadline, cancel)?;
        Ok(Admission { _bytes: bytes, _throttled: throttled, _sample: sample })
    }

    /// The server refused a sample, because of its load or of the account: no sample is sent for a while.
    pub(crate) fn back_off(&self, refusal: &Error, pause: Duration, clock: &Clock, observed: &Observed) {
        let previous = self.refusal.lock().replace(refusal.clone());
        drop(previous);
        let until = clock.now() + pause;
        self.window.lock().extend(until);
        // Told after the window is set, so that the observer can rely on it.
        observed.tell(|it| it.on_backoff(&Backoff { pause }));
    }

    /// Waits for the end of the window, which may grow meanwhile.
    pub(crate) fn wait_out(
        &self,
        clock: &Clock,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<()> {
        loop {
            let now = clock.now();
            let Some(left) = self.window.lock().remaining(now) else { return Ok(()) };
            if deadline.is_some_and(|it| it < now + left) {
                let text = "the server asked to send no samples until after the operation's deadline";
                let error = Error::timeout(Phase::Admission, text);
                let refusal = self.refusal.lock().clone();
                return Err(refusal.map_or(error.clone(), |it| error.caused_by(it)));
            }
            clock.pause(left, cancel)?;
        }
    }

    pub(super) fn close(&self) {
        let budgets = self.budgets.lock().clone();
        self.samples.close();
        self.throttled.close();
        for budget in [budgets.samples, budgets.training, budgets.responses] {
            budget.close();
        }
        let places = self.places.lock().clone();
        places.close();
    }

    fn is_throttled(&self, clock: &Clock) -> bool {
        let now = clock.now();
        self.window.lock().is_throttled(now)
    }
}
