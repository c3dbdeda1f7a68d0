//! The semaphore.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use shuttle::thread;

use super::{holds, notices, soon};
use crate::sync::fault::Fault;
use crate::sync::{CancelToken, Semaphore};

/// Three threads share one permit. Each of them acquires it, and no two hold it at the same time.
fn each_thread_acquires_alone() {
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

/// A thread that calls `acquire` while another thread waits is served after the other thread.
fn waiters_are_served_in_order() {
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
        other => panic!("which thread saw a waiter, and the order: {other:?}"),
    }
}

/// A newcomer does not take a free permit while another thread waits for more permits.
fn a_newcomer_does_not_overtake_a_waiter() {
    let two = Semaphore::new(2);
    let permit = two.acquire(1, &CancelToken::new()).unwrap();
    let head = thread::spawn({
        let two = two.clone();
        move || drop(two.acquire(2, &CancelToken::new()).unwrap())
    });
    let newcomer = thread::spawn({
        let two = two.clone();
        // If the thread `head` waits now, it stays in the queue until the permit is dropped below.
        move || two.waiting() == 1 && two.try_acquire(1).is_some()
    });
    let overtaken = newcomer.join().unwrap();
    drop(permit);
    head.join().unwrap();
    assert_eq!((overtaken, two.available()), (false, 2));
}

/// When the first waiter of the queue is cancelled, it wakes, and the next waiter gets the free permit.
fn a_cancelled_head_lets_the_next_waiter_in() {
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
    // Held until here, so that the next waiter cannot get this permit.
    drop(permit);
    assert_eq!((cancelled, two.available(), two.waiting()), (true, 2, 0));
}

/// When the first waiter of the queue times out, the next waiter gets the free permit.
fn a_timed_out_head_lets_the_next_waiter_in() {
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

/// A permit is granted to a waiter at the moment at which the waiter is cancelled or times out. The waiter either
/// returns the permit to its caller or passes it to the next waiter.
fn a_permit_granted_during_cancellation_is_not_lost() {
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

/// Closing wakes all waiters with an error. None of them gets the permit that is released afterwards.
fn closing_wakes_every_waiter_with_an_error() {
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

/// Threads that acquire 1, 2 and 3 of 3 permits never hold more than 3 together.
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
    holds(each_thread_acquires_alone);
    notices(Fault::GrantsWithoutNotify, each_thread_acquires_alone);
}

#[test]
fn a_semaphore_serves_in_order_of_arrival() {
    holds(waiters_are_served_in_order);
    notices(Fault::ServesTheLast, waiters_are_served_in_order);
}

#[test]
fn a_semaphore_lets_no_newcomer_overtake() {
    holds(a_newcomer_does_not_overtake_a_waiter);
    notices(Fault::Barges, a_newcomer_does_not_overtake_a_waiter);
}

#[test]
fn a_semaphore_serves_the_next_waiter_after_a_cancellation() {
    holds(a_cancelled_head_lets_the_next_waiter_in);
    notices(Fault::BlocksTheNext, a_cancelled_head_lets_the_next_waiter_in);
    notices(Fault::WakesWithoutTheLock, a_cancelled_head_lets_the_next_waiter_in);
}

#[test]
fn a_semaphore_serves_the_next_waiter_after_a_timeout() {
    holds(a_timed_out_head_lets_the_next_waiter_in);
    notices(Fault::BlocksTheNext, a_timed_out_head_lets_the_next_waiter_in);
}

#[test]
fn a_semaphore_loses_no_permit_between_grant_and_cancellation() {
    holds(a_permit_granted_during_cancellation_is_not_lost);
    notices(Fault::LosesTheGrant, a_permit_granted_during_cancellation_is_not_lost);
}

#[test]
fn closing_a_semaphore_wakes_every_waiter() {
    holds(closing_wakes_every_waiter_with_an_error);
    notices(Fault::ClosesWithoutNotify, closing_wakes_every_waiter_with_an_error);
}

#[test]
fn a_semaphore_counts_weights() {
    holds(weights_are_kept);
    notices(Fault::IgnoresWeights, weights_are_kept);
}
