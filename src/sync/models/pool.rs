//! The pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::thread;

use super::super::fault::Fault;
use super::super::oneshot::oneshot;
use super::super::pool::{Part, Pool, PoolConfig};
use super::{holds, notices};

fn pool() -> Arc<Pool> {
    let idle = Duration::from_secs(1);
    Arc::new(Pool::new(PoolConfig { name: "model", max_threads: 1, stack_size: 0x4_0000, idle }))
}

/// A job of a pool of one thread waits for other jobs of the same pool.
fn a_job_may_wait_for_jobs() {
    let pool = pool();
    let (reply, slot) = oneshot::<u32>();
    let inner = pool.clone();
    pool.spawn(move || {
        let parts: Vec<Part<u32>> = vec![Box::new(|| Ok(1)), Box::new(|| Ok(2))];
        let sum = inner.fan_out(parts, 2).into_iter().map(|it| it.unwrap_or(0)).sum();
        drop(inner);
        reply.send(Ok(sum));
    })
    .unwrap();
    let sum = slot.wait(None).unwrap().unwrap_or(0);
    pool.close(Instant::now());
    assert_eq!(sum, 3);
}

/// A job that comes when the only thread has had enough of waiting is done all the same.
fn no_job_is_left_behind() {
    let pool = pool();
    let bringers: Vec<_> = (0..2)
        .map(|n| {
            let pool = pool.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<u32>();
                pool.spawn(move || reply.send(Ok(n))).unwrap();
                slot.wait(None).is_some_and(|it| it.is_ok_and(|it| it == n))
            })
        })
        .collect();
    let done = bringers.into_iter().all(|it| it.join().unwrap());
    pool.close(Instant::now());
    assert!(done);
}

#[test]
fn a_pool_of_one_thread_does_not_wait_for_itself() {
    holds(a_job_may_wait_for_jobs);
    notices(Fault::WaitsIdly, a_job_may_wait_for_jobs);
}

#[test]
fn a_pool_leaves_no_job_behind() {
    holds(no_job_is_left_behind);
    notices(Fault::LeavesWhenCalled, no_job_is_left_behind);
}
