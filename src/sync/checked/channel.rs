//! Replaces crossbeam's channel under the model checker: a bounded channel on the checker's locks, with the part of
//! crossbeam's interface that the actor uses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Condvar, Mutex};

pub(crate) use crossbeam_channel::{RecvError, SendError, SendTimeoutError, TryRecvError, TrySendError};

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), n_senders: 1, receives: true };
    let core = Arc::new(Core { capacity, state: Mutex::new(state), changed: Condvar::new() });
    (Sender { core: core.clone() }, Receiver { core })
}

struct Core<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    /// Notified after each change.
    changed: Condvar,
}

struct State<T> {
    queue: VecDeque<T>,
    n_senders: usize,
    receives: bool,
}

#[derive(Clone, Copy)]
enum IfFull {
    Fail,
    WaitUntil(Instant),
    Wait,
}

impl<T> Core<T> {
    /// Puts a message into the queue, or returns it in the error. The check and the push happen under one lock.
    fn send(&self, msg: T, if_full: IfFull) -> Result<(), SendTimeoutError<T>> {
        let mut state = self.state.lock();
        let mut in_time = true;
        loop {
            match (state.receives, state.queue.len() < self.capacity, in_time) {
                (false, ..) => return Err(SendTimeoutError::Disconnected(msg)),
                (_, true, _) => break,
                (_, _, false) => return Err(SendTimeoutError::Timeout(msg)),
                _ => {}
            }
            in_time = match if_full {
                IfFull::Fail => false,
                IfFull::WaitUntil(deadline) => !self.changed.wait_until(&mut state, deadline).timed_out(),
                IfFull::Wait => {
                    self.changed.wait(&mut state);
                    true
                }
            };
        }
        state.queue.push_back(msg);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

pub(crate) struct Sender<T> {
    core: Arc<Core<T>>,
}

impl<T> Sender<T> {
    pub(crate) fn len(&self) -> usize {
        self.core.state.lock().queue.len()
    }

    pub(crate) fn try_send(&self, msg: T) -> Result<(), TrySendError<T>> {
        self.core.send(msg, IfFull::Fail).map_err(|error| match error {
            SendTimeoutError::Timeout(msg) => TrySendError::Full(msg),
            SendTimeoutError::Disconnected(msg) => TrySendError::Disconnected(msg),
        })
    }

    pub(crate) fn send_deadline(&self, msg: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.core.send(msg, IfFull::WaitUntil(deadline))
    }

    pub(crate) fn send(&self, msg: T) -> Result<(), SendError<T>> {
        self.core.send(msg, IfFull::Wait).map_err(|error| SendError(error.into_inner()))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.core.state.lock().n_senders += 1;
        Sender { core: self.core.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let n_left = {
            let mut state = self.core.state.lock();
            state.n_senders -= 1;
            state.n_senders
        };
        if n_left == 0 {
            self.core.changed.notify_all();
        }
    }
}

pub(crate) struct Receiver<T> {
    core: Arc<Core<T>>,
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let msg = {
            let mut state = self.core.state.lock();
            match state.queue.pop_front() {
                Some(msg) => msg,
                None if state.n_senders == 0 => return Err(TryRecvError::Disconnected),
                None => return Err(TryRecvError::Empty),
            }
        };
        // Wake senders that wait because the queue was full.
        self.core.changed.notify_all();
        Ok(msg)
    }

    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        loop {
            match self.try_recv() {
                Ok(msg) => return Ok(msg),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => {}
            }
            let mut state = self.core.state.lock();
            while state.queue.is_empty() && 0 < state.n_senders {
                self.core.changed.wait(&mut state);
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // Queued messages stay until the last sender is dropped.
        self.core.state.lock().receives = false;
        self.core.changed.notify_all();
    }
}
