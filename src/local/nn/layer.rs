//! One decoder layer, forward and backward.

use super::attention::{self, attention};
use super::head_norm::HeadNorm;
use super::linear::Linear;
use super::lora::{LayerSites, Site};
use super::matrix::Stack;
use super::ops::{rmsnorm, rmsnorm_backward, rope, swiglu, swiglu_backward};
use super::weights::{LayerWeights, Weights};
use std::ops::Range;

/// The rows (tokens) of one pass: several sequences, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// Range of rows of each sequence.
    pub(super) sequences: Vec<Range<usize>>,
    /// Each row's position within its sequence.
    pub(super) positions: Vec<u32>,
}

impl Rows {
    pub(super) fn new(lengths: impl IntoIterator<Item = usize>) -> Rows {
        let mut rows = Rows::default();
        for len in lengths {
            let start = rows.positions.len();
            rows.sequences.push(start..start + len);
            rows.positions.extend(0..len as u32);
        }
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }
}

/// A buffer whose memory is reused. Each use starts with arbitrary content.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `len` elements, with arbitrary content.
    pub(super) fn get(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            // Drop the old buffer first: resizing it would copy its content.
            self.0 = Vec::new();
            self.0.resize(len, 0.0);
        }
        &mut self.0[..len]
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&self.0[..]) as u64
    }

    /// The first `len` elements, with the content that was written through an earlier [`Buffer::get`] of at least that
    /// length.
    pub(super) fn read(&self, len: usize) -> &[f32] {
        &self.0[..len]
    }
}

/// Values that the forward pass of one layer keeps for its backward pass.
#[derive(Debug, Default)]
pub(super) struct Activations {
    /// The layer's input.
    pub(super) x: Buffer,
    inverse_attn: Buffer,
    normed_attn: Buffer,
    /// Queries and keys, both rotated by their positions, and values.
    pub(super) qkv: Buffer,
    /// What the norm of queries and keys keeps.
    head_norm: Buffer,
    log_sum: Buffer,
    mixed: Buffer,
    /// The residual stream between attention and MLP.
    middle: Buffer,
    inverse_mlp: Buffer,
    normed_mlp: Buffer,
    gate_up: Buffer,
    act: Buffer,
    ax_qkv: Buffer,
    ax_o: Buffer,
    ax_gate_up: Buffer,
    ax_down: Buffer,
}

impl Activations {
    pub(super) fn bytes(&self) -> u64 {
        let attention = [&self.x, &self.inverse_attn, &self.normed_attn, &self.qkv, &self.head_norm];
        let rest = [&self.log_sum, &self.mixed, &self.middle, &self.ax_qkv, &self.ax_o];
        let mlp = [&self.inverse_mlp, &self.normed_mlp, &self.gate_up, &self.act, &self.ax_gate_up];
        let all = attention.into_iter().chain(rest).chain(mlp).chain([&self.ax_down]);
        all.map(Buffer::bytes).sum()
    }
}

/// Scratch of the backward pass, shared by all layers.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    wide: Buffer,
    by_head: Buffer,
    narrow: Buffer,
    inner: Buffer,
    along: Buffer,
}

impl Scratch {
    pub(super) fn bytes(&self) -> u64 {
        [&self.wide, &self.by_head, &self.narrow, &self.inner, &self.along].map(Buffer::bytes).iter().sum()
    }
}

/// One decoder layer with its adapter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer<'a> {
    pub(super) model: &'a Weights,
    pub(super) weights: &'a LayerWeights,
    pub(super) sites: &'a LayerSites,
    pub(super) params: &'a [f32],
    pub(super) scale: f32,
}

impl<'a> Layer<'a> {
    /// Computes the input of the next layer, `next`, from `a.x`, and keeps in `a` the values that the backward pass
    /// needs.
    pub(super) fn forward(&self, rows: &Rows, a: &mut Activations, next: &mut [f32]) {
        let (c, w, n) = (&self.model.config, self.weights, rows.len());
        let (qkv, o, gate_up, down) = self.linears();
        let x = a.x.read(n * c.hidden);
        let normed = a.normed_attn.get(n * c.hidden);
        rmsnorm(x, &w.norm_attn, c.norm_eps, normed, a.inverse_attn.get(n));
        let projected = a.qkv.get(n * c.qkv_width());
        qkv.forward(n, normed, projected, 0.0, a.ax_qkv.get(n * qkv.inner()));
        if let Some(bias) = &w.qkv_bias {
            add_bias(projected, bias);
        }
        if let Some(norm) = &w.head_norm {
            norm.forward(c, projected, a.head_norm.get(n * HeadNorm::kept(c)));
        }
        rope(self.model, &rows.positions, projected);
        let mixed = a.mixed.get(n * c.q_width());
        attention(c, &rows.sequences, projected, mixed, a.log_sum.get(n * c.heads));
        let middle = a.middle.get(n * c.hidden);
        middle.copy_from_slice(x);
        o.forward(n, mixed, middle, 1.0, a.ax_o.get(n * o.inner()));
        if let Some(bias) = &w.o_bias {
            add_bias(middle, bias);
        }

        let normed = a.normed_mlp.get(n * c.hidden);
        rmsnorm(middle, &w.norm_mlp, c.norm_eps, normed, a.inverse_mlp.get(n));
        let projected = a.gate_up.get(n * 2 * c.mlp);
        gate_up.forward(n, normed, projected, 0.0, a.ax_gate_up.get(n * gate_up.inner()));
        let act = a.act.get(n * c.mlp);
        swiglu(projected, c.mlp, act);
        next.copy_from_slice(middle);
        down.forward(n, act, next, 1.0, a.ax_down.get(n * down.inner()));
    }

