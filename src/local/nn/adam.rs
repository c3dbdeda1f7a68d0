//! AdamW.

use crate::local::kernel::{simd, sum_by};
use rayon::prelude::*;

/// Elements that one task of a step handles.
const CHUNK: usize = 1 << 14;

/// The settings of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Adam {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled decay: parameters shrink by this times the learning rate.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; zero or less for no limit.
    pub grad_clip_norm: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-12,
            weight_decay: 0.0,
            grad_clip_norm: 0.0,
        }
    }
}

/// What a step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepOutput {
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Number of steps taken, this one included.
    pub step: u64,
}

impl Adam {
    /// Takes step number `step` (counted from 1) on flat parameters.
    pub(super) fn step(
        &self,
        step: u64,
        params: &mut [f32],
        grads: &[f32],
        exp_avg: &mut [f32],
        exp_avg_sq: &mut [f32],
    ) -> StepOutput {
        let grad_norm = norm(grads);
        let clips = self.grad_clip_norm > 0.0 && grad_norm > self.grad_clip_norm;
        let factor = if clips { (self.grad_clip_norm / grad_norm) as f32 } else { 1.0 };
        let correct = |beta: f64| 1.0 - beta.powf(step as f64);
        let keep = (1.0 - self.learning_rate * self.weight_decay) as f32;
        let size = (self.learning_rate / correct(self.beta1)) as f32;
        let root = (1.0 / correct(self.beta2).sqrt()) as f32;
        let (beta1, beta2, eps) = (self.beta1 as f32, self.beta2 as f32, self.eps as f32);
        let (rest1, rest2) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32);
        let tasks = params
            .par_chunks_mut(CHUNK)
            .zip(grads.par_chunks(CHUNK))
            .zip(exp_avg.par_chunks_mut(CHUNK).zip(exp_avg_sq.par_chunks_mut(CHUNK)));
        tasks.for_each(|((params, grads), (m, v))| {
            simd(
                #[inline(always)]
                || {
                    for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(m.iter_mut()).zip(v.iter_mut())
                    {
                        let g = g * factor;
                        *m = beta1 * *m + rest1 * g;
                        *v = beta2 * *v + rest2 * (g * g);
                        *p = keep * *p - size * *m / (v.sqrt() * root + eps);
                    }
                },
            );
        });
        StepOutput { grad_norm, step }
    }
}

/// The Euclidean norm, summed in fixed chunks.
fn norm(values: &[f32]) -> f64 {
    let square = |part: &[f32]| {
        simd(
            #[inline(always)]
            || f64::from(sum_by(part, |v| v * v)),
        )
    };
    let parts: Vec<f64> = values.par_chunks(1024).map(square).collect();
    parts.iter().sum::<f64>().sqrt()
}
