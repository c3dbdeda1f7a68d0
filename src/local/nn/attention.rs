//! Causal grouped-query attention over packed sequences, in blocks of rows.
//!
//! A block of query rows is multiplied only with the positions up to its last one (its causal prefix). The forward pass
//! keeps the logarithm of each row's softmax denominator, from which the backward pass recomputes the probabilities. So
//! no matrix of sequence length × sequence length is ever stored.

use super::config::ModelConfig;
use super::ops::{head_dots, rotate};
use super::weights::Weights;
use crate::local::kernel::{Mat, MatMut, exp, exp_sum, matmul_here, max, simd};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Number of query rows in one product: the positions of a block times the query heads that share one key head.
const BLOCK_ROWS: usize = 128;

/// Number of positions in one block.
fn block_len(c: &ModelConfig) -> usize {
    (BLOCK_ROWS / c.group()).max(1)
}

thread_local! {
    /// Scratch memory of one block. Each thread keeps its own for the next block, because fetching fresh memory from
    /// the system costs more than the arithmetic.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `body` with scratch buffers of these lengths. Their content is arbitrary.
fn with_scratch<const N: usize>(lengths: [usize; N], body: impl FnOnce([&mut [f32]; N])) {
    let mut buffer = SCRATCH.take();
    let total = lengths.iter().sum();
    if buffer.len() < total {
        buffer.resize(total, 0.0);
    }
    let mut rest = buffer.as_mut_slice();
    body(lengths.map(|len| split(&mut rest, len)));
    SCRATCH.set(buffer);
}

/// Splits off the first `len` elements of a mutable slice.
fn split<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (first, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    first
}

/// Computes the attention within each sequence. `qkv` holds `[q, k, v]` rows, with queries and keys already rotated by
/// their positions. Writes the weighted sums of the values to `out`, `[rows, heads·head_dim]`, and the logarithm of
/// each softmax denominator to `log_sum`, `[rows, heads]`.
pub(super) fn attention(
    c: &ModelConfig,
    sequences: &[Range<usize>],
    qkv: &[f32],
    out: &mut [f32],
    log_sum: &mut [f32],
) {
    let (width, q_width, d, group) = (c.qkv_width(), c.q_width(), c.head_dim, c.group());
    let scale = 1.0 / (d as f32).sqrt();
    let (mut out, mut log_sum) = (out, log_sum);
    let mut tasks = Vec::new();
    for sequence in sequences {
        let rows = &qkv[sequence.start * width..sequence.end * width];
        for start in (0..sequence.len()).step_by(block_len(c)) {
            let block = start..sequence.len().min(start + block_len(c));
            let out = split(&mut out, block.len() * q_width);
            let log_sum = split(&mut log_sum, block.len() * c.heads);
            tasks.push((rows, block, out, log_sum));
        }
    }
    tasks.into_par_iter().for_each(|(rows, block, out, log_sum)| {
        let (count, prefix) = (block.len() * group, block.end);
        with_scratch([count * prefix, count * d, count * d, count], |[scores, q, mixed, factors]| {
            for kv in 0..c.kv_heads {
                stack(&rows[block.start * width + kv * group * d..], width, group * d, q);
                let (k, v) = keys_and_values(c, rows, kv, prefix);
                matmul_here(MatMut::new(scores, count, prefix), 0.0, Mat::new(q, count, d), k.t(), scale);
                simd(
                    #[inline(always)]
                    || {
                        for (i, row) in scores.chunks_exact_mut(prefix).enumerate() {
                            let (seen, hidden) = row.split_at_mut(block.start + i / group + 1);
                            let top = max(seen);
                            let sum = exp_sum(seen, top);
                            hidden.fill(0.0);
                            log_sum[i / group * c.heads + kv * group + i % group] = top + sum.ln();
                            factors[i] = 1.0 / sum;
                        }
                    },
                );
                let scores = Mat::new(scores, count, prefix);
                matmul_here(MatMut::new(mixed, count, d), 0.0, scores, v, 1.0);
                for (i, (head, factor)) in mixed.chunks_exact(d).zip(&*factors).enumerate() {
                    let at = i / group * q_width + (kv * group + i % group) * d;
                    for (slot, &v) in out[at..][..d].iter_mut().zip(head) {
                        *slot = v * *factor;
                    }
                }
            }
        });
    });
}

/// Copies the first `len` columns of rows that start `width` elements apart, until `out` is full. For the query heads
/// of one key head this gives a matrix with one row for each position and head.
fn stack(rows: &[f32], width: usize, len: usize, out: &mut [f32]) {
    for (out, row) in out.chunks_exact_mut(len).zip(rows.chunks(width)) {
        out.copy_from_slice(&row[..len]);
    }
}

/// The keys and values of one head for the first `prefix` positions of a sequence.
fn keys_and_values<'a>(c: &ModelConfig, rows: &'a [f32], kv: usize, prefix: usize) -> (Mat<'a>, Mat<'a>) {
    let at = c.q_width() + kv * c.head_dim;
    let k = Mat::strided(&rows[at..], prefix, c.head_dim, c.qkv_width());
    let v = Mat::strided(&rows[at + c.kv_width()..], prefix, c.head_dim, c.qkv_width());
    (k, v)
}

/// Input of the backward pass of [`attention`].
#[derive(Debug)]
pub(super) struct Backward<'a> {
    pub(super) weights: &'a Weights,
    pub(super) sequences: &'a [Range<usize>],
    pub(super) positions: &'a [u32],
    pub(super) qkv: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) log_sum: &'a [f32],
    pub(super) dout: &'a [f32],
}

