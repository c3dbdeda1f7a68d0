//! Compares the crate's semaphore with other ways to limit the number of threads that run a section of code.
//!
//! ```text
//! cargo bench --bench semaphore
//! ```
//!
//! | name | what it is |
//! |---|---|
//! | `tinkex` | `tinkex::sync::Semaphore` |
//! | `sleeping` | a loop that tries to take a permit and sleeps for 2 ms if none is free |
//! | `herd` | a mutex and a condition variable; each release wakes all waiters |
//! | `tokio` | `tokio::sync::Semaphore`; each thread polls the future and parks until it is woken |
//!
//! | figure | what it is |
//! |---|---|
//! | `free_ns` | time to acquire and release a free permit |
//! | `lone` | one permit and one waiter |
//! | `lone.handover_*` | time from the release until the waiter runs |
//! | `crowd` | for 3 s, 64 threads acquire one of 8 permits, hold it for 1 ms and sleep for 1 ms |
//! | `crowd.served_per_second` | acquisitions per second |
//! | `crowd.handover_*` | time from a release until the next thread runs; each acquisition uses up the oldest release |
//! | `crowd.wait_*` | time to acquire |
//! | `crowd.cpu_ms` | CPU time |
//! | `idle_cpu_ms` | CPU time of 1000 threads that wait for 5 s |
//!
//! Prints one line of JSON. Times are in microseconds, unless the name ends with another unit.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench talks to a person")]

use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tinkex::sync::{CancelToken, Semaphore};

fn main() {
    let gates = [
        ("tinkex", figures(Semaphore::new)),
        ("sleeping", figures(Sleeping::new)),
        ("herd", figures(Herd::new)),
        ("tokio", figures(tokio::sync::Semaphore::new)),
    ];
    println!("{}", gates.into_iter().map(|(name, figures)| (name.to_owned(), figures)).collect::<Value>());
}

/// A limit for the number of threads that run a section of code.
trait Gate: Send + Sync + 'static {
    /// Waits for a permit, calls `f`, and releases the permit.
    fn inside<T>(&self, cancel: &CancelToken, f: impl FnOnce() -> T) -> T;
}

impl Gate for Semaphore {
    fn inside<T>(&self, cancel: &CancelToken, f: impl FnOnce() -> T) -> T {
        let _permit = self.acquire(1, cancel).unwrap();
        f()
    }
}

struct Sleeping {
    free: AtomicUsize,
}

impl Sleeping {
    fn new(permits: usize) -> Self {
        Sleeping { free: AtomicUsize::new(permits) }
    }
}

impl Gate for Sleeping {
    fn inside<T>(&self, _: &CancelToken, f: impl FnOnce() -> T) -> T {
        let take = || self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |it| it.checked_sub(1));
        while take().is_err() {
            thread::sleep(Duration::from_millis(2));
        }
        let value = f();
        self.free.fetch_add(1, Ordering::AcqRel);
        value
    }
}

struct Herd {
    free: Mutex<usize>,
    released: Condvar,
}

impl Herd {
    fn new(permits: usize) -> Self {
        Herd { free: Mutex::new(permits), released: Condvar::new() }
    }
}

impl Gate for Herd {
    fn inside<T>(&self, _: &CancelToken, f: impl FnOnce() -> T) -> T {
        *self.released.wait_while(self.free.lock().unwrap(), |it| *it == 0).unwrap() -= 1;
        let value = f();
        *self.free.lock().unwrap() += 1;
        self.released.notify_all();
        value
    }
}

