//! `tinkex_queue`: the events that a thread of the caller handles: ended operations, custom losses to compute, log
//! records, and what an observer sees.

use std::collections::VecDeque;
use std::io::{PipeReader, PipeWriter, Read, Write};
#[cfg(unix)]
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::border::{self, Fault, Out};
use super::code;
use super::constants::{EVENT_DONE, EVENT_WOKEN};
use super::error::tinkex_error;
use super::event::{Event, tinkex_event};
use super::object::{self, Kind, Object};
use super::pending::deadline;
use super::tinkex_code;
use crate::sync::{self, Condvar, Mutex};

/// Largest number of log records and observer events that wait in a queue. Further ones are dropped.
const MOST_EVENTS: usize = 10_000;

pub type tinkex_queue = Object<Queue>;

/// A queue. Registrations hold weak references to its state, so that freeing it ends them.
pub struct Queue(Arc<SharedQueue>);

impl Kind for Queue {
    const NAME: &'static str = "queue";
}

pub(super) struct SharedQueue {
    inner: Mutex<Inner>,
    /// Notified when something arrives, on `wake`, and when the queue is freed.
    changed: Condvar,
    /// [`object::generation`] of the process that made the queue.
    generation: u32,
}

#[derive(Default)]
struct Inner {
    /// Ended operations and other events, each with its number in the order of arrival.
    done: VecDeque<Done>,
    others: VecDeque<(u64, Event)>,
    /// Number of custom losses in `others`.
    n_losses: usize,
    next: u64,
    /// Calls of `wake` that no thread has seen.
    n_wakes: usize,
    is_freed: bool,
    /// Made when the caller asks for the descriptor. Holds one byte while the queue has something.
    pipe: Option<Pipe>,
}

#[derive(Clone, Copy)]
struct Done {
    number: u64,
    tag: u64,
}

struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
    has_byte: bool,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.done.is_empty() && self.others.is_empty() && self.n_wakes == 0 && !self.is_freed
    }

    /// Makes the pipe readable if, and only if, the queue has something. Neither call blocks, even if the program has
    /// read the byte.
    fn refresh_pipe(&mut self) {
        let wants_byte = !self.is_empty();
        let Some(pipe) = &mut self.pipe else { return };
        if pipe.has_byte == wants_byte {
            return;
        }
        // A failure means that the pipe is full or empty already, as wanted.
        let _ = if wants_byte { pipe.writer.write(&[1]) } else { pipe.reader.read(&mut [0]) };
        pipe.has_byte = wants_byte;
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes the event that came first.
    fn take(&mut self) -> Option<Event> {
        let done = self.done.front().map(|done| done.number);
        let other = self.others.front().map(|it| it.0);
        if other.is_none_or(|other| done.is_some_and(|done| done < other)) {
            let done = self.done.pop_front()?;
            return Some(Event::new(EVENT_DONE, done.tag));
        }
        let event = self.others.pop_front()?.1;
        self.n_losses -= usize::from(event.has_loss());
        Some(event)
    }

    /// A custom loss waits to be computed.
    fn has_loss(&self) -> bool {
        0 < self.n_losses
    }

    /// Takes a call of `wake`, or the end of the queue.
    fn take_wake(&mut self) -> bool {
        if 0 < self.n_wakes {
            self.n_wakes -= 1;
            return true;
        }
        self.is_freed
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Queue(Arc::new(SharedQueue {
            inner: Mutex::default(),
            changed: Condvar::new(),
            generation: object::generation(),
        }))
    }

    pub(super) fn downgrade(&self) -> Weak<SharedQueue> {
        Arc::downgrade(&self.0)
    }

    /// Takes the tags of ended operations, as many as `tags` has places for. Waits for the first one until `deadline`.
    pub(super) fn take_done(&self, tags: &mut [u64], deadline: Option<Instant>) -> usize {
        self.0.take_done(tags, deadline)
    }
}

impl SharedQueue {
    /// Adds the end of an operation, and returns the number for `remove_done`.
    pub(super) fn push_done(&self, tag: u64) -> u64 {
        let mut number = 0;
        self.change(|inner| {
            number = inner.number();
            inner.done.push_back(Done { number, tag });
        });
        number
    }

    /// Removes the end of an operation, unless it was taken.
    pub(super) fn remove_done(&self, number: u64) {
        let mut inner = self.inner.lock();
        // The numbers ascend.
        if let Ok(i) = inner.done.binary_search_by_key(&number, |done| done.number) {
            inner.done.remove(i);
            inner.refresh_pipe();
        }
    }

