//! The byte budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::{holds, notices};
use crate::sync::fault::Fault;
use crate::sync::{Budget, CancelToken};

/// Items larger than the budget pass, one at a time.
fn huge_items_pass_one_at_a_time() {
    let (budget, huge) = (Budget::new(2), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = [5, 1, 5]
        .into_iter()
        .map(|n| {
            let (budget, huge) = (budget.clone(), huge.clone());
            thread::spawn(move || {
                let bytes = budget.acquire(n, &CancelToken::new()).unwrap();
                let n_huge = n / 5;
                let others = huge.fetch_add(n_huge, Ordering::Relaxed);
                thread::yield_now();
                huge.fetch_sub(n_huge, Ordering::Relaxed);
                drop(bytes);
                others * n_huge
            })
        })
        .collect();
    let others: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
    assert_eq!((others, budget.used(), budget.waiting()), (0, 0, 0));
}

#[test]
fn a_budget_admits_one_overshoot() {
    holds(huge_items_pass_one_at_a_time);
    notices(Fault::OverdrawsTwice, huge_items_pass_one_at_a_time);
    notices(Fault::GrantsWithoutNotify, huge_items_pass_one_at_a_time);
}
