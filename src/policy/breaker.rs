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

use std::time::Instant;

use crate::config::CircuitBreaker;
use crate::error::Phase;
use crate::event::BreakerState;
use crate::sync::fault::{self, Fault};

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// It says nothing about the server: the caller gave up first.
    Nothing,
}

/// How one attempt at a request ended, as far as the breaker needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The server answered with this status.
    Answered(u16),
    /// The server answered, and the answer exceeds a limit of this client.
    TooLarge,
    /// Time ran out in this phase.
    TimedOut(Phase),
    /// The connection broke, or the peer did not answer as a server of this API does.
    Broken,
    /// The request was not sent or not waited for, for a reason on this side.
    NotSent,
}

impl Outcome {
    /// What an attempt says about the server. A server that answers is alive even if it refuses; only its own failures count.
    /// `may_be_held` is set for requests that the server holds until there is something to answer.
    pub(crate) fn of(ending: Ending, may_be_held: bool) -> Self {
        match ending {
            Ending::Answered(status) if 500 <= status => Outcome::Failure,
            Ending::Answered(_) | Ending::TooLarge => Outcome::Success,
            Ending::TimedOut(Phase::Resolve | Phase::Connect) | Ending::Broken => Outcome::Failure,
            // The server may hold the request for longer than the attempt may take.
            Ending::TimedOut(_) => {
                if may_be_held {
                    Outcome::Nothing
                } else {
                    Outcome::Failure
                }
            }
            Ending::NotSent => Outcome::Nothing,
        }
    }
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
    limits: CircuitBreaker,
    epoch: u64,
    state: State,
}

impl Circuit {
    /// A closed one.
    pub(crate) fn new(limits: CircuitBreaker) -> Self {
        Circuit { limits, epoch: 0, state: State::Closed { failures: 0 } }
    }

    /// Whether it lets requests pass.
    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
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
            *trials += u32::from(!fault::is(Fault::CountsAtTheEnd));
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
            // The trial was none: another one may take its place.
            (State::HalfOpen { trials }, Outcome::Nothing) => {
                self.state = State::HalfOpen { trials: trials.saturating_sub(1) };
            }
            (State::Closed { .. }, Outcome::Nothing) => {}
            // Only an outcome of an older epoch can come now.
            (State::Open { .. }, _) => {}
        }
    }

    fn enter(&mut self, state: State) {
        self.epoch += 1;
        self.state = state;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
