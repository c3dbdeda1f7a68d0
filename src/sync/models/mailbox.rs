//! An actor that is stopped while others submit.

use std::sync::Arc;
use std::time::Instant;

use shuttle::thread;

use super::super::actor::{Actor, Handle};
use super::super::fault::Fault;
use super::super::oneshot::{Reply, oneshot};
use super::{holds, notices};

struct Echo;

impl Actor for Echo {
    type Msg = Reply<()>;

    fn turn(&mut self, msg: Reply<()>) {
        msg.send(Ok(()));
    }
}

/// Every submission is answered, whether it was handled, dropped or refused.
fn every_submission_is_answered() {
    let actor = Arc::new(Handle::spawn("echo".into(), 1, Echo).unwrap());
    let submitters: Vec<_> = [None, Some(Instant::now())]
        .into_iter()
        .map(|deadline| {
            let actor = actor.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot();
                let accepted = actor.send(reply, deadline).is_ok();
                let answer = slot.wait(None).unwrap();
                accepted || answer.is_err()
            })
        })
        .collect();
    actor.stop();
    let consistent = submitters.into_iter().all(|it| it.join().unwrap());
    assert!(consistent, "a refused submission was handled");
    drop(actor);
}

#[test]
fn a_mailbox_answers_everybody() {
    holds(every_submission_is_answered);
    notices(Fault::LeavesTheQueue, every_submission_is_answered);
    notices(Fault::DrainsInHaste, every_submission_is_answered);
}
