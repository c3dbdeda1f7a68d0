//! A clock with pauses that can be cancelled; in tests it can be a virtual one.

use std::time::{Duration, Instant};

use super::CancelToken;
use crate::error::{Error, Result};

#[cfg(any(test, feature = "testing"))]
pub use virtual_clock::VirtualClock;

/// The clock of waits: the system's monotonic clock, or a virtual one in tests.
///
/// # Example: a pause that a token can end
/// ```
/// use std::time::Duration;
/// use tinkex::sync::{CancelToken, Clock};
///
/// let (clock, cancel) = (Clock::default(), CancelToken::new());
/// assert!(clock.pause(Duration::from_millis(1), &cancel).is_ok());
/// cancel.cancel();
/// assert!(clock.pause(Duration::from_secs(3600), &cancel).unwrap_err().is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock {
    #[cfg(any(test, feature = "testing"))]
    virtual_clock: Option<VirtualClock>,
}

impl Clock {
    /// The current time of this clock.
    pub fn now(&self) -> Instant {
        #[cfg(any(test, feature = "testing"))]
        if let Some(clock) = &self.virtual_clock {
            return clock.now();
        }
        Instant::now()
    }

    /// Pauses between two actions, such as two attempts.
    ///
    /// # Errors
    /// Cancelled, before or during the pause.
    ///
    /// # Blocking
    /// For `duration`; cancelling ends the pause immediately. On a virtual clock it does not block.
    pub fn pause(&self, duration: Duration, cancel: &CancelToken) -> Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(clock) = &self.virtual_clock {
            return clock.pause(duration, cancel);
        }
        wait(duration, cancel)
    }

    /// Waits for the next round of periodic work, such as a heartbeat.
    ///
    /// It differs from [`pause`](Clock::pause) only on a virtual clock: there it waits until another thread has
    /// advanced the time, so that a loop does not run ahead of the test.
    ///
    /// # Errors
    /// Cancelled, before or during the wait.
    ///
    /// # Blocking
    /// For `duration`; cancelling ends the wait immediately.
    pub fn tick(&self, duration: Duration, cancel: &CancelToken) -> Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(clock) = &self.virtual_clock {
            return clock.tick(duration, cancel);
        }
        wait(duration, cancel)
    }
}

/// Waits in real time.
fn wait(duration: Duration, cancel: &CancelToken) -> Result<()> {
    if cancel.wait_timeout(duration) { Err(Error::cancelled()) } else { Ok(()) }
}

#[cfg(any(test, feature = "testing"))]
mod virtual_clock {
    use std::fmt;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::cancel::Wake;
    use super::super::{CancelToken, Condvar, Mutex};
    use super::Clock;
    use crate::error::Result;

    /// A clock whose time advances only when a test advances it, or when code under test pauses.
    ///
    /// [`Clock::pause`] does not block: it advances the time by the pause and records it. [`Clock::tick`] blocks until
    /// the time has advanced far enough. Clones share one time.
    ///
    /// # Example: pausing for an hour without waiting
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// use std::time::Duration;
    /// use tinkex::sync::{CancelToken, VirtualClock};
    ///
    /// let time = VirtualClock::new();
    /// let (clock, hour) = (time.clock(), Duration::from_secs(3600));
    /// let before = clock.now();
    /// clock.pause(hour, &CancelToken::new())?;
    /// assert_eq!(clock.now() - before, hour);
    /// assert_eq!(time.pauses(), [hour]);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    #[derive(Clone)]
    pub struct VirtualClock {
        shared: Arc<Shared>,
    }

    struct Shared {
        state: Mutex<State>,
        moved: Condvar,
    }

    struct State {
        now: Instant,
        pauses: Vec<Duration>,
    }

    impl Default for VirtualClock {
        fn default() -> Self {
            VirtualClock::new()
        }
    }

    impl VirtualClock {
        /// Creates a clock at the current time.
        pub fn new() -> Self {
            let state = State { now: Instant::now(), pauses: Vec::new() };
            VirtualClock { shared: Arc::new(Shared { state: Mutex::new(state), moved: Condvar::new() }) }
        }

        /// The clock to give to the code under test.
        pub fn clock(&self) -> Clock {
            Clock { virtual_clock: Some(self.clone()) }
        }

        /// Advances the time, and wakes the ticks that are due.
        pub fn advance(&self, duration: Duration) {
            self.shared.state.lock().advance(duration);
            self.shared.moved.notify_all();
        }

        /// All pauses so far, in order.
        pub fn pauses(&self) -> Vec<Duration> {
            self.shared.state.lock().pauses.clone()
        }

        pub(super) fn now(&self) -> Instant {
            self.shared.state.lock().now
        }

