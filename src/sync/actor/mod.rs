//! One named thread that owns a state and handles one message at a time.
//!
//! # How an actor ends
//! | by | queued messages | `ending` |
//! |---|---|---|
//! | dropping the handle | are handled first | called |
//! | [`Handle::stop`] | are dropped, and their replies say that the actor is closed | called |
//! | a panic outside of a turn | are dropped, and their replies carry the panic | perhaps |
//!
//! A panic in a turn does not end the actor: the message is answered with the panic, and the next one is handled. The
//! actor must commit a new state only when it is complete.
//!
//! The reason of the end is recorded *before* the mailbox is closed, so that a send that fails afterwards reports it: a
//! dead actor never looks like a slow one.
//!
//! # How the mailbox is closed
//! From the senders' side. One field holds the only permanent sender; each send clones it for its duration, and closing
//! empties the field. The actor then receives until the channel reports that no sender is left, and so has seen every
//! message, those of sends under way included. Dropping the receiver instead would lose answers: a bounded crossbeam
//! channel keeps queued messages until its last sender is dropped as well.
//!
//! # How the actor waits
//! For a signal of its own, which is set after each change of the mailbox: a message, a stop, a dropped sender. The
//! actor clears the signal *before* it checks the mailbox, so that each later change sets it again. A blocking receive
//! of crossbeam would work, but spins for some ten microseconds before it sleeps, which is most of the cost of a
//! message for a client that mostly waits for a server.

use std::sync::Arc;
use std::time::Instant;

use super::channel::{self, Receiver, SendTimeoutError, Sender, TryRecvError, TrySendError};
use super::fault::mutant;
use super::process::Process;
use super::thread::{self, JoinHandle, ThreadId};
use super::{Condvar, Mutex, spawn, unwind};
use crate::error::{Error, ErrorKind, Phase, Result};

/// The state of an actor, and what it does with a message.
pub(crate) trait Actor: Send + 'static {
    /// All messages of the actor. Messages that need an answer carry a reply.
    type Msg: Send + 'static;

    /// Handles one message.
    fn turn(&mut self, msg: Self::Msg);

    /// Called once after the last turn. Queued messages, if any, are dropped afterwards.
    fn ending(&mut self) {}
}

/// The owner of an actor. Dropping it closes the mailbox; the actor handles the queued messages and ends. Does not
/// wait.
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
    /// Set once no more messages are handled.
    reason: Option<Error>,
    /// The mailbox is closed, and all messages that were in it are answered.
    ended: bool,
    /// The thread was joined.
    joined: bool,
}

impl<M: Send + 'static> Handle<M> {
    /// Starts an actor on a thread of its own. The mailbox holds up to `capacity` messages, at least one.
    ///
    /// # Errors
    /// A system error, if the thread cannot be started. The actor is dropped then.
    pub(crate) fn spawn<A: Actor<Msg = M>>(name: String, capacity: usize, actor: A) -> Result<Self> {
        // A rendezvous channel would make every sender wait for the turn before its own.
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
    /// error returned.
    ///
    /// # Errors
    /// Closed, with the cause if the actor died of something; a timeout in [`Phase::Admission`] at the deadline.
    ///
    /// # Blocking
    /// While the mailbox is full, until the deadline or the end of the actor. On the actor's own thread, which is the
    /// one that makes room, it does not block: a full mailbox is a timeout at once.
    pub(crate) fn send(&self, msg: M, deadline: Option<Instant>) -> Result<()> {
        if self.is_own_thread() { self.put(msg, IfFull::Fail) } else { self.put(msg, IfFull::Wait(deadline)) }
    }

    /// As [`send`](Handle::send), but a full mailbox is an error at once.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn try_send(&self, msg: M) -> Result<()> {
        self.put(msg, IfFull::Fail)
    }

    fn put(&self, msg: M, if_full: IfFull) -> Result<()> {
        if let Err(forked) = self.process.check() {
            // The destructors of the message may take locks that stay held for ever in this process.
            std::mem::forget(msg);
            return Err(forked);
        }
        // Clone the sender instead of holding the lock: others may send, and close, while this send waits for room.
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
        // Drop before the signal: this may be the last sender, and the actor must then see the channel disconnected.
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

    /// Ends the actor after its current turn. Messages that are queued, and those of sends under way, are dropped;
    /// their replies answer with an error although the send may have succeeded. Does not wait.
    pub(crate) fn stop(&self) {
        if self.process.is_other() {
            return;
        }
        // Set before the mailbox is closed, so that an actor that finds it closed sees the stop too.
        self.shared.signal.lock().stop = true;
        self.shared.close();
    }

    /// Accepts no more messages and ends the actor after the queued ones and those of sends that wait for room. Does
    /// not wait.
    pub(crate) fn finish(&self) {
        if self.process.is_other() {
            return;
        }
        self.shared.close();
    }

    /// Waits for the end of the thread until the deadline; returns whether the thread has ended. Does not end the
    /// actor. On the actor's own thread it returns `false` at once.
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

    /// Queued messages are still handled; the mailbox may be closed.
    pub(crate) fn is_alive(&self) -> bool {
        self.shared.end.lock().reason.is_none()
    }

    /// This process is a forked child of the one that started the actor.
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

/// What a send does while the mailbox is full.
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
    // Replies that the actor still holds answer that it is closed.
    unwind::drop_because(actor, &inbox.shared.end_reason());
}

/// The receiving end of the mailbox. Dropping it, at any end of the thread, records the reason of the end and only then
/// closes the mailbox.
struct Inbox<M> {
    shared: Arc<Shared<M>>,
    messages: Receiver<M>,
}

impl<M> Inbox<M> {
    /// Waits for the next message; `None` after a stop or the last message. A stop is checked first, so that it
    /// overtakes queued messages.
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

    /// Drops all messages until the last send under way has ended. No send blocks this: each message received makes
    /// room.
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
        // Outside of the lock, and before the signal: this may be the last sender.
        drop(mailbox);
        self.signal();
    }

    /// Makes the actor check the mailbox again.
    fn signal(&self) {
        self.signal.lock().is_set = true;
        self.signalled.notify_one();
    }

    /// The recorded reason of the end, or else the one that applies now.
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