    /// Adds an event. A freed queue drops it, and a queue that nobody empties drops all but custom losses.
    pub(super) fn push(&self, event: Event) {
        let event_is_needed = event.has_loss();
        let mut unwanted = Some(event);
        self.change(|inner| {
            if !inner.is_freed
                && (event_is_needed || inner.others.len() < MOST_EVENTS)
                && let Some(event) = unwanted.take()
            {
                let number = inner.number();
                inner.n_losses += usize::from(event.has_loss());
                inner.others.push_back((number, event));
            }
        });
        // Dropped without the lock: an event may own a custom loss, which answers then.
        drop(unwanted);
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        // In a forked child the pipe is shared with the parent, and the lock may stay held forever.
        if self.generation != object::generation() {
            return;
        }
        let mut inner = self.inner.lock();
        change(&mut inner);
        inner.refresh_pipe();
        drop(inner);
        self.changed.notify_all();
    }

    /// Takes the first event. Waits until `deadline`; `None` when it has passed.
    fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let mut inner = self.inner.lock();
        let mut in_time = true;
        loop {
            let event = match inner.take() {
                Some(event) => Some(event),
                None if inner.take_wake() => Some(Event::new(EVENT_WOKEN, 0)),
                None if in_time => {
                    in_time = sync::wait(&self.changed, &mut inner, deadline);
                    continue;
                }
                None => None,
            };
            inner.refresh_pipe();
            return event;
        }
    }

    fn take_done(&self, tags: &mut [u64], deadline: Option<Instant>) -> usize {
        let mut inner = self.inner.lock();
        let mut in_time = true;
        // A custom loss in this queue must be computed first: perhaps an operation that this call waits for needs it.
        while inner.done.is_empty() && in_time && !inner.has_loss() && !inner.take_wake() {
            in_time = sync::wait(&self.changed, &mut inner, deadline);
        }
        let n = inner.done.len().min(tags.len());
        for (tag, done) in tags.iter_mut().zip(inner.done.drain(..n)) {
            *tag = done.tag;
        }
        inner.refresh_pipe();
        n
    }

    /// Ends all waits, now and later.
    fn free(&self) {
        let mut events = VecDeque::new();
        self.change(|inner| {
            inner.is_freed = true;
            inner.done.clear();
            inner.n_losses = 0;
            events = std::mem::take(&mut inner.others);
        });
        // Dropped without the lock, as in `push`.
        drop(events);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_queue_new(
    out: *mut *mut tinkex_queue,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            out.set(Object::make(Queue::new()));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_queue_free(queue: *mut *mut tinkex_queue) {
    border::value((), || {
        // SAFETY: see the header.
        if let Some(queue) = unsafe { object::take(queue) } {
            queue.0.free();
        }
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_queue_next(
    queue: *mut tinkex_queue,
    ms: i64,
    out: *mut *mut tinkex_event,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let state = object::get(queue)?.0.clone();
            match state.next(deadline(ms)) {
                Some(event) => out.set(Object::make(event)),
                None => return Err(Fault::new(code::TIMEOUT_WAIT, "the queue has no event yet")),
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_queue_take_done(
    queue: *mut tinkex_queue,
    tags: *mut u64,
    capacity: usize,
    ms: i64,
) -> usize {
    border::value(0, || {
        if capacity == 0 {
            return Ok(0);
        }
        if tags.is_null() {
            return Err(Fault::null("tags"));
        }
        // SAFETY: see the header.
        let state = unsafe { object::get(queue) }?.0.clone();
        let mut taken = vec![0; capacity.min(4096)];
        let n = state.take_done(&mut taken, deadline(ms));
        if 0 < n {
            // SAFETY: the caller has places for `capacity` tags, and `n` is not larger.
            unsafe { std::ptr::copy_nonoverlapping(taken.as_ptr(), tags, n) };
        }
        Ok(n)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_queue_fd(queue: *const tinkex_queue) -> i64 {
    border::value(-1, || {
        // SAFETY: see the header.
        let state = unsafe { object::get(queue) }?;
        let mut inner = state.0.inner.lock();
        if inner.pipe.is_none() {
            let (reader, writer) = std::io::pipe().map_err(|error| {
                Fault::new(code::SYSTEM, format!("the system refuses a descriptor for the queue: {error}"))
            })?;
            #[cfg(unix)]
            for end in [reader.as_raw_fd(), writer.as_raw_fd()] {
                // SAFETY: the descriptor is open.
                unsafe { libc::fcntl(end, libc::F_SETFL, libc::O_NONBLOCK) };
            }
            inner.pipe = Some(Pipe { reader, writer, has_byte: false });
            inner.refresh_pipe();
        }
        #[cfg(unix)]
        if let Some(pipe) = &inner.pipe {
            return Ok(i64::from(pipe.reader.as_raw_fd()));
        }
        Ok(-1)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_queue_wake(queue: *mut tinkex_queue) {
    border::value((), || {
        // SAFETY: see the header. The state is shared, because the thread that wakes up may free the handle.
        let state = unsafe { object::get(queue) }?.0.clone();
        state.change(|inner| inner.n_wakes += 1);
        Ok(())
    });
}
