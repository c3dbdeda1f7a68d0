//! Limits on work in flight: permits to send samples, slots for threads that wait for results, byte budgets (PROTOCOL
//! §4.4, §8.3, §9.2).

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
    /// Permits to send samples.
    samples: Semaphore,
    /// Fewer permits. While samples are throttled, each sample needs one of these as well.
    throttled: Semaphore,
    /// The time during which no samples are sent, because the server refused one.
    window: Mutex<Window>,
    /// The last error with which the server asked to send no samples for a while.
    refusal: Mutex<Option<Error>>,
    budgets: Mutex<Budgets>,
    /// Slots for samples that occupy a thread until their result is there.
    result_slots: Mutex<Semaphore>,
    /// Upper bound of the number of `result_slots`: the maximum number of threads.
    max_result_slots: usize,
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
        // A size above `usize::MAX` means no limit.
        let budget = |n: u64| Budget::new(usize::try_from(n).unwrap_or(usize::MAX));
        Budgets {
            samples: budget(flags.sample_dispatch_bytes_semaphore_size),
            training: budget(flags.fwdbwd_dispatch_bytes_semaphore_size),
            responses: budget(flags.inflight_response_bytes_semaphore_size),
        }
    }
}

/// Permission to send one sample. Dropping it lets the next sample be sent.
#[derive(Debug)]
pub(crate) struct Admission {
    _bytes: BudgetShare,
    _throttled: Option<Permit>,
    _sample: Permit,
}

impl Dispatch {
    pub(super) fn new(threads: &Threads) -> Self {
        let max_result_slots = threads.max_in_flight.max(1);
        Dispatch {
            samples: Semaphore::new(CONCURRENT),
            throttled: Semaphore::new(CONCURRENT_THROTTLED),
            window: Mutex::new(Window::default()),
            refusal: Mutex::default(),
            budgets: Mutex::new(Budgets::of(&Flags::default())),
            result_slots: Mutex::new(Semaphore::new(max_result_slots)),
            max_result_slots,
        }
    }

    /// Applies the sizes in the server's flags to all work that is dispatched from now on.
    pub(super) fn resize(&self, flags: &Flags) {
        *self.budgets.lock() = Budgets::of(flags);
        let wanted = usize::try_from(flags.config.sample_max_concurrent_requests).unwrap_or(usize::MAX);
        *self.result_slots.lock() = Semaphore::new(wanted.clamp(1, self.max_result_slots));
    }

    /// Waits for a slot: permission to occupy a thread until the result of one sample is there.
    pub(crate) fn result_slot(&self, deadline: Option<Instant>, cancel: &CancelToken) -> Result<Permit> {
        let result_slots = self.result_slots.lock().clone();
        result_slots.acquire_deadline(1, deadline, cancel)
    }

    pub(super) fn response_budget(&self) -> Budget {
        self.budgets.lock().responses.clone()
    }

    pub(crate) fn training_budget(&self) -> Budget {
        self.budgets.lock().training.clone()
    }

    /// Waits for permission to send a sample of an estimated size in bytes. Checks after each wait whether samples are
    /// throttled.
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
        self.wait_for_window(clock, deadline, cancel)?;
        Ok(Admission { _bytes: bytes, _throttled: throttled, _sample: sample })
    }

    /// Stops the sending of all samples for `pause`, because the server refused a sample: it is overloaded or limits
    /// the account (429), or a payment is missing (402).
    pub(crate) fn back_off(&self, refusal: &Error, pause: Duration, clock: &Clock, observed: &Observed) {
        let previous = self.refusal.lock().replace(refusal.clone());
        drop(previous);
        let until = clock.now() + pause;
        self.window.lock().extend(until);
        // Set the window before telling the observer, so that the observer can rely on it.
        observed.tell(|observer| observer.on_backoff(&Backoff { pause }));
    }

    /// Waits for the end of the window, including extensions during the wait.
    pub(crate) fn wait_for_window(
        &self,
        clock: &Clock,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<()> {
        loop {
            let now = clock.now();
            let Some(left) = self.window.lock().remaining(now) else { return Ok(()) };
            if deadline.is_some_and(|deadline| deadline < now + left) {
                let text = "the server asked to send no samples until after the operation's deadline";
                let error = Error::timeout(Phase::Admission, text);
                let refusal = self.refusal.lock().clone();
                return Err(match refusal {
                    Some(refusal) => error.caused_by(refusal),
                    None => error,
                });
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
        let result_slots = self.result_slots.lock().clone();
        result_slots.close();
    }

    fn is_throttled(&self, clock: &Clock) -> bool {
        let now = clock.now();
        self.window.lock().is_throttled(now)
    }
}
