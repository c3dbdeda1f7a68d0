//! Locks, threads and channels that the model checker shuttle controls. With `--cfg shuttle` they replace the real ones
//! in the models: test programs in `tests/model` that the checker runs under many thread schedules.
#![allow(clippy::unwrap_used, reason = "a guard lacks its lock only while it waits")]

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};

pub(crate) mod channel;
pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::{thread, thread_local};

/// The checker has no clock. A deadline further away than this never passes in a model: a thread that waits for it and
/// is never notified is reported as a deadlock. A nearer deadline may pass at any moment.
const NEVER: Duration = Duration::from_secs(3600);

/// A mutex with the interface of `parking_lot`: a panic does not poison it, and a wait on a [`Condvar`] borrows the
/// guard (`&mut`) instead of taking and returning it.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    inner: shuttle::sync::Mutex<T>,
}

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while the thread waits on a condition variable, which releases the lock.
    inner: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex { inner: shuttle::sync::Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, inner: Some(inner) }
    }
}

impl<T> MutexGuard<'_, T> {
    fn retake(&mut self) {
        self.inner = Some(self.mutex.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().unwrap()
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().unwrap()
    }
}

/// A condition variable: a list of parked threads. It replaces the checker's own condition variable, which never times
/// out.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// A lock of the standard library is enough: the checker does not switch threads while it is held.
    waiters: std::sync::Mutex<Vec<Arc<Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    thread: thread::Thread,
    notified: AtomicBool,
}

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let me = self.enqueue(guard);
        while !me.is_notified() {
            // A thread that is never notified stays parked, which the checker reports as a deadlock.
            thread::park();
        }
        guard.retake();
    }

    /// Waits for a notification or the deadline. A deadline nearer than [`NEVER`] passes at random, whenever the
    /// checker runs this thread.
    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        if NEVER < deadline.saturating_duration_since(Instant::now()) {
            self.wait(guard);
            return WaitTimeoutResult(false);
        }
        let me = self.enqueue(guard);
        let timed_out = loop {
            if me.is_notified() {
                break false;
            }
            if thread_rng().gen_bool(0.5) {
                self.lock().retain(|waiter| !Arc::ptr_eq(waiter, &me));
                break true;
            }
            thread::yield_now();
        };
        guard.retake();
        WaitTimeoutResult(timed_out)
    }

    /// Notifies any one of the waiters.
    pub(crate) fn notify_one(&self) {
        yield_to_checker();
        let chosen = {
            let mut waiters = self.lock();
            match waiters.len() {
                0 => None,
                n => Some(waiters.remove(thread_rng().gen_range(0..n))),
            }
        };
        if let Some(waiter) = chosen {
            waiter.notify();
        }
    }

    pub(crate) fn notify_all(&self) {
        yield_to_checker();
        let all = std::mem::take(&mut *self.lock());
        // Mark all waiters as notified before the first one is woken.
        all.iter().for_each(|waiter| waiter.notified.store(true, Ordering::Relaxed));
        all.into_iter().for_each(|waiter| waiter.notify());
    }

    /// Adds this thread to the waiters and releases the mutex of `guard`, in one step. Immediately before, while this
    /// thread still holds the mutex, the checker may run other threads. So a model finds code that changes the awaited
    /// state and notifies without locking the mutex: the notification may come too early and be lost.
    fn enqueue<T>(&self, guard: &mut MutexGuard<'_, T>) -> Arc<Waiter> {
        yield_to_checker();
        let me = Arc::new(Waiter { thread: thread::current(), notified: AtomicBool::new(false) });
        self.lock().push(me.clone());
        guard.inner = None;
        me
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }

    fn notify(&self) {
        self.notified.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// A point at which the checker may switch to another thread.
fn yield_to_checker() {
    thread::sleep(Duration::ZERO);
}
