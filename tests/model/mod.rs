//! The models: small programs of which a checker runs thousands of schedules.
//!
//! They look at private parts of the crate. Therefore `src/lib.rs` includes this folder among its unit tests, and only
//! if it is built with the checker's locks, threads and channels:
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo test --target-dir target/shuttle --lib --no-default-features --features testing model::
//! ```
//!
//! A model says at its end what must hold, and a thread that waits for ever is found as a deadlock. What its threads
//! find they return, so that nothing panics but the model itself. For each model there are mistakes that it must
//! notice, which shows that it looks. How far away a deadline is decides what it means here: a [`soon`] one may come at
//! any moment, or not, and [`never`] is never.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

use crate::sync::fault::{self, Fault};

mod backoff;
mod breaker;
mod budget;
mod cancel;
mod mailbox;
mod oneshot;
mod pool;
mod refusal;
mod semaphore;
mod task;

/// How many schedules of each scheduler a model must stand.
const SCHEDULES: usize = 40_000;
/// The schedules are the same in every run.
const SEED: u64 = 0x74_69_6e_6b_65_78;
/// How often a schedule of the second scheduler changes its mind about who goes first, plus one.
const DEPTH: usize = 3;
/// The stack of each thread of a model, in bytes.
const STACK: usize = 0x4_0000;

/// A deadline that may come at any moment.
fn soon() -> Instant {
    Instant::now()
}

/// A deadline that does not come.
fn never() -> Instant {
    Instant::now() + Duration::from_secs(1_000_000)
}

fn random(schedules: usize) -> RandomScheduler {
    RandomScheduler::new_from_seed(SEED, schedules)
}

fn pct(schedules: usize) -> PctScheduler {
    PctScheduler::new_from_seed(SEED, DEPTH, schedules)
}

fn run(
    scheduler: impl Scheduler + 'static,
    failures: FailurePersistence,
    model: impl Fn() + Send + Sync + 'static,
) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.failure_persistence = failures;
    // The checker knows sequential consistency only, and says so.
    config.silence_warnings = true;
    // With a second panic while the first one unwinds, the process would end.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(model);
}

/// The model holds under all schedules.
fn holds(model: fn()) {
    holds_for(SCHEDULES, model);
}

/// As [`holds`], with fewer schedules, for a model that takes long.
fn holds_for(schedules: usize, model: fn()) {
    run(random(schedules), FailurePersistence::Print, model);
    run(pct(schedules), FailurePersistence::Print, model);
}

/// With the mistake, each of the schedulers finds a schedule under which the model fails.
#[track_caller]
fn notices(fault: Fault, model: fn()) {
    notices_for(SCHEDULES, fault, model);
}

/// As [`notices`], with fewer schedules.
#[track_caller]
fn notices_for(schedules: usize, fault: Fault, model: fn()) {
    let found = [first_failure(random(schedules), fault, model), first_failure(pct(schedules), fault, model)];
    println!("{fault:?} shows in schedule {found:?} (random, PCT)");
    assert!(found.iter().all(Option::is_some), "not every scheduler notices {fault:?}: {found:?}");
}

/// As [`notices`], for a mistake that shows so seldom that each scheduler needs a model of its own to find it.
#[track_caller]
fn notice(fault: Fault, by_random: fn(), by_pct: fn()) {
    let found =
        [first_failure(random(SCHEDULES), fault, by_random), first_failure(pct(SCHEDULES), fault, by_pct)];
    println!("{fault:?} shows in schedule {found:?} (random, PCT)");
    assert!(found.iter().all(Option::is_some), "not every scheduler notices {fault:?}: {found:?}");
}

/// The number of the first schedule under which the model fails.
fn first_failure(scheduler: impl Scheduler + Send + 'static, fault: Fault, model: fn()) -> Option<usize> {
    let begun = Arc::new(AtomicUsize::new(0));
    let n_begun = begun.clone();
    // A thread of its own, which the panic ends.
    let check = std::thread::spawn(move || {
        fault::choose(fault);
        run(scheduler, FailurePersistence::None, move || {
            n_begun.fetch_add(1, Ordering::Relaxed);
            model();
        });
    });
    check.join().is_err().then(|| begun.load(Ordering::Relaxed))
}
