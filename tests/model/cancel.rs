//! The tree of cancellation tokens.

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

/// A child that is created while its ancestor is being cancelled is cancelled, too: a thread that waits for the
/// cancellation of the child wakes up.
fn a_child_made_during_cancellation_is_cancelled() {
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

/// A registered waker is called exactly once, even if several threads cancel.
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

/// Dropping a token between root and leaf while the root is being cancelled does not prevent the cancellation of the
/// leaf.
fn dropping_a_middle_token_keeps_descendants_cancelled() {
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

/// After `cancel` returns, the token and all its descendants are cancelled, even if other threads cancel the same token
/// or a descendant at the same time.
fn when_cancel_returns_the_descendants_are_cancelled() {
    let root = CancelToken::new();
    let link = root.child();
    let leaf = link.child();
    let others: Vec<_> =
        [root.clone(), link].into_iter().map(|token| thread::spawn(move || token.cancel())).collect();
    root.cancel();
    let cancelled = leaf.is_cancelled();
    others.into_iter().for_each(|it| it.join().unwrap());
    assert!(cancelled);
}

#[test]
fn children_made_during_a_cancellation_are_cancelled() {
    holds(a_child_made_during_cancellation_is_cancelled);
    notices(Fault::ForgetsTheChild, a_child_made_during_cancellation_is_cancelled);
}

#[test]
fn wakers_are_called_once() {
    holds(a_waker_is_called_once);
    notices(Fault::WakesTwice, a_waker_is_called_once);
}

#[test]
fn a_middle_token_may_be_dropped_during_a_cancellation() {
    holds(dropping_a_middle_token_keeps_descendants_cancelled);
}

#[test]
fn a_cancellation_is_complete_when_any_of_the_calls_returns() {
    holds(when_cancel_returns_the_descendants_are_cancelled);
    notices(Fault::MarksWhileWaking, when_cancel_returns_the_descendants_are_cancelled);
}