    /// Replaces `dx`, the gradient with respect to the layer's output, by the gradient with respect to the layer's
    /// input, and adds the adapter's gradients to `grads`. The input gradient of the first layer is not needed; for
    /// that layer (`first`), `dx` is left incomplete.
    pub(super) fn backward(
        &self,
        rows: &Rows,
        a: &Activations,
        dx: &mut [f32],
        grads: &mut [f32],
        s: &mut Scratch,
        first: bool,
    ) {
        let (c, w, n) = (&self.model.config, self.weights, rows.len());
        let (qkv, o, gate_up, down) = self.linears();
        let inner = [&qkv, &o, &gate_up, &down].map(Linear::inner).into_iter().max().unwrap_or(0);
        let dax = s.inner.get(n * inner);

        let dact = s.narrow.get(n * c.mlp.max(c.hidden).max(c.q_width()));
        let dact = &mut dact[..n * c.mlp];
        let (ax, act) = (a.ax_down.read(n * down.inner()), a.act.read(n * c.mlp));
        down.backward(n, act, ax, dx, Some((dact, 0.0)), grads, &mut dax[..n * down.inner()]);
        let dprojected = s.wide.get(n * (2 * c.mlp).max(c.qkv_width()));
        let dprojected = &mut dprojected[..n * 2 * c.mlp];
        swiglu_backward(a.gate_up.read(n * 2 * c.mlp), c.mlp, dact, dprojected);
        let dnormed = &mut s.narrow.get(n * c.hidden)[..];
        let (ax, normed) = (a.ax_gate_up.read(n * gate_up.inner()), a.normed_mlp.read(n * c.hidden));
        let dax_part = &mut dax[..n * gate_up.inner()];
        gate_up.backward(n, normed, ax, dprojected, Some((dnormed, 0.0)), grads, dax_part);
        rmsnorm_backward(a.middle.read(n * c.hidden), &w.norm_mlp, a.inverse_mlp.read(n), dnormed, dx);

        let dmixed = &mut s.narrow.get(n * c.q_width())[..];
        let (ax, mixed) = (a.ax_o.read(n * o.inner()), a.mixed.read(n * c.q_width()));
        o.backward(n, mixed, ax, dx, Some((dmixed, 0.0)), grads, &mut dax[..n * o.inner()]);
        let dqkv = s.wide.get(n * c.qkv_width());
        let pass = attention::Backward {
            weights: self.model,
            sequences: &rows.sequences,
            positions: &rows.positions,
            qkv: a.qkv.read(n * c.qkv_width()),
            out: mixed,
            log_sum: a.log_sum.read(n * c.heads),
            dout: dmixed,
        };
        pass.run(dqkv, s.by_head.get(n * c.qkv_width()), s.along.get(n * c.heads));
        if let Some(norm) = &w.head_norm {
            norm.backward(c, a.head_norm.read(n * HeadNorm::kept(c)), dqkv);
        }
        let (ax, normed) = (a.ax_qkv.read(n * qkv.inner()), a.normed_attn.read(n * c.hidden));
        let dax_part = &mut dax[..n * qkv.inner()];
        if first {
            return qkv.backward(n, normed, ax, dqkv, None, grads, dax_part);
        }
        let dnormed = &mut s.narrow.get(n * c.hidden)[..];
        qkv.backward(n, normed, ax, dqkv, Some((dnormed, 0.0)), grads, dax_part);
        rmsnorm_backward(a.x.read(n * c.hidden), &w.norm_attn, a.inverse_attn.read(n), dnormed, dx);
    }

    /// Number of floats that [`Activations`] has for a row.
    pub(super) fn kept_per_row(&self) -> usize {
        let c = &self.model.config;
        let (qkv, o, gate_up, down) = self.linears();
        let inner = [&qkv, &o, &gate_up, &down].map(Linear::inner).into_iter().sum::<usize>();
        let head_norm = self.weights.head_norm.as_ref().map_or(0, |_| HeadNorm::kept(c));
        let attention = 3 * c.hidden + c.qkv_width() + head_norm + c.heads + c.q_width() + 2;
        attention + c.hidden + 3 * c.mlp + inner
    }

    pub(super) fn linears(&self) -> (Linear<'a>, Linear<'a>, Linear<'a>, Linear<'a>) {
        let (c, w, sites) = (&self.model.config, self.weights, self.sites);
        let (params, scale) = (self.params, self.scale);
        let linear = |weight: &'a Stack, outputs: usize, inputs: usize, site: &'a Option<Site>| {
            let site = site.as_ref();
            Linear { weight, outputs, inputs, site, params, scale }
        };
        (
            linear(&w.qkv, c.qkv_width(), c.hidden, &sites.qkv),
            linear(&w.o, c.hidden, c.q_width(), &sites.o),
            linear(&w.gate_up, 2 * c.mlp, c.hidden, &sites.gate_up),
            linear(&w.down, c.hidden, c.mlp, &sites.down),
        )
    }
}

/// Adds a bias to each row.
pub(super) fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
}
