//! Reads a prompt: computes the keys and values of its tokens, and the logits after them where they are wanted. A long
//! prompt is read in chunks, so that the memory does not depend on its length.
//!
//! Each row has the same bits for any division into chunks, and whether the blocks before it were just computed or taken
//! from the cache: products compute each row independently of the others, and the attention of a row divides the
//! positions before it at multiples of the length of a block.

use super::decode::{Decoder, Which, finish_row, norm_rows, swiglu_rows};
use super::layer::add_bias;
use super::pass::Model;
use super::segment::{BLOCK, Segment};
use super::weights::Weights;
use crate::local::kernel::{PANEL, PanelProduct, exp, exp_sum, max, simd};
use rayon::prelude::*;
use std::sync::Arc;

/// Largest number of tokens of one chunk: a multiple of [`BLOCK`].
pub(super) const CHUNK: usize = 512;

/// Rows that one task of a row-wise operation handles.
const TASK_ROWS: usize = 64;

/// Positions whose queries one task of the attention handles.
const QUERIES: usize = 16;

/// Number of blocks of keys that a task of the attention handles at once. Their scores and values should fit into the
/// first cache.
const TILE: usize = 4;

/// Distance of the rows of a tile's scores. It is no multiple of a large power of two: the elements of one column would
/// then share a few lines of the cache.
const SCORE_STRIDE: usize = TILE * BLOCK + 16;

/// Limits of the rows whose logits are computed at once: about this many logits, and at least this many rows.
const LOGITS: (usize, usize) = (1 << 20, 32);

/// Receives the logits of consecutive rows.
pub(super) type VisitLogits<'a> = dyn FnMut(&[f32]) + 'a;

/// Buffers of the passes of prompts.
#[derive(Debug, Default)]
pub(super) struct PromptScratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    ax: Vec<f32>,
    logits: Vec<f32>,
}

impl PromptScratch {
    /// Size of the buffers in bytes.
    pub(super) fn bytes(&self) -> usize {
        let all =
            [&self.x, &self.normed, &self.qkv, &self.mixed, &self.gate_up, &self.act, &self.ax, &self.logits];
        all.map(|it| 4 * it.capacity()).into_iter().sum()
    }
}

