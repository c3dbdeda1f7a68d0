//! The one-shot channel.

use shuttle::thread;

use super::{holds, notices, soon};
use crate::error::Error;
use crate::sync::fault::Fault;
use crate::sync::oneshot::oneshot;

/// The waiter wakes when the reply is sent, and when it is dropped without an answer.
fn a_waiter_wakes_on_send_and_on_drop() {
    let (sent, first) = oneshot::<u32>();
    let (dropped, second) = oneshot::<u32>();
    let worker = thread::spawn(move || {
        drop(dropped);
        sent.send(Ok(7));
    });
    assert!(second.wait(None).is_some_and(|answer| answer.is_err_and(|error| error.is_closed())));
    assert!(first.wait(None).is_some_and(|answer| answer.is_ok_and(|value| value == 7)));
    worker.join().unwrap();
}

/// A worker sends an answer while another thread settles the slot with a cancellation and a third one waits with a
/// deadline. One of the two answers is accepted, and the waiter gets the accepted answer.
fn only_the_first_answer_is_delivered() {
    let (reply, slot) = oneshot::<u32>();
    let worker = thread::spawn(move || reply.send(Ok(7)));
    let canceller = thread::spawn({
        let slot = slot.clone();
        move || slot.settle(Err(Error::cancelled()))
    });
    let early = slot.wait(Some(soon()));
    worker.join().unwrap();
    let cancelled = canceller.join().unwrap();
    let answer = early.or_else(|| slot.try_take()).unwrap();
    assert_eq!(answer.is_err(), cancelled);
    assert!(slot.try_take().unwrap().unwrap_err().is_closed());
}

/// The reply is dropped at the moment of the waiter's timeout: a later read of the slot still finds the error.
fn an_answer_after_a_timeout_is_kept() {
    let (reply, slot) = oneshot::<u32>();
    let worker = thread::spawn(move || drop(reply));
    let early = slot.wait(Some(soon()));
    worker.join().unwrap();
    let answer = early.or_else(|| slot.try_take());
    assert!(
        answer.is_some_and(|answer| answer.is_err_and(|error| error.message().contains("without an answer")))
    );
}

#[test]
fn a_oneshot_always_answers() {
    holds(a_waiter_wakes_on_send_and_on_drop);
    notices(Fault::DropsWithoutAnswer, a_waiter_wakes_on_send_and_on_drop);
    notices(Fault::SettlesWithoutNotify, a_waiter_wakes_on_send_and_on_drop);
}

#[test]
fn a_oneshot_answers_once() {
    holds(only_the_first_answer_is_delivered);
    notices(Fault::ReplacesTheAnswer, only_the_first_answer_is_delivered);
}

#[test]
fn a_oneshot_keeps_the_answer_for_a_later_wait() {
    holds(an_answer_after_a_timeout_is_kept);
    notices(Fault::DropsWithoutAnswer, an_answer_after_a_timeout_is_kept);
}
