//! Generates one token at a time, with a cache of keys and values.
//!
//! If the weights are in memory, the adapter is merged into them, and they are packed into panels (see
//! [`pack_panels`]). If they are in files, they are used as they are, for all samples at once, and the adapter is
//! computed beside them: merged weights would take memory, and would have to be rounded to the format of the file.
//!
//! Every product here computes each row independently of the others. So a sample has the same bits whether it is
//! generated alone or with others.

use super::layer::add_bias;
use super::linear::Linear;
use super::ops::rotate;
use super::pass::Model;
use super::segment::Segment;
use super::team::Team;
use super::weights::Weights;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

use crate::local::kernel::{
    Mat, MatMut, PANEL, PanelProduct, exp, exp_sum, matmul_here, max, pack_panels, simd, sum_by,
};

/// Largest number of weights in each projection of a small model.
const MAX_SMALL: usize = 1 << 18;

/// One projection, merged with its adapter and packed into panels.
#[derive(Debug)]
pub(super) struct Packed {
    panels: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Packed {
    fn new(linear: &Linear<'_>) -> Packed {
        let (outputs, inputs) = (linear.outputs, linear.inputs);
        let pack = |weight: &[f32]| Packed { panels: pack_panels(weight, outputs, inputs), outputs, inputs };
        let mut merged = linear.weight.to_vec();
        let Some(site) = linear.site else { return pack(&merged) };
        for (i, part) in site.parts.iter().enumerate() {
            let a = &linear.params[site.a.clone()][i * site.rank * inputs..];
            let b = Mat::new(&linear.params[part.b.clone()], part.width, site.rank);
            let slot = MatMut::new(&mut merged[part.at * inputs..], part.width, inputs);
            matmul_here(slot, 1.0, b, Mat::new(a, site.rank, inputs), linear.scale);
        }
        pack(&merged)
    }

    /// The packed form of a matrix without an adapter.
    #[cfg(test)]
    pub(super) fn of_matrix(weight: &super::matrix::Stack) -> Packed {
        let (outputs, inputs) = (weight.outputs(), weight.inputs());
        Packed { panels: pack_panels(&weight.to_vec(), outputs, inputs), outputs, inputs }
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The outputs, divided into two halves of whole panels; the second is empty if there is one panel.
    pub(super) fn halves(&self) -> [Range<usize>; 2] {
        let middle = self.outputs.div_ceil(PANEL).div_ceil(2) * PANEL;
        let middle = middle.min(self.outputs);
        [0..middle, middle..self.outputs]
    }

    /// `dst = W·x` for `rows` rows and some outputs, which begin with a panel; with `keep`, the product is added to `dst`.
    /// `dst` begins with the first of these outputs, and its rows start `dst_stride` numbers apart.
    pub(super) fn product(
        &self,
        outputs: Range<usize>,
        rows: usize,
        x: &[f32],
        dst: &mut [f32],
        dst_stride: usize,
        keep: bool,
    ) {
        self.part(outputs, rows, x, dst, dst_stride, keep).run();
    }

    fn part<'a>(
        &'a self,
        outputs: Range<usize>,
        rows: usize,
        x: &'a [f32],
        dst: &'a mut [f32],
        dst_stride: usize,
        keep: bool,
    ) -> PanelProduct<'a> {
        PanelProduct {
            panels: &self.panels[outputs.start / PANEL * PANEL * self.inputs..],
            panel_inputs: self.inputs,
            inputs: self.inputs,
            outputs: outputs.len(),
            rows,
            x,
            x_stride: self.inputs,
            dst,
            dst_stride,
            keep,
        }
    }
}

/// The merged projections of one layer. Projections without an adapter are shared with the untrained model.
#[derive(Debug)]
pub(super) struct PackedLayer {
    qkv: Arc<Packed>,
    o: Arc<Packed>,
    gate_up: Arc<Packed>,
    down: Arc<Packed>,
}

/// Rows that one task of [`Decoder::project_many`] handles.
const MANY_ROWS: usize = 32;

/// How the projections of a model are computed.
#[derive(Debug)]
pub(super) enum Decoder {
    /// Merged with the adapter, and packed.
    Packed { layers: Vec<PackedLayer>, head: Arc<Packed> },
    /// With the weights in their files.
    Direct,
}

