//! The semaphore.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use shuttle::thread;

use super::{holds, notices, soon};
use crate::sync::fault::Fault;
use crate::sync::{CancelToken, Semaphore};

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

/// Whoever sees somebody else wait and then queues up is served after that one.
fn the_queue_is_served_in_order() {
    let (one, served) = (Semaphore::new(1), Arc::new(Mutex::new(Vec::new())));
    let permit = one.acquire(1, &CancelToken::new()).unwrap();
    let threads: Vec<_> = ["first", "second"]
        .into_iter()
        .map(|name| {
            let (one, served) = (one.clone(), served.clone());
            thread::spawn(move || {
                let behind = one.waiting() == 1;
                let _permit = one.acquire(1, &CancelToken::new()).unwrap();
                served.lock().unwrap().push(name);
                behind
            })
        })
        .collect();
    drop(permit);
    let behind: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    match (&behind[..], &served.lock().unwrap()[..]) {
        ([false, false], _) | ([false, true], [.., "second"]) | ([true, false], [.., "first"]) => {}
        other => panic!("who was behind, and the order: {other:?}"),
    }
}

/// A newcomer does not take what is free while somebody waits for more.
fn nobody_is_overtaken() {
    let two = Semaphore::new(2);
    let permit = two.acquire(1, &CancelToken::new()).unwrap();
    let head = thread::spawn({
        let two = two.clone();
        move || drop(two.acquire(2, &CancelToken::new()).unwrap())
    });
    let newcomer = thread::spawn({
        let two = two.clone();
        // Once the head waits it does so until the permit is given back, which is later.
        move || two.waiting() == 1 && two.try_acquire(1).is_some()
    });
    let overtaken = newcomer.join().unwrap();
    drop(permit);
    head.join().unwrap();
    assert_eq!((overtaken, two.available()), (false, 2));
}

/// A head that waits in vain is woken by its cancellation, and then does not keep the next one out.
fn a_cancelled_head_is_not_in_the_way() {
    let (two, cancel) = (Semaphore::new(2), CancelToken::new());
    let permit = two.acquire(1, &CancelToken::new()).unwrap();
    let head = thread::spawn({
        let (two, cancel) = (two.clone(), cancel.clone());
        move || two.acquire(2, &cancel).is_err_and(|it| it.is_cancelled())
    });
    let next = thread::spawn({
        let two = two.clone();
        move || drop(two.acquire(1, &CancelToken::new()).unwrap())
    });
    cancel.cancel();
    let cancelled = head.join().unwrap();
    next.join().unwrap();
    // Only now, so that the others had to do without it.
    drop(permit);
    assert_eq!((cancelled, two.available(), two.waiting()), (true, 2, 0));
}

/// The same of a head whose time is up.
fn a_late_head_is_not_in_the_way() {
    let two = Semaphore::new(2);
    let permit = two.acquire(1, &CancelToken::new()).unwrap();
    let head = thread::spawn({
        let two = two.clone();
        move || two.acquire_deadline(2, Some(soon()), &CancelToken::new()).is_err_and(|it| it.is_timeout())
    });
    let next = thread::spawn({
        let two = two.clone();
        move || drop(two.acquire(1, &CancelToken::new()).unwrap())
    });
    let late = head.join().unwrap();
    next.join().unwrap();
    drop(permit);
    assert_eq!((late, two.available(), two.waiting()), (true, 2, 0));
}

/// If somebody is cancelled, or late, when it is let in, then it either has the permit or leaves it to the next one.
fn a_grant_is_not_lost() {
    let (one, cancel) = (Semaphore::new(1), CancelToken::new());
    let permit = one.acquire(1, &CancelToken::new()).unwrap();
    let waiters: Vec<_> =
        [(Some(soon()), CancelToken::new()), (None, cancel.clone()), (None, CancelToken::new())]
            .into_iter()
            .map(|(deadline, cancel)| {
                let one = one.clone();
                thread::spawn(move || one.acquire_deadline(1, deadline, &cancel).is_ok())
            })
            .collect();
    let canceller = thread::spawn(move || cancel.cancel());
    drop(permit);
    canceller.join().unwrap();
    let served: Vec<_> = waiters.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!((served[2], one.available(), one.waiting()), (true, 1, 0));
}

/// Closing wakes everybody, and nobody is admitted afterwards.
fn closing_turns_everybody_away() {
    let one = Semaphore::new(1);
    let permit = one.acquire(1, &CancelToken::new()).unwrap();
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let one = one.clone();
            thread::spawn(move || one.acquire(1, &CancelToken::new()).is_err_and(|it| it.is_closed()))
        })
        .collect();
    one.close();
    drop(permit);
    let closed: Vec<_> = waiters.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!((closed, one.available(), one.waiting()), (vec![true; 2], 1, 0));
}

/// Different weights never add up to more than there is.
fn weights_are_kept() {
    let (three, inside) = (Semaphore::new(3), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = [1, 2, 3]
        .into_iter()
        .map(|n| {
            let (three, inside) = (three.clone(), inside.clone());
            thread::spawn(move || {
                let permit = three.acquire(n, &CancelToken::new()).unwrap();
                let sum = inside.fetch_add(n, Ordering::Relaxed) + n;
                thread::yield_now();
                inside.fetch_sub(n, Ordering::Relaxed);
                drop(permit);
                sum
            })
        })
        .collect();
    let most = threads.into_iter().map(|it| it.join().unwrap()).max().unwrap();
    assert!(most <= 3, "{most} inside");
    assert_eq!(three.available(), 3);
}

#[test]
fn a_semaphore_loses_no_wake_up() {
    holds(everybody_gets_a_turn);
    notices(Fault::GrantsWithoutNotify, everybody_gets_a_turn);
}

#[test]
fn a_semaphore_serves_in_order_of_arrival() {
    holds(the_queue_is_served_in_order);
    notices(Fault::ServesTheLast, the_queue_is_served_in_order);
}

#[test]
fn a_semaphore_lets_nobody_overtake() {
    holds(nobody_is_overtaken);
    notices(Fault::Barges, nobody_is_overtaken);
}

#[test]
fn a_semaphore_goes_on_after_a_cancellation() {
    holds(a_cancelled_head_is_not_in_the_way);
    notices(Fault::BlocksTheNext, a_cancelled_head_is_not_in_the_way);
    notices(Fault::WakesWithoutTheLock, a_cancelled_head_is_not_in_the_way);
}

#[test]
fn a_semaphore_goes_on_after_a_deadline() {
    holds(a_late_head_is_not_in_the_way);
    notices(Fault::BlocksTheNext, a_late_head_is_not_in_the_way);
}

#[test]
fn a_semaphore_loses_no_permit_between_grant_and_cancellation() {
    holds(a_grant_is_not_lost);
    notices(Fault::LosesTheGrant, a_grant_is_not_lost);
}

#[test]
fn a_semaphore_that_closes_wakes_everybody() {
    holds(closing_turns_everybody_away);
    notices(Fault::ClosesWithoutNotify, closing_turns_everybody_away);
}

#[test]
fn a_semaphore_keeps_weights() {
    holds(weights_are_kept);
    notices(Fault::IgnoresWeights, weights_are_kept);
}
