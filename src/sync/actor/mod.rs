//! An actor: one named thread that owns a state and handles the messages of its mailbox one at a time. A *turn* is the
//! handling of one message.
//!
//! # How an actor ends
//! | cause | queued messages | `ending` |
//! |---|---|---|
//! | dropping the handle, [`Handle::finish`] | are handled first | is called |
//! | [`Handle::stop`] | are dropped, and their replies say that the actor is closed | is called |
//! | a panic outside of a turn | are dropped, and their replies carry the panic | may have been called |
//!
//! A panic in a turn does not end the actor: the message is answered with the panic, and the next message is handled.
//! Therefore an actor must store a new state only when it is complete.
//!
//! If a panic ends the actor, the reason is recorded *before* the mailbox is closed. So a send that fails afterwards
//! reports this reason, and not a timeout.
//!
//! # How the mailbox is closed
//! The mailbox is a channel, and it is closed by dropping its senders. `Shared::mailbox` holds the only permanent
//! sender. Each send clones this sender and drops the clone at its end; closing the mailbox drops the permanent sender.
//! The actor then receives until the channel reports that no sender is left. At that point it has received every
//! message, including those of sends that were in progress. Dropping the receiver instead would lose answers: a bounded
//! crossbeam channel keeps queued messages until its last sender is dropped as well.
//!
//! # How the actor waits
//! The actor waits for [`Signal`], a flag with a condition variable. The flag is set after each change of the mailbox:
//! a new message, a stop, a dropped sender. The actor clears the flag *before* it checks the mailbox, so that a change
//! during the check sets the flag once more and is not missed. A blocking receive of crossbeam would work, too, but it
//! spins for about ten microseconds before it sleeps. In a client that mostly waits for a server, this would be most of
//! the cost of a message.

use std::sync::Arc;
use std::time::Instant;

use super::channel::{self, Receiver, SendTimeoutError, Sender, TryRecvError, TrySendError};
use super::fault::mutant;
use super::process::Process;
use super::thread::{self, JoinHandle, ThreadId};
use super::{Condvar, Mutex, spawn, unwind};
use crate::error::{Error, ErrorKind, Phase, Result};

/// The state of an actor, and the handling of its messages.
pub(crate) trait Actor: Send + 'static {
    /// The type of the messages. A message that needs an answer carries a reply.
    type Msg: Send + 'static;

    /// Handles one message.
    fn turn(&mut self, msg: Self::Msg);

    /// Called once after the last turn. Queued messages, if any, are dropped afterwards.
    fn ending(&mut self) {}
}

/// The owner of an actor. Dropping the handle closes the mailbox and does not wait; the actor handles the queued
/// messages and ends.
pub(crate) struct Handle<M> {
    shared: Arc<Shared<M>>,
    process: Process,
    id: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<M> {
    name: String,
    /// The sender that each send clones; empty once no more messages are accepted.
    mailbox: Mutex<Option<Sender<M>>>,
    signal: Mutex<Signal>,
    /// Notified when the signal is set.
    signalled: Condvar,
    end: Mutex<End>,
    /// Notified when the thread is about to end, and when it was joined.
    ended: Condvar,
}

#[derive(Default)]
struct Signal {
    /// The mailbox has changed since the actor last checked it.
    is_set: bool,
    /// The actor ends after its current turn.
    stop: bool,
}

#[derive(Default)]
struct End {
    /// The reason of the end. Set once no more messages are handled.
    reason: Option<Error>,
    /// The mailbox is closed, and all messages that were in it are answered.
    ended: bool,
    /// The thread was joined.
    joined: bool,
}

impl<M: Send + 'static> Handle<M> {
    /// Starts an actor on a new thread. The mailbox holds up to `capacity` messages, at least one.
    ///
    /// # Errors
    /// A system error, if the thread cannot be started. The actor is dropped then.
    pub(crate) fn spawn<A: Actor<Msg = M>>(name: String, capacity: usize, actor: A) -> Result<Self> {
        // A channel of capacity 0 would block each sender until the actor takes its message.
        let (mailbox, messages) = channel::bounded(capacity.max(1));
        let shared = Arc::new(Shared {
            name: name.clone(),
            mailbox: Mutex::new(Some(mailbox)),
            signal: Mutex::default(),
            signalled: Condvar::new(),
            end: Mutex::default(),
            ended: Condvar::new(),
        });
        let inbox = Inbox { shared: shared.clone(), messages };
        let thread = spawn::spawn(name, None, move || {
            let outcome = unwind::catch(|| run(actor, &inbox));
            inbox.finish(outcome);
        });
        match thread {
            Ok(thread) => {
                let id = thread.thread().id();
                Ok(Handle { shared, process: Process::this(), id, thread: Mutex::new(Some(thread)) })
            }
            Err(cause) => {
                let message = format!("the thread {} could not be started: {cause}", shared.name);
                Err(Error::new(ErrorKind::System, message))
            }
        }
    }

