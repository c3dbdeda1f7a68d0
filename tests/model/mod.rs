//! Models: small programs with several threads that the model checker `shuttle` runs under thousands of thread
//! schedules.
//!
//! Models use private items of the crate, so `src/lib.rs` includes this folder as a module of the unit tests. It does
//! so only with `--cfg shuttle`, which also replaces the locks, threads and channels of the crate by those of the
//! checker:
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo test --target-dir target/shuttle --lib --no-default-features --features testing model::
//! ```
//!
//! A model is a function. It starts threads, which mostly return what they observe, and checks these values with
//! assertions at its end. The checker reports a thread that waits forever as a deadlock.
//!
//! Each test checks that a model passes ([`holds`]) and, in nearly all tests, that the same model fails if the crate
//! makes a deliberate mistake, a [`Fault`] ([`notices`]). Otherwise a model that checks nothing would pass, too.
//!
//! The checker has no clock. A deadline from [`soon`] passes at a random moment of the schedule or not at all; a
//! deadline from [`never`] never passes.
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

/// Number of schedules for each of the two schedulers.
const SCHEDULES: usize = 40_000;
/// Fixed seed of the schedulers, so that every run has the same schedules.
const SEED: u64 = 0x74_69_6e_6b_65_78;
/// Depth of the PCT scheduler, which always runs the thread with the highest priority: the number of priority changes
/// in a schedule, plus one.
const DEPTH: usize = 3;
/// Stack size of each thread of a model, in bytes.
const STACK: usize = 0x4_0000;

/// A deadline that may pass at any moment of a schedule.
fn soon() -> Instant {
    Instant::now()
}

/// A deadline that never passes.
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
    // Silences the checker's warning that it runs all atomics with sequential consistency.
    config.silence_warnings = true;
    // Stop the check at the first panic: a second panic during its unwinding would abort the process.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(model);
}

/// Checks that the model passes under all schedules of both schedulers.
fn holds(model: fn()) {
    holds_for(SCHEDULES, model);
}

/// As [`holds`], with another number of schedules: fewer for slow models.
fn holds_for(schedules: usize, model: fn()) {
    run(random(schedules), FailurePersistence::Print, model);
    run(pct(schedules), FailurePersistence::Print, model);
}

/// Checks that the model fails with the fault, under at least one schedule of each scheduler.
#[track_caller]
fn notices(fault: Fault, model: fn()) {
    notices_for(SCHEDULES, fault, model);
}

/// As [`notices`], with another number of schedules.
#[track_caller]
fn notices_for(schedules: usize, fault: Fault, model: fn()) {
    let found = [first_failure(random(schedules), fault, model), first_failure(pct(schedules), fault, model)];
    println!("{fault:?} shows in schedule {found:?} (random, PCT)");
    assert!(found.iter().all(Option::is_some), "not every scheduler notices {fault:?}: {found:?}");
}

/// As [`notices`], with a different model for each scheduler. For a fault that is too rare for one model to show it
/// under both schedulers.
#[track_caller]
fn notice(fault: Fault, by_random: fn(), by_pct: fn()) {
    let found =
        [first_failure(random(SCHEDULES), fault, by_random), first_failure(pct(SCHEDULES), fault, by_pct)];
    println!("{fault:?} shows in schedule {found:?} (random, PCT)");
    assert!(found.iter().all(Option::is_some), "not every scheduler notices {fault:?}: {found:?}");
}

/// Number of the first schedule under which the model fails, from 1. `None` if it passes under all schedules.
fn first_failure(scheduler: impl Scheduler + Send + 'static, fault: Fault, model: fn()) -> Option<usize> {
    let begun = Arc::new(AtomicUsize::new(0));
    let n_begun = begun.clone();
    // On a separate thread: a failing model panics, which ends the thread, and the fault is chosen for this thread
    // only.
    let check = std::thread::spawn(move || {
        fault::choose(fault);
        run(scheduler, FailurePersistence::None, move || {
            n_begun.fetch_add(1, Ordering::Relaxed);
            model();
        });
    });
    check.join().is_err().then(|| begun.load(Ordering::Relaxed))
}
