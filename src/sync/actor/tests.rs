//! Tests of the actor.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use super::super::oneshot::{Reply, Slot, oneshot};
use super::super::testing::{Latch, eventually, far_deadline, no_threads_named, with_time_limit};
use super::*;

enum Msg {
    Echo(u32, Reply<u32>),
    Wait(Latch, Reply<()>),
    Keep(Reply<()>),
    Panic(Reply<()>),
    Act(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
struct Worker {
    kept: Vec<Reply<()>>,
    ends_badly: bool,
    at_the_end: Option<Reply<()>>,
}

impl Actor for Worker {
    type Msg = Msg;

    fn turn(&mut self, msg: Msg) {
        match msg {
            Msg::Echo(value, reply) => reply.send(Ok(value)),
            Msg::Wait(latch, reply) => {
                latch.wait();
                reply.send(Ok(()));
            }
            Msg::Keep(reply) => self.kept.push(reply),
            Msg::Panic(reply) => {
                let _reply = reply;
                panic!("turn");
            }
            Msg::Act(act) => act(),
        }
    }

    fn ending(&mut self) {
        if self.ends_badly {
            panic!("bad end");
        }
        if let Some(reply) = self.at_the_end.take() {
            reply.send(Ok(()));
        }
    }
}

fn actor(name: &str, capacity: usize) -> Handle<Msg> {
    Handle::spawn(name.into(), capacity, Worker::default()).unwrap()
}

#[track_caller]
fn submit<T: Send + 'static>(handle: &Handle<Msg>, msg: impl FnOnce(Reply<T>) -> Msg) -> Slot<T> {
    let (reply, slot) = oneshot();
    handle.send(msg(reply), None).unwrap();
    slot
}

#[track_caller]
fn answer<T: Send + 'static>(slot: &Slot<T>) -> Result<T> {
    slot.wait(Some(far_deadline())).expect("every message is answered")
}

/// Blocks the actor in a turn until the returned latch is opened.
fn occupy(handle: &Handle<Msg>) -> Latch {
    let latch = Latch::new();
    submit(handle, |reply| Msg::Wait(latch.clone(), reply));
    eventually("the turn has begun", || mailbox(handle).is_empty());
    latch
}

fn mailbox(handle: &Handle<Msg>) -> Sender<Msg> {
    handle.shared.mailbox.lock().clone().unwrap()
}

