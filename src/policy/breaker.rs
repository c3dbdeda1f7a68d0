//! Whether to try at all, after too many failures in a row.
//!
//! | state | who may try | a success | a failure |
//! |---|---|---|---|
//! | closed | everybody | forgets the failures | counts; the last one tolerated opens it |
//! | open | nobody, until the reset time has passed since it opened | | |
//! | half-open | so many at once | closes it | opens it, for the whole reset time |
//!
//! Each change of state begins a new epoch. Whoever may try gets the epoch with the permission, and an outcome of an
//! older epoch says nothing about this one: a request that was sent before the breaker opened cannot close it.
//! Trials are counted when they are admitted, because what is counted at its end has not limited anything.

#![cfg_attr(not(test), allow(dead_code, reason = "no client has a breaker yet"))]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::fault::{self, Fault};
use crate::sync::{Clock, Mutex};

/// What a breaker tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// So many failures in a row open it. At least one.
    pub(crate) failures: u32,
    /// How long it stays open.
    pub(crate) reset: Duration,
    /// How many may try at once while it is half-open. At least one.
    pub(crate) trials: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { failures: 5, reset: Duration::from_secs(30), trials: 1 }
    }
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
}

/// Which admission an outcome belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// Nobody may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// When to ask again, if that is known: while others try, nobody knows.
    pub(crate) until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant },
    HalfOpen { trials: u32 },
}

/// The decisions of a breaker. The time is told.
#[derive(Debug)]
pub(crate) struct Circuit {
    limits: Limits,
    epoch: u64,
    state: State,
}

impl Circuit {
    /// A closed one.
    pub(crate) fn new(limits: Limits) -> Self {
        let limits = Limits { failures: limits.failures.max(1), trials: limits.trials.max(1), ..limits };
        Circuit { limits, epoch: 0, state: State::Closed { failures: 0 } }
    }

    /// Asks for permission to try. Each one granted owes one outcome.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Epoch, Open> {
        if let State::Open { since } = self.state {
            // A time that no clock can hold never comes.
            let until = since.checked_add(self.limits.reset);
            match until {
                Some(until) if until <= now => self.enter(State::HalfOpen { trials: 0 }),
                _ => return Err(Open { until }),
            }
        }
        if let State::HalfOpen { trials } = &mut self.state {
            if self.limits.trials <= *trials {
                return Err(Open { until: None });
            }
            if !fault::is(Fault::CountsAtTheEnd) {
                *trials += 1;
            }
        }
        Ok(Epoch(self.epoch))
    }

    /// Takes an outcome into account, unless it belongs to an older epoch.
    pub(crate) fn record(&mut self, epoch: Epoch, outcome: Outcome, now: Instant) {
        if epoch.0 != self.epoch && !fault::is(Fault::HearsOldEpochs) {
            return;
        }
        match (self.state, outcome) {
            (State::Closed { .. }, Outcome::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Outcome::Failure) if failures + 1 < self.limits.failures => {
                self.state = State::Closed { failures: failures + 1 };
            }
            (State::HalfOpen { .. }, Outcome::Success) => self.enter(State::Closed { failures: 0 }),
            (State::Closed { .. } | State::HalfOpen { .. }, Outcome::Failure) => {
                self.enter(State::Open { since: now });
            }
            // Only an outcome of an older epoch can come now.
            (State::Open { .. }, _) => {}
        }
    }

    fn enter(&mut self, state: State) {
        self.epoch += 1;
        self.state = state;
    }
}

/// A circuit that threads share. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    circuit: Mutex<Circuit>,
}

impl Breaker {
    /// A closed one.
    pub(crate) fn new(limits: Limits, clock: Clock) -> Self {
        Breaker { shared: Arc::new(Shared { clock, circuit: Mutex::new(Circuit::new(limits)) }) }
    }

    /// Asks for permission to try.
    pub(crate) fn admit(&self) -> Result<Trial, Open> {
        // The time is read without the lock, because a virtual clock has one of its own.
        let now = self.shared.clock.now();
        let epoch = self.shared.circuit.lock().admit(now)?;
        Ok(Trial { shared: self.shared.clone(), epoch: Some(epoch) })
    }
}

/// The permission to try once. Dropped without an outcome, by a panic for instance, it is a failure.
#[must_use = "a permission that is not used counts as a failure"]
#[derive(Debug)]
pub(crate) struct Trial {
    shared: Arc<Shared>,
    /// Taken by the outcome, so that there is one.
    epoch: Option<Epoch>,
}

impl Trial {
    /// Says how the try ended.
    pub(crate) fn record(mut self, outcome: Outcome) {
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(epoch) = self.epoch.take() {
            let now = self.shared.clock.now();
            self.shared.circuit.lock().record(epoch, outcome, now);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !fault::is(Fault::ForgetsTheDropped) {
            self.settle(Outcome::Failure);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
#[path = "breaker_tests.rs"]
mod tests;
