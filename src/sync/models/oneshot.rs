//! The one-shot.

use std::time::Instant;

use shuttle::thread;

use super::super::fault::Fault;
use super::super::oneshot::oneshot;
use super::{holds, notices};
use crate::error::Error;

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
    let early = slot.wait(Some(Instant::now()));
    worker.join().unwrap();
    let cancelled = canceller.join().unwrap();
    let answer = early.or_else(|| slot.try_take()).unwrap();
    assert_eq!(answer.is_err(), cancelled);
    assert!(slot.try_take().unwrap().unwrap_err().is_closed());
}

#[test]
fn a_oneshot_always_answers() {
    holds(the_answer_arrives);
    notices(Fault::DropsSilently, the_answer_arrives);
    notices(Fault::SettlesSilently, the_answer_arrives);
}

#[test]
fn a_oneshot_answers_once() {
    holds(the_first_answer_counts);
    notices(Fault::AnswersTwice, the_first_answer_counts);
}