#[test]
fn messages_are_handled_in_order_on_a_named_thread() {
    let handle = actor("tka-order", 2);
    let (sender, receiver) = crossbeam_channel::unbounded();
    for i in 0..100 {
        let sender = sender.clone();
        let act = move || sender.send((i, thread::current().name().unwrap().to_string())).unwrap();
        handle.send(Msg::Act(Box::new(act)), None).unwrap();
    }
    drop(sender);
    let expected: Vec<_> = (0..100).map(|i| (i, "tka-order".to_string())).collect();
    assert_eq!(receiver.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_panic_in_a_turn_answers_with_its_message_and_the_actor_goes_on() {
    let handle = actor("tka-panic", 4);
    let error = answer(&submit(&handle, Msg::Panic)).unwrap_err();
    let expected = ErrorKind::Panicked { thread: "tka-panic".into(), message: "turn".into() };
    assert_eq!(error.kind(), &expected);
    assert!(handle.is_alive());
    assert_eq!(answer(&submit(&handle, |reply| Msg::Echo(7, reply))).unwrap(), 7);
}

#[test]
fn stopping_drops_queued_messages_and_answers_them() {
    let handle = actor("tka-stop", 8);
    let latch = occupy(&handle);
    let queued: Vec<_> = (0..5).map(|i| submit(&handle, |reply| Msg::Echo(i, reply))).collect();
    handle.stop();
    latch.open();
    for slot in queued {
        let error = answer(&slot).unwrap_err();
        assert_eq!((error.is_closed(), error.message()), (true, "tka-stop is closed"));
    }
    assert!(handle.join(far_deadline()) && !handle.is_alive());
}

#[test]
fn a_stop_after_a_finish_drops_queued_messages() {
    let handle = actor("tka-over", 8);
    let latch = occupy(&handle);
    let queued = submit(&handle, |reply| Msg::Echo(1, reply));
    handle.finish();
    handle.stop();
    latch.open();
    assert!(answer(&queued).unwrap_err().is_closed());
    assert!(handle.join(far_deadline()));
}

#[test]
fn finishing_handles_queued_messages_and_accepts_no_more() {
    let handle = actor("tka-finish", 8);
    let latch = occupy(&handle);
    let queued: Vec<_> = (0..5).map(|i| submit(&handle, |reply| Msg::Echo(i, reply))).collect();
    handle.finish();
    handle.finish();
    assert!(handle.is_alive());
    let (reply, too_late) = oneshot();
    assert!(handle.send(Msg::Echo(9, reply), None).unwrap_err().is_closed());
    assert!(answer(&too_late).unwrap_err().is_closed());
    latch.open();
    assert_eq!(queued.iter().map(|it| answer(it).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(handle.join(far_deadline()));
}

#[test]
fn a_message_sent_before_finish_is_answered() {
    with_time_limit(|| {
        for i in 0..300 {
            let handle = actor("tka-last", 4);
            let slot = submit(&handle, |reply| Msg::Echo(i, reply));
            if i % 2 == 0 {
                handle.finish()
            } else {
                drop(handle)
            }
            assert_eq!(answer(&slot).unwrap(), i);
        }
    });
}

#[test]
fn dropping_the_handle_does_not_block_and_lets_the_actor_finish() {
    let (reply, end) = oneshot();
    let worker = Worker { at_the_end: Some(reply), ..Worker::default() };
    let handle = Handle::spawn("tka-drop".into(), 8, worker).unwrap();
    let latch = occupy(&handle);
    let queued: Vec<_> = (0..5).map(|i| submit(&handle, |reply| Msg::Echo(i, reply))).collect();
    drop(handle);
    assert!(!end.is_settled());
    latch.open();
    assert_eq!(queued.iter().map(|it| answer(it).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(answer(&end).is_ok());
    no_threads_named("tka-drop");
}

#[test]
fn replies_that_an_actor_still_holds_are_answered_at_its_end() {
    let handle = actor("tka-owes", 8);
    let slot = submit(&handle, Msg::Keep);
    handle.finish();
    assert_eq!(answer(&slot).unwrap_err().message(), "tka-owes is closed");
}

#[test]
fn an_actor_that_dies_reports_the_panic_to_all_callers() {
    let worker = Worker { ends_badly: true, ..Worker::default() };
    let handle = Handle::spawn("tka-dies".into(), 8, worker).unwrap();
    let owed = submit(&handle, Msg::Keep);
    let latch = occupy(&handle);
    let queued = submit(&handle, |reply| Msg::Echo(1, reply));
    handle.stop();
    latch.open();
    assert!(answer(&owed).unwrap_err().to_string().contains("bad end"));
    let error = answer(&queued).unwrap_err();
    assert!(error.is_closed() && error.is_panic(), "{error}");
    assert!(handle.join(far_deadline()) && !handle.is_alive());
    let (reply, slot) = oneshot();
    let error = handle.send(Msg::Echo(1, reply), None).unwrap_err();
    assert_eq!(error.to_string(), "tka-dies died: thread \"tka-dies\" panicked: bad end");
    assert_eq!(answer(&slot).unwrap_err().to_string(), error.to_string());
}

#[test]
fn a_full_mailbox_blocks_senders_until_their_deadline() {
    let handle = actor("tka-full", 1);
    let latch = occupy(&handle);
    let queued = submit(&handle, |reply| Msg::Echo(1, reply));
    let (reply, slot) = oneshot();
    let error =
        handle.send(Msg::Echo(2, reply), Some(Instant::now() + Duration::from_millis(5))).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Timeout(Phase::Admission));
    assert!(answer(&slot).unwrap_err().is_timeout());
    latch.open();
    assert_eq!(answer(&queued).unwrap(), 1);
    let (reply, slot) = oneshot();
    handle.send(Msg::Echo(3, reply), Some(far_deadline())).unwrap();
    assert_eq!(answer(&slot).unwrap(), 3);
}

#[test]
fn the_end_of_the_actor_fails_senders_that_wait_for_room() {
    with_time_limit(|| {
        let handle = Arc::new(actor("tka-freed", 1));
        let latch = occupy(&handle);
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let handle = handle.clone();
                thread::spawn(move || {
                    let (reply, slot) = oneshot();
                    let outcome = handle.send(Msg::Echo(i, reply), None);
                    (outcome, answer(&slot))
                })
            })
            .collect();
        eventually("the mailbox is full", || mailbox(&handle).is_full());
        handle.stop();
        latch.open();
        for thread in threads {
            let (outcome, answered) = thread.join().unwrap();
            assert!(answered.unwrap_err().is_closed());
            assert!(outcome.is_ok() || outcome.unwrap_err().is_closed());
        }
        assert!(handle.join(far_deadline()));
    });
}

#[test]
fn the_actors_own_thread_neither_blocks_on_the_mailbox_nor_joins_itself() {
    let handle = Arc::new(actor("tka-own", 1));
    let (sender, receiver) = crossbeam_channel::unbounded();
    let inner = handle.clone();
    let act = move || {
        let outcomes: Vec<_> = (0..2)
            .map(|_| inner.send(Msg::Act(Box::new(|| ())), None).map_err(|it| it.is_timeout()))
            .collect();
        inner.stop();
        sender.send((outcomes, inner.join(far_deadline()))).unwrap();
    };
    handle.send(Msg::Act(Box::new(act)), None).unwrap();
    let (outcomes, joined) = receiver.recv_timeout(far_deadline() - Instant::now()).unwrap();
    assert_eq!((outcomes, joined), (vec![Ok(()), Err(true)], false));
    assert!(handle.join(far_deadline()));
}

#[test]
fn joining_is_bounded_and_idempotent_and_leaves_no_thread() {
    let handle = actor("tka-join", 1);
    let latch = occupy(&handle);
    handle.stop();
    assert!(!handle.join(Instant::now() + Duration::from_millis(2)));
    latch.open();
    assert!(handle.join(far_deadline()));
    no_threads_named("tka-join");
    assert!(handle.join(Instant::now()));
    handle.stop();
    handle.finish();
}

/// Checks that the mailbox is closed by dropping its senders. If a stop dropped the receiver instead, a message sent at
/// that moment would stay unanswered until the handle is dropped: a bounded crossbeam channel keeps its messages until
/// the last sender is dropped.
#[test]
fn stopping_at_any_moment_loses_no_answer() {
    with_time_limit(|| {
        for i in 0..500_usize {
            let handle = Arc::new(actor("tka-race", 2));
            let senders: Vec<_> = (0..3)
                .map(|_| {
                    let handle = handle.clone();
                    thread::spawn(move || {
                        let send = |i| {
                            let (reply, slot) = oneshot();
                            let _ = handle.send(Msg::Echo(i, reply), None);
                            slot
                        };
                        (0..30).map(send).collect::<Vec<_>>()
                    })
                })
                .collect();
            (0..i % 10).for_each(|_| thread::yield_now());
            if i % 2 == 0 {
                handle.stop()
            } else {
                handle.finish()
            }
            for slot in senders.into_iter().flat_map(|it| it.join().unwrap()) {
                let outcome = answer(&slot);
                assert!(outcome.is_ok() || outcome.unwrap_err().is_closed());
            }
            assert!(handle.join(far_deadline()));
        }
    });
}
