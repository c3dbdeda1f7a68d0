//! The optimizer AdamW.

use crate::local::kernel::{simd, sum_by};
use crate::types::AdamParams;
use rayon::prelude::*;

/// Number of parameters that one task of a step handles.
const CHUNK: usize = 1 << 14;

/// Settings of one AdamW step. A step computes with 64-bit floats: as 32-bit floats a very small `eps` would be zero,
/// and a beta close to one would be one.
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
    /// Weight decay: each step multiplies the parameters by `1 − learning_rate · weight_decay`.
    pub weight_decay: f64,
    /// If the norm of all gradients together is larger than this, the gradients are scaled down to it; zero or less for
    /// no limit.
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

/// Result of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepOutput {
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Number of steps taken, this one included.
    pub step: u64,
}

impl Adam {
    /// The settings of a request.
    ///
    /// # Errors
    /// A setting is out of its range; the text names the setting.
    pub(crate) fn read(params: &AdamParams) -> Result<Adam, String> {
        params.validate().map_err(|it| it.to_string())?;
        // With 0, the step of a parameter that never had a gradient would be 0 / 0.
        if params.eps == 0.0 {
            return Err("adam_params.eps: must be above 0".into());
        }
        let sizes = [
            ("learning_rate", params.learning_rate),
            ("eps", params.eps),
            ("weight_decay", params.weight_decay),
            ("grad_clip_norm", params.grad_clip_norm),
        ];
        let max = f64::from(f32::MAX);
        if let Some((name, value)) = sizes.into_iter().find(|it| max < it.1.abs()) {
            let problem = format!("must be at most {max:e}, the largest 32-bit float, is {value:e}");
            return Err(format!("adam_params.{name}: {problem}"));
        }
        // Gradients that are scaled down to a smaller norm cannot be stored in the running means, which are 32-bit
        // floats.
        let least = f64::from(f32::MIN_POSITIVE);
        if 0.0 < params.grad_clip_norm && params.grad_clip_norm < least {
            let problem = format!("must be 0 (off) or at least {least:e}, is {:e}", params.grad_clip_norm);
            return Err(format!("adam_params.grad_clip_norm: {problem}"));
        }
        Ok(Adam {
            learning_rate: params.learning_rate,
            beta1: params.beta1,
            beta2: params.beta2,
            eps: params.eps,
            weight_decay: params.weight_decay,
            grad_clip_norm: params.grad_clip_norm,
        })
    }

    /// Applies step number `step` (counted from 1) to flat parameters.
    ///
    /// # Errors
    /// The gradients or the results are not finite. Then nothing has changed.
    pub(super) fn step(
        &self,
        step: u64,
        params: &mut [f32],
        grads: &[f32],
        exp_avg: &mut [f32],
        exp_avg_sq: &mut [f32],
    ) -> Result<StepOutput, String> {
        let grad_norm = norm(grads);
        if !grad_norm.is_finite() {
            return Err(format!("the gradients are not finite numbers (their norm is {grad_norm})"));
        }
        let update = self.update(step, grad_norm);
        // Check all results before writing any, so that a failed step changes nothing.
        let finite = params
            .par_chunks(CHUNK)
            .zip(grads.par_chunks(CHUNK))
            .zip(exp_avg.par_chunks(CHUNK).zip(exp_avg_sq.par_chunks(CHUNK)))
            .all(|((params, grads), (m, v))| {
                simd(
                    #[inline(always)]
                    || {
                        let all = params.iter().zip(grads).zip(m).zip(v);
                        all.fold(true, |fine, (((&p, &g), &m), &v)| {
                            let [p, m, v] = update.of(p, g, m, v);
                            fine & p.is_finite() & m.is_finite() & v.is_finite()
                        })
                    },
                )
            });
        if !finite {
            return Err(format!(
                "the step would make weights or moments that are not finite numbers (the norm of the gradients is \
                 {grad_norm:e}, the learning rate {:e})",
                self.learning_rate
            ));
        }
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
                        [*p, *m, *v] = update.of(*p, g, *m, *v);
                    }
                },
            );
        });
        Ok(StepOutput { grad_norm, step })
    }

    fn update(&self, step: u64, grad_norm: f64) -> Update {
        let clips = self.grad_clip_norm > 0.0 && grad_norm > self.grad_clip_norm;
        let correct = |beta: f64| 1.0 - beta.powf(step as f64);
        Update {
            factor: if clips { self.grad_clip_norm / grad_norm } else { 1.0 },
            keep: 1.0 - self.learning_rate * self.weight_decay,
            size: self.learning_rate / correct(self.beta1),
            root: 1.0 / correct(self.beta2).sqrt(),
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
        }
    }
}

/// Coefficients of one step, the same for every parameter.
#[derive(Clone, Copy)]
struct Update {
    /// Factor of the gradient, from clipping.
    factor: f64,
    /// Factor of the parameter, from weight decay.
    keep: f64,
    /// The step size, with the bias correction of the first mean.
    size: f64,
    /// Factor of the root of the second mean: its bias correction.
    root: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
}

