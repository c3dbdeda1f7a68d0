//! Keys and values of consecutive positions: the cache of a prompt, in blocks, and that of a sample.

use super::weights::Weights;
use crate::local::kernel::PANEL;

/// Number of positions of a block of a prompt; a multiple of [`PANEL`]. Blocks start at multiples of this number. So the
/// sums of a position's attention are divided in the same way whether the blocks before it were computed for the same
/// prompt or for another one.
pub(super) const BLOCK: usize = 64;

/// A part of the cache: the keys and values of consecutive positions, for every layer and key head.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Position of the first token of the segment.
    pub(super) start: usize,
    /// Number of positions in the segment.
    pub(super) len: usize,
    /// One list for each layer and key head, `[layers·kv_heads]`. A list holds panels of [`PANEL`] positions, each
    /// `[head_dim][PANEL]`.
    pub(super) keys: Vec<Vec<f32>>,
    /// The `head_dim` components of a value are split into groups of [`PANEL`]; the last group may be shorter and is
    /// padded with zeros. There is one list for each layer, key head and group,
    /// `[layers·kv_heads·ceil(head_dim/PANEL)]`. A list is `[position][PANEL]`.
    pub(super) values: Vec<Vec<f32>>,
}

impl Segment {
    /// An empty segment for the positions from `start` on.
    pub(super) fn new(weights: &Weights, start: usize) -> Segment {
        let c = &weights.config;
        let heads = c.layers * c.kv_heads;
        Segment {
            start,
            len: 0,
            keys: vec![Vec::new(); heads],
            values: vec![Vec::new(); heads * c.head_dim.div_ceil(PANEL)],
        }
    }

    /// A segment of `len` positions from `start` on, whose keys and values are written later.
    pub(super) fn unwritten(weights: &Weights, start: usize, len: usize) -> Segment {
        let mut segment = Segment { len, ..Segment::new(weights, start) };
        let keys = weights.config.head_dim * len.next_multiple_of(PANEL);
        segment.keys.iter_mut().for_each(|list| *list = vec![0.0; keys]);
        segment.values.iter_mut().for_each(|list| *list = vec![0.0; len * PANEL]);
        segment
    }

    /// Size in bytes of a segment with this many positions.
    pub(super) fn bytes(weights: &Weights, positions: usize) -> usize {
        let c = &weights.config;
        let floats = c.head_dim + c.head_dim.div_ceil(PANEL) * PANEL;
        4 * c.layers * c.kv_heads * floats * positions.next_multiple_of(PANEL)
    }

    /// Writes the keys and the values of one token for one layer, `[kv_heads·head_dim]` each. `at` is the position of
    /// the token, counted from the start of the segment.
    pub(super) fn push(&mut self, weights: &Weights, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let c = &weights.config;
        let (d, per_head) = (c.head_dim, c.head_dim.div_ceil(PANEL));
        for (kv, (key, value)) in keys.chunks_exact(d).zip(values.chunks_exact(d)).enumerate() {
            let head = layer * c.kv_heads + kv;
            let panels = &mut self.keys[head];
            if at.is_multiple_of(PANEL) {
                grow(panels, (at / PANEL + 1) * d * PANEL);
            }
            let panel = &mut panels[at / PANEL * d * PANEL..];
            for (slot, &v) in panel.iter_mut().skip(at % PANEL).step_by(PANEL).zip(key) {
                *slot = v;
            }
            for (part, value) in value.chunks(PANEL).enumerate() {
                let list = &mut self.values[head * per_head + part];
                grow(list, (at + 1) * PANEL);
                list[at * PANEL..][..value.len()].copy_from_slice(value);
            }
        }
    }
}

/// Extends a list with zeros to at least `len`. If the list has to be reallocated, reserves room for an eighth more,
/// while `Vec` would double the capacity: the caches of long sequences are most of the memory of sampling.
fn grow(list: &mut Vec<f32>, len: usize) {
    let more = len.saturating_sub(list.len());
    if list.capacity() < len {
        list.reserve_exact(more.max(list.len() / 8));
    }
    list.resize(list.len() + more, 0.0);
}
