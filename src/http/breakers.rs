//! The circuit breakers of a client, one for each class of requests (lane). A breaker opens after too many failures in
//! a row and then refuses requests. [`policy::breaker`](crate::policy::breaker) decides; this module adds the locks,
//! the clock and the reports.

use crate::config::CircuitBreaker;
use crate::event::{BreakerChange, Seeing};
use crate::metrics::name;
use crate::policy::breaker::{Circuit, Ending, Epoch, Outcome};
use crate::sync::Mutex;
use crate::sync::clock::Clock;
use crate::sync::fault::mutant;

use super::lanes::LANES;
use super::{Answer, Broken, Lane};

/// The circuit breakers of a client, one per lane.
pub(crate) struct Breakers {
    circuits: [Mutex<Circuit>; LANES.len()],
    clock: Clock,
    seeing: Seeing,
}

impl Breakers {
    pub(crate) fn new(limits: CircuitBreaker, clock: Clock, seeing: Seeing) -> Self {
        Breakers { circuits: LANES.map(|_| Mutex::new(Circuit::new(limits))), clock, seeing }
    }

    /// Admits one request, or fails if the breaker is open.
    pub(crate) fn admit(&self, lane: Lane) -> Result<Trial<'_>, Broken> {
        // Read the time before locking: a virtual clock takes another lock.
        let now = self.clock.now();
        match self.change(lane, |circuit| circuit.admit(now)) {
            Ok(epoch) => Ok(Trial { breakers: self, lane, epoch: Some(epoch) }),
            Err(open) => Err(Broken::CircuitOpen {
                retry_after: open.until.map(|until| until.saturating_duration_since(now)),
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
        // Call the observer without the lock. Two changes in quick succession may be reported in either order.
        if before != after {
            log::info!(target: "tinkex::http", "the circuit breaker of {lane:?} requests is now {after:?}");
            self.seeing.metrics.increment(name::BREAKER_CHANGES, 1);
            self.seeing
                .observed
                .tell(|observer| observer.on_breaker(&BreakerChange { class: lane, state: after }));
        }
        result
    }
}

/// The permission to send one request. If the permission is dropped without an outcome, for example by a panic, the
/// request counts as failed.
#[must_use = "an unused permission counts as a failure"]
pub(crate) struct Trial<'a> {
    breakers: &'a Breakers,
    lane: Lane,
    /// The epoch of the breaker (see [`policy::breaker`](crate::policy::breaker)) in which the request was admitted.
    /// `None` once an outcome is recorded.
    epoch: Option<Epoch>,
}

impl Trial<'_> {
    /// Records the outcome of the request.
    pub(crate) fn record(mut self, result: &Result<Answer, Broken>) {
        let may_be_held = matches!(self.lane, Lane::Poll | Lane::PollMany);
        self.settle(Outcome::of(ending(result), may_be_held));
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(epoch) = self.epoch.take() {
            let now = self.breakers.clock.now();
            self.breakers.change(self.lane, |circuit| circuit.record(epoch, outcome, now));
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        mutant!(IgnoresDrops, {}, self.settle(Outcome::Failure));
    }
}

fn ending(result: &Result<Answer, Broken>) -> Ending {
    match result {
        Ok(answer) => Ending::Answered(answer.status),
        Err(Broken::TooLarge { .. } | Broken::TooManyValues { .. }) => Ending::TooLarge,
        Err(Broken::Timeout(phase)) => Ending::TimedOut(*phase),
        Err(Broken::Connection { .. } | Broken::InvalidHttp { .. } | Broken::WrongPeer { .. }) => {
            Ending::Broken
        }
        Err(Broken::Closed | Broken::Token(_) | Broken::CircuitOpen { .. } | Broken::Unsendable { .. }) => {
            Ending::NotSent
        }
    }
}
