//! Delivery of results to the channels of `Pending::on_done`. One thread of the process, `tk-done`, waits until full
//! channels have space.
//!
//! The thread runs only while a channel is full. It has a queue of results for each full channel, and sends to any
//! channel that has space, so that a channel that is not read does not delay the others. While the thread runs, all
//! results go through it: a result that is sent directly could overtake an earlier one in a queue.
//!
//! If the system cannot start the thread, the results are kept, and their sessions are kept alive. The start is retried
//! at the next result, at each heartbeat of a session, and at the end of a session.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Select, SelectedOperation, Sender, TrySendError, bounded};

use crate::sync::undo::Undo;
use crate::sync::{StaticMutex, spawn, unwind};

/// A value that keeps a session alive.
pub(super) type Keep = Arc<dyn Any + Send + Sync>;

static STATE: StaticMutex<State> =
    StaticMutex::new(State { arrived: Vec::new(), thread: None, kept: Vec::new() });

struct State {
    /// Results that the thread has not taken yet.
    arrived: Vec<Box<dyn AnyItem>>,
    thread: Option<Thread>,
    /// Sessions of results in `arrived`, kept alive until the thread is started: their heartbeats retry the start.
    kept: Vec<Keep>,
}

struct Thread {
    /// A message makes the thread take the results in `arrived`.
    wake: Sender<()>,
    /// The system has started the thread, so the results in `arrived` will be taken. Before that, the start may fail.
    is_certain: bool,
}

/// A result and its channel, of any type.
trait AnyItem: Send {
    /// Appends the result to the queue if the queue belongs to the same channel; otherwise returns the result.
    fn append_to(self: Box<Self>, queue: &dyn AnyQueue) -> Option<Box<dyn AnyItem>>;
    /// Creates a queue for the channel, with this result.
    fn into_queue(self: Box<Self>) -> Box<dyn AnyQueue>;
}

/// The undelivered results of one channel, of any type.
trait AnyQueue {
    fn as_any(&self) -> &dyn Any;
    /// Sends results while the channel has space; returns true if results are left.
    fn send(&self) -> bool;
    fn add_to<'a>(&'a self, select: &mut Select<'a>);
    /// Completes a selected operation: the channel has space, or its receiver was dropped.
    fn complete(&self, operation: SelectedOperation<'_>);
}

struct Item<R> {
    channel: Sender<R>,
    result: R,
}

struct Queue<R> {
    channel: Sender<R>,
    /// Used only by the thread that owns the queue.
    results: RefCell<VecDeque<R>>,
}

impl<R: Send + 'static> AnyItem for Item<R> {
    fn append_to(self: Box<Self>, queue: &dyn AnyQueue) -> Option<Box<dyn AnyItem>> {
        match queue.as_any().downcast_ref::<Queue<R>>() {
            Some(queue) if queue.channel.same_channel(&self.channel) => {
                queue.results.borrow_mut().push_back(self.result);
                None
            }
            _ => Some(self),
        }
    }

    fn into_queue(self: Box<Self>) -> Box<dyn AnyQueue> {
        let results = RefCell::new(VecDeque::from([self.result]));
        Box::new(Queue { channel: self.channel, results })
    }
}

impl<R: Send + 'static> Queue<R> {
    fn next(&self) -> Option<R> {
        self.results.borrow_mut().pop_front()
    }

    /// Drops `first` and all queued results, because the receiver was dropped.
    fn discard(&self, first: R) {
        let others = self.results.take();
        drop_unread((first, others));
    }
}

impl<R: Send + 'static> AnyQueue for Queue<R> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn send(&self) -> bool {
        while let Some(result) = self.next() {
            match self.channel.try_send(result) {
                Ok(()) => {}
                Err(TrySendError::Full(result)) => {
                    self.results.borrow_mut().push_front(result);
                    return true;
                }
                Err(TrySendError::Disconnected(unread)) => self.discard(unread),
            }
        }
        false
    }

    fn add_to<'a>(&'a self, select: &mut Select<'a>) {
        select.send(&self.channel);
    }

    fn complete(&self, operation: SelectedOperation<'_>) {
        // The queue is not empty: only queues with results are selected, and only this thread removes results.
        let Some(result) = self.next() else { return };
        if let Err(unread) = operation.send(&self.channel, result) {
            self.discard(unread.0);
        }
    }
}

