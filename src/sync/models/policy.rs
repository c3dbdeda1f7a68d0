//! The decisions that threads share: breaker and backoff window.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shuttle::thread;

use super::super::fault::Fault;
use super::super::{Mutex, VirtualClock};
use super::{holds, notices};
use crate::policy::backoff::Window;
use crate::policy::breaker::{Breaker, Limits, Outcome};

const LIMITS: Limits = Limits { failures: 1, reset: Duration::from_secs(30), trials: 1 };

/// While a breaker is half-open there is one trial at a time. One that is dropped opens it again.
fn one_trial_at_a_time() {
    let time = VirtualClock::new();
    let breaker = Breaker::new(LIMITS, time.clock());
    drop(breaker.admit().unwrap());
    let refused = breaker.admit().is_err();
    time.advance(LIMITS.reset);
    let trying = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (breaker, trying) = (breaker.clone(), trying.clone());
            thread::spawn(move || {
                let Ok(trial) = breaker.admit() else { return 0 };
                let others = trying.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
                trying.fetch_sub(1, Ordering::Relaxed);
                trial.record(Outcome::Failure);
                others
            })
        })
        .collect();
    let others: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
    assert!(refused && breaker.admit().is_err());
    assert_eq!(others, 0);
}

/// A success that was sent before the breaker opened does not close it, whenever it arrives.
fn old_news_close_nothing() {
    let time = VirtualClock::new();
    let breaker = Breaker::new(LIMITS, time.clock());
    let (old, failing) = (breaker.admit().unwrap(), breaker.admit().unwrap());
    failing.record(Outcome::Failure);
    time.advance(LIMITS.reset);
    let trial = breaker.admit();
    let late = thread::spawn(move || old.record(Outcome::Success));
    let asking = breaker.clone();
    let asker = thread::spawn(move || asking.admit().is_err());
    let refused = asker.join().unwrap();
    late.join().unwrap();
    drop(trial);
    assert!(refused, "an old success closed it");
}

/// A refusal that a success did not know of stays, whatever the order in which they arrive.
fn a_success_clears_what_it_knew() {
    let (now, window) = (Instant::now(), Arc::new(Mutex::new(Window::default())));
    let seconds = Duration::from_secs;
    window.lock().extend(now + seconds(1));
    let sender = thread::spawn({
        let window = window.clone();
        move || {
            let known = window.lock().generation();
            thread::yield_now();
            window.lock().clear(known)
        }
    });
    let refused: Vec<_> = [5, 3]
        .into_iter()
        .map(|it| {
            let window = window.clone();
            thread::spawn(move || {
                window.lock().extend(now + seconds(it));
                window.lock().generation()
            })
        })
        .collect();
    refused.into_iter().for_each(|it| drop(it.join().unwrap()));
    let left = window.lock().remaining(now);
    let cleared = sender.join().unwrap();
    let finally = window.lock().remaining(now);
    // The success either came in before a refusal, which then stands, or knew of both, or does nothing.
    if !cleared {
        assert_eq!((left, finally), (Some(seconds(5)), Some(seconds(5))));
    }
}

/// A success that was sent before a refusal leaves it alone.
fn a_refusal_outlives_an_earlier_success() {
    let (now, window) = (Instant::now(), Arc::new(Mutex::new(Window::default())));
    let known = window.lock().generation();
    let until = now + Duration::from_secs(5);
    let refused = thread::spawn({
        let window = window.clone();
        move || window.lock().extend(until)
    });
    window.lock().clear(known);
    refused.join().unwrap();
    assert_eq!(window.lock().remaining(now), Some(until - now));
}

#[test]
fn a_breaker_admits_one_trial() {
    holds(one_trial_at_a_time);
    notices(Fault::CountsAtTheEnd, one_trial_at_a_time);
    notices(Fault::ForgetsTheDropped, one_trial_at_a_time);
}

#[test]
fn a_breaker_ignores_old_news() {
    holds(old_news_close_nothing);
    notices(Fault::HearsOldEpochs, old_news_close_nothing);
}

#[test]
fn a_window_only_extends() {
    holds(a_success_clears_what_it_knew);
    notices(Fault::Shortens, a_success_clears_what_it_knew);
}

#[test]
fn a_window_outlives_an_earlier_success() {
    holds(a_refusal_outlives_an_earlier_success);
    notices(Fault::ClearsUnconditionally, a_refusal_outlives_an_earlier_success);
}