/// The threads that compute a step of some samples.
#[derive(Clone, Copy, Debug)]
pub(super) enum Threads<'t, 'a> {
    /// The calling thread.
    One,
    /// The two threads of a team.
    Team(&'t Team<'a>),
    /// Those of the current rayon pool, each product by all of them.
    Pool,
}

/// One of the projections of a model.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Qkv,
    O,
    GateUp,
    Down,
    Head,
}

/// A sample in a step.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// The positions that the samples of a request share, in order.
    pub(super) prefix: &'a [Arc<Segment>],
    /// The later positions of the sample.
    pub(super) own: &'a mut Segment,
    pub(super) token: u32,
}

/// Buffers of [`Decoder::step`].
#[derive(Debug, Default)]
pub(super) struct StepScratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    ax: Vec<f32>,
    scores: Vec<f32>,
}

impl Decoder {
    /// The decoder of a model. `untrained` is the decoder of the same base model without an adapter, if one exists:
    /// packed projections that the adapter does not change are shared with it.
    pub(super) fn new(model: &Model, untrained: Option<&Decoder>) -> Decoder {
        if !model.base.is_owned() {
            return Decoder::Direct;
        }
        let untrained = untrained.and_then(|decoder| match decoder {
            Decoder::Packed { layers, head } => Some((layers, head)),
            Decoder::Direct => None,
        });
        let packed = |linear: &Linear<'_>, same: Option<&Arc<Packed>>| match same {
            Some(same) if linear.site.is_none() => same.clone(),
            _ => Arc::new(Packed::new(linear)),
        };
        let layer = |l: usize| {
            let (qkv, o, gate_up, down) = model.layer(l).linears();
            let same = untrained.and_then(|it| it.0.get(l));
            PackedLayer {
                qkv: packed(&qkv, same.map(|it| &it.qkv)),
                o: packed(&o, same.map(|it| &it.o)),
                gate_up: packed(&gate_up, same.map(|it| &it.gate_up)),
                down: packed(&down, same.map(|it| &it.down)),
            }
        };
        Decoder::Packed {
            layers: (0..model.base.config.layers).map(layer).collect(),
            head: packed(&model.head(), untrained.map(|it| it.1)),
        }
    }

    /// True if a step computes all samples at once, each product on several threads.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Decoder::Direct)
    }

    /// True if each product is so small that two threads compute it most quickly.
    pub(super) fn is_small(&self) -> bool {
        match self {
            Decoder::Direct => false,
            Decoder::Packed { layers, head } => {
                let parts = layers.iter().flat_map(|it| [&it.qkv, &it.o, &it.gate_up, &it.down]);
                parts.chain([head]).all(|it| it.panels.len() <= MAX_SMALL)
            }
        }
    }

    /// One projection of layer `l` for `rows` rows; with `keep`, the product is added to `dst`.
    #[allow(clippy::too_many_arguments)] // Each is a different buffer; a struct would only rename them.
    pub(super) fn project<'a>(
        &'a self,
        model: &Model,
        (l, which): (usize, Which),
        rows: usize,
        x: &[f32],
        dst: &mut [f32],
        keep: bool,
        (threads, ax): (Threads<'_, 'a>, &mut Vec<f32>),
    ) {
        match self {
            Decoder::Packed { layers, head } => {
                let packed = match which {
                    Which::Qkv => &layers[l].qkv,
                    Which::O => &layers[l].o,
                    Which::GateUp => &layers[l].gate_up,
                    Which::Down => &layers[l].down,
                    Which::Head => head,
                };
                match threads {
                    Threads::One => packed.product(0..packed.outputs, rows, x, dst, packed.outputs, keep),
                    Threads::Team(team) => team.product(packed, rows, x, dst, keep),
                    Threads::Pool => {
                        packed.part(0..packed.outputs, rows, x, dst, packed.outputs, keep).run_in_parts(ax);
                    }
                }
            }
            Decoder::Direct => {
                if let Which::Head = which {
                    return model.head().product(rows, x, dst, keep, ax);
                }
                let (qkv, o, gate_up, down) = model.layer(l).linears();
                let linear = match which {
                    Which::Qkv => qkv,
                    Which::O => o,
                    Which::GateUp => gate_up,
                    Which::Down | Which::Head => down,
                };
                linear.product(rows, x, dst, keep, ax);
            }
        }
    }

    /// The same for many rows, on several threads. Each row has the same bits as by [`project`](Self::project).
    pub(super) fn project_many(
        &self,
        model: &Model,
        at: (usize, Which),
        x: (&[f32], usize),
        dst: (&mut [f32], usize),
        keep: bool,
        ax: &mut Vec<f32>,
    ) {
        let ((x, inputs), (dst, outputs)) = (x, dst);
        if self.is_direct() {
            // The product itself uses several threads.
            let rows = x.len() / inputs;
            return self.project(model, at, rows, x, dst, keep, (Threads::One, ax));
        }
        let tasks = x.par_chunks(MANY_ROWS * inputs).zip(dst.par_chunks_mut(MANY_ROWS * outputs));
        tasks.for_each(|(x, dst)| {
            self.project(model, at, x.len() / inputs, x, dst, keep, (Threads::One, &mut Vec::new()));
        });
    }

    /// Feeds one token to each of several samples and writes their logits, `[samples, vocab]`.
    pub(super) fn step<'a>(
        &'a self,
        model: &Model,
        samples: &mut [Row<'_>],
        logits: &mut [f32],
        threads: Threads<'_, 'a>,
        s: &mut StepScratch,
    ) {
        let (weights, n) = (&*model.base, samples.len());
        let c = &weights.config;
        s.x.resize(n * c.hidden, 0.0);
        for (slot, sample) in s.x.chunks_exact_mut(c.hidden).zip(&*samples) {
            weights.embed(sample.token, slot);
        }
        s.normed.resize(n * c.hidden, 0.0);
        s.qkv.resize(n * c.qkv_width(), 0.0);
        s.mixed.resize(n * c.q_width(), 0.0);
        s.gate_up.resize(n * 2 * c.mlp, 0.0);
        s.act.resize(n * c.mlp, 0.0);
        for (l, frozen) in weights.layers.iter().enumerate() {
            norm_rows(&s.x, &frozen.norm_attn, c.norm_eps, &mut s.normed);
            self.project(model, (l, Which::Qkv), n, &s.normed, &mut s.qkv, false, (threads, &mut s.ax));
            let attend = |row: &mut [f32], mixed: &mut [f32], sample: &mut Row<'_>, scores: &mut Vec<f32>| {
                attend_row(weights, l, sample, row, mixed, scores);
            };
            let (rows, mixed) = (c.qkv_width(), c.q_width());
            if matches!(threads, Threads::Pool) && 1 < n {
                s.qkv
                    .par_chunks_exact_mut(rows)
                    .zip(s.mixed.par_chunks_exact_mut(mixed))
                    .zip(samples.par_iter_mut())
                    .for_each_init(Vec::new, |scores, ((row, mixed), sample)| {
                        attend(row, mixed, sample, scores)
                    });
            } else {
                let all =
                    s.qkv.chunks_exact_mut(rows).zip(s.mixed.chunks_exact_mut(mixed)).zip(samples.iter_mut());
                all.for_each(|((row, mixed), sample)| attend(row, mixed, sample, &mut s.scores));
            }
            self.project(model, (l, Which::O), n, &s.mixed, &mut s.x, true, (threads, &mut s.ax));
            if let Some(bias) = &frozen.o_bias {
                add_bias(&mut s.x, bias);
            }
            norm_rows(&s.x, &frozen.norm_mlp, c.norm_eps, &mut s.normed);
            self.project(
                model,
                (l, Which::GateUp),
                n,
                &s.normed,
                &mut s.gate_up,
                false,
                (threads, &mut s.ax),
            );
            swiglu_rows(&s.gate_up, c.mlp, &mut s.act);
            self.project(model, (l, Which::Down), n, &s.act, &mut s.x, true, (threads, &mut s.ax));
        }
        samples.iter_mut().for_each(|sample| sample.own.len += 1);
        norm_rows(&s.x, &weights.norm, c.norm_eps, &mut s.normed);
        self.project(model, (0, Which::Head), n, &s.normed, logits, false, (threads, &mut s.ax));
    }
}

