//! Causal grouped-query attention over packed sequences, in blocks of rows.
//!
//! A block of rows is multiplied with its causal prefix only. The forward pass keeps the logarithm of each
//! row's softmax denominator; the backward pass recomputes the probabilities from it, so nothing of the size of
//! sequence times sequence is ever stored.

use super::config::ModelConfig;
use super::ops::{head_dots, rotate};
use super::weights::Weights;
use crate::local::kernel::{Mat, MatMut, exp, exp_sum, matmul_here, max, simd};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Rows of one block.
const BLOCK: usize = 64;

thread_local! {
    /// The scores of one block. Kept per thread, because fresh pages cost more than the arithmetic.
    static SCRATCH: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Lends this thread's two scratch buffers, each at least `len` long and with any content.
fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    let mut buffers = SCRATCH.take();
    for buffer in &mut buffers {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
    }
    let [a, b] = &mut buffers;
    let result = body(&mut a[..len], &mut b[..len]);
    SCRATCH.set(buffers);
    result
}

/// Splits off the first `len` elements of a mutable slice.
fn split<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (first, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    first
}

/// Attends within each sequence. `qkv` holds rotated `[q, k, v]` rows; `out` becomes `[rows, q]` and
/// `log_sum` the logarithm of each softmax denominator, `[rows, heads]`.
pub(super) fn attention(
    c: &ModelConfig,
    sequences: &[Range<usize>],
    qkv: &[f32],
    out: &mut [f32],
    log_sum: &mut [f32],
) {
    let (width, q_width, d) = (c.qkv_width(), c.q_width(), c.head_dim);
    let scale = 1.0 / (d as f32).sqrt();
    let (mut out, mut log_sum) = (out, log_sum);
    let mut tasks = Vec::new();
    for sequence in sequences {
        let rows = &qkv[sequence.start * width..sequence.end * width];
        for start in (0..sequence.len()).step_by(BLOCK) {
            let block = start..sequence.len().min(start + BLOCK);
            let out = split(&mut out, block.len() * q_width);
            let log_sum = split(&mut log_sum, block.len() * c.heads);
            tasks.push((rows, block, out, log_sum));
        }
    }
    tasks.into_par_iter().for_each(|(rows, block, out, log_sum)| {
        let (count, prefix) = (block.len(), block.end);
        with_scratch(count * prefix, |scores, _| {
            for head in 0..c.heads {
                let (q, k, v) = views(c, rows, head, &block);
                matmul_here(MatMut::new(scores, count, prefix), 0.0, q, k.t(), scale);
                let mut factor = [0.0f32; BLOCK];
                simd(
                    #[inline(always)]
                    || {
                        for (i, row) in scores.chunks_exact_mut(prefix).enumerate() {
                            let (seen, hidden) = row.split_at_mut(block.start + i + 1);
                            let top = max(seen);
                            let sum = exp_sum(seen, top);
                            hidden.fill(0.0);
                            log_sum[i * c.heads + head] = top + sum.ln();
                            factor[i] = 1.0 / sum;
                        }
                    },
                );
                let slot = MatMut::strided(&mut out[head * d..], count, d, q_width);
                matmul_here(slot, 0.0, Mat::new(scores, count, prefix), v, 1.0);
                for (row, factor) in out.chunks_exact_mut(q_width).zip(factor) {
                    row[head * d..][..d].iter_mut().for_each(|v| *v *= factor);
                }
            }
        });
    });
}

/// The queries of a block and the keys and values of its causal prefix, for one query head.
fn views<'a>(
    c: &ModelConfig,
    rows: &'a [f32],
    head: usize,
    block: &Range<usize>,
) -> (Mat<'a>, Mat<'a>, Mat<'a>) {
    let (width, d) = (c.qkv_width(), c.head_dim);
    let k_at = c.q_width() + head / c.group() * d;
    let q = Mat::strided(&rows[block.start * width + head * d..], block.len(), d, width);
    let k = Mat::strided(&rows[k_at..], block.end, d, width);
    let v = Mat::strided(&rows[k_at + c.kv_width()..], block.end, d, width);
    (q, k, v)
}

