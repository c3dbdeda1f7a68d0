//! How much may be under way at once: permits for sending samples, budgets for bytes (PROTOCOL §4.4, §8.3, §9.2).

use std::time::{Duration, Instant};

use crate::error::{Error, Phase, Result};
use crate::event::{Backoff, Observed};
use crate::policy::admission::{CONCURRENT, CONCURRENT_THROTTLED, cost};
use crate::policy::backoff::Window;
use crate::sync::clock::Clock;
use crate::sync::{Budget, Bytes, CancelToken, Mutex, Permit, Semaphore};

use super::Flags;

/// The limits that the clients of a session share.
pub(crate) struct Dispatch {
    samples: Semaphore,
    throttled: Semaphore,
    window: Mutex<Window>,
    /// What the server said when it last asked to send no samples.
    refusal: Mutex<Option<Error>>,
    budgets: Mutex<Budgets>,
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

/// The right to send one sample. Dropping it lets the next one go.
#[derive(Debug)]
pub(crate) struct Admitted {
    _bytes: Bytes,
    _throttled: Option<Permit>,
    _sample: Permit,
}

impl Dispatch {
    pub(super) fn new() -> Self {
        Dispatch {
            samples: Semaphore::new(CONCURRENT),
            throttled: Semaphore::new(CONCURRENT_THROTTLED),
            window: Mutex::new(Window::default()),
            refusal: Mutex::default(),
            budgets: Mutex::new(Budgets::of(&Flags::default())),
        }
    }

    /// Takes over the sizes that the server wants, for whatever is dispatched from now on.
    pub(super) fn resize(&self, flags: &Flags) {
        *self.budgets.lock() = Budgets::of(flags);
    }

    pub(super) fn response_budget(&self) -> Budget {
        self.budgets.lock().responses.clone()
    }

    pub(crate) fn training_budget(&self) -> Budget {
        self.budgets.lock().training.clone()
    }

    /// Waits for the right to send a sample of an estimated size. What the server said about its load is looked at
    /// after each wait, afresh.
    pub(crate) fn admit(
        &self,
        estimate: usize,
        clock: &Clock,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<Admitted> {
        let sample = self.samples.acquire_deadline(1, deadline, cancel)?;
        let throttled = match self.is_throttled(clock) {
            true => Some(self.throttled.acquire_deadline(1, deadline, cancel)?),
            false => None,
        };
        let budget = self.budgets.lock().samples.clone();
        let bytes = budget.acquire_deadline(cost(estimate, self.is_throttled(clock)), deadline, cancel)?;
        self.wait_out(clock, deadline, cancel)?;
        Ok(Admitted { _bytes: bytes, _throttled: throttled, _sample: sample })
    }

    /// The server refused a sample, because of its load or of the account: nobody sends for a while.
    pub(crate) fn back_off(&self, refusal: &Error, pause: Duration, clock: &Clock, observed: &Observed) {
        // The one before is dropped without the lock.
        let _before = self.refusal.lock().replace(refusal.clone());
        let until = clock.now() + pause;
        self.window.lock().extend(until);
        // Told afterwards: whoever hears of a pause can rely on it.
        observed.tell(|it| it.on_backoff(&Backoff { pause }));
    }

    /// Waits until nobody asked to wait any more; the window may have grown meanwhile.
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
    }

    fn is_throttled(&self, clock: &Clock) -> bool {
        let now = clock.now();
        self.window.lock().is_throttled(now)
    }
}
