//! The norm of each query and key before it is rotated, as Qwen3 has it, forward and backward.

use super::config::ModelConfig;
use crate::local::kernel::{simd, sum_by};
use rayon::prelude::*;

/// Number of rows that one task handles.
const TASK_ROWS: usize = 128;

/// The factors of the components of a query and of a key, `[head_dim]` each.
#[derive(Clone, Debug)]
pub(super) struct HeadNorm {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
}

impl HeadNorm {
    /// Width of what the backward pass needs of a row: queries and keys before the norm, and the inverse of the root
    /// mean square of each head.
    pub(super) fn kept(c: &ModelConfig) -> usize {
        c.q_width() + c.kv_width() + c.heads + c.kv_heads
    }

    /// The factors of each head of a row.
    fn gains<'a>(&'a self, c: &ModelConfig) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let (heads, kv_heads) = (c.heads, c.kv_heads);
        let q = std::iter::repeat_n(self.q.as_slice(), heads);
        q.chain(std::iter::repeat_n(self.k.as_slice(), kv_heads))
    }

    /// Norms the queries and keys of `[q, k, v]` rows in place. Writes what the backward pass needs to `kept`.
    pub(super) fn forward(&self, c: &ModelConfig, qkv: &mut [f32], kept: &mut [f32]) {
        let (width, normed) = (c.qkv_width(), c.q_width() + c.kv_width());
        let tasks =
            qkv.par_chunks_mut(TASK_ROWS * width).zip(kept.par_chunks_mut(TASK_ROWS * HeadNorm::kept(c)));
        tasks.for_each(|(qkv, kept)| {
            simd(
                #[inline(always)]
                || {
                    for (row, kept) in
                        qkv.chunks_exact_mut(width).zip(kept.chunks_exact_mut(HeadNorm::kept(c)))
                    {
                        let (raw, inverse) = kept.split_at_mut(normed);
                        raw.copy_from_slice(&row[..normed]);
                        self.norm(c, &mut row[..normed], inverse);
                    }
                },
            );
        });
    }

    /// Norms the queries and keys of a row in place, and writes the inverse of the root mean square of each head.
    #[inline(always)]
    pub(super) fn norm(&self, c: &ModelConfig, row: &mut [f32], inverse: &mut [f32]) {
        let d = c.head_dim;
        for ((head, inverse), gain) in row.chunks_exact_mut(d).zip(inverse).zip(self.gains(c)) {
            *inverse = 1.0 / (sum_by(head, |v| v * v) / d as f32 + c.norm_eps).sqrt();
            for (v, gain) in head.iter_mut().zip(gain) {
                *v *= *inverse * gain;
            }
        }
    }

    /// Replaces the gradient with respect to the normed queries and keys by that with respect to those before the norm.
    pub(super) fn backward(&self, c: &ModelConfig, kept: &[f32], dqkv: &mut [f32]) {
        let (width, normed, d) = (c.qkv_width(), c.q_width() + c.kv_width(), c.head_dim);
        let tasks =
            dqkv.par_chunks_mut(TASK_ROWS * width).zip(kept.par_chunks(TASK_ROWS * HeadNorm::kept(c)));
        tasks.for_each(|(dqkv, kept)| {
            simd(
                #[inline(always)]
                || {
                    for (row, kept) in dqkv.chunks_exact_mut(width).zip(kept.chunks_exact(HeadNorm::kept(c)))
                    {
                        let (raw, inverse) = kept.split_at(normed);
                        let heads = row[..normed].chunks_exact_mut(d).zip(raw.chunks_exact(d));
                        for (((dy, x), &inverse), gain) in heads.zip(inverse).zip(self.gains(c)) {
                            let mut along = 0.0;
                            for ((dy, x), gain) in dy.iter().zip(x).zip(gain) {
                                along += dy * x * gain;
                            }
                            let along = along * inverse * inverse * inverse / d as f32;
                            for ((dy, x), gain) in dy.iter_mut().zip(x).zip(gain) {
                                *dy = *dy * gain * inverse - x * along;
                            }
                        }
                    }
                },
            );
        });
    }
}
