//! `tinkex_pending`: one submitted operation, for which any number of threads may wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::border::{self, Fault, Out, Result};
use super::code;
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::queue::{Queue, SharedQueue, tinkex_queue};
use super::result::{Outcome, ResultView, tinkex_result};
use super::status::{StatusView, tinkex_status};
use super::tinkex_code;
use crate::pending::{Pending, SharedPending, Stage};
use crate::sync::Mutex;

pub type tinkex_pending = Object<Operation>;

/// An operation. Waits in progress share it with the handle.
pub struct Operation {
    shared: Arc<Shared>,
    /// The caller gave up the handle, but the operation goes on.
    is_detached: AtomicBool,
}

impl Kind for Operation {
    const NAME: &'static str = "pending";
}

struct Shared {
    ending: Arc<Ending>,
    pending: SharedPending,
}

/// The end of an operation: its result, and the queues to notify.
pub(super) struct Ending {
    result: OnceLock<std::result::Result<tinkex_result, Fault>>,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    has_ended: bool,
    queues: Vec<Subscriber>,
}

/// A queue to notify.
struct Subscriber {
    queue: Weak<SharedQueue>,
    tag: u64,
    /// The event's number in the queue, once it was put there.
    number: Option<u64>,
    /// The queue belongs to one call of `tinkex_wait_any`, which must learn of the end even if the handle is freed.
    is_private: bool,
}

impl Subscriber {
    fn notify(&mut self) {
        self.number = self.queue.upgrade().map(|queue| queue.push_done(self.tag));
    }
}

impl Ending {
    fn new() -> Arc<Self> {
        Arc::new(Ending { result: OnceLock::new(), subscribers: Mutex::default() })
    }

    /// Stores the result, unless there is one, and notifies the queues.
    fn settle(&self, result: Result<Outcome>) {
        let _ = self.result.set(result.map(|outcome| Object::embedded(ResultView::new(outcome))));
        // The lock is held until the events are in the queues: `withdraw` finds either the queues here or the events
        // there. The locks of queues come after this one.
        let mut subscribers = self.subscribers.lock();
        if !std::mem::replace(&mut subscribers.has_ended, true) {
            subscribers.queues.iter_mut().for_each(Subscriber::notify);
        }
    }

    fn notify(&self, queue: &Queue, tag: u64, is_private: bool) {
        let mut subscriber = Subscriber { queue: queue.downgrade(), tag, number: None, is_private };
        let mut subscribers = self.subscribers.lock();
        if subscribers.has_ended {
            subscriber.notify();
        }
        subscribers.queues.push(subscriber);
    }

    /// Ends the notification of a queue that is not used any more.
    fn forget(&self, queue: &Queue) {
        self.subscribers.lock().queues.retain(|subscriber| !subscriber.queue.ptr_eq(&queue.downgrade()));
    }

    /// Removes the events of the operation from all queues of the caller.
    fn withdraw(&self) {
        let queues: Vec<_> = {
            let mut subscribers = self.subscribers.lock();
            subscribers.queues.extract_if(.., |subscriber| !subscriber.is_private).collect()
        };
        for Subscriber { queue, number, .. } in queues {
            if let (Some(queue), Some(number)) = (queue.upgrade(), number) {
                queue.remove_done(number);
            }
        }
    }
}

/// Gives the caller the handle of a submitted operation.
///
/// # Errors
/// The operation failed before anything was sent.
pub(super) fn submit<T: Send + 'static>(
    out: &Out<*mut tinkex_pending>,
    pending: Pending<T>,
    convert: impl FnOnce(T) -> Outcome + Send + 'static,
) -> Result<()> {
    out.set(Object::make(begin(pending, convert)?));
    Ok(())
}

/// Makes the operation of a handle.
///
/// # Errors
/// As for [`submit`].
pub(super) fn begin<T: Send + 'static>(
    mut pending: Pending<T>,
    convert: impl FnOnce(T) -> Outcome + Send + 'static,
) -> Result<Operation> {
    if let Some(error) = pending.failed_unsent() {
        return Err(error.into());
    }
    Ok(begin_sent(pending, convert))
}