impl Update {
    /// New values of a parameter and its two running means, from the old ones and its gradient.
    #[inline(always)]
    fn of(&self, p: f32, g: f32, m: f32, v: f32) -> [f32; 3] {
        let g = f64::from(g) * self.factor;
        let m = self.beta1 * f64::from(m) + (1.0 - self.beta1) * g;
        let v = self.beta2 * f64::from(v) + (1.0 - self.beta2) * (g * g);
        let p = self.keep * f64::from(p) - self.size * m / (v.sqrt() * self.root + self.eps);
        let stored = v as f32;
        // Do not round a small mean to zero: the next step would then divide by `eps` alone. Store the smallest
        // positive float instead.
        let stored = if stored == 0.0 && v > 0.0 { f32::from_bits(1) } else { stored };
        [p as f32, m as f32, stored]
    }
}

/// The Euclidean norm. It is summed in fixed chunks, so that it does not depend on the number of threads.
fn norm(values: &[f32]) -> f64 {
    let square = |part: &[f32]| {
        let sum = simd(
            #[inline(always)]
            || sum_by(part, |v| v * v),
        );
        // As 32-bit floats, the squares of large values overflow and those of small values become zero: sum these with
        // 64-bit floats.
        if sum.is_finite() && 1e-20 < sum {
            f64::from(sum)
        } else {
            part.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
        }
    };
    let parts: Vec<f64> = values.par_chunks(1024).map(square).collect();
    parts.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    /// Applies steps to one parameter that starts at 1.
    fn steps(adam: &Adam, grads: &[f32]) -> Vec<f32> {
        let (mut p, mut m, mut v) = ([1.0f32], [0.0f32], [0.0f32]);
        let mut seen = Vec::new();
        for (step, g) in (1..).zip(grads) {
            adam.step(step, &mut p, &[*g], &mut m, &mut v).expect("a step");
            seen.push(p[0]);
        }
        seen
    }

    #[test]
    fn settings_beyond_the_range_of_32_bit_floats_take_effect() {
        let adam = |change: fn(&mut Adam)| {
            let mut adam = Adam { learning_rate: 0.5, ..Adam::default() };
            change(&mut adam);
            adam
        };
        // A parameter without gradients does not change, even if the denominator is tiny.
        assert_eq!(steps(&adam(|it| it.eps = 1e-46), &[0.0, 0.0]), [1.0, 1.0]);
        assert_eq!(steps(&adam(|it| it.eps = 1e-46), &[1.0]), [0.5]);
        assert_eq!(steps(&adam(|it| it.learning_rate = 1e-60), &[1.0]), [1.0]);
        // Because of the bias correction, the first step has its full size even if the running mean changes very
        // slowly.
        assert_eq!(steps(&adam(|it| it.beta1 = 1.0 - 1e-12), &[1.0]), [0.5]);
        let clipped = steps(&adam(|it| (it.grad_clip_norm, it.eps) = (1e-60, 1e-100)), &[3.0]);
        assert_eq!(clipped, [0.5]);
        // The square of the first gradient is too small to be stored as a 32-bit float.
        let tiny = steps(&adam(|it| it.eps = 1e-300), &[1e-25, 0.0]);
        assert!(tiny[0] == 0.5 && tiny[1].abs() < 1.0, "{tiny:?}");
    }

    #[test]
    fn a_setting_out_of_range_is_refused_with_its_name() {
        let refused = |change: fn(&mut AdamParams)| {
            let mut params = AdamParams::default();
            change(&mut params);
            Adam::read(&params).expect_err("a refusal")
        };
        assert!(
            refused(|it| it.learning_rate = 1e39).starts_with("adam_params.learning_rate: must be at most")
        );
        assert!(refused(|it| it.weight_decay = 1e39).starts_with("adam_params.weight_decay: "));
        assert!(refused(|it| it.eps = 1e39).starts_with("adam_params.eps: "));
        assert!(refused(|it| it.eps = 0.0).starts_with("adam_params.eps: "));
        assert!(refused(|it| it.grad_clip_norm = 1e39).starts_with("adam_params.grad_clip_norm: "));
        assert!(refused(|it| it.grad_clip_norm = 1e-46).starts_with("adam_params.grad_clip_norm: "));
        assert!(refused(|it| it.beta1 = 1.0).contains("adam_params.beta1"));
    }

    #[test]
    fn the_norm_of_huge_and_of_tiny_gradients_is_right() {
        for size in [1e30f32, 1e-30, 1.0] {
            let norm = norm(&[3.0 * size, 4.0 * size]);
            assert!((norm / f64::from(size) - 5.0).abs() < 1e-5, "{size} {norm}");
        }
        assert_eq!(norm(&[0.0; 4]), 0.0);
        assert!(!norm(&[f32::INFINITY]).is_finite() && !norm(&[f32::NAN]).is_finite());
    }

    #[test]
    fn a_step_that_would_not_be_finite_changes_nothing() {
        let big = Adam { learning_rate: 1e38, ..Adam::default() };
        // In the first case a weight overflows, in the second the square of a gradient.
        for (adam, grads) in [(big, [1.0f32, 1.0]), (Adam::default(), [1.0, 1e25])] {
            let before = ([1.0f32, -3e38], [0.5f32, 0.5], [0.25f32, 0.25]);
            let (mut p, mut m, mut v) = before;
            let error = adam.step(7, &mut p, &grads, &mut m, &mut v).expect_err("a refusal");
            assert!(error.contains("norm of the gradients is"), "{error}");
            assert_eq!((p, m, v), before);
        }
        let error = Adam::default().step(1, &mut [1.0], &[f32::INFINITY], &mut [0.0], &mut [0.0]);
        assert!(error.expect_err("a refusal").contains("their norm is inf"));
    }
}
