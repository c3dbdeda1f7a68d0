//! The one-shot.

use shuttle::thread;

use super::{holds, notices, soon};
use crate::error::Error;
use crate::sync::fault::Fault;
use crate::sync::oneshot::oneshot;

/// A reply that is sent or dropped wakes whoever waits.
fn the_answer_arrives() {
    let (sent, first) = oneshot::<u32>();
    let (dropped, second) = oneshot::<u32>();
    let worker = thread::spawn(move || {
        drop(dropped);
        sent.send(Ok(7));
    });
    assert!(second.wait(None).is_some_and(|it| it.is_err_and(|it| it.is_closed())));
    assert!(first.wait(None).is_some_and(|it| it.is_ok_and(|it| it == 7)));
    worker.join().unwrap();
}

/// Worker, canceller and a caller without patience: one answer counts, and it is the one that is seen.
fn the_first_answer_counts() {
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

/// A caller whose time is up leaves the answer where it will be, also when the reply is dropped at that moment.
fn a_late_answer_stays() {
    let (reply, slot) = oneshot::<u32>();
    let worker = thread::spawn(move || drop(reply));
    let early = slot.wait(Some(soon()));
    worker.join().unwrap();
    let answer = early.or_else(|| slot.try_take());
    assert!(answer.is_some_and(|it| it.is_err_and(|it| it.message().contains("without an answer"))));
}

#[test]
fn a_oneshot_always_answers() {
    holds(the_answer_arrives);
    notices(Fault::DropsWithoutAnswer, the_answer_arrives);
    notices(Fault::SettlesWithoutNotify, the_answer_arrives);
}

#[test]
fn a_oneshot_answers_once() {
    holds(the_first_answer_counts);
    notices(Fault::ReplacesTheAnswer, the_first_answer_counts);
}

#[test]
fn a_oneshot_keeps_the_answer_for_a_caller_that_was_too_early() {
    holds(a_late_answer_stays);
    notices(Fault::DropsWithoutAnswer, a_late_answer_stays);
}
