//! A fair counting semaphore.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::CancelToken;
use super::gate::{Gate, Rule};
use crate::error::Result;

/// A fair counting semaphore. Clones are handles of the same semaphore.
///
/// Permits are granted strictly in order of arrival. A permit that is given back goes directly to the first waiter: no
/// later request can take it, not even [`try_acquire`](Semaphore::try_acquire). A request for several permits keeps its
/// position in the queue until all of them are free; smaller requests do not overtake it. A waiter that is cancelled or
/// reaches its deadline leaves the queue.
///
/// # Example: at most two threads at the same time
/// ```
/// use tinkex::sync::{CancelToken, Semaphore};
///
/// let (two, cancel) = (Semaphore::new(2), CancelToken::new());
/// std::thread::scope(|scope| {
///     for _ in 0..8 {
///         scope.spawn(|| {
///             let _permit = two.acquire(1, &cancel)?;
///             // At most two threads are here at any time. The permit is given back at the end of the scope.
///             Ok::<(), tinkex::Error>(())
///         });
///     }
/// });
/// assert_eq!(two.available(), 2);
/// ```
#[derive(Clone)]
pub struct Semaphore {
    gate: Arc<Gate>,
}

impl Semaphore {
    /// Creates a semaphore with `permits` permits. With 0, only requests for 0 permits succeed.
    pub fn new(permits: usize) -> Self {
        Semaphore { gate: Gate::new(Rule::Fits, "semaphore", permits) }
    }

    /// Takes `n` permits if they are free and nobody waits.
    ///
    /// # Example: not waiting
    /// ```
    /// use tinkex::sync::Semaphore;
    ///
    /// let one = Semaphore::new(1);
    /// let permit = one.try_acquire(1);
    /// assert!(permit.is_some() && one.try_acquire(1).is_none());
    /// drop(permit);
    /// assert!(one.try_acquire(1).is_some());
    /// ```
    pub fn try_acquire(&self, n: usize) -> Option<Permit> {
        self.gate.try_enter(n).then(|| self.permit(n))
    }

    /// Takes `n` permits; waits in the queue until they are free.
    ///
    /// # Errors
    /// Cancelled; closed; invalid input, if `n` exceeds the number of permits of the semaphore.
    ///
    /// # Blocking
    /// Until all earlier requests are served and `n` permits are free. Cancelling the token or closing the semaphore
    /// ends the wait immediately. Use [`acquire_deadline`](Semaphore::acquire_deadline) to limit the wait. A thread
    /// that holds permits and acquires more can deadlock: it may wait for its own permits.
    pub fn acquire(&self, n: usize, cancel: &CancelToken) -> Result<Permit> {
        self.acquire_deadline(n, None, cancel)
    }

