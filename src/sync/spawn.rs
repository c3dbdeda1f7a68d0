//! Starts threads. Tests can make a start fail, as if the system refused the thread.

use std::cell::Cell;
use std::io;

use super::thread::{self, JoinHandle};
use super::{process, thread_local};
use crate::signals;

#[cfg(all(any(test, feature = "testing"), not(all(test, shuttle))))]
pub use refusal::RefusedThreads;
#[cfg(all(test, shuttle))]
pub(crate) use refusal::refuse_some;

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
    static DRAINS_MAILBOXES: Cell<bool> = const { Cell::new(false) };
}

/// Starts a named thread. `stack_size` is in bytes; `None` is the default of the standard library. In a forked process
/// the stack may be larger, see [`process::fresh_stack`].
pub(crate) fn spawn(
    name: String,
    stack_size: Option<usize>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    #[cfg(any(test, feature = "testing"))]
    refusal::check(&name)?;
    let builder = thread::Builder::new().name(name);
    let builder = match process::fresh_stack().max(stack_size) {
        Some(n_bytes) => builder.stack_size(n_bytes),
        None => builder,
    };
    signals::blocked(|| {
        builder.spawn(move || {
            let _ = OURS.try_with(|flag| flag.set(true));
            body();
        })
    })
}

/// Returns whether this module started the calling thread.
pub(crate) fn is_ours() -> bool {
    OURS.try_with(Cell::get).unwrap_or(false)
}

/// Records whether the calling thread does work that empties mailboxes of clients.
pub(super) fn set_drains_mailboxes(yes: bool) {
    let _ = DRAINS_MAILBOXES.try_with(|flag| flag.set(yes));
}

/// Returns whether the calling thread does work that empties mailboxes of clients. Such a thread must not wait while a
/// mailbox is full: if all such threads waited, no mailbox would be emptied.
pub(crate) fn drains_mailboxes() -> bool {
    DRAINS_MAILBOXES.try_with(Cell::get).unwrap_or(false)
}

#[cfg(all(any(test, feature = "testing"), not(all(test, shuttle))))]
mod refusal {
    use std::fmt;
    use std::io;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::{Condvar, Mutex};

    /// Time limit of the wait in [`RefusedThreads::together`].
    const LONGEST: Duration = Duration::from_secs(30);

    static RULES: Mutex<Vec<Arc<Rule>>> = Mutex::new(Vec::new());

    struct Rule {
        prefix: String,
        together: usize,
        n_refused: Mutex<usize>,
        refused: Condvar,
    }

    /// Until this value is dropped, the crate cannot start threads whose names begin with a prefix, as if the system
    /// refused them. Applies to the whole process.
    ///
    /// # Example: a client without threads
    /// ```
    /// use tinkex::testing::{FakeServer, RefusedThreads};
    ///
    /// let refused = RefusedThreads::named("tk-serv");
    /// assert!(FakeServer::new().in_memory().build().is_err());
    /// assert_eq!(refused.count(), 1);
    /// drop(refused);
    /// assert!(FakeServer::new().in_memory().build().is_ok());
    /// ```
    pub struct RefusedThreads {
        rule: Arc<Rule>,
    }

    impl RefusedThreads {
        /// Refuses threads whose names begin with `prefix`.
        pub fn named(prefix: impl Into<String>) -> Self {
            RefusedThreads::together(prefix, 1)
        }

        /// Refuses threads whose names begin with `prefix`. The first `n` attempts to start such a thread fail at the
        /// same time: each attempt waits until all `n` have begun.
        pub fn together(prefix: impl Into<String>, n: usize) -> Self {
            let rule = Rule {
                prefix: prefix.into(),
                together: n,
                n_refused: Mutex::default(),
                refused: Condvar::new(),
            };
            let rule = Arc::new(rule);
            RULES.lock().push(rule.clone());
            RefusedThreads { rule }
        }

        /// Number of threads refused so far.
        pub fn count(&self) -> usize {
            *self.rule.n_refused.lock()
        }
    }

    impl fmt::Debug for RefusedThreads {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("RefusedThreads").field("prefix", &self.rule.prefix).finish_non_exhaustive()
        }
    }

    impl Drop for RefusedThreads {
        fn drop(&mut self) {
            RULES.lock().retain(|rule| !Arc::ptr_eq(rule, &self.rule));
        }
    }

    pub(super) fn check(name: &str) -> io::Result<()> {
        let rule = RULES.lock().iter().find(|rule| name.starts_with(&rule.prefix)).cloned();
        let Some(rule) = rule else { return Ok(()) };
        let deadline = Instant::now() + LONGEST;
        let mut n_refused = rule.n_refused.lock();
        *n_refused += 1;
        rule.refused.notify_all();
        let mut in_time = true;
        while *n_refused < rule.together && in_time {
            in_time = super::super::wait(&rule.refused, &mut n_refused, Some(deadline));
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "threads are refused by a test"))
    }
}

#[cfg(all(test, shuttle))]
mod refusal {
    use std::cell::Cell;
    use std::io;

    use shuttle::rand::{Rng, thread_rng};

    use super::thread;

    std::thread_local! {
        /// A thread-local of the standard library: the checker runs all threads of a model on the thread that started
        /// the check.
        static REFUSES: Cell<bool> = const { Cell::new(false) };
    }

    /// With `true`, each start of a thread fails with a probability of one half from now on, in all checks of this
    /// thread.
    pub(crate) fn refuse_some(refuses: bool) {
        REFUSES.set(refuses);
    }

    pub(super) fn check(_: &str) -> io::Result<()> {
        if !REFUSES.get() {
            return Ok(());
        }
        // Other threads may run between the attempt to start a thread and its refusal.
        thread::yield_now();
        if thread_rng().gen_bool(0.5) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "refused by the model"));
        }
        Ok(())
    }
}
