//! Results for channels that are full: one thread of the process waits for room in all of them.
//!
//! The thread is there only while a channel is full. It holds the results of each channel in their order, and waits for
//! whichever channel has room first, so that one that nobody reads holds up no other. What came while it runs goes through it,
//! lest it overtake what waits.
//!
//! If the system refuses the thread, the results stay here, and so do the sessions that they came from. The next result, each
//! heartbeat of a session and its end try again.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Select, SelectedOperation, Sender, TrySendError, bounded};

use crate::sync::undo::Undo;
use crate::sync::{StaticMutex, spawn, unwind};

/// What keeps a session alive.
pub(super) type Keep = Arc<dyn Any + Send + Sync>;

static STATE: StaticMutex<State> =
    StaticMutex::new(State { arrived: Vec::new(), thread: None, kept: Vec::new() });

struct State {
    /// What the thread has not seen yet.
    arrived: Vec<Box<dyn Parcel>>,
    thread: Option<Thread>,
    /// Until the thread has been started, somebody must be there to try again.
    kept: Vec<Keep>,
}

struct Thread {
    bell: Sender<()>,
    /// It was started, and will look at what arrived.
    is_certain: bool,
}

/// A value and the channel for it.
trait Parcel: Send {
    /// Puts it behind others for the same channel, if that is the one of these.
    fn join(self: Box<Self>, queue: &dyn Queue) -> Option<Box<dyn Parcel>>;
    /// The first of its channel.
    fn open(self: Box<Self>) -> Box<dyn Queue>;
}

/// What waits for one channel.
trait Queue {
    fn as_any(&self) -> &dyn Any;
    /// Sends what there is room for; says whether anything is left.
    fn send(&self) -> bool;
    fn watch<'a>(&'a self, select: &mut Select<'a>);
    /// There is room, or nobody reads any more.
    fn complete(&self, operation: SelectedOperation<'_>);
}

struct Letter<P> {
    channel: Sender<P>,
    content: P,
}

struct Letters<P> {
    channel: Sender<P>,
    /// Used by the one thread that owns it.
    contents: RefCell<VecDeque<P>>,
}

impl<P: Send + 'static> Parcel for Letter<P> {
    fn join(self: Box<Self>, queue: &dyn Queue) -> Option<Box<dyn Parcel>> {
        match queue.as_any().downcast_ref::<Letters<P>>() {
            Some(letters) if letters.channel.same_channel(&self.channel) => {
                letters.contents.borrow_mut().push_back(self.content);
                None
            }
            _ => Some(self),
        }
    }

    fn open(self: Box<Self>) -> Box<dyn Queue> {
        let contents = RefCell::new(VecDeque::from([self.content]));
        Box::new(Letters { channel: self.channel, contents })
    }
}

impl<P: Send + 'static> Letters<P> {
    fn next(&self) -> Option<P> {
        self.contents.borrow_mut().pop_front()
    }

    /// Nobody reads the channel any more.
    fn discard(&self, first: P) {
        let others = self.contents.take();
        drop_unread((first, others));
    }
}

impl<P: Send + 'static> Queue for Letters<P> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn send(&self) -> bool {
        while let Some(content) = self.next() {
            match self.channel.try_send(content) {
                Ok(()) => {}
                Err(TrySendError::Full(content)) => {
                    self.contents.borrow_mut().push_front(content);
                    return true;
                }
                Err(TrySendError::Disconnected(unread)) => self.discard(unread),
            }
        }
        false
    }

    fn watch<'a>(&'a self, select: &mut Select<'a>) {
        select.send(&self.channel);
    }

    fn complete(&self, operation: SelectedOperation<'_>) {
        // Nothing is watched that holds nothing, and nobody else takes from it.
        let Some(content) = self.next() else { return };
        if let Err(unread) = operation.send(&self.channel, content) {
            self.discard(unread.0);
        }
    }
}

