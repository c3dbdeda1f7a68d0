//! Estimates of memory, before it is taken: for an adapter, and for the groups of a pass.

use super::attention;
use super::head::chunk_rows;
use super::linear::Linear;
use super::lora::{Layout, LoraSpec};
use super::pass::{Keep, Model};
use super::train::WAVE;
use super::weights::Weights;

/// Bytes of a number.
const FLOAT: u64 = 4;

/// Bytes that an adapter takes all the time: parameters, gradients, a copy of them during a pass, and the two moments.
pub(super) fn adapter_bytes(params: usize) -> u64 {
    5 * FLOAT * params as u64
}

/// Bytes that a new adapter needs: what it takes all the time, and the content of its files while it is saved.
pub(crate) fn new_adapter_bytes(base: &Weights, spec: &LoraSpec) -> u64 {
    let params = Layout::new(base.config(), spec).len;
    adapter_bytes(params) + 3 * FLOAT * params as u64
}

/// Bytes as a text for errors.
pub(crate) fn shown(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// How a pass stays within its memory. The results have the same bits for every plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Number of groups that are computed at the same time.
    pub(super) at_once: usize,
    /// Limit of the floats that a group keeps of its layers; see [`Model::max_kept`].
    pub(super) max_kept: usize,
    /// Estimated bytes.
    pub(super) bytes: u64,
}

impl Plan {
    /// Plans a pass over groups of sequences, given by the lengths of the sequences: as many groups at once as fit into
    /// `limit` bytes, then with layers that are computed again.
    ///
    /// # Errors
    /// One group alone needs more than `limit` bytes: the index of the group, and the bytes that it needs.
    pub(super) fn new(
        model: &Model,
        groups: &[Vec<usize>],
        backward: bool,
        limit: u64,
    ) -> Result<Plan, (usize, u64)> {
        for max_kept in [model.max_kept, 0] {
            let needs = groups.iter().map(|lengths| group_bytes(model, lengths, backward, max_kept));
            let mut needs: Vec<u64> = needs.collect();
            needs.sort_unstable_by(|a, b| b.cmp(a));
            // The largest groups may run at the same time.
            let sum = |n: usize| needs.iter().take(n).sum::<u64>();
            let fitting = (1..=WAVE.min(groups.len())).rev().find(|n| sum(*n) <= limit);
            if let Some(at_once) = fitting {
                return Ok(Plan { at_once, max_kept, bytes: sum(at_once) });
            }
        }
        let needs = groups.iter().map(|lengths| group_bytes(model, lengths, backward, 0));
        let largest = needs.enumerate().max_by_key(|(i, bytes)| (*bytes, groups.len() - i));
        Err(largest.unwrap_or((0, 0)))
    }
}

/// Estimates the bytes of the pass of one group: its activations, the scratch memory, the logits of a chunk, and the
/// group's own gradients.
pub(super) fn group_bytes(model: &Model, lengths: &[usize], backward: bool, max_kept: usize) -> u64 {
    let c = model.base.config();
    let rows: usize = lengths.iter().sum();
    let keep = model.keep(rows, backward, max_kept);
    let (n, hidden, layers) = (rows as u64, c.hidden as u64, c.layers as u64);
    let kept = (0..c.layers).map(|l| model.layer(l).kept_per_row() as u64);
    let of_layers = match keep {
        Keep::All => kept.sum::<u64>(),
        Keep::Inputs => kept.max().unwrap_or(0) + layers * hidden,
        Keep::Nothing => kept.max().unwrap_or(0),
    };
    let head = model.head();
    let chunk = rows.min(chunk_rows(c.vocab)) as u64;
    let head_floats = chunk * (c.vocab + 2 * head.inner()) as u64;
    let attention = attention::pass_scratch_len(c, lengths.iter().copied(), backward) as u64;
    let split_len = |l: usize| {
        let (qkv, o, gate_up, down) = model.layer(l).linears();
        [qkv, o, gate_up, down].iter().map(|it| it.split_len(rows)).max().unwrap_or(0)
    };
    let split = (0..c.layers).map(split_len).max().unwrap_or(0).max(head.split_len(chunk as usize)) as u64;
    let forward = n * (of_layers + 2 * hidden + 1) + head_floats + attention + split;
    let scratch = if backward {
        let widest = |l: usize| {
            let (qkv, o, gate_up, down) = model.layer(l).linears();
            [qkv, o, gate_up, down].iter().map(Linear::inner).max().unwrap_or(0)
        };
        let inner = (0..c.layers).map(widest).max().unwrap_or(0);
        let wide = (2 * c.mlp).max(c.qkv_width()) + c.qkv_width();
        let narrow = c.mlp.max(c.hidden).max(c.q_width());
        n * (wide + narrow + inner + c.heads + 2 * c.hidden) as u64 + model.params.len() as u64
    } else {
        0
    };
    FLOAT * (forward + scratch)
}