        pub(super) fn pause(&self, duration: Duration, cancel: &CancelToken) -> Result<()> {
            cancel.check()?;
            {
                let mut state = self.shared.state.lock();
                state.pauses.push(duration);
                state.advance(duration);
            }
            self.shared.moved.notify_all();
            Ok(())
        }

        pub(super) fn tick(&self, duration: Duration, cancel: &CancelToken) -> Result<()> {
            // The waker is registered before the lock is taken, and unregistered after the lock is released, because
            // the waker takes the lock.
            let _registration = cancel.on_cancel(self.shared.clone());
            let mut state = self.shared.state.lock();
            let due = state.now.checked_add(duration);
            loop {
                cancel.check()?;
                // `due` is `None` if the time is too late for an `Instant`: it is never reached.
                match due {
                    Some(due) if due <= state.now => return Ok(()),
                    _ => self.shared.moved.wait(&mut state),
                }
            }
        }
    }

    impl State {
        fn advance(&mut self, duration: Duration) {
            // On overflow the time stays unchanged.
            self.now = self.now.checked_add(duration).unwrap_or(self.now);
        }
    }

    impl Wake for Shared {
        fn wake(&self) {
            // Take the lock once before notifying. A tick that has checked its token and does not wait yet holds the
            // lock; after this line it waits and gets the notification.
            drop(self.state.lock());
            self.moved.notify_all();
        }
    }

    impl fmt::Debug for VirtualClock {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("VirtualClock").field("now", &self.now()).finish_non_exhaustive()
        }
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use super::super::testing::{LONG, with_time_limit};
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_real_pause_ends_after_its_time_or_by_cancelling() {
        let (clock, cancel) = (Clock::default(), CancelToken::new());
        let before = clock.now();
        clock.pause(Duration::from_millis(3), &cancel).unwrap();
        clock.tick(Duration::from_millis(3), &cancel).unwrap();
        assert!(Duration::from_millis(6) <= clock.now() - before);
        let waiter = thread::spawn({
            let (clock, cancel) = (clock.clone(), cancel.clone());
            move || clock.pause(LONG, &cancel)
        });
        cancel.cancel();
        assert!(waiter.join().unwrap().unwrap_err().is_cancelled());
        assert!(clock.tick(LONG, &cancel).unwrap_err().is_cancelled());
    }

    #[test]
    fn a_virtual_pause_advances_the_time_and_is_recorded() {
        let (time, cancel) = (VirtualClock::new(), CancelToken::new());
        let (clock, before) = (time.clock(), time.clock().now());
        clock.pause(MINUTE, &cancel).unwrap();
        clock.pause(MINUTE / 2, &cancel).unwrap();
        time.advance(MINUTE);
        assert_eq!(clock.now() - before, MINUTE * 5 / 2);
        cancel.cancel();
        assert!(clock.pause(MINUTE, &cancel).unwrap_err().is_cancelled());
        assert_eq!(time.pauses(), [MINUTE, MINUTE / 2]);
    }

    #[test]
    fn a_virtual_tick_waits_until_the_time_is_advanced() {
        let rounds = with_time_limit(|| {
            let (time, cancel) = (VirtualClock::new(), CancelToken::new());
            let (sender, receiver) = crossbeam_channel::bounded(0);
            let ticker = thread::spawn({
                let (clock, cancel) = (time.clock(), cancel.clone());
                move || {
                    let mut rounds = 0;
                    loop {
                        // The rendezvous: the test advances the time only after `start` was read.
                        let start = clock.now();
                        sender.send(()).unwrap();
                        match clock.tick(MINUTE, &cancel) {
                            Ok(()) => rounds += 1,
                            Err(error) => return (rounds, error.is_cancelled()),
                        }
                        assert!(MINUTE <= clock.now() - start);
                    }
                }
            });
            receiver.recv().unwrap();
            // Repeated, because the tick may begin after the first advance.
            while receiver.try_recv().is_err() {
                time.advance(MINUTE / 2);
                thread::yield_now();
            }
            while receiver.try_recv().is_err() {
                time.clock().pause(MINUTE, &CancelToken::new()).unwrap();
                thread::yield_now();
            }
            cancel.cancel();
            ticker.join().unwrap()
        });
        assert_eq!(rounds, (2, true));
    }

    #[test]
    fn a_virtual_time_beyond_the_clocks_range_does_not_panic() {
        let (time, cancel) = (VirtualClock::new(), CancelToken::new());
        time.advance(Duration::MAX);
        time.clock().pause(Duration::MAX, &cancel).unwrap();
        cancel.cancel();
        assert!(time.clock().tick(Duration::MAX, &cancel).is_err());
    }
}