    /// Puts a message into the mailbox. A message that is not accepted is dropped, and replies in it answer with the
    /// returned error.
    ///
    /// # Errors
    /// Closed, with the panic as the cause if a panic ended the actor; a timeout in [`Phase::Admission`] if the mailbox
    /// is still full at the deadline.
    ///
    /// # Blocking
    /// While the mailbox is full, until the deadline or the end of the actor. On the actor's own thread it never
    /// blocks, because only that thread empties the mailbox: a full mailbox is a timeout immediately.
    pub(crate) fn send(&self, msg: M, deadline: Option<Instant>) -> Result<()> {
        if self.is_own_thread() { self.put(msg, IfFull::Fail) } else { self.put(msg, IfFull::Wait(deadline)) }
    }

    /// Puts a message into the mailbox like [`send`](Handle::send), but never blocks: a full mailbox is a timeout
    /// immediately.
    ///
    /// # Errors
    /// The errors of [`send`](Handle::send).
    pub(crate) fn try_send(&self, msg: M) -> Result<()> {
        self.put(msg, IfFull::Fail)
    }

    fn put(&self, msg: M, if_full: IfFull) -> Result<()> {
        if let Err(forked) = self.process.check() {
            // Leak the message: its destructors may take locks that stay locked forever in this process.
            std::mem::forget(msg);
            return Err(forked);
        }
        // Clone the sender instead of holding the lock: other threads can send and close while this send waits on a
        // full mailbox.
        let mailbox = self.shared.mailbox.lock().clone();
        mutant!(SendsUnderTheLock, keep self.shared.mailbox.lock());
        let Some(mailbox) = mailbox else {
            return refuse(msg, self.shared.end_reason());
        };
        let outcome = match if_full {
            IfFull::Wait(Some(deadline)) => mailbox.send_deadline(msg, deadline),
            IfFull::Wait(None) => mailbox.send(msg).map_err(|error| SendTimeoutError::Disconnected(error.0)),
            IfFull::Fail => mailbox.try_send(msg).map_err(|error| match error {
                TrySendError::Full(msg) => SendTimeoutError::Timeout(msg),
                TrySendError::Disconnected(msg) => SendTimeoutError::Disconnected(msg),
            }),
        };
        // Drop the sender before the signal: if it is the last one, the actor must find the channel disconnected when
        // it wakes.
        mutant!(SignalsEarly, keep mailbox.clone());
        drop(mailbox);
        self.shared.signal();
        match outcome {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Disconnected(msg)) => refuse(msg, self.shared.end_reason()),
            Err(SendTimeoutError::Timeout(msg)) => {
                let message = format!("the mailbox of {} did not become free in time", self.shared.name);
                refuse(msg, Error::timeout(Phase::Admission, message))
            }
        }
    }

    /// Ends the actor after its current turn. Does not wait. Queued messages and those of sends in progress are
    /// dropped; their replies answer with an error, although the send may have succeeded.
    pub(crate) fn stop(&self) {
        if self.process.is_other() {
            return;
        }
        // Set `stop` before the mailbox is closed, so that an actor that finds the mailbox closed also finds the stop.
        self.shared.signal.lock().stop = true;
        self.shared.close();
    }

    /// Closes the mailbox. Does not wait. The actor handles the queued messages and those of sends in progress, then
    /// ends.
    pub(crate) fn finish(&self) {
        if self.process.is_other() {
            return;
        }
        self.shared.close();
    }

    /// Waits for the end of the thread until the deadline; returns whether the thread has ended. Does not stop the
    /// actor. On the actor's own thread it returns `false` immediately.
    pub(crate) fn join(&self, deadline: Instant) -> bool {
        if self.is_own_thread() || self.process.is_other() {
            return false;
        }
        let mut end = self.shared.end.lock();
        let mut in_time = true;
        while !end.ended && in_time {
            in_time = super::wait(&self.shared.ended, &mut end, Some(deadline));
        }
        let ended = end.ended;
        drop(end);
        if !ended {
            return false;
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // The thread is about to end. Its panics were caught.
            let _ = thread.join();
            self.shared.end.lock().joined = true;
            self.shared.ended.notify_all();
            return true;
        }
        // Another call joins the thread.
        let mut end = self.shared.end.lock();
        let mut in_time = true;
        while !end.joined && in_time {
            in_time = super::wait(&self.shared.ended, &mut end, Some(deadline));
        }
        true
    }

    /// The name of the thread.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Number of messages in the mailbox.
    pub(crate) fn n_queued(&self) -> usize {
        self.shared.mailbox.lock().as_ref().map_or(0, Sender::len)
    }

    /// Returns whether the actor still handles messages. Its mailbox may be closed already.
    pub(crate) fn is_alive(&self) -> bool {
        self.shared.end.lock().reason.is_none()
    }

    /// Returns whether this process is a forked child of the one that started the actor.
    pub(crate) fn is_foreign(&self) -> bool {
        self.process.is_other()
    }

    fn is_own_thread(&self) -> bool {
        thread::current().id() == self.id
    }
}