/// Finishes the queries, keys and values of one sample, adds keys and values to its cache, and computes the attention.
fn attend_row(
    weights: &Weights,
    l: usize,
    sample: &mut Row<'_>,
    row: &mut [f32],
    mixed: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let Row { prefix, own, .. } = sample;
    let c = &weights.config;
    finish_row(weights, l, own.start + own.len, row, scores);
    let (queries, keys) = row.split_at(c.q_width());
    let (keys, values) = keys.split_at(c.kv_width());
    own.push(weights, l, own.len, keys, values);
    let shared = prefix.iter().map(|it| (&**it, it.len));
    attend(weights, l, shared.chain([(&**own, own.len + 1)]), queries, mixed, scores);
}

/// Adds the biases of layer `l` to the queries, keys and values of one token, and norms and rotates the queries and keys.
#[inline(always)]
pub(super) fn finish_row(
    weights: &Weights,
    l: usize,
    position: usize,
    row: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (c, frozen) = (&weights.config, &weights.layers[l]);
    if let Some(bias) = &frozen.qkv_bias {
        add_bias(row, bias);
    }
    let rotated = &mut row[..c.q_width() + c.kv_width()];
    if let Some(norm) = &frozen.head_norm {
        scratch.resize(c.heads + c.kv_heads, 0.0);
        norm.norm(c, rotated, scratch);
    }
    let table = weights.rope(position);
    rotated.chunks_exact_mut(c.head_dim).for_each(|head| rotate(head, table, 1.0));
}

