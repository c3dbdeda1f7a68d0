//! The byte budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::super::fault::Fault;
use super::super::{Budget, CancelToken};
use super::{holds, notices};

/// Items larger than the budget pass, one at a time.
fn huge_items_pass_alone() {
    let (budget, huge) = (Budget::new(2), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = [5, 1, 5]
        .into_iter()
        .map(|n| {
            let (budget, huge) = (budget.clone(), huge.clone());
            thread::spawn(move || {
                let _bytes = budget.acquire(n, &CancelToken::new()).unwrap();
                let others = huge.fetch_add(n / 5, Ordering::Relaxed);
                thread::yield_now();
                huge.fetch_sub(n / 5, Ordering::Relaxed);
                others * (n / 5)
            })
        })
        .collect();
    let others: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
    assert_eq!((others, budget.used()), (0, 0));
}

#[test]
fn a_budget_admits_one_overshoot() {
    holds(huge_items_pass_alone);
    notices(Fault::NeverOverdraws, huge_items_pass_alone);
    notices(Fault::OverdrawsTwice, huge_items_pass_alone);
}
