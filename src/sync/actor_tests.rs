//! Tests of the actor.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use super::super::oneshot::{Reply, Slot, oneshot};
use super::super::testing::{Door, eventually, in_time, late, no_threads_named};
use super::*;

enum Msg {
    Echo(u32, Reply<u32>),
    Pass(Door, Reply<()>),
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
            Msg::Pass(door, reply) => {
                door.pass();
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
fn ask<T: Send + 'static>(handle: &Handle<Msg>, msg: impl FnOnce(Reply<T>) -> Msg) -> Slot<T> {
    let (reply, slot) = oneshot();
    handle.send(msg(reply), None).unwrap();
    slot
}

#[track_caller]
fn answer<T: Send + 'static>(slot: &Slot<T>) -> Result<T> {
    slot.wait(Some(late())).expect("every message is answered")
}

/// Makes the actor busy, and returns what makes it go on.
fn occupy(handle: &Handle<Msg>) -> Door {
    let door = Door::shut();
    ask(handle, |it| Msg::Pass(door.clone(), it));
    eventually("the turn has begun", || mailbox(handle).is_empty());
    door
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
fn a_panic_in_a_turn_is_answered_with_its_message_and_survived() {
    let handle = actor("tka-panic", 4);
    let error = answer(&ask(&handle, Msg::Panic)).unwrap_err();
    let expected = ErrorKind::Panicked { thread: "tka-panic".into(), message: "turn".into() };
    assert_eq!(error.kind(), &expected);
    assert!(handle.is_alive());
    assert_eq!(answer(&ask(&handle, |it| Msg::Echo(7, it))).unwrap(), 7);
}

#[test]
fn stopping_overtakes_queued_messages_and_answers_them() {
    let handle = actor("tka-stop", 8);
    let door = occupy(&handle);
    let queued: Vec<_> = (0..5).map(|i| ask(&handle, |it| Msg::Echo(i, it))).collect();
    handle.stop();
    door.open();
    for slot in queued {
        let error = answer(&slot).unwrap_err();
        assert_eq!((error.is_closed(), error.message()), (true, "tka-stop is closed"));
    }
    assert!(handle.join(late()) && !handle.is_alive());
}

#[test]
fn stopping_overtakes_a_finish_that_is_under_way() {
    let handle = actor("tka-over", 8);
    let door = occupy(&handle);
    let queued = ask(&handle, |it| Msg::Echo(1, it));
    handle.finish();
    handle.stop();
    door.open();
    assert!(answer(&queued).unwrap_err().is_closed());
    assert!(handle.join(late()));
}

#[test]
fn finishing_handles_what_is_queued_and_accepts_no_more() {
    let handle = actor("tka-finish", 8);
    let door = occupy(&handle);
    let queued: Vec<_> = (0..5).map(|i| ask(&handle, |it| Msg::Echo(i, it))).collect();
    handle.finish();
    handle.finish();
    assert!(handle.is_alive());
    let (reply, late_comer) = oneshot();
    assert!(handle.send(Msg::Echo(9, reply), None).unwrap_err().is_closed());
    assert!(answer(&late_comer).unwrap_err().is_closed());
    door.open();
    assert_eq!(queued.iter().map(|it| answer(it).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(handle.join(late()));
}

#[test]
fn whoever_sends_and_then_finishes_is_answered() {
    in_time(|| {
        for i in 0..300 {
            let handle = actor("tka-last", 4);
            let slot = ask(&handle, |it| Msg::Echo(i, it));
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
    let door = occupy(&handle);
    let queued: Vec<_> = (0..5).map(|i| ask(&handle, |it| Msg::Echo(i, it))).collect();
    drop(handle);
    assert!(!end.is_settled());
    door.open();
    assert_eq!(queued.iter().map(|it| answer(it).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(answer(&end).is_ok());
    no_threads_named("tka-drop");
}

#[test]
fn replies_that_an_actor_still_owes_are_answered_at_its_end() {
    let handle = actor("tka-owes", 8);
    let slot = ask(&handle, Msg::Keep);
    handle.finish();
    assert_eq!(answer(&slot).unwrap_err().message(), "tka-owes is closed");
}

#[test]
fn an_actor_that_dies_tells_everybody_of_what() {
    let worker = Worker { ends_badly: true, ..Worker::default() };
    let handle = Handle::spawn("tka-dies".into(), 8, worker).unwrap();
    let owed = ask(&handle, Msg::Keep);
    let door = occupy(&handle);
    let queued = ask(&handle, |it| Msg::Echo(1, it));
    handle.stop();
    door.open();
    assert!(answer(&owed).unwrap_err().to_string().contains("bad end"));
    let error = answer(&queued).unwrap_err();
    assert!(error.is_closed() && error.is_panic(), "{error}");
    assert!(handle.join(late()) && !handle.is_alive());
    let (reply, slot) = oneshot();
    let error = handle.send(Msg::Echo(1, reply), None).unwrap_err();
    assert_eq!(error.to_string(), "tka-dies died: thread \"tka-dies\" panicked: bad end");
    assert_eq!(answer(&slot).unwrap_err().to_string(), error.to_string());
}

#[test]
fn a_full_mailbox_holds_senders_up_to_their_deadline() {
    let handle = actor("tka-full", 1);
    let door = occupy(&handle);
    let queued = ask(&handle, |it| Msg::Echo(1, it));
    let (reply, slot) = oneshot();
    let error =
        handle.send(Msg::Echo(2, reply), Some(Instant::now() + Duration::from_millis(5))).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Timeout(Phase::Admission));
    assert!(answer(&slot).unwrap_err().is_timeout());
    door.open();
    assert_eq!(answer(&queued).unwrap(), 1);
    let (reply, slot) = oneshot();
    handle.send(Msg::Echo(3, reply), Some(late())).unwrap();
    assert_eq!(answer(&slot).unwrap(), 3);
}

#[test]
fn senders_that_wait_for_room_are_freed_by_the_end() {
    in_time(|| {
        let handle = Arc::new(actor("tka-freed", 1));
        let door = occupy(&handle);
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
        door.open();
        for thread in threads {
            let (outcome, answered) = thread.join().unwrap();
            assert!(answered.unwrap_err().is_closed());
            assert!(outcome.is_ok() || outcome.unwrap_err().is_closed());
        }
        assert!(handle.join(late()));
    });
}

#[test]
fn its_own_thread_neither_blocks_on_the_mailbox_nor_joins_itself() {
    let handle = Arc::new(actor("tka-own", 1));
    let (sender, receiver) = crossbeam_channel::unbounded();
    let inner = handle.clone();
    let act = move || {
        let outcomes: Vec<_> = (0..2)
            .map(|_| inner.send(Msg::Act(Box::new(|| ())), None).map_err(|it| it.is_timeout()))
            .collect();
        inner.stop();
        sender.send((outcomes, inner.join(late()))).unwrap();
    };
    handle.send(Msg::Act(Box::new(act)), None).unwrap();
    let (outcomes, joined) = receiver.recv_timeout(late() - Instant::now()).unwrap();
    assert_eq!((outcomes, joined), (vec![Ok(()), Err(true)], false));
    assert!(handle.join(late()));
}

#[test]
fn joining_is_bounded_and_idempotent_and_leaves_no_thread() {
    let handle = actor("tka-join", 1);
    let door = occupy(&handle);
    handle.stop();
    assert!(!handle.join(Instant::now() + Duration::from_millis(2)));
    door.open();
    assert!(handle.join(late()));
    no_threads_named("tka-join");
    assert!(handle.join(Instant::now()));
    handle.stop();
    handle.finish();
}

/// A bounded crossbeam channel whose receiver is dropped keeps its messages until the last sender is gone: a message
/// sent at that moment was never answered while the handle lived.
#[test]
fn stopping_at_any_moment_loses_no_answer() {
    in_time(|| {
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
            assert!(handle.join(late()));
        }
    });
}
