//! Causal grouped-query attention over packed sequences, in blocks of rows.
//!
//! A block of query rows is multiplied only with the positions up to its last one (its causal prefix). The forward pass
//! keeps the logarithm of each row's softmax denominator, from which the backward pass recomputes the probabilities. So
//! no matrix of sequence length × sequence length is ever stored.
//!
//! The keys and values of a sequence are packed into panels once, and all blocks use them.

use super::config::ModelConfig;
use super::ops::{head_dots, rotate};
use super::weights::Weights;
use crate::local::kernel::{
    PanelProduct, TransposedProduct, exp, exp_sum, max, pack_rows, pack_scaled, packed_rows_len, panels_len,
    simd,
};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Number of positions in one block of queries.
const BLOCK: usize = 32;

/// Number of positions whose queries one task of the backward pass handles, at least.
const CHUNK: usize = 128;

/// Largest number of chunks of one sequence. Each chunk needs memory for its own gradients of keys and values.
const MAX_CHUNKS: usize = 8;

/// Number of positions that one task of the last step of the backward pass handles.
const GATHER_ROWS: usize = 128;

thread_local! {
    /// Scratch memory of one block. Each thread keeps its own for the next block, because fetching fresh memory from
    /// the system costs more than the arithmetic.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };

    /// Scratch memory of one pass, kept by the thread that runs the pass.
    static PASS_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Memory of at least this length from `cell`. Its content is arbitrary.
fn take(cell: &'static std::thread::LocalKey<Cell<Vec<f32>>>, len: usize) -> Vec<f32> {
    let mut buffer = cell.take();
    if buffer.len() < len {
        // Drop the old buffer first: resizing it would copy its content.
        buffer = Vec::new();
        buffer.resize(len, 0.0);
    }
    buffer
}

/// Calls `body` with scratch buffers of these lengths. Their content is arbitrary.
fn with_scratch<const N: usize>(lengths: [usize; N], body: impl FnOnce([&mut [f32]; N])) {
    let mut buffer = take(&SCRATCH, lengths.iter().sum());
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

/// Distance of the rows of a block's scores. It is no multiple of a large power of two: the elements of one column would
/// then share a few lines of the cache.
fn score_stride(prefix: usize) -> usize {
    prefix.next_multiple_of(32) + 16
}

/// The blocks of a range of positions.
fn blocks(positions: Range<usize>) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let end = positions.end;
    positions.step_by(BLOCK).map(move |start| start..end.min(start + BLOCK))
}

/// Number of floats of the scratch memory of a pass over sequences of these lengths.
pub(super) fn pass_scratch_len(
    c: &ModelConfig,
    lengths: impl Iterator<Item = usize>,
    backward: bool,
) -> usize {
    let forward = |len: usize| panels_len(len, c.head_dim) + packed_rows_len(len, c.head_dim);
    let one = |len: usize| if backward { Packed::len(c, len) + partial_len(c, len) } else { forward(len) };
    lengths.map(|len| c.kv_heads * one(len)).sum()
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
    let packed_len = |len: usize| c.kv_heads * (panels_len(len, d) + packed_rows_len(len, d));
    let mut buffer = take(&PASS_SCRATCH, sequences.iter().map(|it| packed_len(it.len())).sum());
    let mut rest = buffer.as_mut_slice();
    let (mut out, mut log_sum) = (out, log_sum);
    let mut packed = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        packed.push(split(&mut rest, packed_len(sequence.len())));
    }
    packed.par_iter_mut().zip(sequences).for_each(|(packed, sequence)| {
        let rows = &qkv[sequence.start * width..sequence.end * width];
        let mut rest = &mut packed[..];
        for kv in 0..c.kv_heads {
            let (k, v) = (&rows[c.q_width() + kv * d..], &rows[c.q_width() + c.kv_width() + kv * d..]);
            pack_scaled(
                k,
                width,
                [sequence.len(), d],
                scale,
                split(&mut rest, panels_len(sequence.len(), d)),
            );
            pack_rows(v, width, d, split(&mut rest, packed_rows_len(sequence.len(), d)));
        }
    });
    let mut tasks = Vec::new();
    for (sequence, packed) in sequences.iter().zip(&packed) {
        let rows = &qkv[sequence.start * width..sequence.end * width];
        for block in blocks(0..sequence.len()) {
            let out = split(&mut out, block.len() * q_width);
            let log_sum = split(&mut log_sum, block.len() * c.heads);
            tasks.push((rows, &packed[..], block, out, log_sum));
        }
    }
    // The last blocks of a sequence need the most time: start with them.
    tasks.reverse();
    tasks.into_par_iter().with_max_len(1).for_each(|(rows, packed, block, out, log_sum)| {
        let (len, prefix, positions) = (block.len(), block.end, rows.len() / width);
        let (stride, keys_len) = (score_stride(prefix), panels_len(positions, d));
        with_scratch([len * stride, len], |[scores, factors]| {
            for head in 0..c.heads {
                let packed = &packed[head / group * (keys_len + packed_rows_len(positions, d))..];
                let (keys, values) = packed.split_at(keys_len);
                let scores_product = PanelProduct {
                    panels: keys,
                    panel_inputs: d,
                    inputs: d,
                    outputs: prefix,
                    rows: len,
                    x: &rows[block.start * width + head * d..],
                    x_stride: width,
                    dst: scores,
                    dst_stride: stride,
                    keep: false,
                };
                scores_product.run();
                simd(
                    #[inline(always)]
                    || {
                        for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
                            let (seen, hidden) = row[..prefix].split_at_mut(block.start + i + 1);
                            let top = max(seen);
                            let sum = exp_sum(seen, top);
                            hidden.fill(0.0);
                            log_sum[i * c.heads + head] = top + sum.ln();
                            factors[i] = 1.0 / sum;
                        }
                    },
                );
                let out = &mut out[head * d..];
                let mixed = PanelProduct {
                    panels: values,
                    panel_inputs: positions,
                    inputs: prefix,
                    outputs: d,
                    rows: len,
                    x: scores,
                    x_stride: stride,
                    dst: out,
                    dst_stride: q_width,
                    keep: false,
                };
                mixed.run();
                for (row, factor) in out.chunks_mut(q_width).zip(&*factors) {
                    row[..d].iter_mut().for_each(|v| *v *= factor);
                }
            }
        });
    });
    drop(packed);
    PASS_SCRATCH.set(buffer);
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