/// As [`begin`], but every failure comes when the operation is waited for.
pub(super) fn begin_sent<T: Send + 'static>(
    pending: Pending<T>,
    convert: impl FnOnce(T) -> Outcome + Send + 'static,
) -> Operation {
    let ending = Ending::new();
    let settled = ending.clone();
    let pending = pending.settle_into(move |result| settled.settle(result.map(convert).map_err(Fault::from)));
    Operation { shared: Arc::new(Shared { ending, pending }), is_detached: AtomicBool::new(false) }
}

impl Ending {
    /// The result is there.
    pub(super) fn has_result(&self) -> bool {
        self.result.get().is_some()
    }
}

impl Shared {
    /// The result, if the operation has ended.
    fn result(&self) -> Option<Result<&tinkex_result>> {
        let stored = match self.ending.result.get() {
            Some(stored) => stored,
            None if self.pending.is_done() => {
                self.ending.settle(Err(self.pending.lost().into()));
                self.ending.result.get()?
            }
            None => return None,
        };
        Some(stored.as_ref().map_err(Fault::clone))
    }

    /// Waits for the end; `ms` as in the header.
    fn wait(&self, ms: i64) -> Result<&tinkex_result> {
        if let Some(result) = self.result() {
            return result;
        }
        if self.pending.waits_for_this_thread() {
            return Err(deadlock());
        }
        if ms != 0 {
            self.pending.wait(deadline(ms));
        }
        self.result().unwrap_or_else(|| Err(not_yet()))
    }

    fn cancel(&self) {
        if !self.ending.has_result() {
            self.ending.settle(Err(self.pending.cancelled().into()));
        }
        self.pending.cancel();
    }
}

fn deadlock() -> Fault {
    let text = "a custom loss cannot wait for an operation of its own client, which goes on with it only after the loss has \
                returned";
    Fault::new(code::DEADLOCK, text)
}

fn not_yet() -> Fault {
    Fault::new(code::TIMEOUT_WAIT, "the operation has not ended yet and goes on")
}

/// The instant `ms` from now; `None` for a negative time, which means the operation's own deadline.
pub(super) fn deadline(ms: i64) -> Option<Instant> {
    let time = Duration::from_millis(u64::try_from(ms).ok()?);
    // On overflow the operation's own deadline comes first anyway.
    Instant::now().checked_add(time)
}

