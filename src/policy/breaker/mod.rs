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
//! counted when they are admitted: a count of ended trials would not limit the concurrent trials.

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

/// Result of one attempt at a request, reduced to the facts that the breaker needs.
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
    /// The client did not send the request, or stopped waiting for the answer.
    NotSent,
}

impl Outcome {
    /// Derives the outcome from the ending of an attempt. A server that answers is alive even if it refuses the
    /// request; of its answers, only 5xx count as failures. `may_be_held` is set for requests that the server may hold
    /// until it has a result.
    pub(crate) fn of(ending: Ending, may_be_held: bool) -> Self {
        match ending {
            Ending::Answered(status) if 500 <= status => Outcome::Failure,
            Ending::Answered(_) | Ending::TooLarge => Outcome::Success,
            Ending::TimedOut(Phase::Resolve | Phase::Connect) | Ending::Broken => Outcome::Failure,
            // A server that may hold the request may hold it for longer than the time limit of the attempt. The timeout
            // then says nothing about the server.
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
    /// Time from which a trial is admitted. `None` while trials are in flight, because their end is unknown, and if the
    /// time is beyond the range of the clock.
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

    /// Current state. An open breaker stays open after the reset time; it becomes half-open at the next admission.
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
            // On overflow `until` is `None`, and the breaker never closes.
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
            // The trial ended without a result: one more trial may be admitted.
            (State::HalfOpen { trials }, Outcome::Neutral) => {
                self.state = State::HalfOpen { trials: trials.saturating_sub(1) };
            }
            (State::Closed { .. }, Outcome::Neutral) => {}
            // Unreachable: an open breaker admits no request, so no outcome has its epoch.
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
