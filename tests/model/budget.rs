//! The byte budget: a semaphore that counts bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::{holds, notices};
use crate::sync::fault::Fault;
use crate::sync::{Budget, CancelToken};

/// The items of 5 bytes exceed the budget of 2 bytes. They are admitted all the same, but never two at the same time.
fn oversized_items_pass_one_at_a_time() {
    let (budget, inside) = (Budget::new(2), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = [5, 1, 5]
        .into_iter()
        .map(|n| {
            let (budget, inside) = (budget.clone(), inside.clone());
            thread::spawn(move || {
                let bytes = budget.acquire(n, &CancelToken::new()).unwrap();
                let n_oversized = n / 5;
                let others = inside.fetch_add(n_oversized, Ordering::Relaxed);
                thread::yield_now();
                inside.fetch_sub(n_oversized, Ordering::Relaxed);
                drop(bytes);
                others * n_oversized
            })
        })
        .collect();
    let others: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
    assert_eq!((others, budget.used(), budget.waiting()), (0, 0, 0));
}

#[test]
fn a_budget_admits_one_overshoot() {
    holds(oversized_items_pass_one_at_a_time);
    notices(Fault::OverdrawsTwice, oversized_items_pass_one_at_a_time);
    notices(Fault::GrantsWithoutNotify, oversized_items_pass_one_at_a_time);
}