/// A handle that is used by one call at least until that call returns.
///
/// # Safety
/// As for [`object::get`].
unsafe fn shared(pending: *const tinkex_pending) -> Result<Arc<Shared>> {
    // SAFETY: promised by the caller.
    Ok(unsafe { object::get(pending) }?.shared.clone())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_wait(
    pending: *const tinkex_pending,
    ms: i64,
    result: *mut *const tinkex_result,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let result = Out::cleared(result, std::ptr::null());
        border::run(error, || {
            let shared = shared(pending)?;
            // The pointer stays valid until the handle is freed, because the handle owns the same memory.
            result.set(std::ptr::from_ref(shared.wait(ms)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_is_done(pending: *const tinkex_pending) -> bool {
    // SAFETY: see the header.
    border::value(false, || Ok(unsafe { shared(pending) }?.result().is_some()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_notify(
    pending: *const tinkex_pending,
    queue: *mut tinkex_queue,
    tag: u64,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            // The operation is shared, because the thread that gets the event may free the handle.
            let (shared, queue) = (shared(pending)?, object::get(queue)?);
            shared.ending.notify(queue, tag, false);
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_status(
    pending: *const tinkex_pending,
    out: *mut *mut tinkex_status,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let shared = shared(pending)?;
            let mut status = shared.pending.status();
            if shared.ending.has_result() {
                // The result can be read a moment before the operation counts as done.
                status.stage = Stage::Done;
            }
            out.set(Object::make(StatusView::new(status)));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_cancel(pending: *const tinkex_pending) {
    border::value((), || {
        // SAFETY: see the header. The operation is shared, because another thread may free the handle when it is told of
        // the end.
        unsafe { shared(pending) }?.cancel();
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_detach(pending: *mut *mut tinkex_pending) {
    border::value((), || {
        // SAFETY: see the header.
        unsafe {
            if !pending.is_null() && !(*pending).is_null() {
                object::get(*pending)?.is_detached.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    });
    // SAFETY: see the header.
    unsafe { tinkex_pending_free(pending) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_pending_free(pending: *mut *mut tinkex_pending) {
    border::value((), || {
        // SAFETY: see the header.
        if let Some(Operation { shared, is_detached }) = unsafe { object::take(pending) } {
            shared.ending.withdraw();
            let is_wanted = is_detached.load(Ordering::Relaxed) || shared.ending.has_result();
            if shared.pending.cancels_when_freed() && !is_wanted {
                // Waits of other threads that share the operation end with this error.
                shared.ending.settle(Err(shared.pending.cancelled().into()));
                shared.pending.abandon();
            }
        }
        Ok(())
    });
}

/// Pointers to operations.
///
/// # Safety
/// `pendings` points to `n` pointers as [`object::get`] takes them.
unsafe fn list(pendings: *const *mut tinkex_pending, n: usize) -> Result<Vec<Arc<Shared>>> {
    // SAFETY: promised by the caller.
    let pointers = unsafe { border::array(pendings, n, "pendings") }?;
    let all = pointers.iter().enumerate().map(|(i, pointer)| {
        // SAFETY: promised by the caller.
        unsafe { shared(*pointer) }.map_err(|fault| fault.at(format!("pendings[{i}]")))
    });
    all.collect()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_wait_all(
    pendings: *const *mut tinkex_pending,
    n: usize,
    ms: i64,
    failed: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let failed = Out::cleared(failed, n);
        border::run(error, || {
            let deadline = deadline(ms);
            for (i, shared) in list(pendings, n)?.iter().enumerate() {
                // The rest of the time, in whole milliseconds, rounded up.
                let rest = deadline.map_or(-1, |deadline| {
                    let rest = deadline.saturating_duration_since(Instant::now());
                    i64::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(i64::MAX)
                });
                if let Err(fault) = shared.wait(rest) {
                    failed.set(i);
                    return Err(fault);
                }
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_wait_any(
    pendings: *const *mut tinkex_pending,
    n: usize,
    ms: i64,
    done: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let done = Out::cleared(done, n);
        border::run(error, || {
            let all = list(pendings, n)?;
            if all.is_empty() {
                return Err(Fault::invalid("n", "`n` is 0: at least one operation is needed"));
            }
            let first = |all: &[Arc<Shared>]| all.iter().position(|shared| shared.result().is_some());
            if let Some(i) = first(&all) {
                done.set(i);
                return Ok(());
            }
            if all.iter().all(|shared| shared.pending.waits_for_this_thread()) {
                return Err(deadlock());
            }
            // Each operation that ends puts its number into a queue of this call.
            let queue = Queue::new();
            for (i, shared) in all.iter().enumerate() {
                shared.ending.notify(&queue, i as u64, true);
            }
            // Without a limit of the caller, the longest deadline of the operations counts.
            let mut tags = [0];
            let n_done = match deadline(ms) {
                Some(deadline) => queue.take_done(&mut tags, Some(deadline)),
                None => {
                    let latest = all.iter().map(|shared| shared.pending.limit()).max().flatten();
                    queue.take_done(&mut tags, latest)
                }
            };
            all.iter().for_each(|shared| shared.ending.forget(&queue));
            if n_done == 0 {
                return Err(not_yet());
            }
            // The tag is an index of `all`, so that the cast is lossless.
            done.set(tags[0] as usize);
            Ok(())
        })
    }
}