/// The packed keys and values of one key head of a sequence.
struct Packed<'a> {
    /// Number of positions of the sequence.
    positions: usize,
    /// Keys times the scale of the scores, packed for products with queries.
    scaled_keys: &'a [f32],
    /// Values, packed for products with gradients of the output.
    values: &'a [f32],
    /// Keys, packed for products with gradients of the scores.
    keys: &'a [f32],
}

impl<'a> Packed<'a> {
    fn len(c: &ModelConfig, positions: usize) -> usize {
        2 * panels_len(positions, c.head_dim) + packed_rows_len(positions, c.head_dim)
    }

    /// Packs key head `kv` of the rows of a sequence into `buffer`.
    fn new(c: &ModelConfig, rows: &[f32], kv: usize, buffer: &'a mut [f32]) -> Self {
        let (width, d) = (c.qkv_width(), c.head_dim);
        let positions = rows.len() / width;
        let (k, v) = (&rows[c.q_width() + kv * d..], &rows[c.q_width() + c.kv_width() + kv * d..]);
        let mut rest = buffer;
        let scaled_keys = split(&mut rest, panels_len(positions, d));
        let values = split(&mut rest, panels_len(positions, d));
        let keys = split(&mut rest, packed_rows_len(positions, d));
        pack_scaled(k, width, [positions, d], 1.0 / (d as f32).sqrt(), scaled_keys);
        pack_scaled(v, width, [positions, d], 1.0, values);
        pack_rows(k, width, d, keys);
        Packed { positions, scaled_keys, values, keys }
    }
}

/// One task of the backward pass: the queries of one chunk of positions, with one key head. Its results are the
/// gradients of these queries, `[positions][group][head_dim]`, and the part that these queries contribute to the
/// gradients of the keys and values of all positions up to the end of the chunk, `[positions][head_dim]` each.
struct Chunk<'a> {
    sequence: &'a Range<usize>,
    kv: usize,
    positions: Range<usize>,
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// The chunks of a sequence of this length.
fn chunks(len: usize) -> Vec<Range<usize>> {
    let size = len.div_ceil(MAX_CHUNKS).next_multiple_of(BLOCK).max(CHUNK);
    (0..len).step_by(size).map(|start| start..len.min(start + size)).collect()
}

/// Number of floats, for a key head, of the gradients of keys and values that the chunks of a sequence compute. The last
/// chunk writes its gradients to `by_head` (see [`Backward::run`]), the others to own memory.
fn partial_len(c: &ModelConfig, len: usize) -> usize {
    2 * c.head_dim * chunks(len).iter().rev().skip(1).map(|it| it.end).sum::<usize>()
}

