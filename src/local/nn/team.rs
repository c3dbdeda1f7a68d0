//! Two threads that compute the products of a decoding step together. Each reads only its half of the weights, the same
//! half in every step, so that the weights of a small model stay in the second caches of two cores. The products take
//! about a microsecond each, so the threads wait for each other without sleeping.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::decode::Packed;

/// Rounds of a wait after which the thread lets others run.
const SPINS: u32 = 2000;

/// No product waits for the helper.
const NONE: u8 = 0;
/// The helper may take the product.
const OFFERED: u8 = 1;
/// The helper computes.
const TAKEN: u8 = 2;
/// The helper has computed its half.
const DONE: u8 = 3;
/// The helper has panicked.
const FAILED: u8 = 4;
/// The step is over.
const ENDED: u8 = 5;

/// Runs `step`, which has many short tasks for the current rayon pool, while a thread of the pool looks for them without
/// sleeping: waking it for each would take longer than the tasks.
pub(super) fn attended(step: impl FnOnce() + Send) {
    let over = AtomicBool::new(false);
    let leader = || {
        let _guard = OnDrop(|| over.store(true, Ordering::Release));
        step();
    };
    let helper = || {
        let mut wait = Wait::default();
        while !over.load(Ordering::Acquire) {
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => wait = Wait::default(),
                _ => wait.round(),
            }
        }
    };
    rayon::join(leader, helper);
}

/// What the thread of the step and its helper share during a step.
#[derive(Debug)]
pub(super) struct Team<'a> {
    state: AtomicU8,
    job: Mutex<Job<'a>>,
}

/// The second half of a product.
#[derive(Debug, Default)]
struct Job<'a> {
    packed: Option<&'a Packed>,
    rows: usize,
    x: Vec<f32>,
    /// The results, `[rows, outputs of the half]`.
    out: Vec<f32>,
}

impl<'a> Team<'a> {
    /// Runs `step` on this thread, with the help of another thread of the current rayon pool if one is free.
    pub(super) fn run(step: impl FnOnce(&Team<'a>) + Send) {
        let team = Team { state: AtomicU8::new(NONE), job: Mutex::default() };
        let leader = || {
            let _guard = OnDrop(|| team.state.store(ENDED, Ordering::Release));
            step(&team);
        };
        rayon::join(leader, || team.help());
    }

    /// `dst = W·x` for `rows` rows; with `keep`, the product is added to `dst`. The helper computes the second half; if it
    /// has not begun with it in time, this thread computes both.
    pub(super) fn product(&self, packed: &'a Packed, rows: usize, x: &[f32], dst: &mut [f32], keep: bool) {
        let [own, other] = packed.halves();
        if other.is_empty() {
            return packed.product(own, rows, x, dst, packed.outputs(), keep);
        }
        {
            let mut job = self.job.lock();
            job.packed = Some(packed);
            job.rows = rows;
            job.x.clear();
            job.x.extend_from_slice(x);
        }
        self.state.store(OFFERED, Ordering::Release);
        packed.product(own, rows, x, dst, packed.outputs(), keep);
        let take =
            |from| self.state.compare_exchange(from, NONE, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let mut wait = Wait::default();
        loop {
            if take(OFFERED) || self.state.load(Ordering::Acquire) == FAILED {
                let dst = &mut dst[other.start..];
                return packed.product(other, rows, x, dst, packed.outputs(), keep);
            }
            if take(DONE) {
                break;
            }
            wait.round();
        }
        let job = self.job.lock();
        for (from, to) in job.out.chunks_exact(other.len()).zip(dst.chunks_exact_mut(packed.outputs())) {
            let to = &mut to[other.clone()];
            if keep {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            } else {
                to.copy_from_slice(from);
            }
        }
    }

    /// Computes the halves that are offered until the step is over.
    fn help(&self) {
        let mut wait = Wait::default();
        loop {
            match self.state.compare_exchange(OFFERED, TAKEN, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {}
                Err(ENDED) => return,
                Err(_) => {
                    wait.round();
                    continue;
                }
            }
            wait = Wait::default();
            let failed = OnDrop(|| self.state.store(FAILED, Ordering::Release));
            let mut job = self.job.lock();
            let Job { packed, rows, x, out } = &mut *job;
            if let Some(packed) = packed {
                let [_, half] = packed.halves();
                let width = half.len();
                out.resize(*rows * width, 0.0);
                packed.product(half, *rows, x, out, width, false);
            }
            drop(job);
            std::mem::forget(failed);
            self.state.store(DONE, Ordering::Release);
        }
    }
}

/// A wait for the other thread.
#[derive(Default)]
struct Wait(u32);

impl Wait {
    fn round(&mut self) {
        self.0 += 1;
        if self.0 < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Calls a closure when it is dropped, even by a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