/// Attention of one sample for one layer, over the segments that all samples share, and the sample's own. Each comes with
/// the number of its positions to use.
fn attend<'a>(
    weights: &Weights,
    layer: usize,
    seen: impl Iterator<Item = (&'a Segment, usize)> + Clone,
    queries: &[f32],
    mixed: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let c = &weights.config;
    let (d, group, per_head) = (c.head_dim, c.group(), c.head_dim.div_ceil(PANEL));
    let total: usize = seen.clone().map(|it| it.1).sum();
    let scale = 1.0 / (d as f32).sqrt();
    scores.resize(group * total, 0.0);
    for kv in 0..c.kv_heads {
        let head = layer * c.kv_heads + kv;
        let queries = &queries[kv * group * d..][..group * d];
        let mixed = &mut mixed[kv * group * d..][..group * d];
        let mut at = 0;
        for (segment, len) in seen.clone() {
            let product = PanelProduct {
                panels: &segment.keys[head],
                panel_inputs: d,
                inputs: d,
                outputs: len,
                rows: group,
                x: queries,
                x_stride: d,
                dst: &mut scores[at..],
                dst_stride: total,
                keep: false,
            };
            product.run();
            at += len;
        }
        simd(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(total) {
                    row.iter_mut().for_each(|v| *v *= scale);
                    let top = max(row);
                    let factor = 1.0 / exp_sum(row, top);
                    row.iter_mut().for_each(|v| *v *= factor);
                }
            },
        );
        for part in 0..per_head {
            let mut at = 0;
            for (segment, len) in seen.clone() {
                let product = PanelProduct {
                    panels: &segment.values[head * per_head + part],
                    panel_inputs: len,
                    inputs: len,
                    outputs: PANEL.min(d - part * PANEL),
                    rows: group,
                    x: &scores[at..],
                    x_stride: total,
                    dst: &mut mixed[part * PANEL..],
                    dst_stride: d,
                    keep: at > 0,
                };
                product.run();
                at += len;
            }
        }
    }
}

/// RMSNorm of a few rows on the calling thread.
pub(super) fn norm_rows(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let h = gain.len();
    simd(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(h).zip(y.chunks_exact_mut(h)) {
                let inverse = 1.0 / (sum_by(x, |v| v * v) / h as f32 + eps).sqrt();
                for ((y, &x), &gain) in y.iter_mut().zip(x).zip(gain) {
                    *y = x * inverse * gain;
                }
            }
        },
    );
}

/// SwiGLU of a few rows on the calling thread.
pub(super) fn swiglu_rows(gate_up: &[f32], mlp: usize, act: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (row, act) in gate_up.chunks_exact(2 * mlp).zip(act.chunks_exact_mut(mlp)) {
                let (gate, up) = row.split_at(mlp);
                for ((act, &g), &u) in act.iter_mut().zip(gate).zip(up) {
                    *act = g / (1.0 + exp(-g)) * u;
                }
            }
        },
    );
}
