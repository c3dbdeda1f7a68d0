//! A circuit breaker for each class of request, shared by everything that sends over one client.

use crate::config::CircuitBreaker;
use crate::error::{Error, ErrorKind};
use crate::event::{BreakerChange, Seeing};
use crate::metrics::name;
use crate::policy::breaker::{Circuit, Ending, Epoch, Outcome};
use crate::sync::Mutex;
use crate::sync::clock::Clock;
use crate::sync::fault::{self, Fault};

use super::lanes::LANES;
use super::{Answer, Broken, Lane};

/// The breakers of a client, one per lane.
pub(crate) struct Breakers {
    circuits: [Mutex<Circuit>; LANES.len()],
    clock: Clock,
    seeing: Seeing,
}

impl Breakers {
    pub(crate) fn new(limits: CircuitBreaker, clock: Clock, seeing: Seeing) -> Self {
        Breakers { circuits: LANES.map(|_| Mutex::new(Circuit::new(limits))), clock, seeing }
    }

    /// Asks for permission to send one request.
    pub(crate) fn admit(&self, lane: Lane) -> Result<Trial<'_>, Broken> {
        // The time is read without the lock, because a virtual clock has one of its own.
        let now = self.clock.now();
        match self.change(lane, |it| it.admit(now)) {
            Ok(epoch) => Ok(Trial { breakers: self, lane, epoch: Some(epoch) }),
            Err(open) => Err(Broken::CircuitOpen {
                retry_after: open.until.map(|it| it.saturating_duration_since(now)),
            }),
        }
    }

    fn change<T>(&self, lane: Lane, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let (result, before, after) = {
            let mut circuit = self.circuits[lane.idx()].lock();
            let before = circuit.state();
            let result = change(&mut circuit);
            (result, before, circuit.state())
        };
        // The observer is told without the lock: two changes in quick succession may be told in either order.
        if before != after {
            log::info!(target: "tinkex::http", "the circuit breaker of {lane:?} requests is now {after:?}");
            self.seeing.metrics.increment(name::BREAKER_CHANGES, 1);
            self.seeing.observed.tell(|it| it.on_breaker(&BreakerChange { class: lane, state: after }));
        }
        result
    }
}

/// The permission to send one request. Dropped without an outcome, by a panic for instance, it counts as a failure.
#[must_use = "a permission that is not used counts as a failure"]
pub(crate) struct Trial<'a> {
    breakers: &'a Breakers,
    lane: Lane,
    /// Taken by the outcome, so that there is one.
    epoch: Option<Epoch>,
}

impl Trial<'_> {
    /// Says how the request ended.
    pub(crate) fn record(mut self, result: &Result<Answer, Broken>) {
        let may_be_held = matches!(self.lane, Lane::Poll | Lane::PollMany);
        self.settle(Outcome::of(ending(result), may_be_held));
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(epoch) = self.epoch.take() {
            let now = self.breakers.clock.now();
            self.breakers.change(self.lane, |it| it.record(epoch, outcome, now));
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !fault::is(Fault::ForgetsTheDropped) {
            self.settle(Outcome::Failure);
        }
    }
}

fn ending(result: &Result<Answer, Broken>) -> Ending {
    match result {
        Ok(answer) => Ending::Answered(answer.status),
        Err(Broken::TooLarge { .. } | Broken::TooManyValues { .. }) => Ending::TooLarge,
        Err(Broken::Timeout(phase)) => Ending::TimedOut(*phase),
        Err(Broken::Connection { .. } | Broken::Garbage { .. } | Broken::Stranger { .. }) => Ending::Broken,
        Err(Broken::Closed | Broken::Token(_) | Broken::CircuitOpen { .. } | Broken::Unsendable { .. }) => {
            Ending::NotSent
        }
    }
}

/// What the caller is told whose request was not sent.
pub(super) fn refusal(retry_after: Option<std::time::Duration>) -> Error {
    Error::new(ErrorKind::CircuitOpen, "too many requests failed in a row, so this one was not sent")
        .with(|it| it.retry_after = retry_after)
}
