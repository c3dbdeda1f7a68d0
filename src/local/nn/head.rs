//! The output head. It computes the logits in chunks of rows and uses each chunk before it computes the next, so that
//! the logits of all rows are never in memory together.

use super::linear::Linear;
use crate::local::kernel::{exp_sum, max, simd};
use rayon::prelude::*;

/// Number of logits in one chunk. The size of a chunk depends only on this constant and the vocabulary, never on the
/// number of threads.
const LOGITS: usize = 1 << 20;

/// Rows that one task of the softmax handles.
const TASK_ROWS: usize = 64;

/// Buffers of the head, kept for the next pass.
#[derive(Debug, Default)]
pub(super) struct HeadScratch {
    logits: Vec<f32>,
    ax: Vec<f32>,
    dax: Vec<f32>,
}

impl HeadScratch {
    pub(super) fn bytes(&self) -> u64 {
        // The last chunk is often smaller than the memory that an earlier one took.
        let floats = [&self.logits, &self.ax, &self.dax].map(Vec::capacity).iter().sum::<usize>();
        (floats * size_of::<f32>()) as u64
    }
}

/// Number of rows in one chunk.
pub(super) fn chunk_rows(vocab: usize) -> usize {
    (LOGITS / vocab).max(TASK_ROWS)
}

/// The logarithm of the sum of the exponentials of a row. `scratch` must be as long as the row.
pub(super) fn log_sum_exp(row: &[f32], scratch: &mut [f32]) -> f32 {
    simd(
        #[inline(always)]
        || {
            let top = max(row);
            scratch.copy_from_slice(row);
            top + exp_sum(scratch, top).ln()
        },
    )
}

/// Rows of the final hidden state, with the head that they are multiplied with.
#[derive(Debug)]
pub(super) struct HeadRows<'a> {
    pub(super) head: Linear<'a>,
    /// Hidden rows after the final norm.
    pub(super) hidden: &'a [f32],
    pub(super) rows: usize,
}

impl HeadRows<'_> {
    /// The logits of all rows.
    #[cfg(test)]
    pub(super) fn logits(&self, s: &mut HeadScratch) -> Vec<f32> {
        let mut logits = vec![0.0; self.rows * self.head.outputs];
        s.ax.resize(self.rows * self.head.inner(), 0.0);
        self.head.forward(self.rows, self.hidden, &mut logits, 0.0, &mut s.ax);
        logits
    }

    /// Writes the log-probabilities of the targets (`k` per row) to `logprobs`. If `backward` is given, also writes the
    /// gradient with respect to the hidden rows to its `dhidden`, and adds the adapter's gradients to its `grads`.
    pub(super) fn targets(
        &self,
        targets: &[u32],
        k: usize,
        logprobs: &mut [f32],
        s: &mut HeadScratch,
        mut backward: Option<Backward<'_>>,
    ) {
        let (vocab, inputs) = (self.head.outputs, self.head.inputs);
        let chunk = chunk_rows(vocab);
        for start in (0..self.rows).step_by(chunk) {
            let n = chunk.min(self.rows - start);
            s.logits.resize(n * vocab, 0.0);
            s.ax.resize(n * self.head.inner(), 0.0);
            s.dax.resize(n * self.head.inner(), 0.0);
            let x = &self.hidden[start * inputs..][..n * inputs];
            self.head.forward(n, x, &mut s.logits, 0.0, &mut s.ax);
            let slope = backward.as_ref().map(|b| b.slope);
            let tasks = s
                .logits
                .par_chunks_mut(TASK_ROWS * vocab)
                .zip(logprobs[start * k..][..n * k].par_chunks_mut(TASK_ROWS * k))
                .enumerate();
            tasks.for_each(|(i, (logits, logprobs))| {
                let first = (start + i * TASK_ROWS) * k;
                let targets = &targets[first..][..logprobs.len()];
                softmax_rows(logits, vocab, targets, k, logprobs, first, slope);
            });
            if let Some(b) = &mut backward {
                let dhidden = &mut b.dhidden[start * inputs..][..n * inputs];
                self.head.backward(n, x, &s.ax, &s.logits, Some((dhidden, 0.0)), b.grads, &mut s.dax);
            }
        }
    }
}

#[allow(missing_debug_implementations)] // A closure has no `Debug`.
/// Input and outputs of the backward pass of [`HeadRows::targets`].
pub(super) struct Backward<'a> {
    /// Maps the index of a target and its log-probability to the derivative of the loss with respect to that
    /// log-probability.
    pub(super) slope: &'a (dyn Fn(usize, f32) -> f32 + Sync),
    pub(super) dhidden: &'a mut [f32],
    pub(super) grads: &'a mut [f32],
}

/// Computes the log-probabilities of the targets. If `slope` is given, replaces the logits by the gradient with respect
/// to them.
fn softmax_rows(
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    k: usize,
    logprobs: &mut [f32],
    first: usize,
    slope: Option<&(dyn Fn(usize, f32) -> f32 + Sync)>,
) {
    let rows = logits.chunks_exact_mut(vocab).zip(targets.chunks_exact(k)).zip(logprobs.chunks_exact_mut(k));
    for (r, ((row, targets), logprobs)) in rows.enumerate() {
        for (slot, &target) in logprobs.iter_mut().zip(targets) {
            *slot = row[target as usize];
        }
        let (top, sum) = simd(
            #[inline(always)]
            || {
                let top = max(row);
                (top, exp_sum(row, top))
            },
        );
        let log_sum = sum.ln();
        let mut total = 0.0;
        for (i, slot) in logprobs.iter_mut().enumerate() {
            *slot = (*slot - top) - log_sum;
            total += slope.map_or(0.0, |slope| slope(first + r * k + i, *slot));
        }
        let Some(slope) = slope else { continue };
        // The gradient of a log-probability with respect to the logits is the unit vector of the target minus the
        // softmax.
        let factor = -total / sum;
        simd(
            #[inline(always)]
            || row.iter_mut().for_each(|v| *v *= factor),
        );
        for (i, (&lp, &target)) in logprobs.iter().zip(targets).enumerate() {
            row[target as usize] += slope(first + r * k + i, lp);
        }
    }
}