/// Sends a result to a channel without blocking: directly if the channel has space, otherwise through the thread. Drops
/// `keep` when the result is sent or the thread is started, whichever is first.
pub(super) fn deliver<R: Send + 'static>(channel: Sender<R>, result: R, keep: Option<Keep>) {
    let is_idle = {
        let state = STATE.lock();
        state.arrived.is_empty() && state.thread.is_none()
    };
    let result = if is_idle {
        match channel.try_send(result) {
            Ok(()) => return,
            Err(TrySendError::Full(result)) => result,
            Err(TrySendError::Disconnected(unread)) => return drop_unread(unread),
        }
    } else {
        result
    };
    let unneeded = {
        let mut state = STATE.lock();
        state.arrived.push(Box::new(Item { channel, result }));
        if state.thread.as_ref().is_some_and(|thread| thread.is_certain) {
            keep
        } else {
            state.kept.extend(keep);
            None
        }
    };
    retry();
    drop(unneeded);
}

/// As [`deliver`], in a forked child process. The child has none of the parent's threads, and a lock that another
/// thread held during the fork is never released there. Therefore this function does not use `STATE`, and starts a
/// thread for each result that finds its channel full.
pub(super) fn deliver_in_child<R: Send + 'static>(channel: Sender<R>, result: R) {
    if let Err(TrySendError::Full(result)) = channel.try_send(result) {
        let started = spawn::spawn("tk-done".into(), None, move || drop(channel.send(result)));
        if let Err(error) = started {
            log::error!(target: "tinkex", "a result was lost in a forked process without threads: {error}");
        }
    }
}

/// Drops results and catches panics, because the destructors of the tags are code of the caller.
fn drop_unread(results: impl Sized) {
    unwind::shield("a result that nobody read could not be dropped", || drop(results));
}

/// Starts or wakes the thread if it has results to take.
pub(crate) fn retry() {
    let (sender, receiver) = {
        let mut state = STATE.lock();
        match &state.thread {
            _ if state.arrived.is_empty() => return,
            Some(thread) => {
                let wake = thread.wake.clone();
                drop(state);
                // If `wake` is full, an earlier message will wake the thread.
                let _ = wake.try_send(());
                return;
            }
            None => {
                let (sender, receiver) = bounded(1);
                state.thread = Some(Thread { wake: sender.clone(), is_certain: false });
                (sender, receiver)
            }
        }
    };
    let lost = Undo::new(|_| STATE.lock().thread = None);
    let started = spawn::spawn("tk-done".into(), None, move || {
        run(&receiver);
        lost.disarm();
    });
    match started {
        // The thread is not joined: it ends when all results are delivered.
        Ok(_) => {
            let kept = {
                let mut state = STATE.lock();
                // The thread may have ended already, and another call may be starting the next one.
                if let Some(thread) = state.thread.as_mut().filter(|thread| thread.wake.same_channel(&sender))
                {
                    thread.is_certain = true;
                }
                std::mem::take(&mut state.kept)
            };
            // Drop without the lock, because this may end a session.
            drop(kept);
        }
        Err(error) => {
            log::warn!(
                target: "tinkex",
                "results for full channels are kept, because no thread could be started to deliver them: {error}"
            );
        }
    }
}

/// Body of the thread: delivers results until none is left.
fn run(wake: &Receiver<()>) {
    let mut queues: Vec<Box<dyn AnyQueue>> = Vec::new();
    loop {
        let arrived = {
            let mut state = STATE.lock();
            if state.arrived.is_empty() && queues.is_empty() {
                state.thread = None;
                return;
            }
            std::mem::take(&mut state.arrived)
        };
        for item in arrived {
            let unplaced = queues.iter().try_fold(item, |item, queue| item.append_to(&**queue));
            if let Some(first) = unplaced {
                queues.push(first.into_queue());
            }
        }
        queues.retain(|queue| queue.send());
        if queues.is_empty() {
            continue;
        }
        let mut select = Select::new();
        let woken = select.recv(wake);
        queues.iter().for_each(|queue| queue.add_to(&mut select));
        let operation = select.select();
        match operation.index() {
            index if index == woken => drop(operation.recv(wake)),
            // Index 0 is `wake`; the queues follow in order.
            index => queues[index - 1].complete(operation),
        }
    }
}
