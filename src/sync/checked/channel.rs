//! A bounded channel as the actor knows it, made of checked locks: it behaves like crossbeam's where the actor looks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Condvar, Mutex};

pub(crate) use crossbeam_channel::{RecvError, SendError, SendTimeoutError, TryRecvError, TrySendError};

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), n_senders: 1, receives: true };
    let core = Arc::new(Core { capacity, state: Mutex::new(state), moved: Condvar::new() });
    (Sender { core: core.clone() }, Receiver { core })
}

struct Core<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    /// Notified whenever something changes.
    moved: Condvar,
}

struct State<T> {
    queue: VecDeque<T>,
    n_senders: usize,
    receives: bool,
}

#[derive(Clone, Copy)]
enum Patience {
    None,
    Until(Instant),
    Endless,
}

impl<T> Core<T> {
    /// Puts a message into the queue if there is room, and says what stands in the way otherwise, as one step.
    fn send(&self, msg: T, patience: Patience) -> Result<(), SendTimeoutError<T>> {
        let mut state = self.state.lock();
        let mut in_time = true;
        loop {
            match (state.receives, state.queue.len() < self.capacity, in_time) {
                (false, ..) => return Err(SendTimeoutError::Disconnected(msg)),
                (_, true, _) => break,
                (_, _, false) => return Err(SendTimeoutError::Timeout(msg)),
                _ => {}
            }
            in_time = match patience {
                Patience::None => false,
                Patience::Until(deadline) => !self.moved.wait_until(&mut state, deadline).timed_out(),
                Patience::Endless => {
                    self.moved.wait(&mut state);
                    true
                }
            };
        }
        state.queue.push_back(msg);
        drop(state);
        self.moved.notify_all();
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
        self.core.send(msg, Patience::None).map_err(|it| match it {
            SendTimeoutError::Timeout(msg) => TrySendError::Full(msg),
            SendTimeoutError::Disconnected(msg) => TrySendError::Disconnected(msg),
        })
    }

    pub(crate) fn send_deadline(&self, msg: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.core.send(msg, Patience::Until(deadline))
    }

    pub(crate) fn send(&self, msg: T) -> Result<(), SendError<T>> {
        self.core.send(msg, Patience::Endless).map_err(|it| SendError(it.into_inner()))
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
        let left = {
            let mut state = self.core.state.lock();
            state.n_senders -= 1;
            state.n_senders
        };
        if left == 0 {
            self.core.moved.notify_all();
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
        // There is room for somebody's message.
        self.core.moved.notify_all();
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
                self.core.moved.wait(&mut state);
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // What is queued stays until the last sender is gone.
        self.core.state.lock().receives = false;
        self.core.moved.notify_all();
    }
}
