//! Two threads that compute the products of a decoding step together. Each reads only its half of the weights, the same
//! half in every step, so that the weights of a small model stay in the second caches of two cores. The products take
//! about a microsecond each, so the threads wait for each other without sleeping.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

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
            // It fails if the step has ended meanwhile by a panic.
            if self.state.compare_exchange(TAKEN, DONE, Ordering::AcqRel, Ordering::Acquire).is_err() {
                return;
            }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::config::ModelConfig;
    use super::super::weights::Weights;
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn packed() -> Packed {
        Packed::of_matrix(Weights::seeded(&ModelConfig::nano(), 1).head())
    }

    #[test]
    fn a_team_computes_the_bits_of_one_thread() {
        let packed = packed();
        let (inputs, outputs) = (128, packed.outputs());
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (rows, keep) in [(1, false), (1, true), (5, false), (5, true)] {
                let x: Vec<f32> = (0..rows * inputs).map(|i| (i % 13) as f32 - 6.0).collect();
                let mut alone = vec![1.0; rows * outputs];
                packed.product(0..outputs, rows, &x, &mut alone, outputs, keep);
                let repeats = AtomicUsize::new(0);
                pool.install(|| {
                    Team::run(|team| {
                        for _ in 0..200 {
                            let mut dst = vec![1.0; rows * outputs];
                            team.product(&packed, rows, &x, &mut dst, keep);
                            assert_eq!(dst, alone);
                            repeats.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
                assert_eq!(repeats.into_inner(), 200);
            }
        }
    }

    #[test]
    fn a_step_that_panics_ends_the_help() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let step = || pool.install(|| Team::run(|_| panic!("a step that fails")));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
        assert!(failed.is_err());
        assert_eq!(pool.install(|| rayon::join(|| 1, || 2)), (1, 2));
    }
}