impl Decoder {
    /// Computes the keys and values of at most [`CHUNK`] tokens, which come after `prefix`: whole blocks. Returns the
    /// blocks of the tokens; the last one may be shorter. `logits` receives the logits after each token, in order.
    pub(super) fn read(
        &self,
        model: &Model,
        prefix: &[Arc<Segment>],
        tokens: &[u32],
        logits: Option<&mut VisitLogits<'_>>,
        s: &mut PromptScratch,
    ) -> Vec<Segment> {
        let (weights, n, start) = (&*model.base, tokens.len(), prefix.len() * BLOCK);
        let c = &weights.config;
        let (h, width, q_width) = (c.hidden, c.qkv_width(), c.q_width());
        let starts = (start..start + n).step_by(BLOCK);
        let mut read: Vec<Segment> =
            starts.map(|at| Segment::unwritten(weights, at, BLOCK.min(start + n - at))).collect();
        s.x.resize(n * h, 0.0);
        for (slot, &token) in s.x.chunks_exact_mut(h).zip(tokens) {
            weights.embed(token, slot);
        }
        s.normed.resize(n * h, 0.0);
        s.qkv.resize(n * width, 0.0);
        s.mixed.resize(n * q_width, 0.0);
        s.gate_up.resize(n * 2 * c.mlp, 0.0);
        s.act.resize(n * c.mlp, 0.0);
        for (l, frozen) in weights.layers.iter().enumerate() {
            norm(&s.x, &frozen.norm_attn, c.norm_eps, &mut s.normed);
            self.project_many(
                model,
                (l, Which::Qkv),
                (&s.normed[..], h),
                (&mut s.qkv[..], width),
                false,
                &mut s.ax,
            );
            let blocks = read.par_iter_mut().zip(s.qkv.par_chunks_mut(BLOCK * width));
            blocks.for_each_init(Vec::new, |scratch, (block, rows)| write(weights, l, block, rows, scratch));
            if l + 1 == c.layers && logits.is_none() {
                // What follows the keys and values of the last layer is needed for the logits only.
                return read;
            }
            let seen: Vec<&Segment> = prefix.iter().map(|it| &**it).chain(&read).collect();
            let tasks = s.qkv.par_chunks(QUERIES * width).zip(s.mixed.par_chunks_mut(QUERIES * q_width));
            tasks.enumerate().for_each_init(AttentionScratch::default, |scratch, (i, (rows, mixed))| {
                attend(weights, l, &seen, start + i * QUERIES, rows, mixed, scratch);
            });
            self.project_many(
                model,
                (l, Which::O),
                (&s.mixed[..], q_width),
                (&mut s.x[..], h),
                true,
                &mut s.ax,
            );
            if let Some(bias) = &frozen.o_bias {
                add_bias(&mut s.x[..], bias);
            }
            norm(&s.x, &frozen.norm_mlp, c.norm_eps, &mut s.normed);
            let gate_up = (&mut *s.gate_up, 2 * c.mlp);
            self.project_many(model, (l, Which::GateUp), (&s.normed[..], h), gate_up, false, &mut s.ax);
            let rows = s.gate_up.par_chunks(TASK_ROWS * 2 * c.mlp);
            rows.zip(s.act.par_chunks_mut(TASK_ROWS * c.mlp))
                .for_each(|(gate_up, act)| swiglu_rows(gate_up, c.mlp, act));
            self.project_many(
                model,
                (l, Which::Down),
                (&s.act[..], c.mlp),
                (&mut s.x[..], h),
                true,
                &mut s.ax,
            );
        }
        if let Some(visit) = logits {
            norm(&s.x, &weights.norm, c.norm_eps, &mut s.normed);
            let rows = (LOGITS.0 / c.vocab).max(LOGITS.1);
            for hidden in s.normed.chunks(rows * h) {
                s.logits.resize(hidden.len() / h * c.vocab, 0.0);
                let logits = (&mut *s.logits, c.vocab);
                self.project_many(model, (0, Which::Head), (hidden, h), logits, false, &mut s.ax);
                visit(&s.logits);
            }
        }
        read
    }
}

fn norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let task = TASK_ROWS * gain.len();
    x.par_chunks(task).zip(y.par_chunks_mut(task)).for_each(|(x, y)| norm_rows(x, gain, eps, y));
}

/// Finishes the `[q, k, v]` rows of a block, and writes their keys and values to it.
fn write(weights: &Weights, l: usize, block: &mut Segment, rows: &mut [f32], scratch: &mut Vec<f32>) {
    let c = &weights.config;
    simd(
        #[inline(always)]
        || {
            for (at, row) in rows.chunks_exact_mut(c.qkv_width()).enumerate() {
                finish_row(weights, l, block.start + at, row, scratch);
                let (keys, values) = row[c.q_width()..].split_at(c.kv_width());
                block.push(weights, l, at, keys, values);
            }
        },
    );
}

/// Buffers of a task of the attention, for the queries of all heads that share a key head.
#[derive(Debug, Default)]
struct AttentionScratch {
    /// The queries times the scale of the scores, `[heads, positions, head_dim]`.
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// The sums of the values so far, each times the exponential of its score minus the largest score.
    sums: Vec<f32>,
    /// The largest score so far, and the sum of the exponentials.
    state: Vec<(f32, f32)>,
}

