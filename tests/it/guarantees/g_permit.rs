//! Tests of the guarantee G-PERMIT (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 003-V4, 003-F7, 004-6, N-02, N-11.
//!
//! A sample needs a permit while it is sent. A permit is released when it is dropped, also by a panic. Threads that
//! wait for a permit queue in order of arrival, each with its own condition variable, and a released permit goes to the
//! first of them. So no waiting thread polls, and none overtakes another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tinkex::sync::{CancelToken, Semaphore};
use tinkex::testing::{Act, FakeServer};

use super::{Gate, sample};
use crate::util::{eventually, in_time};

const SAMPLE: &str = "/api/v1/asample";

/// Number of times that the threads named `name` slept: the sum of their voluntary context switches.
fn n_sleeps(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("status")).ok());
    let of_one = |status: String| -> Option<u64> {
        let value = |key: &str| status.lines().find_map(|it| it.strip_prefix(key)?.strip_prefix(":\t"));
        (value("Name")? == name).then(|| value("voluntary_ctxt_switches")?.parse().ok())?
    };
    statuses.filter_map(of_one).sum()
}

#[test]
fn waiters_for_a_permit_use_no_processor() {
    const N: usize = 100;
    let (semaphore, cancel) = (Semaphore::new(1), CancelToken::new());
    let held = semaphore.try_acquire(1).unwrap();
    let waiters: Vec<_> = (0..N)
        .map(|_| {
            let (semaphore, cancel) = (semaphore.clone(), cancel.clone());
            let waiter = std::thread::Builder::new().name("idle-waiter".into());
            waiter.spawn(move || semaphore.acquire(1, &cancel).map(drop)).unwrap()
        })
        .collect();
    eventually("all threads wait", || semaphore.waiting() == N);
    eventually("all threads sleep", || N as u64 <= n_sleeps("idle-waiter"));
    let before = n_sleeps("idle-waiter");
    std::thread::sleep(Duration::from_millis(500));
    // 100 threads that poll every 2 ms would wake up 25 000 times in this time.
    let n = n_sleeps("idle-waiter") - before;
    assert!(n <= N as u64, "they woke up {n} times");
    drop(held);
    for waiter in waiters {
        waiter.join().unwrap().unwrap();
    }
    assert_eq!((semaphore.available(), semaphore.waiting()), (1, 0));
}

#[test]
fn samples_that_panic_give_their_permits_back() {
    in_time(|| {
        let server = FakeServer::new();
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        // For a while after a 429 the client has only ten permits. Twelve samples panic below. If they did not give
        // their permits back, no permit would be left for the last sample.
        server.next(SAMPLE, Act::status(429, "slow down"));
        sample(&sampler, 1).wait().unwrap();
        let left = AtomicUsize::new(12);
        server.script(move |seen| {
            let succeeds = seen.path != SAMPLE
                || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1)).is_err();
            assert!(succeeds, "the request panics");
            None
        });
        for _ in 0..12 {
            assert!(sample(&sampler, 1).wait().unwrap_err().is_panic());
        }
        sample(&sampler, 1).wait().unwrap();
    });
}

#[test]
fn permits_are_held_while_sending_and_not_while_waiting_for_results() {
    let (server, gate) = (FakeServer::new(), Gate::new());
    let held = gate.clone();
    server.script(move |seen| {
        if seen.path == "/api/v1/retrieve_future" {
            held.pass();
        }
        None
    });
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let samples: Vec<_> = (0..410).map(|_| sample(&sampler, 1)).collect();
    eventually("more than 400 are in flight", || server.requests_to(SAMPLE).len() == 410);
    gate.open();
    tinkex::wait_all(samples).unwrap();
}
