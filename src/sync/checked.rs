//! What the model checker puts in the place of the system's locks, threads and channels.
#![allow(clippy::unwrap_used, reason = "a guard is without its lock only while it waits")]

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};

pub(crate) mod channel;
pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::{thread, thread_local};

/// The checker knows no time. A deadline that is further away than this never comes in a model, so that whoever waits
/// for it in vain is found; a nearer one may come at any moment.
const NEVER: Duration = Duration::from_secs(3600);

/// Like the everyday one in that a panic does not poison it, and in that a guard can be waited with in place.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    inner: shuttle::sync::Mutex<T>,
}

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Absent only while it waits.
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

/// A queue of parked threads. The checker's own condition variable never times out.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// A plain lock: nothing switches threads while it is held.
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
            // Somebody who is never notified stays parked, which the checker reports as a deadlock.
            thread::park();
        }
        guard.retake();
    }

    /// The time may be up whenever this thread gets its turn: which turn, the schedule decides.
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
                self.lock().retain(|it| !Arc::ptr_eq(it, &me));
                break true;
            }
            thread::yield_now();
        };
        guard.retake();
        WaitTimeoutResult(timed_out)
    }

    /// Notifies any of those who wait.
    pub(crate) fn notify_one(&self) {
        others_may_act();
        let chosen = {
            let mut waiters = self.lock();
            match waiters.len() {
                0 => None,
                n => Some(waiters.remove(thread_rng().gen_range(0..n))),
            }
        };
        chosen.into_iter().for_each(|it| it.notify());
    }

    pub(crate) fn notify_all(&self) {
        others_may_act();
        let all = std::mem::take(&mut *self.lock());
        // All of them are called at one moment, and only then woken one after the other.
        all.iter().for_each(|it| it.notified.store(true, Ordering::Relaxed));
        all.into_iter().for_each(|it| it.notify());
    }

    /// Begins to wait and releases the lock, as one step. Before it, while the lock is still held, the others may
    /// act: who notifies without the lock is then not heard.
    fn enqueue<T>(&self, guard: &mut MutexGuard<'_, T>) -> Arc<Waiter> {
        others_may_act();
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

/// A point at which the checker may switch to another thread. It has no other effect than that.
fn others_may_act() {
    thread::sleep(Duration::ZERO);
}