/// Attention of the queries of consecutive positions from `first` on, over the positions up to each, for layer `l`.
///
/// The positions are read in tiles of some blocks; the sums of a row are rescaled when a tile has a larger score. So the
/// scores of all positions are never in memory together.
fn attend(
    weights: &Weights,
    l: usize,
    seen: &[&Segment],
    first: usize,
    rows: &[f32],
    mixed: &mut [f32],
    s: &mut AttentionScratch,
) {
    let c = &weights.config;
    let (d, group, width, q_width) = (c.head_dim, c.group(), c.qkv_width(), c.q_width());
    let (n, scale) = (rows.len() / width, 1.0 / (d as f32).sqrt());
    let seen = &seen[..(first + n).div_ceil(BLOCK)];
    s.queries.resize(group * n * d, 0.0);
    s.sums.resize(group * n * d, 0.0);
    s.scores.resize(group * n * SCORE_STRIDE, 0.0);
    for kv in 0..c.kv_heads {
        let at = |i: usize| (i % n, (kv * group + i / n) * d);
        for (i, query) in s.queries.chunks_exact_mut(d).enumerate() {
            let (row, column) = at(i);
            let source = &rows[row * width + column..][..d];
            query.iter_mut().zip(source).for_each(|(slot, v)| *slot = v * scale);
        }
        s.sums.fill(0.0);
        s.state.clear();
        s.state.resize(group * n, (f32::NEG_INFINITY, 0.0));
        for (tile, blocks) in seen.chunks(TILE).enumerate() {
            s.tile(weights, l * c.kv_heads + kv, blocks, |i| first + i % n + 1 - tile * TILE * BLOCK);
        }
        for (i, (sums, (_, total))) in s.sums.chunks_exact(d).zip(&s.state).enumerate() {
            let (row, column) = at(i);
            let factor = 1.0 / total;
            let slots = &mut mixed[row * q_width + column..][..d];
            slots.iter_mut().zip(sums).for_each(|(slot, v)| *slot = v * factor);
        }
    }
}

impl AttentionScratch {
    /// Adds the values of some blocks to the sums. `visible` says how many positions from the first of the blocks on a
    /// row may use.
    fn tile(
        &mut self,
        weights: &Weights,
        head: usize,
        blocks: &[&Segment],
        visible: impl Fn(usize) -> usize,
    ) {
        let d = weights.config.head_dim;
        let (per_head, rows) = (d.div_ceil(PANEL), self.state.len());
        let mut len = 0;
        for block in blocks {
            let product = PanelProduct {
                panels: &block.keys[head],
                panel_inputs: d,
                inputs: d,
                outputs: block.len,
                rows,
                x: &self.queries,
                x_stride: d,
                dst: &mut self.scores[len..],
                dst_stride: SCORE_STRIDE,
                keep: false,
            };
            product.run();
            len += block.len;
        }
        simd(
            #[inline(always)]
            || {
                let rows = self.scores.chunks_exact_mut(SCORE_STRIDE).zip(self.sums.chunks_exact_mut(d));
                for (i, ((scores, sums), state)) in rows.zip(&mut self.state).enumerate() {
                    let (scores, hidden) = scores[..len].split_at_mut(visible(i).min(len));
                    let top = max(scores).max(state.0);
                    let factor = exp(state.0 - top);
                    *state = (top, state.1 * factor + exp_sum(scores, top));
                    hidden.fill(0.0);
                    if factor != 1.0 {
                        sums.iter_mut().for_each(|sum| *sum *= factor);
                    }
                }
            },
        );
        for part in 0..per_head {
            let mut at = 0;
            for block in blocks {
                let product = PanelProduct {
                    panels: &block.values[head * per_head + part],
                    panel_inputs: block.len,
                    inputs: block.len,
                    outputs: PANEL.min(d - part * PANEL),
                    rows,
                    x: &self.scores[at..],
                    x_stride: SCORE_STRIDE,
                    dst: &mut self.sums[part * PANEL..],
                    dst_stride: d,
                    keep: true,
                };
                product.run();
                at += block.len;
            }
        }
    }
}