impl Backward<'_> {
    /// Writes the gradient with respect to the unrotated `[q, k, v]` rows to `dqkv`. `by_head` is scratch of the same
    /// size, and `along` is scratch with one element for each row and head.
    pub(super) fn run(&self, dqkv: &mut [f32], by_head: &mut [f32], along: &mut [f32]) {
        let c = &self.weights.config;
        let (d, width, group) = (c.head_dim, c.qkv_width(), c.group());
        head_dots(self.out, self.dout, d, along);
        let along = &*along;
        let lens = || self.sequences.iter().map(Range::len);
        let packed_len: usize = lens().map(|len| c.kv_heads * Packed::len(c, len)).sum();
        let partial_len: usize = lens().map(|len| c.kv_heads * partial_len(c, len)).sum();
        let mut buffer = take(&PASS_SCRATCH, packed_len + partial_len);
        let (packed, mut partial) = buffer.split_at_mut(packed_len);
        let mut rest = packed;
        let mut heads = Vec::new();
        for sequence in self.sequences {
            for kv in 0..c.kv_heads {
                heads.push((sequence, kv, split(&mut rest, Packed::len(c, sequence.len()))));
            }
        }
        let packed: Vec<Packed<'_>> = heads
            .into_par_iter()
            .map(|(sequence, kv, buffer)| {
                Packed::new(c, &self.qkv[sequence.start * width..sequence.end * width], kv, buffer)
            })
            .collect();
        // The results of a key head are contiguous in `by_head`: those of all queries, then of keys, then of values.
        let mut rest = &mut *by_head;
        let mut tasks = Vec::new();
        for (sequence, packed) in self.sequences.iter().zip(packed.chunks(c.kv_heads)) {
            let chunks = chunks(sequence.len());
            for (kv, packed) in packed.iter().enumerate() {
                let mut queries = split(&mut rest, sequence.len() * group * d);
                for positions in &chunks {
                    let size = positions.end * d;
                    let memory = if positions.end == sequence.len() { &mut rest } else { &mut partial };
                    let (dk, dv) = (split(memory, size), split(memory, size));
                    let dq = split(&mut queries, positions.len() * group * d);
                    tasks.push((packed, Chunk { sequence, kv, positions: positions.clone(), dq, dk, dv }));
                }
            }
        }
        // The last chunks of a sequence need the most time: start with them.
        tasks.reverse();
        tasks.into_par_iter().with_max_len(1).for_each(|(packed, chunk)| self.chunk(packed, along, chunk));
        self.gather(dqkv, by_head, &buffer[packed_len..]);
        PASS_SCRATCH.set(buffer);
    }

    fn chunk(&self, packed: &Packed<'_>, along: &[f32], chunk: Chunk<'_>) {
        let Chunk { sequence, kv, positions, dq, dk, dv } = chunk;
        let c = &self.weights.config;
        let (width, q_width, d, group) = (c.qkv_width(), c.q_width(), c.head_dim, c.group());
        let scale = 1.0 / (d as f32).sqrt();
        dk.fill(0.0);
        dv.fill(0.0);
        for block in blocks(positions.clone()) {
            let (len, prefix) = (block.len(), block.end);
            let stride = score_stride(prefix);
            let first = sequence.start + block.start;
            let (queries, douts) = (&self.qkv[first * width..], &self.dout[first * q_width..]);
            let log_sum = &self.log_sum[first * c.heads..][..len * c.heads];
            let along = &along[first * c.heads..][..len * c.heads];
            let dq = &mut dq[(block.start - positions.start) * group * d..];
            let query_len = packed_rows_len(len, d);
            let lengths = [len * stride, len * stride, query_len, query_len];
            for g in 0..group {
                let head = kv * group + g;
                with_scratch(lengths, |[probs, dscores, q, dout]| {
                    let scores = PanelProduct {
                        panels: packed.scaled_keys,
                        panel_inputs: d,
                        inputs: d,
                        outputs: prefix,
                        rows: len,
                        x: &queries[head * d..],
                        x_stride: width,
                        dst: probs,
                        dst_stride: stride,
                        keep: false,
                    };
                    scores.run();
                    let dprobs = PanelProduct {
                        panels: packed.values,
                        panel_inputs: d,
                        inputs: d,
                        outputs: prefix,
                        rows: len,
                        x: &douts[head * d..],
                        x_stride: q_width,
                        dst: dscores,
                        dst_stride: stride,
                        keep: false,
                    };
                    dprobs.run();
                    simd(
                        #[inline(always)]
                        || {
                            let rows = probs.chunks_exact_mut(stride).zip(dscores.chunks_exact_mut(stride));
                            for (i, (p, dp)) in rows.enumerate() {
                                let at = i * c.heads + head;
                                let (log_sum, along) = (log_sum[at], along[at]);
                                let seen = block.start + i + 1;
                                for (p, dp) in p[..seen].iter_mut().zip(&mut dp[..seen]) {
                                    *p = exp(*p - log_sum);
                                    *dp = *p * (*dp - along) * scale;
                                }
                                p[seen..prefix].fill(0.0);
                                dp[seen..prefix].fill(0.0);
                            }
                        },
                    );
                    let dqueries = PanelProduct {
                        panels: packed.keys,
                        panel_inputs: packed.positions,
                        inputs: prefix,
                        outputs: d,
                        rows: len,
                        x: dscores,
                        x_stride: stride,
                        dst: &mut dq[g * d..],
                        dst_stride: group * d,
                        keep: false,
                    };
                    dqueries.run();
                    pack_rows(&queries[head * d..], width, d, q);
                    pack_rows(&douts[head * d..], q_width, d, dout);
                    for (x, panels, dst) in [(dscores, q, &mut *dk), (probs, dout, &mut *dv)] {
                        let dst = &mut dst[..prefix * d];
                        let (inputs, outputs, rows) = (len, d, prefix);
                        TransposedProduct { panels, inputs, outputs, rows, x, x_stride: stride, dst }.run();
                    }
                });
            }
        }
    }

    /// Adds up the gradients that the tasks computed, in the order of the chunks, writes them into `[q, k, v]` rows, and
    /// undoes the rotation of the gradients of queries and keys.
    fn gather(&self, dqkv: &mut [f32], by_head: &[f32], partial: &[f32]) {
        let c = &self.weights.config;
        let (width, d, group) = (c.qkv_width(), c.head_dim, c.group());
        let (mut rest, mut partial) = (dqkv, partial);
        let mut tasks = Vec::new();
        for sequence in self.sequences {
            let len = sequence.len();
            let source = &by_head[sequence.start * width..sequence.end * width];
            // Gradients of keys and values by all chunks but the last, for each key head.
            let mut parts = Vec::with_capacity(c.kv_heads);
            let chunks = chunks(len);
            for _ in 0..c.kv_heads {
                let mut own = Vec::with_capacity(chunks.len());
                for chunk in chunks.iter().filter(|it| it.end < len) {
                    let (part, tail) = partial.split_at(chunk.end * 2 * d);
                    own.push(part.split_at(chunk.end * d));
                    partial = tail;
                }
                parts.push(own);
            }
            let parts = std::sync::Arc::new(parts);
            for start in (0..len).step_by(GATHER_ROWS) {
                let positions = start..len.min(start + GATHER_ROWS);
                let rows = split(&mut rest, positions.len() * width);
                tasks.push((sequence, positions, source, parts.clone(), rows));
            }
        }
        tasks.into_par_iter().for_each(|(sequence, positions, source, parts, rows)| {
            let len = sequence.len();
            simd(
                #[inline(always)]
                || {
                    for (t, row) in positions.clone().zip(rows.chunks_exact_mut(width)) {
                        let table = self.weights.rope(self.positions[sequence.start + t] as usize);
                        let (q, rest) = row.split_at_mut(c.q_width());
                        let (k, v) = rest.split_at_mut(c.kv_width());
                        for (kv, parts) in parts.iter().enumerate() {
                            let task = &source[kv * len * (group + 2) * d..][..len * (group + 2) * d];
                            let (dq, dkv) = task.split_at(len * group * d);
                            let (dk, dv) = dkv.split_at(len * d);
                            let (k, v) = (&mut k[kv * d..][..d], &mut v[kv * d..][..d]);
                            q[kv * d * group..][..group * d]
                                .copy_from_slice(&dq[t * group * d..][..group * d]);
                            k.copy_from_slice(&dk[t * d..][..d]);
                            v.copy_from_slice(&dv[t * d..][..d]);
                            for (dk, dv) in parts.iter().filter(|it| t * d < it.0.len()) {
                                add(k, &dk[t * d..][..d]);
                                add(v, &dv[t * d..][..d]);
                            }
                        }
                        q.chunks_exact_mut(d).for_each(|head| rotate(head, table, -1.0));
                        k.chunks_exact_mut(d).for_each(|head| rotate(head, table, -1.0));
                    }
                },
            );
        });
    }
}

#[inline(always)]
fn add(sum: &mut [f32], part: &[f32]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}
