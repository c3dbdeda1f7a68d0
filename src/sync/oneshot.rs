//! The answer to one request: exactly one, in every case.
//!
//! The worker holds the [`Reply`], the caller the [`Slot`]. A reply that is dropped without an answer sends an error,
//! so that a caller never waits forever, not even after a panic. The first answer counts. It can be taken once: by
//! waiting, by polling or by a callback.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::fault::mutant;
use super::{Condvar, Mutex, unwind};
use crate::error::{Error, Result};

/// Creates the worker's end and the caller's end of one request.
pub(crate) fn oneshot<T: Send + 'static>() -> (Reply<T>, Slot<T>) {
    let slot = Slot { shared: Arc::new(Shared { state: Mutex::new(State::Open), settled: Condvar::new() }) };
    (Reply { slot: Some(slot.clone()) }, slot)
}

/// The worker's end of a request: sends the answer. A reply that is dropped without an answer sends an error. The error
/// is the panic, if the thread is unwinding inside [`unwind::catch`]; otherwise the cause of the
/// [`unwind::drop_because`] that dropped the reply, or a general error.
pub(crate) struct Reply<T: Send + 'static> {
    /// Empty once answered.
    slot: Option<Slot<T>>,
}

impl<T: Send + 'static> Reply<T> {
    /// Sends the answer. Does nothing if the request is answered already, for example because the caller cancelled it.
    pub(crate) fn send(mut self, result: Result<T>) {
        if let Some(slot) = self.slot.take() {
            slot.settle(result);
        }
    }

    /// Returns whether the request is answered already. The work need not be done then.
    pub(crate) fn is_settled(&self) -> bool {
        self.slot.as_ref().is_none_or(Slot::is_settled)
    }
}

impl<T: Send + 'static> Drop for Reply<T> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        if slot.is_settled() {
            return;
        }
        mutant!(DropsWithoutAnswer, return);
        let answer = move |error| {
            slot.settle(Err(error));
        };
        unwind::answer_dropped(Box::new(answer));
    }
}

type Callback<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// The caller's end of a request: receives the answer.
pub(crate) struct Slot<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Notified once, when the answer comes.
    settled: Condvar,
}

enum State<T> {
    Open,
    Promised(Callback<T>),
    Ready(Result<T>),
    Taken,
}

impl<T> State<T> {
    /// Takes the answer, if it has come. If it was taken before, returns an error instead of `None`, because no second
    /// answer comes.
    fn take(&mut self) -> Option<Result<T>> {
        match mem::replace(self, State::Taken) {
            State::Ready(result) => Some(result),
            State::Taken => Some(Err(taken())),
            waiting => {
                *self = waiting;
                None
            }
        }
    }
}

#[cold]
fn taken() -> Error {
    Error::closed("the answer was taken already")
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot { shared: self.shared.clone() }
    }
}

impl<T: Send + 'static> Slot<T> {
    /// Answers, unless the request was answered before. Returns whether this was the first answer.
    pub(crate) fn settle(&self, result: Result<T>) -> bool {
        let mut state = self.shared.state.lock();
        mutant!(
            ReplacesTheAnswer,
            if let State::Ready(_) = *state {
                *state = State::Open
            }
        );
        match mem::replace(&mut *state, State::Taken) {
            State::Open => {
                *state = State::Ready(result);
                drop(state);
                mutant!(SettlesWithoutNotify, {}, self.shared.settled.notify_all());
                true
            }
            State::Promised(callback) => {
                drop(state);
                // Waiters get the error that the answer was taken.
                self.shared.settled.notify_all();
                call(callback, result);
                true
            }
            settled => {
                *state = settled;
                // Drop the unwanted answer outside of the lock: its destructor may be code of the user.
                drop(state);
                drop(result);
                false
            }
        }
    }

    /// Returns whether the answer has come. It may have been taken already.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(*self.shared.state.lock(), State::Ready(_) | State::Taken)
    }

    /// Takes the answer, if it has come.
    pub(crate) fn try_take(&self) -> Option<Result<T>> {
        self.shared.state.lock().take()
    }

    /// Waits for the answer; `None` if the deadline passes first. Without a deadline it blocks until the reply is
    /// answered or dropped.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Result<T>> {
        let mut state = self.shared.state.lock();
        let mut in_time = true;
        loop {
            match state.take() {
                None if in_time => in_time = super::wait(&self.shared.settled, &mut state, deadline),
                outcome => return outcome,
            }
        }
    }

    /// Waits until the answer has come, and leaves it in the slot. Returns false if the deadline passes first.
    pub(crate) fn wait_settled(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.shared.state.lock();
        let mut in_time = true;
        loop {
            if matches!(*state, State::Ready(_) | State::Taken) {
                return true;
            }
            if !in_time {
                return false;
            }
            in_time = super::wait(&self.shared.settled, &mut state, deadline);
        }
    }

    /// Passes the answer to a callback: immediately if the answer has come, otherwise later, on the thread that
    /// answers. No lock is held during the call; a panic of the callback is caught and logged.
    pub(crate) fn on_settled(&self, callback: Callback<T>) {
        let mut state = self.shared.state.lock();
        match mem::replace(&mut *state, State::Taken) {
            State::Open => *state = State::Promised(callback),
            State::Ready(result) => {
                drop(state);
                call(callback, result);
            }
            other => {
                *state = other;
                drop(state);
                call(callback, Err(taken()));
            }
        }
    }
}

