//! Cooperative cancellation.
//!
//! A thread cannot be killed from outside. Therefore every wait of the crate takes a token and ends when the token is
//! cancelled.
//!
//! Tokens form trees: cancelling a token also cancels its descendants. A child holds a strong reference to its parent.
//! So cancelling a distant ancestor reaches the child even if nobody else holds the tokens between them. A parent holds
//! weak references to its children, and a child removes itself from its parent when it is dropped, so that a long-lived
//! parent does not grow.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::atomic::{AtomicBool, Ordering};
use super::fault::mutant;
use super::{Condvar, Mutex, unwind};
use crate::error::{Error, Result};

/// A request to stop, shared between the code that requests it and the code that stops.
///
/// Clones are the same token. A cancelled token stays cancelled.
///
/// # Example: stopping a worker
/// ```
/// use std::time::Duration;
/// use tinkex::sync::CancelToken;
///
/// let token = CancelToken::new();
/// let worker = std::thread::spawn({
///     let token = token.clone();
///     // Returns true when cancelled, false after one minute.
///     move || token.wait_timeout(Duration::from_secs(60))
/// });
/// token.cancel();
/// assert!(worker.join().unwrap());
/// ```
///
/// # Example: stopping one part, then all parts
/// ```
/// use tinkex::sync::CancelToken;
///
/// let all = CancelToken::new();
/// let (one, other) = (all.child(), all.child());
/// one.cancel();
/// assert!(one.is_cancelled() && !other.is_cancelled() && !all.is_cancelled());
/// all.cancel();
/// assert!(other.is_cancelled());
/// ```
#[derive(Clone, Default)]
pub struct CancelToken {
    node: Arc<Node>,
}

/// A waiter that a cancellation wakes. `wake` is called with no locks held, at most once per registration.
pub(crate) trait Wake: Send + Sync {
    /// Makes the waiter check its token again. It must take the waiter's lock before it notifies; otherwise a waiter
    /// that has checked the token and does not wait yet misses the notification.
    fn wake(&self);
}

#[derive(Default)]
struct Node {
    /// Written under the lock, read without it.
    cancelled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// The parent, and the key of this node among the parent's listeners.
    parent: Option<(Arc<Node>, u64)>,
}

#[derive(Default)]
struct State {
    next_key: u64,
    listeners: BTreeMap<u64, Listener>,
}

enum Listener {
    Child(Weak<Node>),
    Wake(Arc<dyn Wake>),
}

impl CancelToken {
    /// Creates a token that is not cancelled.
    pub fn new() -> Self {
        CancelToken::default()
    }

    /// Creates a token that is cancelled with this one, and that can be cancelled alone.
    pub fn child(&self) -> Self {
        let parent = &self.node;
        let mut state = parent.state.lock();
        let key = state.take_key();
        let cancelled = parent.is_cancelled();
        let node = Arc::new(Node {
            cancelled: AtomicBool::new(cancelled),
            state: Mutex::default(),
            changed: Condvar::new(),
            parent: Some((parent.clone(), key)),
        });
        let is_registered = mutant!(ForgetsTheChild, false, !cancelled);
        if is_registered {
            state.listeners.insert(key, Listener::Child(Arc::downgrade(&node)));
        }
        CancelToken { node }
    }

    /// Cancels this token and its descendants, and wakes all threads that wait for one of them. Later calls do nothing.
    ///
    /// When this returns, the token and all its descendants are cancelled, even if another thread is cancelling the
    /// token at the same time; that thread may still be waking waiters.
    pub fn cancel(&self) {
        mutant!(MarksWhileWaking, {}, self.node.mark());
        let mut nodes = vec![self.node.clone()];
        // A list instead of recursion, because a chain of children may be longer than the stack allows.
        while let Some(node) = nodes.pop() {
            let listeners = {
                let mut state = node.state.lock();
                node.cancelled.store(true, Ordering::Release);
                mem::take(&mut state.listeners)
            };
            node.changed.notify_all();
            for listener in listeners.into_values() {
                match listener {
                    Listener::Child(child) => nodes.extend(child.upgrade()),
                    Listener::Wake(waiter) => {
                        unwind::shield("a waker failed", || waiter.wake());
                        mutant!(WakesTwice, waiter.wake());
                    }
                }
            }
        }
    }

    /// Returns whether this token or an ancestor was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.node.is_cancelled()
    }

    /// Waits for the cancellation. Returns `false` if the time passes without one.
    ///
    /// # Blocking
    /// Until the token is cancelled, at most for the duration. A duration that is too long for the clock, such as
    /// [`Duration::MAX`], does not limit the wait.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait(Instant::now().checked_add(timeout))
    }

    /// Waits for the cancellation. Returns `false` if the deadline passes without one.
    ///
    /// # Blocking
    /// Until the token is cancelled, at most until the deadline.
    pub fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait(Some(deadline))
    }

    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.node.state.lock();
        let mut in_time = true;
        while in_time && !self.is_cancelled() {
            in_time = super::wait(&self.node.changed, &mut state, deadline);
        }
        self.is_cancelled()
    }

    /// Fails if this token is cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Registers a waiter. If the token is cancelled already, `wake` is called immediately, on this thread; otherwise
    /// on the thread that cancels. The caller must not hold a lock that `wake` takes. After the registration is
    /// dropped, a call of `wake` that has begun before may still run.
    pub(crate) fn on_cancel(&self, wake: Arc<dyn Wake>) -> Registration {
        let mut state = self.node.state.lock();
        if self.is_cancelled() {
            drop(state);
            unwind::shield("a waker failed", || wake.wake());
            return Registration { place: None };
        }
        let key = state.take_key();
        state.listeners.insert(key, Listener::Wake(wake));
        Registration { place: Some((self.node.clone(), key)) }
    }

    #[cfg(all(test, not(shuttle)))]
    fn n_listeners(&self) -> usize {
        self.node.state.lock().listeners.len()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Keeps a waiter registered until it is dropped.
pub(crate) struct Registration {
    place: Option<(Arc<Node>, u64)>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((node, key)) = self.place.take() {
            node.unregister(key);
        }
    }
}