/// What the backward pass of [`attention`] reads.
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
    /// Writes the gradient by the unrotated `[q, k, v]` rows to `dqkv`. `by_head` is scratch of the same size,
    /// `along` of one element per row and head.
    pub(super) fn run(&self, dqkv: &mut [f32], by_head: &mut [f32], along: &mut [f32]) {
        let c = &self.weights.config;
        let (d, group) = (c.head_dim, c.group());
        head_dots(self.out, self.dout, d, along);
        let along = &*along;
        // Each task owns one key head of one sequence with the query heads that share it, so that sums over
        // row blocks have one order. Its results lie together, [heads of the group + k + v][rows][head_dim].
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
        let (width, q_width, d, heads) = (c.qkv_width(), c.q_width(), c.head_dim, c.heads);
        let scale = 1.0 / (d as f32).sqrt();
        let rows = &self.qkv[sequence.start * width..sequence.end * width];
        dk.fill(0.0);
        dv.fill(0.0);
        for start in (0..sequence.len()).step_by(BLOCK) {
            let block = start..sequence.len().min(start + BLOCK);
            let (count, prefix) = (block.len(), block.end);
            let first = sequence.start + start;
            let log_sum = &self.log_sum[first * heads..][..count * heads];
            let along = &along[first * heads..][..count * heads];
            with_scratch(count * prefix, |probs, dprobs| {
                for g in 0..c.group() {
                    let head = kv * c.group() + g;
                    let (q, k, v) = views(c, rows, head, &block);
                    let dout = Mat::strided(&self.dout[first * q_width + head * d..], count, d, q_width);
                    matmul_here(MatMut::new(probs, count, prefix), 0.0, q, k.t(), scale);
                    matmul_here(MatMut::new(dprobs, count, prefix), 0.0, dout, v.t(), 1.0);
                    simd(
                        #[inline(always)]
                        || {
                            let pairs = probs.chunks_exact_mut(prefix).zip(dprobs.chunks_exact_mut(prefix));
                            for (i, (p, dp)) in pairs.enumerate() {
                                let (log_sum, along) = (log_sum[i * heads + head], along[i * heads + head]);
                                let seen = start + i + 1;
                                for (p, dp) in p[..seen].iter_mut().zip(&mut dp[..seen]) {
                                    *p = exp(*p - log_sum);
                                    *dp = *p * (*dp - along) * scale;
                                }
                                p[seen..].fill(0.0);
                                dp[seen..].fill(0.0);
                            }
                        },
                    );
                    let (probs, dscores) = (Mat::new(probs, count, prefix), Mat::new(dprobs, count, prefix));
                    let dq = &mut dq[(g * sequence.len() + start) * d..];
                    matmul_here(MatMut::new(dq, count, d), 0.0, dscores, k, 1.0);
                    matmul_here(MatMut::new(dk, prefix, d), 1.0, dscores.t(), q, 1.0);
                    matmul_here(MatMut::new(dv, prefix, d), 1.0, probs.t(), dout, 1.0);
                }
            });
        }
    }

    /// Copies the results of the tasks into rows, turning queries and keys back by their positions.
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
                        for (slot, head) in row.chunks_exact_mut(d).enumerate() {
                            // Which of its task's pieces this head is: a query, the key or the value.
                            let (kv, piece) = if slot < c.heads {
                                (slot / group, slot % group)
                            } else if slot < c.heads + c.kv_heads {
                                (slot - c.heads, group)
                            } else {
                                (slot - c.heads - c.kv_heads, group + 1)
                            };
                            head.copy_from_slice(&source[((kv * (group + 2) + piece) * len + t) * d..][..d]);
                            if piece <= group {
                                rotate(head, table, -1.0);
                            }
                        }
                    }
                },
            );
        });
    }
}