    /// Takes `n` permits; waits in the queue until they are free, at most until the deadline.
    ///
    /// # Errors
    /// The errors of [`acquire`](Semaphore::acquire), and a timeout in [`Phase::Admission`](crate::Phase::Admission).
    ///
    /// # Blocking
    /// As long as [`acquire`](Semaphore::acquire), but at most until the deadline. If the deadline has passed already,
    /// permits are granted only if no wait is needed.
    ///
    /// # Example: waiting at most 5 ms
    /// ```
    /// use std::time::{Duration, Instant};
    /// use tinkex::sync::{CancelToken, Semaphore};
    ///
    /// let (one, cancel) = (Semaphore::new(1), CancelToken::new());
    /// let _permit = one.acquire(1, &cancel)?;
    /// let soon = Instant::now() + Duration::from_millis(5);
    /// assert!(one.acquire_deadline(1, Some(soon), &cancel).unwrap_err().is_timeout());
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn acquire_deadline(
        &self,
        n: usize,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<Permit> {
        self.gate.enter(n, deadline, cancel)?;
        Ok(self.permit(n))
    }

    /// Refuses all requests from now on, and wakes the waiters with an error. Permits in use stay valid.
    pub fn close(&self) {
        self.gate.close();
    }

    /// Number of free permits at the moment.
    pub fn available(&self) -> usize {
        self.gate.available()
    }

    /// Number of waiters at the moment.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    fn permit(&self, n: usize) -> Permit {
        Permit { gate: self.gate.clone(), n }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("permits", &self.gate.capacity())
            .field("available", &self.available())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// Permits of a [`Semaphore`]. Dropping this value, also during a panic, gives the permits back.
#[must_use = "a permit that is not held is given back at once"]
pub struct Permit {
    gate: Arc<Gate>,
    n: usize,
}

impl Permit {
    /// Number of these permits.
    pub fn n_permits(&self) -> usize {
        self.n
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave(self.n);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("n", &self.n).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use super::super::testing::{eventually, far_deadline, with_time_limit};
    use super::*;
    use crate::error::{Error, ErrorKind, Phase};

    /// Starts a thread that acquires `n` permits, and returns when that thread waits in the queue.
    fn queue_up(
        semaphore: &Semaphore,
        n: usize,
        cancel: &CancelToken,
        then: impl FnOnce(Result<Permit>) + Send + 'static,
    ) -> JoinHandle<()> {
        let before = semaphore.waiting();
        let (queued, cancel) = (semaphore.clone(), cancel.clone());
        let thread = thread::spawn(move || then(queued.acquire_deadline(n, Some(far_deadline()), &cancel)));
        eventually("a waiter queues up", || before < semaphore.waiting());
        thread
    }

    #[test]
    fn permits_are_granted_in_order_of_arrival() {
        let (semaphore, cancel) = (Semaphore::new(1), CancelToken::new());
        let permit = semaphore.try_acquire(1).unwrap();
        let (sender, receiver) = mpsc::channel();
        let threads: Vec<_> = (0..50)
            .map(|i| {
                let sender = sender.clone();
                queue_up(&semaphore, 1, &cancel, move |permit| {
                    let _permit = permit.unwrap();
                    sender.send(i).unwrap();
                })
            })
            .collect();
        assert_eq!((semaphore.waiting(), semaphore.available()), (50, 0));
        drop(permit);
        threads.into_iter().for_each(|it| it.join().unwrap());
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        assert_eq!((semaphore.waiting(), semaphore.available()), (0, 1));
    }

    #[test]
    fn no_request_overtakes_the_head_which_waits_for_all_its_permits() {
        let (semaphore, cancel) = (Semaphore::new(3), CancelToken::new());
        let (one, two) = (semaphore.try_acquire(1).unwrap(), semaphore.try_acquire(2).unwrap());
        let (sender, receiver) = mpsc::channel();
        let send = |name: &'static str| {
            let sender = sender.clone();
            move |permit: Result<Permit>| {
                sender.send((name, permit.unwrap())).unwrap();
            }
        };
        let heavy = queue_up(&semaphore, 3, &cancel, send("heavy"));
        let light = queue_up(&semaphore, 1, &cancel, send("light"));
        drop(two);
        // Two permits are free, but only the heavy request may take them.
        assert_eq!((semaphore.available(), semaphore.waiting()), (2, 2));
        assert!(semaphore.try_acquire(1).is_none() && semaphore.try_acquire(0).is_none());
        drop(one);
        let (first, permit) = receiver.recv().unwrap();
        assert_eq!((first, permit.n_permits(), semaphore.waiting()), ("heavy", 3, 1));
        drop(permit);
        assert_eq!(receiver.recv().unwrap().0, "light");
        heavy.join().unwrap();
        light.join().unwrap();
    }

    #[test]
    fn a_released_permit_belongs_to_the_waiter_at_once() {
        let (semaphore, cancel) = (Semaphore::new(1), CancelToken::new());
        for _ in 0..100 {
            let permit = semaphore.try_acquire(1).unwrap();
            let waiter = queue_up(&semaphore, 1, &cancel, |permit| drop(permit.unwrap()));
            drop(permit);
            // The permit was granted immediately, although the waiter may not have woken up yet.
            assert_eq!(semaphore.waiting(), 0);
            waiter.join().unwrap();
        }
    }

    #[test]
    fn a_head_that_is_cancelled_or_too_late_lets_the_next_waiter_in() {
        let (semaphore, never_cancelled) = (Semaphore::new(2), CancelToken::new());
        let (sender, receiver) = mpsc::channel();
        for too_late in [false, true] {
            let held = semaphore.try_acquire(1).unwrap();
            let cancel = CancelToken::new();
            let (s, c, tx) = (semaphore.clone(), cancel.clone(), sender.clone());
            let deadline =
                if too_late { Instant::now() + Duration::from_millis(100) } else { far_deadline() };
            let head = thread::spawn(move || {
                let error = s.acquire_deadline(2, Some(deadline), &c).unwrap_err();
                tx.send(Err(error)).unwrap();
            });
            // On a slow machine the deadline may have passed before the head waits. The outcomes below are then the
            // same.
            eventually("the head waits", || semaphore.waiting() == 1 || Instant::now() > deadline);
            let (s, c, tx) = (semaphore.clone(), never_cancelled.clone(), sender.clone());
            // One permit is free, but the head of the queue waits for two and must be served first.
            let next = thread::spawn(move || {
                let permit = s.acquire_deadline(1, Some(far_deadline()), &c);
                tx.send(permit.map(drop)).unwrap();
            });
            if !too_late {
                eventually("both wait", || semaphore.waiting() == 2);
                cancel.cancel();
            }
            let outcomes = [receiver.recv().unwrap(), receiver.recv().unwrap()];
            let error = outcomes.iter().find_map(|it| it.as_ref().err()).unwrap();
            if too_late {
                assert_eq!(error.kind(), &ErrorKind::Timeout(Phase::Admission));
            } else {
                assert!(error.is_cancelled());
            }
            assert_eq!(outcomes.iter().filter(|it| it.is_ok()).count(), 1);
            head.join().unwrap();
            next.join().unwrap();
            drop(held);
            assert_eq!((semaphore.available(), semaphore.waiting()), (2, 0));
        }
    }

    #[test]
    fn closing_wakes_all_waiters_with_an_error() {
        let (semaphore, cancel) = (Semaphore::new(1), CancelToken::new());
        let permit = semaphore.try_acquire(1).unwrap();
        let (sender, receiver) = mpsc::channel();
        let threads: Vec<_> = (0..10)
            .map(|_| {
                let sender = sender.clone();
                queue_up(&semaphore, 1, &cancel, move |it| sender.send(it.unwrap_err()).unwrap())
            })
            .collect();
        semaphore.close();
        semaphore.close();
        threads.into_iter().for_each(|it| it.join().unwrap());
        drop(sender);
        let errors: Vec<Error> = receiver.iter().collect();
        assert!(errors.len() == 10 && errors.iter().all(Error::is_closed));
        assert_eq!(semaphore.waiting(), 0);
        assert!(semaphore.acquire(1, &cancel).unwrap_err().is_closed());
        drop(permit);
        assert!(semaphore.try_acquire(1).is_none());
    }

    #[test]
    fn a_request_for_more_permits_than_exist_is_an_error_and_not_a_deadlock() {
        let (semaphore, cancel) = (Semaphore::new(2), CancelToken::new());
        let error = semaphore.acquire(3, &cancel).unwrap_err();
        assert_eq!(error.violation().unwrap().path, "n");
        assert_eq!(error.message(), "n: 3 is more than the semaphore has (2)");
        assert!(semaphore.try_acquire(3).is_none());
        assert!(Semaphore::new(0).acquire(1, &cancel).unwrap_err().is_user_error());
        assert!(Semaphore::new(usize::MAX).acquire(usize::MAX, &cancel).is_ok());
    }

    #[test]
    fn a_cancelled_token_acquires_nothing() {
        let (semaphore, cancel) = (Semaphore::new(1), CancelToken::new());
        let parent = CancelToken::new();
        let permit = semaphore.try_acquire(1).unwrap();
        let waiter = queue_up(&semaphore, 1, &parent.child(), |it| assert!(it.unwrap_err().is_cancelled()));
        parent.cancel();
        waiter.join().unwrap();
        drop(permit);
        cancel.cancel();
        assert!(semaphore.acquire(1, &cancel).unwrap_err().is_cancelled());
        assert_eq!(semaphore.available(), 1);
    }

    #[test]
    fn a_permit_is_given_back_by_a_panic() {
        let semaphore = Semaphore::new(1);
        let thread = thread::spawn({
            let semaphore = semaphore.clone();
            move || {
                let _permit = semaphore.try_acquire(1).unwrap();
                panic!("while holding a permit");
            }
        });
        assert!(thread.join().is_err());
        assert_eq!(semaphore.available(), 1);
    }

    #[test]
    fn under_stress_the_limit_holds_and_every_request_ends() {
        const PERMITS: usize = 5;
        let n_served = with_time_limit(|| {
            let (semaphore, inside) = (Semaphore::new(PERMITS), AtomicUsize::new(0));
            let (served, given_up) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for i in 0..16_u64 {
                    let (semaphore, inside, served, given_up) = (&semaphore, &inside, &served, &given_up);
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(i);
                        for _ in 0..2_000 {
                            let cancel = CancelToken::new();
                            let n = random.usize(1..=PERMITS);
                            // A quarter of the requests have deadlines below 200 µs, so that they time out at different
                            // points of the code.
                            let deadline = match random.u8(..) {
                                0..64 => Some(Instant::now() + Duration::from_micros(random.u64(0..200))),
                                _ => None,
                            };
                            match semaphore.acquire_deadline(n, deadline, &cancel) {
                                Ok(permit) => {
                                    assert!(inside.fetch_add(n, Ordering::SeqCst) + n <= PERMITS);
                                    if random.u8(..) < 16 {
                                        thread::yield_now();
                                    }
                                    inside.fetch_sub(n, Ordering::SeqCst);
                                    drop(permit);
                                    served.fetch_add(1, Ordering::SeqCst);
                                }
                                Err(error) => {
                                    assert!(error.is_timeout() && deadline.is_some());
                                    given_up.fetch_add(1, Ordering::SeqCst);
                                }
                            }
                        }
                    });
                }
            });
            assert_eq!((semaphore.available(), semaphore.waiting()), (PERMITS, 0));
            served.into_inner() + given_up.into_inner()
        });
        assert_eq!(n_served, 16 * 2_000);
    }
}