impl State {
    fn take_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }
}

impl Node {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Marks this node and its descendants as cancelled. Their listeners stay registered, because a concurrent call of
    /// `cancel` finds the descendants through them.
    fn mark(self: &Arc<Self>) {
        let mut nodes = vec![self.clone()];
        while let Some(node) = nodes.pop() {
            let children: Vec<Weak<Node>> = {
                let state = node.state.lock();
                // Children created from now on are cancelled from the start.
                node.cancelled.store(true, Ordering::Release);
                let child = |listener: &Listener| match listener {
                    Listener::Child(child) => Some(child.clone()),
                    Listener::Wake(_) => None,
                };
                state.listeners.values().filter_map(child).collect()
            };
            // Outside of the lock: dropping the last reference to a child takes the lock.
            nodes.extend(children.iter().filter_map(Weak::upgrade));
        }
    }

    fn unregister(&self, key: u64) {
        let listener = self.state.lock().listeners.remove(&key);
        // Drop outside of the lock: the listener's destructor may drop other tokens.
        drop(listener);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut link = self.parent.take();
        while let Some((parent, key)) = link {
            parent.unregister(key);
            // Use a loop to drop the ancestors that only this node held: recursion could exceed the stack.
            link = Arc::into_inner(parent).and_then(|mut node| node.parent.take());
        }
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::super::testing::{LONG, far_deadline};
    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_child_is_cancelled_with_its_parent_and_not_conversely() {
        let parent = CancelToken::new();
        let (child, sibling) = (parent.child(), parent.child());
        let grandchild = child.child();
        child.cancel();
        assert!(child.is_cancelled() && grandchild.is_cancelled());
        assert!(!parent.is_cancelled() && !sibling.is_cancelled());
        parent.cancel();
        assert!(sibling.is_cancelled() && parent.child().is_cancelled());
    }

    #[test]
    fn a_cancellation_reaches_grandchildren_whose_parent_was_dropped() {
        let root = CancelToken::new();
        let leaf = root.child().child().child();
        root.cancel();
        assert!(leaf.is_cancelled());
    }

    #[test]
    fn a_parent_drops_children_and_registrations_that_ended() {
        let parent = CancelToken::new();
        for _ in 0..100 {
            let child = parent.child();
            let registration = parent.on_cancel(Arc::new(Count::default()));
            assert_eq!(parent.n_listeners(), 2);
            drop((child, registration));
        }
        assert_eq!(parent.n_listeners(), 0);
        let chain = (0..3).fold(parent.clone(), |it, _| it.child());
        assert_eq!(parent.n_listeners(), 1);
        drop(chain);
        assert_eq!(parent.n_listeners(), 0);
    }

    #[test]
    fn a_long_chain_is_cancelled_and_dropped_without_recursion() {
        let root = CancelToken::new();
        let leaf = (0..200_000).fold(root.clone(), |it, _| it.child());
        root.cancel();
        assert!(leaf.is_cancelled());
        drop(root);
        drop(leaf);
    }

    #[test]
    fn waiting_ends_with_the_cancellation_or_the_deadline() {
        let token = CancelToken::new();
        assert!(!token.wait_timeout(Duration::from_millis(2)));
        assert!(!token.wait_deadline(Instant::now()));
        let waiters: Vec<_> = (0..4)
            .map(|i| {
                let token = if i % 2 == 0 { token.clone() } else { token.child() };
                thread::spawn(move || token.wait_timeout(LONG))
            })
            .collect();
        token.cancel();
        assert!(waiters.into_iter().all(|it| it.join().unwrap()));
        assert!(token.wait_deadline(far_deadline()) && token.wait_timeout(Duration::MAX));
    }

    #[test]
    fn a_waker_is_called_once_and_never_after_its_registration_is_dropped() {
        let token = CancelToken::new();
        let (kept, dropped, late) =
            (Arc::new(Count::default()), Arc::new(Count::default()), Arc::new(Count::default()));
        let registration = token.on_cancel(kept.clone());
        drop(token.on_cancel(dropped.clone()));
        token.cancel();
        token.cancel();
        let at_once = token.on_cancel(late.clone());
        let counts = [&kept, &dropped, &late].map(|it| it.0.load(Ordering::SeqCst));
        assert_eq!(counts, [1, 0, 1]);
        drop((registration, at_once));
    }

    #[test]
    fn a_waker_may_use_the_token() {
        struct UsesToken(CancelToken, AtomicBool);
        impl Wake for UsesToken {
            fn wake(&self) {
                self.1.store(self.0.child().is_cancelled(), Ordering::SeqCst);
            }
        }
        let token = CancelToken::new();
        let waker = Arc::new(UsesToken(token.clone(), AtomicBool::new(false)));
        let _registration = token.on_cancel(waker.clone());
        token.cancel();
        assert!(waker.1.load(Ordering::SeqCst));
    }

    #[test]
    fn checking_a_cancelled_token_is_an_error() {
        let token = CancelToken::new();
        assert!(token.check().is_ok());
        token.cancel();
        assert!(token.check().unwrap_err().is_cancelled());
    }
}