fn call<T>(callback: Callback<T>, result: Result<T>) {
    unwind::shield("a callback for an answer failed", || callback(result));
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::super::testing::{eventually, far_deadline, with_time_limit};
    use super::*;

    #[test]
    fn the_first_answer_counts() {
        let (reply, slot) = oneshot();
        assert!(!reply.is_settled() && !slot.is_settled());
        assert!(slot.settle(Err(Error::cancelled())));
        assert!(reply.is_settled());
        reply.send(Ok(1));
        assert!(!slot.settle(Ok(2)));
        assert!(slot.try_take().unwrap().unwrap_err().is_cancelled());
    }

    #[test]
    fn a_reply_that_is_dropped_answers_that_the_worker_ended() {
        let (reply, slot) = oneshot::<()>();
        drop(reply);
        let error = slot.wait(Some(Instant::now())).expect("an answer").unwrap_err();
        assert!(error.is_closed());
        assert_eq!(error.message(), "the worker ended without an answer");
    }

    #[test]
    fn taking_twice_is_an_error_and_never_hangs() {
        let (reply, slot) = oneshot();
        assert!(slot.try_take().is_none());
        reply.send(Ok(1));
        assert_eq!(slot.wait(None).unwrap().unwrap(), 1);
        assert!(slot.is_settled());
        assert_eq!(slot.wait(None).unwrap().unwrap_err().message(), "the answer was taken already");
        assert!(slot.try_take().unwrap().unwrap_err().is_closed());
        let (sender, receiver) = mpsc::channel();
        slot.on_settled(Box::new(move |it| sender.send(it).unwrap()));
        assert!(receiver.recv().unwrap().unwrap_err().is_closed());
    }

    #[test]
    fn a_deadline_ends_the_wait_and_not_the_request() {
        let (reply, slot) = oneshot();
        assert!(slot.wait(Some(Instant::now() + Duration::from_millis(5))).is_none());
        assert!(slot.wait(Some(Instant::now())).is_none());
        reply.send(Ok(3));
        assert_eq!(slot.wait(Some(Instant::now())).unwrap().unwrap(), 3);
    }

    #[test]
    fn one_of_several_waiters_gets_the_answer_and_the_others_an_error() {
        let (reply, slot) = oneshot();
        let waiters: Vec<_> = (0..8).map(|_| (slot.clone(), thread::current())).collect();
        let threads: Vec<_> = waiters
            .into_iter()
            .map(|(it, _)| thread::spawn(move || it.wait(Some(far_deadline())).unwrap()))
            .collect();
        reply.send(Ok(()));
        let outcomes = threads.into_iter().map(|it| it.join().unwrap());
        assert_eq!(outcomes.filter(Result::is_ok).count(), 1);
    }

    #[test]
    fn a_callback_runs_at_once_or_on_the_answering_thread_and_without_the_lock() {
        let (sender, receiver) = mpsc::channel();
        let (reply, slot) = oneshot();
        let (again, tx) = (slot.clone(), sender.clone());
        slot.on_settled(Box::new(move |it| {
            // Would deadlock if the lock were held.
            assert!(again.is_settled());
            tx.send((it, thread::current().id())).unwrap();
        }));
        assert!(slot.try_take().is_none());
        let thread = thread::spawn(move || reply.send(Ok(4)));
        let id = thread.thread().id();
        thread.join().unwrap();
        let (result, ran_on) = receiver.recv().unwrap();
        assert_eq!((result.unwrap(), ran_on), (4, id));

        let (reply, slot) = oneshot();
        reply.send(Ok(6));
        slot.on_settled(Box::new(move |it| sender.send((it, thread::current().id())).unwrap()));
        let (result, ran_on) = receiver.recv().unwrap();
        assert_eq!((result.unwrap(), ran_on), (6, thread::current().id()));
    }

    #[test]
    fn a_panic_of_a_callback_is_caught() {
        let (reply, slot) = oneshot::<()>();
        slot.on_settled(Box::new(|_| panic!("callback")));
        reply.send(Ok(()));
        assert!(slot.is_settled());
    }

    #[test]
    fn a_second_callback_and_a_waiter_get_an_error() {
        let (reply, slot) = oneshot();
        let (sender, receiver) = mpsc::channel();
        slot.on_settled(Box::new({
            let sender = sender.clone();
            move |it| sender.send(it).unwrap()
        }));
        slot.on_settled(Box::new(move |it| sender.send(it).unwrap()));
        assert!(receiver.recv().unwrap().unwrap_err().is_closed());
        let waiter = thread::spawn({
            let slot = slot.clone();
            move || slot.wait(Some(far_deadline())).unwrap()
        });
        reply.send(Ok(1));
        assert_eq!(receiver.recv().unwrap().unwrap(), 1);
        assert!(waiter.join().unwrap().unwrap_err().is_closed());
    }

    #[test]
    fn a_callback_survives_a_panicking_thread_that_drops_the_reply() {
        let (reply, slot) = oneshot::<()>();
        let (sender, receiver) = mpsc::channel();
        slot.on_settled(Box::new(move |it| {
            sender.send(it).unwrap();
            panic!("in a destructor, while unwinding");
        }));
        let thread = thread::spawn(move || {
            let _reply = reply;
            panic!("unwinding");
        });
        assert!(thread.join().is_err());
        assert!(receiver.recv().unwrap().unwrap_err().is_panic());
    }

    #[test]
    fn an_unwanted_answer_is_dropped_without_the_lock() {
        struct Looks(Slot<Looks>);
        impl Drop for Looks {
            fn drop(&mut self) {
                assert!(self.0.is_settled());
            }
        }
        with_time_limit(|| {
            let (reply, slot) = oneshot::<Looks>();
            slot.settle(Err(Error::cancelled()));
            reply.send(Ok(Looks(slot.clone())));
            eventually("settled", || slot.is_settled());
        });
    }
}
