//! The circuit breaker: stops sending requests after too many failures in a row.
//!
//! | state | admits | on a success | on a failure |
//! |---|---|---|---|
//! | closed | all requests | resets the count of failures | counts; opens at the limit |
//! | open | no request until the reset time has passed since it opened | | |
//! | half-open | a limited number of concurrent trials | closes | opens for the whole reset time |
//!
//! Each change between these states starts a new epoch. An admitted request carries the epoch of its admission, and an
//! outcome of an older epoch is ignored: a request that was sent before the breaker opened cannot close it. Trials are
//! counted at admission; a count at their end would not limit them.

use std::time::Instant;

use crate::config::CircuitBreaker;
use crate::error::Phase;
use crate::event::BreakerState;
use crate::sync::fault::mutant;

/// Outcome of an admitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// The outcome says nothing about the server, for example because the caller gave up.
    Neutral,
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
    /// What an attempt says about the server. A server that answers is alive even if it refuses; only its own failures
    /// count. `may_be_held` is set for requests that the server holds until there is something to answer.
    pub(crate) fn of(ending: Ending, may_be_held: bool) -> Self {
        match ending {
            Ending::Answered(status) if 500 <= status => Outcome::Failure,
            Ending::Answered(_) | Ending::TooLarge => Outcome::Success,
            Ending::TimedOut(Phase::Resolve | Phase::Connect) | Ending::Broken => Outcome::Failure,
            // The server may hold the request for longer than the attempt may take.
            Ending::TimedOut(_) => {
                if may_be_held {
                    Outcome::Neutral
                } else {
                    Outcome::Failure
                }
            }
            Ending::NotSent => Outcome::Neutral,
        }
    }
}

/// Epoch in which a request was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// Refusal by an open or half-open breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Time of the next trial. `None` while trials are in flight, because their end is unknown.
    pub(crate) until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant },
    HalfOpen { trials: u32 },
}

/// State machine of a breaker. The caller passes the time.
#[derive(Debug)]
pub(crate) struct Circuit {
    limits: CircuitBreaker,
    epoch: u64,
    state: State,
}

impl Circuit {
    /// Creates a closed breaker.
    pub(crate) fn new(limits: CircuitBreaker) -> Self {
        Circuit { limits, epoch: 0, state: State::Closed { failures: 0 } }
    }

    /// Current state, without the change from open to half-open that is due at the next admission.
    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Admits or refuses a request. The caller must record one outcome for each admitted request.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Epoch, Open> {
        if let State::Open { since } = self.state {
            // On overflow the breaker stays open for ever.
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
            mutant!(CountsAtTheEnd, {}, *trials += 1);
        }
        Ok(Epoch(self.epoch))
    }

    /// Applies an outcome, unless it belongs to an older epoch.
    pub(crate) fn record(&mut self, epoch: Epoch, outcome: Outcome, now: Instant) {
        let is_current = mutant!(CountsOldEpochs, true, epoch.0 == self.epoch);
        if !is_current {
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
            // Another trial may take the place of this one.
            (State::HalfOpen { trials }, Outcome::Neutral) => {
                self.state = State::HalfOpen { trials: trials.saturating_sub(1) };
            }
            (State::Closed { .. }, Outcome::Neutral) => {}
            // An open breaker admits no request, so it has no outcome of its own epoch.
            (State::Open { .. }, _) => {}
        }
    }

    fn enter(&mut self, state: State) {
        self.epoch += 1;
        self.state = state;
    }
}

#[cfg(test)]
mod tests;
