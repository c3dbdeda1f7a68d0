//! A fair budget of bytes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::CancelToken;
use super::gate::{Gate, Rule};
use crate::error::Result;

/// A fair budget of bytes. Clones are handles of the same budget.
///
/// The budget is overdrawn while more bytes are in use than it has. While it is not overdrawn, it admits the next item,
/// whatever the size of this item. An item that overdraws the budget is thus admitted, and the next one waits until the
/// budget is no longer overdrawn. So an item larger than the whole budget does not wait forever, and the bytes in use
/// exceed the budget by at most one item. Items are admitted strictly in order of arrival, as with a
/// [`Semaphore`](super::Semaphore).
///
/// # Example: one item overdraws the budget
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
    /// Creates a budget of `bytes` bytes. With 0, one item is admitted at a time.
    pub fn new(bytes: usize) -> Self {
        Budget { gate: Gate::new(Rule::Overshoots, "byte budget", bytes) }
    }

    /// Takes `n` bytes if the budget is not overdrawn and nobody waits.
    pub fn try_acquire(&self, n: usize) -> Option<BudgetShare> {
        self.gate.try_enter(n).then(|| self.share(n))
    }

    /// Takes `n` bytes; waits in the queue until the budget admits them.
    ///
    /// # Errors
    /// Cancelled; closed.
    ///
    /// # Blocking
    /// Until all earlier requests are served and the budget is not overdrawn. Cancelling the token or closing the
    /// budget ends the wait immediately. Use [`acquire_deadline`](Budget::acquire_deadline) to limit the wait.
    pub fn acquire(&self, n: usize, cancel: &CancelToken) -> Result<BudgetShare> {
        self.acquire_deadline(n, None, cancel)
    }

    /// Takes `n` bytes; waits in the queue until the budget admits them, at most until the deadline.
    ///
    /// # Errors
    /// The errors of [`acquire`](Budget::acquire), and a timeout in [`Phase::Admission`](crate::Phase::Admission).
    ///
    /// # Blocking
    /// As long as [`acquire`](Budget::acquire), but at most until the deadline. If the deadline has passed already,
    /// bytes are granted only if no wait is needed.
    pub fn acquire_deadline(
        &self,
        n: usize,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<BudgetShare> {
        self.gate.enter(n, deadline, cancel)?;
        Ok(self.share(n))
    }

    /// Refuses all requests from now on, and wakes the waiters with an error. Shares in use stay valid.
    pub fn close(&self) {
        self.gate.close();
    }

    /// Number of free bytes at the moment; 0 if the budget is overdrawn.
    pub fn available(&self) -> usize {
        self.gate.available()
    }

    /// Number of bytes in use at the moment.
    pub fn used(&self) -> usize {
        self.gate.taken()
    }

    /// Number of waiters at the moment.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    fn share(&self, n: usize) -> BudgetShare {
        BudgetShare { gate: self.gate.clone(), n }
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

/// Bytes of a [`Budget`]. Dropping this value, also during a panic, gives the bytes back.
#[must_use = "a share that is not held is given back at once"]
pub struct BudgetShare {
    gate: Arc<Gate>,
    n: usize,
}

impl BudgetShare {
    /// Number of these bytes.
    pub fn n_bytes(&self) -> usize {
        self.n
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.gate.leave(self.n);
    }
}

impl fmt::Debug for BudgetShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetShare").field("n", &self.n).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::super::testing::{eventually, far_deadline, with_time_limit};
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
    fn one_item_may_overdraw_the_budget_and_the_next_one_waits() {
        let (budget, cancel) = (Budget::new(10), CancelToken::new());
        let first = budget.acquire(10, &cancel).unwrap();
        let second = budget.acquire(10, &cancel).unwrap();
        assert!(budget.try_acquire(1).is_none());
        drop(first);
        assert!(budget.try_acquire(1).is_some());
        drop(second);
    }

    #[test]
    fn shares_of_any_size_are_granted_in_order_of_arrival() {
        let (budget, cancel) = (Budget::new(10), CancelToken::new());
        let huge = budget.acquire(100, &cancel).unwrap();
        let (sender, receiver) = mpsc::channel();
        let threads: Vec<_> = [50, 1, 70, 2]
            .into_iter()
            .map(|n| {
                let before = budget.waiting();
                let (queued, cancel, sender) = (budget.clone(), cancel.clone(), sender.clone());
                let thread = thread::spawn(move || {
                    sender.send(queued.acquire_deadline(n, Some(far_deadline()), &cancel).unwrap()).unwrap();
                });
                eventually("a waiter queues up", || before < budget.waiting());
                thread
            })
            .collect();
        drop(huge);
        let mut order = Vec::new();
        for n_waiting in [3, 1] {
            // 50 overdraws the budget, so that it is admitted alone. After it, 1 and 70 are admitted together.
            eventually("the next ones are admitted", || budget.waiting() == n_waiting);
            let n = if n_waiting == 3 { 1 } else { 2 };
            // Keep the shares until all of this group have come, because giving the first one back admits the next
            // request.
            let held: Vec<_> = receiver.iter().take(n).collect();
            let mut group: Vec<_> = held.iter().map(BudgetShare::n_bytes).collect();
            group.sort();
            order.push(group);
        }
        order.push(vec![receiver.recv().unwrap().n_bytes()]);
        threads.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(order, [vec![50], vec![1, 70], vec![2]]);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }

    #[test]
    fn a_budget_of_0_bytes_admits_one_item_at_a_time() {
        let budget = Budget::new(0);
        let first = budget.try_acquire(7).unwrap();
        assert!(budget.try_acquire(7).is_none());
        drop(first);
        assert!(budget.try_acquire(usize::MAX).is_some());
    }

    #[test]
    fn closing_and_cancelling_fail_the_waiters() {
        with_time_limit(|| {
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