/// Sends a value into a channel, at once or when there is room. Never waits for that. Then lets go of what it is given to keep.
pub(super) fn deliver<P: Send + 'static>(channel: Sender<P>, content: P, keep: Option<Keep>) {
    let is_idle = {
        let state = STATE.lock();
        state.arrived.is_empty() && state.thread.is_none()
    };
    let content = match is_idle {
        false => content,
        true => match channel.try_send(content) {
            Ok(()) => return,
            Err(TrySendError::Full(content)) => content,
            Err(TrySendError::Disconnected(unread)) => return drop_unread(unread),
        },
    };
    let unneeded = {
        let mut state = STATE.lock();
        state.arrived.push(Box::new(Letter { channel, content }));
        match state.thread.as_ref().is_some_and(|it| it.is_certain) {
            true => keep,
            false => {
                state.kept.extend(keep);
                None
            }
        }
    };
    retry();
    drop(unneeded);
}

/// As [`deliver`], in a forked child, which has none of the threads, and where the lock may be held for ever.
pub(super) fn deliver_in_child<P: Send + 'static>(channel: Sender<P>, content: P) {
    if let Err(TrySendError::Full(content)) = channel.try_send(content) {
        let started = std::thread::Builder::new().spawn(move || drop(channel.send(content)));
        if let Err(error) = started {
            log::error!(target: "tinkex", "a result was lost in a forked process without threads: {error}");
        }
    }
}

/// Drops results. The destructors of their tags are the caller's.
fn drop_unread(contents: impl Sized) {
    unwind::shield("a result that nobody read could not be dropped", || drop(contents));
}

/// Sees to it that there is a thread if anything waits.
pub(crate) fn retry() {
    let (sender, bell) = {
        let mut state = STATE.lock();
        match &state.thread {
            _ if state.arrived.is_empty() => return,
            Some(thread) => {
                let bell = thread.bell.clone();
                drop(state);
                // One that was rung already will be heard.
                let _rung = bell.try_send(());
                return;
            }
            None => {
                let (sender, bell) = bounded(1);
                state.thread = Some(Thread { bell: sender.clone(), is_certain: false });
                (sender, bell)
            }
        }
    };
    let lost = Undo::new(|_| STATE.lock().thread = None);
    let started = spawn::spawn("tk-done".into(), None, move || {
        run(&bell);
        lost.disarm();
    });
    match started {
        Ok(_detached) => {
            let kept = {
                let mut state = STATE.lock();
                // It may have ended since, and another one have been begun.
                if let Some(thread) = state.thread.as_mut().filter(|it| it.bell.same_channel(&sender)) {
                    thread.is_certain = true;
                }
                std::mem::take(&mut state.kept)
            };
            // A session may end by this.
            drop(kept);
        }
        Err(error) => {
            log::warn!(target: "tinkex", "results wait for a thread that puts them into a full channel: {error}")
        }
    }
}

/// The life of the thread: until nothing waits.
fn run(bell: &Receiver<()>) {
    let mut queues: Vec<Box<dyn Queue>> = Vec::new();
    loop {
        let arrived = {
            let mut state = STATE.lock();
            if state.arrived.is_empty() && queues.is_empty() {
                state.thread = None;
                return;
            }
            std::mem::take(&mut state.arrived)
        };
        for parcel in arrived {
            let unplaced = queues.iter().try_fold(parcel, |parcel, queue| match parcel.join(&**queue) {
                Some(parcel) => Ok(parcel),
                None => Err(()),
            });
            if let Ok(first) = unplaced {
                queues.push(first.open());
            }
        }
        queues.retain(|it| it.send());
        if queues.is_empty() {
            continue;
        }
        let mut select = Select::new();
        let news = select.recv(bell);
        queues.iter().for_each(|it| it.watch(&mut select));
        let operation = select.select();
        match operation.index() {
            index if index == news => drop(operation.recv(bell)),
            // Its place among the queues is its place behind the bell.
            index => queues[index - 1].complete(operation),
        }
    }
}
