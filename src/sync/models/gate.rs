//! The semaphore.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::thread;

use super::super::fault::Fault;
use super::super::{CancelToken, Semaphore};
use super::{holds, notices};

/// Three threads, one permit, no deadline: each gets its turn, alone.
fn everybody_gets_a_turn() {
    let (one, inside) = (Semaphore::new(1), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (one, inside) = (one.clone(), inside.clone());
            thread::spawn(move || {
                let permit = one.acquire(1, &CancelToken::new()).unwrap();
                let others = inside.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(permit);
                others
            })
        })
        .collect();
    let others: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!((others, one.available(), one.waiting()), (vec![0; 3], 1, 0));
}

/// Whoever waits is served before somebody who comes later.
fn nobody_is_overtaken() {
    let one = Semaphore::new(1);
    let permit = one.acquire(1, &CancelToken::new()).unwrap();
    let first = thread::spawn({
        let one = one.clone();
        move || drop(one.acquire(1, &CancelToken::new()).unwrap())
    });
    let snatcher = thread::spawn({
        let one = one.clone();
        move || {
            let waits = one.waiting() == 1;
            let taken = one.try_acquire(1);
            // Between the two looks the first one may have been served and gone.
            (waits && one.waiting() == 1 && taken.is_some(), taken).0
        }
    });
    drop(permit);
    first.join().unwrap();
    assert!(!snatcher.join().unwrap(), "overtaken");
    assert_eq!(one.available(), 1);
}

/// A head that is cancelled or too late, at whatever moment, does not keep the next one out.
fn a_head_that_gives_up_is_not_in_the_way() {
    let (two, cancel) = (Semaphore::new(2), CancelToken::new());
    let permit = two.acquire(1, &cancel).unwrap();
    let head = thread::spawn({
        let (two, cancel) = (two.clone(), cancel.clone());
        move || two.acquire(2, &cancel).is_ok()
    });
    let next = thread::spawn({
        let two = two.clone();
        move || drop(two.acquire(1, &CancelToken::new()).unwrap())
    });
    let late = thread::spawn({
        let two = two.clone();
        move || two.acquire_deadline(2, Some(Instant::now()), &CancelToken::new()).is_ok()
    });
    cancel.cancel();
    // The first permit is held until the others have had to do without it.
    next.join().unwrap();
    late.join().unwrap();
    head.join().unwrap();
    drop(permit);
    assert_eq!((two.available(), two.waiting()), (2, 0));
}

/// Closing wakes everybody, and nobody is admitted afterwards.
fn closing_turns_everybody_away() {
    let one = Semaphore::new(1);
    let permit = one.acquire(1, &CancelToken::new()).unwrap();
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let one = one.clone();
            thread::spawn(move || one.acquire(1, &CancelToken::new()).err().map(|it| it.is_closed()))
        })
        .collect();
    one.close();
    let ends: Vec<_> = waiters.into_iter().map(|it| it.join().unwrap()).collect();
    drop(permit);
    assert_eq!((ends, one.available(), one.waiting()), (vec![Some(true); 2], 1, 0));
}

/// Different weights never add up to more than there is.
fn weights_are_kept() {
    let (three, inside) = (Semaphore::new(3), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = [1, 2, 3]
        .into_iter()
        .map(|n| {
            let (three, inside) = (three.clone(), inside.clone());
            thread::spawn(move || {
                let _permit = three.acquire(n, &CancelToken::new()).unwrap();
                let sum = inside.fetch_add(n, Ordering::Relaxed) + n;
                thread::yield_now();
                inside.fetch_sub(n, Ordering::Relaxed);
                sum
            })
        })
        .collect();
    let most = threads.into_iter().map(|it| it.join().unwrap()).max();
    assert!(most <= Some(3), "{most:?} inside");
    assert_eq!(three.available(), 3);
}

#[test]
fn a_semaphore_loses_no_wake_up() {
    holds(everybody_gets_a_turn);
    notices(Fault::LetsInSilently, everybody_gets_a_turn);
}

#[test]
fn a_semaphore_serves_in_order() {
    holds(nobody_is_overtaken);
    notices(Fault::Barges, nobody_is_overtaken);
}

#[test]
fn a_semaphore_survives_whoever_gives_up() {
    holds(a_head_that_gives_up_is_not_in_the_way);
    notices(Fault::KeepsTheTurn, a_head_that_gives_up_is_not_in_the_way);
    notices(Fault::WakesWithoutTheLock, a_head_that_gives_up_is_not_in_the_way);
}

#[test]
fn a_semaphore_that_closes_wakes_everybody() {
    holds(closing_turns_everybody_away);
    notices(Fault::ClosesSilently, closing_turns_everybody_away);
}

#[test]
fn a_semaphore_keeps_weights() {
    holds(weights_are_kept);
    notices(Fault::IgnoresWeights, weights_are_kept);
}
