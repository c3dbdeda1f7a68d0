//! One named thread that owns a state and handles one message at a time.
//!
//! # How an actor ends
//! | by | queued messages | `ending` |
//! |---|---|---|
//! | dropping the handle | are handled first | called |
//! | [`Handle::stop`] | are dropped, and their replies say that it is closed | called |
//! | a panic outside of a turn | are dropped, and their replies carry the panic | perhaps |
//!
//! A panic in a turn does not end it: the message is answered with the panic, and the next one is handled. It is
//! the actor's part to commit a new state only when it is whole.
//!
//! Whatever ends the thread, the reason is recorded *before* the mailbox is closed, so that whoever then cannot
//! send learns why: a dead actor never looks like a slow one.
//!
//! # How the mailbox is closed
//! From the senders' side. The only sender that lasts is in one place, from which each send takes a copy for its
//! duration; to close is to empty that place. The actor then receives until the channel says that no sender is left,
//! and so has seen every message, those of sends under way included. Dropping the receiver instead would lose
//! answers: a bounded crossbeam channel keeps what is queued, undropped, until its last sender is gone as well.
//!
//! # How the actor waits
//! For a bell of its own, which is rung after each change of the mailbox: a message, a stop, a sender that is gone. It
//! silences the bell *before* it looks, so that whatever comes after it has looked rings again. A blocking receive of
//! crossbeam would do, but spins for some ten microseconds before it sleeps, which for a client that mostly waits for a
//! server is most of what a message costs.

use std::sync::Arc;
use std::time::Instant;

use super::channel::{self, Receiver, SendTimeoutError, Sender, TryRecvError, TrySendError};
use super::fault::{self, Fault};
use super::process::Process;
use super::thread::{self, JoinHandle, ThreadId};
use super::{Condvar, Mutex, spawn, unwind};
use crate::error::{Error, ErrorKind, Phase, Result};

/// The state of an actor, and what it does with a message.
pub(crate) trait Actor: Send + 'static {
    /// The closed set of what it can be told. Those that want an answer carry a reply.
    type Msg: Send + 'static;

    /// Handles one message.
    fn turn(&mut self, msg: Self::Msg);

    /// The last thing it does. Queued messages, if any, are dropped afterwards.
    fn ending(&mut self) {}
}

