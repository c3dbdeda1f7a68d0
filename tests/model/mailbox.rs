//! The mailbox of an actor.

use std::sync::Arc;

use shuttle::thread;

use super::{holds, never, notices, soon};
use crate::sync::actor::{Actor, Handle};
use crate::sync::fault::Fault;
use crate::sync::oneshot::{Reply, oneshot};

struct Echo;

impl Actor for Echo {
    type Msg = Reply<()>;

    fn turn(&mut self, msg: Reply<()>) {
        msg.send(Ok(()));
    }
}

/// Three threads submit to a mailbox with room for one message while the actor is stopped. Each submission is answered:
/// it is handled, or fails because the actor is closed, or fails because the mailbox stayed full until the deadline.
/// The actor ends.
fn every_submission_is_answered() {
    let actor = Arc::new(Handle::spawn("echo".into(), 1, Echo).unwrap());
    let submitters: Vec<_> = [None, None, Some(soon())]
        .into_iter()
        .map(|deadline| {
            let actor = actor.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<()>();
                let accepted = actor.send(reply, deadline).is_ok();
                let answer = slot.wait(None).unwrap();
                let text = answer.err().map(|it| (it.is_timeout(), it.message().to_owned()));
                (accepted, text)
            })
        })
        .collect();
    actor.stop();
    let answers: Vec<_> = submitters.into_iter().map(|it| it.join().unwrap()).collect();
    assert!(actor.join(never()) && !actor.is_alive());
    for answer in answers {
        match answer {
            (true, None) | (false, Some((true, _))) => {}
            (_, Some((false, message))) if message == "echo is closed" => {}
            other => panic!("accepted, and the error: {other:?}"),
        }
    }
}

/// The actor handles every message and ends after `finish`.
fn every_message_is_handled() {
    let actor = Arc::new(Handle::spawn("echo".into(), 1, Echo).unwrap());
    let submitters: Vec<_> = (0..2)
        .map(|_| {
            let actor = actor.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<()>();
                actor.send(reply, None).is_ok_and(|()| slot.wait(None).unwrap().is_ok())
            })
        })
        .collect();
    let handled: Vec<_> = submitters.into_iter().map(|it| it.join().unwrap()).collect();
    actor.finish();
    assert!(actor.join(never()));
    assert_eq!(handled, [true, true]);
}

/// A submission concurrent with `finish` is either accepted and handled, or refused. The actor ends, even if the last
/// sender of its mailbox is the copy that a submission in progress holds.
fn finish_ends_the_actor_after_concurrent_submissions() {
    let actor = Arc::new(Handle::spawn("echo".into(), 1, Echo).unwrap());
    let submitters: Vec<_> = (0..2)
        .map(|_| {
            let actor = actor.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<()>();
                let accepted = actor.send(reply, None).is_ok();
                accepted == slot.wait(None).unwrap().is_ok()
            })
        })
        .collect();
    actor.finish();
    let consistent: Vec<_> = submitters.into_iter().map(|it| it.join().unwrap()).collect();
    assert!(actor.join(never()));
    assert_eq!(consistent, [true, true]);
}

#[test]
fn an_actor_handles_every_message() {
    holds(every_message_is_handled);
    notices(Fault::ClearsSignalLate, every_message_is_handled);
}

#[test]
fn an_actor_ends_after_finish() {
    holds(finish_ends_the_actor_after_concurrent_submissions);
    notices(Fault::SignalsEarly, finish_ends_the_actor_after_concurrent_submissions);
}

#[test]
fn a_mailbox_answers_every_submission() {
    holds(every_submission_is_answered);
    notices(Fault::LeavesQueuedMessages, every_submission_is_answered);
    notices(Fault::SendsUnderTheLock, every_submission_is_answered);
}
