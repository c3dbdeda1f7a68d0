//! At most so many bytes at once, in order of arrival.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::CancelToken;
use super::gate::{Gate, Rule};
use crate::error::Result;

/// A fair budget of bytes. Clones are handles of the same one.
///
/// It admits as long as it is not overdrawn: the item that overdraws it is still let in, whatever its size, and the
/// next one waits until the budget is balanced again. So an item larger than the whole budget does not wait for
/// ever, and what is in flight exceeds the budget by less than one item. Order is strictly that of arrival, as with a
/// [`Semaphore`](super::Semaphore).
///
/// # Example: one overshoot
/// ```
/// use tinkex::sync::{Budget, CancelToken};
///
/// let (budget, cancel) = (Budget::new(1000), CancelToken::new());
/// let small = budget.acquire(400, &cancel)?;
/// let huge = budget.acquire(5000, &cancel)?;
/// assert_eq!((budget.used(), budget.available()), (5400, 0));
/// assert!(budget.try_acquire(1).is_none());
/// drop(huge);
/// assert_eq!(budget.available(), 600);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone)]
pub struct Budget {
    gate: Arc<Gate>,
}

impl Budget {
    /// A budget of so many bytes. With none, one item is admitted at a time.
    pub fn new(bytes: usize) -> Self {
        Budget { gate: Gate::new(Rule::Overshoots, "byte budget", bytes) }
    }

    /// Takes `n` bytes if the budget is not overdrawn and nobody waits.
    pub fn try_acquire(&self, n: usize) -> Option<Bytes> {
        self.gate.try_enter(n).then(|| self.bytes(n))
    }

    /// Takes `n` bytes, and waits its turn if need be.
    ///
    /// # Errors
    /// Cancelled; closed.
    ///
    /// # Blocking
    /// Until all who came before have been served and the budget is not overdrawn; cancelling the token or closing
    /// the budget ends it at once. Bound it with [`acquire_deadline`](Budget::acquire_deadline).
    pub fn acquire(&self, n: usize, cancel: &CancelToken) -> Result<Bytes> {
        self.acquire_deadline(n, None, cancel)
    }

    /// Takes `n` bytes, and waits its turn if need be, but not beyond the deadline.
    ///
    /// # Errors
    /// As [`acquire`](Budget::acquire), and a timeout in [`Phase::Admission`](crate::Phase::Admission).
    ///
    /// # Blocking
    /// As [`acquire`](Budget::acquire), until the deadline. What is free at once is given even after it.
    pub fn acquire_deadline(
        &self,
        n: usize,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<Bytes> {
        self.gate.enter(n, deadline, cancel)?;
        Ok(self.bytes(n))
    }

    /// Turns everybody away from now on, and wakes those who wait with an error. Bytes in use stay valid.
    pub fn close(&self) {
        self.gate.close();
    }

    /// How many bytes are free at the moment; none if the budget is overdrawn.
    pub fn available(&self) -> usize {
        self.gate.available()
    }

    /// How many bytes are in use at the moment.
    pub fn used(&self) -> usize {
        self.gate.taken()
    }

    /// How many wait at the moment.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    fn bytes(&self, n: usize) -> Bytes {
        Bytes { gate: self.gate.clone(), n }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("bytes", &self.gate.capacity())
            .field("used", &self.used())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// Bytes of a [`Budget`], given back when this is dropped, by a panic too.
#[must_use = "bytes that are not held are given back at once"]
pub struct Bytes {
    gate: Arc<Gate>,
    n: usize,
}

impl Bytes {
    /// How many bytes this holds.
    pub fn n_bytes(&self) -> usize {
        self.n
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.gate.leave(self.n);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes").field("n", &self.n).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::super::testing::{eventually, in_time, late};
    use super::*;

    #[test]
    fn an_item_larger_than_the_budget_is_admitted_alone() {
        let (budget, cancel) = (Budget::new(10), CancelToken::new());
        let huge = budget.acquire(1_000, &cancel).unwrap();
        assert_eq!((budget.used(), budget.available(), huge.n_bytes()), (1_000, 0, 1_000));
        assert!(budget.try_acquire(0).is_none());
        assert!(budget.acquire_deadline(1, Some(Instant::now()), &cancel).unwrap_err().is_timeout());
        drop(huge);
        assert_eq!((budget.used(), budget.available()), (0, 10));
    }

    #[test]
    fn one_item_may_overshoot_and_the_next_one_waits_for_the_balance() {
        let (budget, cancel) = (Budget::new(10), CancelToken::new());
        let first = budget.acquire(10, &cancel).unwrap();
        let second = budget.acquire(10, &cancel).unwrap();
        assert!(budget.try_acquire(1).is_none());
        drop(first);
        assert!(budget.try_acquire(1).is_some());
        drop(second);
    }

    #[test]
    fn bytes_are_given_in_order_of_arrival_whatever_their_size() {
        let (budget, cancel) = (Budget::new(10), CancelToken::new());
        let huge = budget.acquire(100, &cancel).unwrap();
        let (sender, receiver) = mpsc::channel();
        let threads: Vec<_> = [50, 1, 70, 2]
            .into_iter()
            .map(|n| {
                let before = budget.waiting();
                let (it, cancel, sender) = (budget.clone(), cancel.clone(), sender.clone());
                let thread = thread::spawn(move || {
                    sender.send(it.acquire_deadline(n, Some(late()), &cancel).unwrap()).unwrap();
                });
                eventually("a waiter queues up", || before < budget.waiting());
                thread
            })
            .collect();
        drop(huge);
        let mut order = Vec::new();
        for n_waiting in [3, 1] {
            // Fifty overdraw the budget alone; when they are gone, one and seventy come together.
            eventually("the next are in", || budget.waiting() == n_waiting);
            let n = if n_waiting == 3 { 1 } else { 2 };
            // Held until both have come, because the one given back first lets the next in.
            let held: Vec<_> = receiver.iter().take(n).collect();
            let mut group: Vec<_> = held.iter().map(Bytes::n_bytes).collect();
            group.sort();
            order.push(group);
        }
        order.push(vec![receiver.recv().unwrap().n_bytes()]);
        threads.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(order, [vec![50], vec![1, 70], vec![2]]);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }

    #[test]
    fn a_budget_of_nothing_admits_one_at_a_time() {
        let budget = Budget::new(0);
        let first = budget.try_acquire(7).unwrap();
        assert!(budget.try_acquire(7).is_none());
        drop(first);
        assert!(budget.try_acquire(usize::MAX).is_some());
    }

    #[test]
    fn closing_and_cancelling_turn_waiters_away() {
        in_time(|| {
            let (budget, cancel) = (Budget::new(1), CancelToken::new());
            let held = budget.try_acquire(2).unwrap();
            let waits = |cancel: &CancelToken| {
                let (budget, cancel) = (budget.clone(), cancel.clone());
                thread::spawn(move || budget.acquire(1, &cancel).unwrap_err())
            };
            let waiter = waits(&cancel);
            eventually("it waits", || budget.waiting() == 1);
            cancel.cancel();
            assert!(waiter.join().unwrap().is_cancelled());
            let waiter = waits(&CancelToken::new());
            eventually("it waits", || budget.waiting() == 1);
            budget.close();
            assert!(waiter.join().unwrap().is_closed());
            assert_eq!(
                budget.acquire(1, &CancelToken::new()).unwrap_err().message(),
                "the byte budget is closed"
            );
            drop(held);
            assert_eq!(budget.used(), 0);
        });
    }
}
