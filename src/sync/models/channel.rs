//! A bounded channel as the actor knows it, made of checked locks: it behaves like crossbeam's where the actor looks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::primitives::{Condvar, Mutex};

pub(crate) use crossbeam_channel::{RecvError, SendError, SendTimeoutError, TryRecvError, TrySendError};

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), n_senders: 1, receives: true, selecting: None };
    let core = Arc::new(Core { capacity, state: Mutex::new(state), moved: Condvar::new() });
    (Sender { core: core.clone() }, Receiver { core })
}

struct Core<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    /// Notified whenever anything changes.
    moved: Condvar,
}

struct State<T> {
    queue: VecDeque<T>,
    n_senders: usize,
    receives: bool,
    selecting: Option<Arc<Signal>>,
}

/// Tells a thread that looks at several channels that one of them changed.
#[derive(Default)]
struct Signal {
    given: Mutex<bool>,
    bell: Condvar,
}

impl<T> Core<T> {
    fn change<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        let (result, selecting) = {
            let mut state = self.state.lock();
            (f(&mut state), state.selecting.take())
        };
        self.moved.notify_all();
        if let Some(signal) = selecting {
            *signal.given.lock() = true;
            signal.bell.notify_all();
        }
        result
    }

    fn send(&self, msg: T, patience: Patience) -> Result<(), SendTimeoutError<T>> {
        let mut state = self.state.lock();
        let mut in_time = true;
        while state.receives && self.capacity <= state.queue.len() {
            in_time = in_time && !matches!(patience, Patience::None);
            if !in_time {
                return Err(SendTimeoutError::Timeout(msg));
            }
            match patience {
                Patience::Until(deadline) => {
                    in_time = !self.moved.wait_until(&mut state, deadline).timed_out()
                }
                _ => self.moved.wait(&mut state),
            }
        }
        drop(state);
        // Room can be lost again between the look and this, so that the queue may exceed its capacity by those who
        // looked at once. Nothing here depends on its exact length.
        self.change(|state| match state.receives {
            true => {
                state.queue.push_back(msg);
                Ok(())
            }
            false => Err(SendTimeoutError::Disconnected(msg)),
        })
    }
}

#[derive(Clone, Copy)]
enum Patience {
    None,
    Until(Instant),
    Endless,
}

pub(crate) struct Sender<T> {
    core: Arc<Core<T>>,
}

impl<T> Sender<T> {
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
        self.core.change(|state| state.n_senders -= 1);
    }
}

pub(crate) struct Receiver<T> {
    core: Arc<Core<T>>,
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.core.change(|state| match state.queue.pop_front() {
            Some(msg) => Ok(msg),
            None if state.n_senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        })
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
        self.core.change(|state| state.receives = false);
    }
}

/// Waits until one of several channels has something to say.
#[derive(Default)]
pub(crate) struct Select<'a> {
    channels: Vec<&'a dyn Watch>,
}

impl<'a> Select<'a> {
    pub(crate) fn new_biased() -> Self {
        Select::default()
    }

    pub(crate) fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
        self.channels.push(receiver);
        self.channels.len() - 1
    }

    pub(crate) fn ready(&mut self) -> usize {
        loop {
            let signal = Arc::new(Signal::default());
            if let Some(ready) = self.channels.iter().position(|it| it.watch(&signal)) {
                return ready;
            }
            let mut given = signal.given.lock();
            while !*given {
                signal.bell.wait(&mut given);
            }
        }
    }
}

trait Watch {
    /// Whether there is something to receive or the end. If not, the signal is given when anything changes.
    fn watch(&self, signal: &Arc<Signal>) -> bool;
}

impl<T> Watch for Receiver<T> {
    fn watch(&self, signal: &Arc<Signal>) -> bool {
        let mut state = self.core.state.lock();
        let ready = !state.queue.is_empty() || state.n_senders == 0;
        if !ready {
            state.selecting = Some(signal.clone());
        }
        ready
    }
}