impl Gate for tokio::sync::Semaphore {
    fn inside<T>(&self, _: &CancelToken, f: impl FnOnce() -> T) -> T {
        let _permit = block_on(self.acquire()).unwrap();
        f()
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    // Fast path: if a permit is free, the first poll returns it, and no waker is needed.
    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return value;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn figures<G: Gate>(new: fn(usize) -> G) -> Value {
    json!({
        "free_ns": free(&new(8)),
        "lone": lone(Arc::new(new(1))),
        "crowd": crowd(Arc::new(new(8))),
        "idle_cpu_ms": idle(Arc::new(new(1))),
    })
}

/// Nanoseconds for an uncontended acquire and release, as the median of rounds.
fn free(gate: &impl Gate) -> f64 {
    const N: u32 = 200_000;
    let cancel = CancelToken::new();
    let rounds = (0..9).map(|_| {
        let begin = Instant::now();
        (0..N).for_each(|it| gate.inside(&cancel, || _ = black_box(it)));
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(N)
    });
    quantiles(rounds.collect())[0]
}

/// Measures the time from the release of the only permit until the only waiter runs.
fn lone<G: Gate>(gate: Arc<G>) -> Value {
    let (start, starts) = mpsc::channel();
    let (entered, entries) = mpsc::channel();
    let waiter = thread::spawn({
        let gate = gate.clone();
        move || {
            let cancel = CancelToken::new();
            for () in starts {
                entered.send(gate.inside(&cancel, Instant::now)).unwrap();
            }
        }
    });
    let cancel = CancelToken::new();
    let handovers = (0..400).map(|n| {
        let released = gate.inside(&cancel, || {
            start.send(()).unwrap();
            // Long enough for the waiter to block. The time varies, so that the release does not always come at the
            // same point of the waiter's 2 ms sleeps.
            thread::sleep(Duration::from_micros(4000 + n * 37 % 2000));
            Instant::now()
        });
        micros(entries.recv().unwrap() - released)
    });
    let handovers = handovers.collect();
    drop(start);
    waiter.join().unwrap();
    let [p50, p99, _] = quantiles(handovers);
    json!({ "handover_p50": p50, "handover_p99": p99 })
}

fn crowd<G: Gate>(gate: Arc<G>) -> Value {
    const THREADS: usize = 64;
    const TIME: Duration = Duration::from_secs(3);
    const STEP: Duration = Duration::from_millis(1);
    let (start, busy) = (Arc::new(Barrier::new(THREADS + 1)), cpu());
    // Times of the releases after which no thread has acquired the released permit yet, the oldest first.
    let released = Arc::new(Mutex::new(VecDeque::<Instant>::new()));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (gate, start, released) = (gate.clone(), start.clone(), released.clone());
            thread::spawn(move || {
                let (mut waits, mut handovers, cancel) = (Vec::new(), Vec::new(), CancelToken::new());
                start.wait();
                let begin = Instant::now();
                while begin.elapsed() < TIME {
                    let requested = Instant::now();
                    gate.inside(&cancel, || {
                        let now = Instant::now();
                        waits.push(micros(now - requested));
                        let since = released.lock().unwrap().pop_front();
                        handovers.extend(since.map(|release| micros(now.saturating_duration_since(release))));
                        thread::sleep(STEP);
                        released.lock().unwrap().push_back(Instant::now());
                    });
                    thread::sleep(STEP);
                }
                (waits, handovers)
            })
        })
        .collect();
    start.wait();
    let (mut waits, mut handovers) = (Vec::new(), Vec::new());
    for thread in threads {
        let (mut w, mut h) = thread.join().unwrap();
        waits.append(&mut w);
        handovers.append(&mut h);
    }
    let per_second = waits.len() as f64 / TIME.as_secs_f64();
    let [wait_p50, wait_p99, wait_max] = quantiles(waits);
    let [p50, p99, _] = quantiles(handovers);
    json!({
        "served_per_second": per_second.round(),
        "handover_p50": p50,
        "handover_p99": p99,
        "wait_p50": wait_p50,
        "wait_p99": wait_p99,
        "wait_max": wait_max,
        "cpu_ms": (cpu() - busy).as_millis() as u64,
    })
}

/// CPU time of 1000 waiting threads during 5 s, in milliseconds.
fn idle<G: Gate>(gate: Arc<G>) -> u64 {
    const THREADS: usize = 1000;
    let (begun, n_begun) = mpsc::channel();
    let mut threads = Vec::new();
    let spent = gate.inside(&CancelToken::new(), || {
        threads.extend((0..THREADS).map(|_| {
            let (gate, begun) = (gate.clone(), begun.clone());
            let builder = thread::Builder::new().stack_size(64 * 1024);
            let wait = move || {
                begun.send(()).unwrap();
                gate.inside(&CancelToken::new(), || ());
            };
            builder.spawn(wait).unwrap()
        }));
        n_begun.iter().take(THREADS).for_each(drop);
        // Let the last threads begin to wait.
        thread::sleep(Duration::from_millis(500));
        let before = cpu();
        thread::sleep(Duration::from_secs(5));
        cpu() - before
    });
    threads.into_iter().for_each(|it| it.join().unwrap());
    spent.as_millis() as u64
}

/// The median, the 99th percentile and the maximum.
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    [at(0.5), at(0.99), at(1.0)].map(|it| (it * 10.0).round() / 10.0)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// CPU time of this process so far. Linux reports it in units of 1/100 s.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    let ticks = |n: usize| fields[n].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(12) + ticks(13)))
}