impl Backward<'_> {
    /// Writes the gradient with respect to the unrotated `[q, k, v]` rows to `dqkv`. `by_head` is scratch of the same
    /// size, and `along` is scratch with one element for each row and head.
    pub(super) fn run(&self, dqkv: &mut [f32], by_head: &mut [f32], along: &mut [f32]) {
        let c = &self.weights.config;
        let (d, group) = (c.head_dim, c.group());
        head_dots(self.out, self.dout, d, along);
        let along = &*along;
        // Each task computes one key head of one sequence, with all query heads that share it, so that the sums over
        // row blocks always have the same order. The results of a task are contiguous: [positions][group][head_dim] of
        // queries, then [positions][head_dim] of keys, then of values.
        let mut rest = &mut *by_head;
        let mut tasks = Vec::new();
        for sequence in self.sequences {
            for kv in 0..c.kv_heads {
                tasks.push((sequence, kv, split(&mut rest, sequence.len() * (group + 2) * d)));
            }
        }
        tasks.into_par_iter().for_each(|(sequence, kv, result)| {
            let (dq, dkv) = result.split_at_mut(sequence.len() * group * d);
            let (dk, dv) = dkv.split_at_mut(sequence.len() * d);
            self.key_head(sequence, kv, along, dq, dk, dv);
        });
        self.gather(dqkv, by_head);
    }

    fn key_head(
        &self,
        sequence: &Range<usize>,
        kv: usize,
        along: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let c = &self.weights.config;
        let (width, q_width, d, group) = (c.qkv_width(), c.q_width(), c.head_dim, c.group());
        let scale = 1.0 / (d as f32).sqrt();
        let rows = &self.qkv[sequence.start * width..sequence.end * width];
        dk.fill(0.0);
        dv.fill(0.0);
        for start in (0..sequence.len()).step_by(block_len(c)) {
            let block = start..sequence.len().min(start + block_len(c));
            let (count, prefix) = (block.len() * group, block.end);
            let first = sequence.start + start;
            let log_sum = &self.log_sum[first * c.heads..][..block.len() * c.heads];
            let along = &along[first * c.heads..][..block.len() * c.heads];
            let scratch = [count * prefix, count * prefix, count * d, count * d];
            with_scratch(scratch, |[probs, dscores, q, dout]| {
                stack(&rows[start * width + kv * group * d..], width, group * d, q);
                stack(&self.dout[first * q_width + kv * group * d..], q_width, group * d, dout);
                let (q, dout) = (Mat::new(q, count, d), Mat::new(dout, count, d));
                let (k, v) = keys_and_values(c, rows, kv, prefix);
                matmul_here(MatMut::new(probs, count, prefix), 0.0, q, k.t(), scale);
                matmul_here(MatMut::new(dscores, count, prefix), 0.0, dout, v.t(), 1.0);
                simd(
                    #[inline(always)]
                    || {
                        let pairs = probs.chunks_exact_mut(prefix).zip(dscores.chunks_exact_mut(prefix));
                        for (i, (p, dp)) in pairs.enumerate() {
                            let head = i / group * c.heads + kv * group + i % group;
                            let (log_sum, along) = (log_sum[head], along[head]);
                            let seen = start + i / group + 1;
                            for (p, dp) in p[..seen].iter_mut().zip(&mut dp[..seen]) {
                                *p = exp(*p - log_sum);
                                *dp = *p * (*dp - along) * scale;
                            }
                            p[seen..].fill(0.0);
                            dp[seen..].fill(0.0);
                        }
                    },
                );
                let (probs, dscores) = (Mat::new(probs, count, prefix), Mat::new(dscores, count, prefix));
                let dq = &mut dq[start * group * d..][..count * d];
                matmul_here(MatMut::new(dq, count, d), 0.0, dscores, k, 1.0);
                matmul_here(MatMut::new(dk, prefix, d), 1.0, dscores.t(), q, 1.0);
                matmul_here(MatMut::new(dv, prefix, d), 1.0, probs.t(), dout, 1.0);
            });
        }
    }

    /// Copies the gradients that the tasks computed into `[q, k, v]` rows, and undoes the rotation of the gradients of
    /// queries and keys.
    fn gather(&self, dqkv: &mut [f32], by_head: &[f32]) {
        let c = &self.weights.config;
        let (width, d, group) = (c.qkv_width(), c.head_dim, c.group());
        let mut rest = dqkv;
        let mut tasks = Vec::new();
        for sequence in self.sequences {
            let source = &by_head[sequence.start * width..sequence.end * width];
            tasks.push((source, sequence, split(&mut rest, sequence.len() * width)));
        }
        tasks.into_par_iter().for_each(|(source, sequence, rows)| {
            let len = sequence.len();
            simd(
                #[inline(always)]
                || {
                    for (t, row) in rows.chunks_exact_mut(width).enumerate() {
                        let table = self.weights.rope(self.positions[sequence.start + t] as usize);
                        let (q, rest) = row.split_at_mut(c.q_width());
                        let (k, v) = rest.split_at_mut(c.kv_width());
                        for kv in 0..c.kv_heads {
                            let task = &source[kv * len * (group + 2) * d..][..len * (group + 2) * d];
                            let (dq, dkv) = task.split_at(len * group * d);
                            let (dk, dv) = dkv.split_at(len * d);
                            let at = kv * d;
                            q[at * group..][..group * d].copy_from_slice(&dq[t * group * d..][..group * d]);
                            k[at..][..d].copy_from_slice(&dk[t * d..][..d]);
                            v[at..][..d].copy_from_slice(&dv[t * d..][..d]);
                        }
                        q.chunks_exact_mut(d).for_each(|head| rotate(head, table, -1.0));
                        k.chunks_exact_mut(d).for_each(|head| rotate(head, table, -1.0));
                    }
                },
            );
        });
    }
}
