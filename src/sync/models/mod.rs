//! The models: small programs of which the checker runs thousands of schedules.
//!
//! `RUSTFLAGS='--cfg shuttle' cargo test --lib --features testing --target-dir target/shuttle -- models`
//!
//! A model says at its end what must hold, and a thread that waits for ever is found as a deadlock. For each model
//! there are mistakes that it must notice.
#![allow(clippy::unwrap_used)]

use std::panic::{self, AssertUnwindSafe};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

use super::fault::{self, Fault};

mod budget;
mod channel;
mod gate;
mod mailbox;
mod oneshot;
mod policy;
mod pool;
pub(super) mod primitives;

/// How many schedules of each scheduler a model must stand.
const SCHEDULES: usize = 10_000;
/// The schedules are the same in every run.
const SEED: u64 = 0x74_69_6e_6b_65_78;
/// How often a schedule of the second scheduler changes its mind about who goes first.
const DEPTH: usize = 3;

fn run(scheduler: impl Scheduler + 'static, failures: FailurePersistence, model: fn()) {
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    config.failure_persistence = failures;
    Runner::new(scheduler, config).run(model);
}

/// The model holds under all schedules.
fn holds(model: fn()) {
    run(RandomScheduler::new_from_seed(SEED, SCHEDULES), FailurePersistence::Print, model);
    run(PctScheduler::new_from_seed(SEED, DEPTH, SCHEDULES), FailurePersistence::Print, model);
}

/// With the mistake, the checker finds a schedule under which the model fails.
#[track_caller]
fn notices(fault: Fault, model: fn()) {
    let found = fault::with(fault, || {
        let random = RandomScheduler::new_from_seed(SEED, SCHEDULES);
        let pct = PctScheduler::new_from_seed(SEED, DEPTH, SCHEDULES);
        fails(|| run(random, FailurePersistence::None, model))
            || fails(|| run(pct, FailurePersistence::None, model))
    });
    assert!(found, "no schedule shows the mistake {fault:?}");
}

fn fails(f: impl FnOnce()) -> bool {
    panic::catch_unwind(AssertUnwindSafe(f)).is_err()
}