impl<M> Drop for Handle<M> {
    fn drop(&mut self) {
        if !self.process.is_other() {
            self.shared.close();
        }
    }
}

/// The behaviour of a send while the mailbox is full.
#[derive(Clone, Copy)]
enum IfFull {
    /// Waits, at most until the deadline.
    Wait(Option<Instant>),
    Fail,
}

fn refuse<M>(msg: M, error: Error) -> Result<()> {
    unwind::drop_because(msg, &error);
    Err(error)
}

/// Body of the thread: handles messages until the end. After a stop, queued messages stay in the mailbox.
fn run<A: Actor>(mut actor: A, inbox: &Inbox<A::Msg>) {
    while let Some(msg) = inbox.next() {
        if let Err(error) = unwind::catch(|| actor.turn(msg)) {
            unwind::report("a turn of an actor failed", &error);
        }
    }
    inbox.shared.close();
    actor.ending();
    // Replies that the actor still holds answer that the actor is closed.
    unwind::drop_because(actor, &inbox.shared.end_reason());
}

/// The receiving end of the mailbox. It is dropped however the thread ends: it then records the reason of the end,
/// closes the mailbox and drops the queued messages, in this order.
struct Inbox<M> {
    shared: Arc<Shared<M>>,
    messages: Receiver<M>,
}

impl<M> Inbox<M> {
    /// Waits for the next message; `None` after a stop or after the last message. A stop is checked first, so that it
    /// takes effect before the queued messages.
    fn next(&self) -> Option<M> {
        loop {
            let stop = {
                let mut signal = self.shared.signal.lock();
                signal.is_set = false;
                signal.stop
            };
            if stop {
                return None;
            }
            match self.messages.try_recv() {
                Ok(msg) => return Some(msg),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            let mut signal = self.shared.signal.lock();
            mutant!(ClearsSignalLate, signal.is_set = false);
            while !signal.is_set {
                self.shared.signalled.wait(&mut signal);
            }
        }
    }

    /// Records a panic as the reason of the end, and drops the inbox.
    fn finish(self, outcome: Result<()>) {
        if let Err(cause) = outcome {
            unwind::report("an actor died", &cause);
            let error = Error::closed(format!("{} died", self.shared.name)).caused_by(cause);
            self.shared.end.lock().reason.get_or_insert(error);
        }
    }

    /// Drops all messages until the last send in progress has ended. No send can block this: each message received
    /// frees an entry of the mailbox, so that a waiting send continues.
    fn drain(&self, reason: &Error) {
        while let Ok(msg) = self.messages.recv() {
            unwind::drop_because(msg, reason);
        }
    }
}

impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        let reason = self.shared.end_reason();
        self.shared.end.lock().reason.get_or_insert(reason.clone());
        self.shared.close();
        mutant!(LeavesQueuedMessages, {}, self.drain(&reason));
        self.shared.end.lock().ended = true;
        self.shared.ended.notify_all();
    }
}

impl<M> Shared<M> {
    /// Accepts no more messages.
    fn close(&self) {
        let mailbox = self.mailbox.lock().take();
        // Drop the sender outside of the lock, and before the signal, because it may be the last one.
        drop(mailbox);
        self.signal();
    }

    /// Makes the actor check the mailbox again.
    fn signal(&self) {
        self.signal.lock().is_set = true;
        self.signalled.notify_one();
    }

    /// The recorded reason of the end; a general one if none is recorded yet.
    fn end_reason(&self) -> Error {
        let recorded = self.end.lock().reason.clone();
        recorded.unwrap_or_else(|| {
            let state = if thread::panicking() { "died" } else { "is closed" };
            Error::closed(format!("{} {state}", self.name))
        })
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
