//! The tree of tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::{holds, never, notices};
use crate::sync::CancelToken;
use crate::sync::cancel::Wake;
use crate::sync::fault::Fault;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A child that is made while its parent is cancelled is cancelled, and whoever waits for it wakes.
fn a_child_hears_whenever_it_was_made() {
    let root = CancelToken::new();
    let maker = thread::spawn({
        let root = root.clone();
        move || {
            let leaf = root.child().child();
            leaf.wait_deadline(never())
        }
    });
    root.cancel();
    assert!(maker.join().unwrap());
}

/// A waker is called exactly once while it is registered, however many cancel.
fn a_waker_is_called_once() {
    let (root, count) = (CancelToken::new(), Arc::new(Count(AtomicUsize::new(0))));
    let leaf = root.child();
    let other = thread::spawn({
        let root = root.clone();
        move || root.cancel()
    });
    let registration = leaf.on_cancel(count.clone());
    leaf.cancel();
    other.join().unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    drop(registration);
}

/// A link that goes away while its ancestors are cancelled leaves nobody out.
fn a_link_that_goes_away_leaves_nobody_out() {
    let root = CancelToken::new();
    let link = root.child();
    let leaf = link.child();
    let dropper = thread::spawn(move || drop(link));
    let canceller = thread::spawn({
        let root = root.clone();
        move || root.cancel()
    });
    let woken = leaf.wait_deadline(never());
    dropper.join().unwrap();
    canceller.join().unwrap();
    assert!(woken);
}

/// When a call has returned, the token and all its descendants are cancelled, also if others cancel it or a part of it at the
/// same time.
fn when_cancel_returns_the_descendants_are_cancelled() {
    let root = CancelToken::new();
    let link = root.child();
    let leaf = link.child();
    let others: Vec<_> =
        [root.clone(), link].into_iter().map(|it| thread::spawn(move || it.cancel())).collect();
    root.cancel();
    let cancelled = leaf.is_cancelled();
    others.into_iter().for_each(|it| it.join().unwrap());
    assert!(cancelled);
}

#[test]
fn children_hear_of_a_cancellation_whenever_they_were_made() {
    holds(a_child_hears_whenever_it_was_made);
    notices(Fault::ForgetsTheChild, a_child_hears_whenever_it_was_made);
}

#[test]
fn wakers_are_called_once() {
    holds(a_waker_is_called_once);
    notices(Fault::WakesTwice, a_waker_is_called_once);
}

#[test]
fn a_link_may_go_away_while_others_cancel() {
    holds(a_link_that_goes_away_leaves_nobody_out);
}

#[test]
fn a_cancellation_is_complete_when_any_of_the_calls_returns() {
    holds(when_cancel_returns_the_descendants_are_cancelled);
    notices(Fault::MarksWhileWaking, when_cancel_returns_the_descendants_are_cancelled);
}
