//! The circuit breaker that the requests of a client share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shuttle::thread;

use super::{holds, notices};
use crate::config::CircuitBreaker;
use crate::event::Seeing;
use crate::http::breakers::Breakers;
use crate::http::{Answer, Broken, Lane};
use crate::sync::VirtualClock;
use crate::sync::fault::Fault;

const LIMITS: CircuitBreaker = CircuitBreaker { failures: 1, reset: Duration::from_secs(30), trials: 1 };
const LANE: Lane = Lane::Sample;

fn breakers() -> (Arc<Breakers>, VirtualClock) {
    let time = VirtualClock::new();
    (Arc::new(Breakers::new(LIMITS, time.clock(), Seeing::default())), time)
}

fn success() -> Result<Answer, Broken> {
    Ok(Answer { status: 200, ..Answer::default() })
}

fn failure() -> Result<Answer, Broken> {
    Ok(Answer { status: 500, ..Answer::default() })
}

/// After the reset time the breaker is half-open: it admits one trial request at a time. If the trial fails, the
/// breaker is open again for the reset time.
fn one_trial_at_a_time() {
    let (breakers, time) = breakers();
    breakers.admit(LANE).unwrap().record(&failure());
    time.advance(LIMITS.reset);
    let trying = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (breakers, trying) = (breakers.clone(), trying.clone());
            thread::spawn(move || {
                let Ok(trial) = breakers.admit(LANE) else { return (false, 0) };
                let others = trying.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
                trying.fetch_sub(1, Ordering::Relaxed);
                trial.record(&failure());
                (true, others)
            })
        })
        .collect();
    let tried: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    // One trial is admitted. Its failure restarts the reset time.
    assert!(matches!(tried[..], [(true, 0), (false, _)] | [(false, _), (true, 0)]), "{tried:?}");
    assert!(breakers.admit(LANE).is_err());
}

/// A trial whose guard is dropped without an outcome counts as ended: after the reset time another trial is admitted.
fn a_dropped_trial_allows_another_trial() {
    let (breakers, time) = breakers();
    breakers.admit(LANE).unwrap().record(&failure());
    time.advance(LIMITS.reset);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let breakers = breakers.clone();
            thread::spawn(move || drop(breakers.admit(LANE)))
        })
        .collect();
    threads.into_iter().for_each(|it| it.join().unwrap());
    time.advance(LIMITS.reset);
    breakers.admit(LANE).unwrap().record(&success());
}

/// A late success of a request that was admitted before the breaker opened does not close it.
fn a_late_success_does_not_close_the_breaker() {
    let (breakers, time) = breakers();
    let (old, failing) = (breakers.admit(LANE).unwrap(), breakers.admit(LANE).unwrap());
    failing.record(&failure());
    time.advance(LIMITS.reset);
    let trial = breakers.admit(LANE).unwrap();
    let refused = thread::scope(|scope| {
        scope.spawn(|| old.record(&success()));
        let other = scope.spawn(|| breakers.admit(LANE).is_err());
        other.join().unwrap()
    });
    trial.record(&failure());
    assert!(refused, "a late success closed the breaker during its trial");
    assert!(breakers.admit(LANE).is_err());
}

#[test]
fn a_breaker_admits_one_trial_at_a_time() {
    holds(one_trial_at_a_time);
    notices(Fault::CountsAtTheEnd, one_trial_at_a_time);
}

#[test]
fn a_breaker_recovers_from_a_trial_without_an_outcome() {
    holds(a_dropped_trial_allows_another_trial);
    notices(Fault::IgnoresDrops, a_dropped_trial_allows_another_trial);
}

#[test]
fn a_breaker_ignores_outcomes_from_before_it_opened() {
    holds(a_late_success_does_not_close_the_breaker);
    notices(Fault::CountsOldEpochs, a_late_success_does_not_close_the_breaker);
}