/// The owner of an actor. Dropping it lets the actor finish what is queued, and does not wait for that.
pub(crate) struct Handle<M> {
    shared: Arc<Shared<M>>,
    process: Process,
    id: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<M> {
    name: String,
    /// Where sends get their sender from; empty once no more messages are accepted.
    mailbox: Mutex<Option<Sender<M>>>,
    bell: Mutex<Bell>,
    /// Notified when the bell is rung.
    ring: Condvar,
    life: Mutex<Life>,
    /// Notified when the thread is about to end, and when it was joined.
    ended: Condvar,
}

/// What makes the actor look.
#[derive(Default)]
struct Bell {
    /// Something changed since the actor last looked.
    rung: bool,
    /// The actor is to end after its current turn.
    stop: bool,
}

#[derive(Default)]
struct Life {
    /// Why nobody handles messages any more.
    fate: Option<Error>,
    /// The mailbox is closed, and everything that was in it is answered.
    ended: bool,
    /// Somebody has waited for the thread itself.
    joined: bool,
}

impl<M: Send + 'static> Handle<M> {
    /// Starts an actor on a thread of its own, with room for so many messages that wait.
    ///
    /// # Errors
    /// A system error, if the thread cannot be started. The actor is dropped then.
    pub(crate) fn spawn<A: Actor<Msg = M>>(name: String, capacity: usize, actor: A) -> Result<Self> {
        // A rendezvous channel would make every sender wait for the turn before its own.
        let (mailbox, messages) = channel::bounded(capacity.max(1));
        let shared = Arc::new(Shared {
            name: name.clone(),
            mailbox: Mutex::new(Some(mailbox)),
            bell: Mutex::default(),
            ring: Condvar::new(),
            life: Mutex::default(),
            ended: Condvar::new(),
        });
        let bomb = Bomb { shared: shared.clone(), messages };
        let thread = spawn::spawn(name, None, move || {
            let outcome = unwind::catch(|| live(actor, &bomb));
            bomb.explode(outcome);
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
    /// While the mailbox is full; the deadline or the end of the actor ends it. The actor's own thread, which nobody
    /// could relieve, does not block but gets the timeout at once.
    pub(crate) fn send(&self, msg: M, deadline: Option<Instant>) -> Result<()> {
        match self.is_own_thread() {
            true => self.put(msg, Room::Needed),
            false => self.put(msg, Room::Awaited(deadline)),
        }
    }

    /// As [`send`](Handle::send), but a full mailbox is an error at once.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn try_send(&self, msg: M) -> Result<()> {
        self.put(msg, Room::Needed)
    }

    fn put(&self, msg: M, room: Room) -> Result<()> {
        if let Err(forked) = self.process.check() {
            // Its destructors may take locks that are held for ever here.
            std::mem::forget(msg);
            return Err(forked);
        }
        // A copy for this send, not the lock: others may send, and close, while we wait for room.
        let mailbox = self.shared.mailbox.lock().clone();
        let _kept = fault::is(Fault::SendsUnderTheLock).then(|| self.shared.mailbox.lock());
        let Some(mailbox) = mailbox else {
            return refuse(msg, self.shared.fate());
        };
        let outcome = match room {
            Room::Awaited(Some(deadline)) => mailbox.send_deadline(msg, deadline),
            Room::Awaited(None) => mailbox.send(msg).map_err(|it| SendTimeoutError::Disconnected(it.0)),
            Room::Needed => mailbox.try_send(msg).map_err(|it| match it {
                TrySendError::Full(msg) => SendTimeoutError::Timeout(msg),
                TrySendError::Disconnected(msg) => SendTimeoutError::Disconnected(msg),
            }),
        };
        // Gone before the bell is rung: it may have been the last sender.
        let _kept = fault::is(Fault::RingsEarly).then(|| mailbox.clone());
        drop(mailbox);
        self.shared.ring();
        match outcome {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Disconnected(msg)) => refuse(msg, self.shared.fate()),
            Err(SendTimeoutError::Timeout(msg)) => {
                let message = format!("the mailbox of {} did not become free in time", self.shared.name);
                refuse(msg, Error::timeout(Phase::Admission, message))
            }
        }
    }

    /// Ends the actor after its current turn. What is queued, or about to be, is dropped: its replies answer, though
    /// the send may have succeeded. Does not wait.
    pub(crate) fn stop(&self) {
        if self.process.is_other() {
            return;
        }
        // Said before the mailbox is closed, so that an actor that sees it closed knows already.
        self.shared.bell.lock().stop = true;
        self.shared.close();
    }

    /// Accepts no more messages and ends the actor after those that are queued or about to be: a send that waits for
    /// room is still served. Does not wait.
    pub(crate) fn finish(&self) {
        if self.process.is_other() {
            return;
        }
        self.shared.close();
    }

    /// Waits for the end of the thread, and says whether it came. Does not end the actor. From the actor's own thread,
    /// which cannot wait for itself, it does nothing.
    pub(crate) fn join(&self, deadline: Instant) -> bool {
        if self.is_own_thread() || self.process.is_other() {
            return false;
        }
        let mut life = self.shared.life.lock();
        let mut in_time = true;
        while !life.ended && in_time {
            in_time = super::wait(&self.shared.ended, &mut life, Some(deadline));
        }
        let ended = life.ended;
        drop(life);
        if !ended {
            return false;
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // It has nothing left to do. Its panics, if any, were caught.
            let _ = thread.join();
            self.shared.life.lock().joined = true;
            self.shared.ended.notify_all();
            return true;
        }
        // Somebody else is at it.
        let mut life = self.shared.life.lock();
        let mut in_time = true;
        while !life.joined && in_time {
            in_time = super::wait(&self.shared.ended, &mut life, Some(deadline));
        }
        true
    }

    /// The name of the thread.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Number of messages in the mailbox.
    pub(crate) fn n_queued(&self) -> usize {
        self.shared.mailbox.lock().as_ref().map_or(0, |mailbox| mailbox.len())
    }

    /// Messages are still handled, though they may not be accepted any more.
    pub(crate) fn is_alive(&self) -> bool {
        self.shared.life.lock().fate.is_none()
    }

    /// This is a forked child of the process that has the actor.
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
enum Room {
    /// It waits, at most until the deadline.
    Awaited(Option<Instant>),
    /// It fails.
    Needed,
}

fn refuse<M>(msg: M, error: Error) -> Result<()> {
    unwind::drop_because(msg, &error);
    Err(error)
}

/// Handles messages until the end. Queued ones that will not be handled stay in the mailbox.
fn live<A: Actor>(mut actor: A, bomb: &Bomb<A::Msg>) {
    while let Some(msg) = bomb.next() {
        if let Err(error) = unwind::catch(|| actor.turn(msg)) {
            unwind::report("a turn of an actor failed", &error);
        }
    }
    bomb.shared.close();
    actor.ending();
    // Replies that it still owes say that it is closed.
    unwind::drop_because(actor, &bomb.shared.fate());
}

/// Goes off when the thread ends, whatever ends it: records the cause, and only then closes the mailbox.
struct Bomb<M> {
    shared: Arc<Shared<M>>,
    messages: Receiver<M>,
}

impl<M> Bomb<M> {
    /// The next message, unless the end has come. A stop is looked for first, so that it overtakes queued work.
    fn next(&self) -> Option<M> {
        loop {
            let stop = {
                let mut bell = self.shared.bell.lock();
                bell.rung = false;
                bell.stop
            };
            if stop {
                return None;
            }
            match self.messages.try_recv() {
                Ok(msg) => return Some(msg),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            let mut bell = self.shared.bell.lock();
            bell.rung &= !fault::is(Fault::SilencesLate);
            while !bell.rung {
                self.shared.ring.wait(&mut bell);
            }
        }
    }

    fn explode(self, outcome: Result<()>) {
        if let Err(cause) = outcome {
            unwind::report("an actor died", &cause);
            let error = Error::closed(format!("{} died", self.shared.name)).caused_by(cause);
            self.shared.life.lock().fate.get_or_insert(error);
        }
    }
}

impl<M> Drop for Bomb<M> {
    fn drop(&mut self) {
        let fate = self.shared.fate();
        self.shared.life.lock().fate.get_or_insert(fate.clone());
        self.shared.close();
        // Until the last send under way has ended. None can be stuck: this makes room for all of them.
        while !fault::is(Fault::LeavesTheQueue)
            && let Ok(msg) = self.messages.recv()
        {
            unwind::drop_because(msg, &fate);
        }
        self.shared.life.lock().ended = true;
        self.shared.ended.notify_all();
    }
}

impl<M> Shared<M> {
    /// Accepts no more messages.
    fn close(&self) {
        let mailbox = self.mailbox.lock().take();
        // Outside of the lock, and before the bell: it may have been the last sender.
        drop(mailbox);
        self.ring();
    }

    /// Has the actor look again.
    fn ring(&self) {
        self.bell.lock().rung = true;
        self.ring.notify_one();
    }

    fn fate(&self) -> Error {
        let fate = self.life.lock().fate.clone();
        fate.unwrap_or_else(|| match thread::panicking() {
            true => Error::closed(format!("{} died", self.name)),
            false => Error::closed(format!("{} is closed", self.name)),
        })
    }
}

#[cfg(all(test, not(shuttle)))]
#[path = "actor_tests.rs"]
mod tests;
