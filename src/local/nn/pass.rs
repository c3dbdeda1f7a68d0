//! A forward or backward pass of several sequences through the whole model.

use super::head::{Backward, HeadRows, HeadScratch};
use super::layer::{Activations, Buffer, Layer, Rows, Scratch};
use super::linear::Linear;
use super::lora::{Layout, LoraSpec};
use super::ops::{rmsnorm, rmsnorm_backward};
use super::weights::Weights;
use std::sync::Arc;

/// The base model and an adapter's current parameters.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) base: Arc<Weights>,
    pub(super) layout: Arc<Layout>,
    pub(super) params: Vec<f32>,
    pub(super) scale: f32,
}

impl Model {
    pub(super) fn new(base: Arc<Weights>, spec: &LoraSpec) -> Model {
        let layout = Layout::new(&base.config, spec);
        let params = layout.init(spec.seed);
        Model { base, layout: Arc::new(layout), params, scale: spec.scale() }
    }

    pub(super) fn layer(&self, l: usize) -> Layer<'_> {
        Layer {
            model: &self.base,
            weights: &self.base.layers[l],
            sites: &self.layout.layers[l],
            params: &self.params,
            scale: self.scale,
        }
    }

    pub(super) fn head(&self) -> Linear<'_> {
        Linear {
            weight: self.base.head(),
            outputs: self.base.config.vocab,
            inputs: self.base.config.hidden,
            site: self.layout.head.as_ref(),
            params: &self.params,
            scale: self.scale,
        }
    }
}

/// Buffers of a pass. They are kept for the next pass, because fetching fresh memory from the system is slow.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    layers: Vec<Activations>,
    x: Buffer,
    inverse: Buffer,
    normed: Buffer,
    dnormed: Buffer,
    dx: Buffer,
    scratch: Scratch,
    head: HeadScratch,
}

/// Targets of a training pass.
pub(super) struct Targets<'a> {
    pub(super) ids: &'a [u32],
    /// Number of targets per row.
    pub(super) k: usize,
    pub(super) slope: Slope<'a>,
}

/// Function that gives the derivatives of the loss with respect to the log-probabilities.
#[derive(Clone, Copy)]
pub(super) enum Slope<'a> {
    /// Maps the index of a target and its log-probability to the derivative.
    Each(&'a (dyn Fn(usize, f32) -> f32 + Sync)),
    /// Maps the log-probabilities of all targets to all derivatives, for losses of whole sequences.
    Sequence(&'a dyn Fn(&[f32]) -> Vec<f32>),
}

/// Receives a chunk of rows of logits and the number of its first row.
pub(super) type VisitLogits<'a> = dyn FnMut(usize, &mut [f32]) + 'a;

impl Workspace {
    /// Runs `tokens` forward through all layers and the final norm. With `keep`, the activations of every layer are
    /// kept for a backward pass. `visit` receives the activations of each layer as soon as they are computed.
    fn body(
        &mut self,
        model: &Model,
        rows: &Rows,
        tokens: impl Iterator<Item = u32>,
        keep: bool,
        mut visit: impl FnMut(usize, &Activations),
    ) {
        let c = &model.base.config;
        let size = rows.len() * c.hidden;
        self.layers.resize_with(if keep { c.layers } else { 1 }, Activations::default);
        for (slot, token) in self.x.get(size).chunks_exact_mut(c.hidden).zip(tokens) {
            model.base.embed(token, slot);
        }
        for l in 0..c.layers {
            let a = &mut self.layers[if keep { l } else { 0 }];
            // Swap the buffers instead of copying: `a.x` now holds the layer's input, and `self.x` is the old buffer of
            // `a.x`, which takes the layer's output.
            std::mem::swap(&mut a.x, &mut self.x);
            model.layer(l).forward(rows, a, self.x.get(size));
            visit(l, a);
        }
        let normed = self.normed.get(size);
        rmsnorm(self.x.read(size), &model.base.norm, c.norm_eps, normed, self.inverse.get(rows.len()));
    }

    /// Runs a prompt forward, passing each layer's activations to `visit`, and each chunk of logits to `logits` if it
    /// is given.
    pub(super) fn prompt(
        &mut self,
        model: &Model,
        tokens: &[u32],
        visit: impl FnMut(usize, &Activations),
        logits: Option<&mut VisitLogits<'_>>,
    ) {
        let rows = Rows::new([tokens.len()]);
        self.body(model, &rows, tokens.iter().copied(), false, visit);
        if let Some(logits) = logits {
            let hidden = self.normed.read(rows.len() * model.base.config.hidden);
            let head = HeadRows { head: model.head(), hidden, rows: rows.len() };
            head.logits(&mut self.head, logits);
        }
    }

    /// Computes the log-probabilities of the targets. If `grads` is given, adds the adapter's gradients to it.
    pub(super) fn targets(
        &mut self,
        model: &Model,
        rows: &Rows,
        tokens: impl Iterator<Item = u32>,
        targets: &Targets<'_>,
        logprobs: &mut [f32],
        grads: Option<&mut [f32]>,
    ) {
        let c = &model.base.config;
        let (n, size) = (rows.len(), rows.len() * c.hidden);
        self.body(model, rows, tokens, grads.is_some(), |_, _| {});
        let hidden = self.normed.read(size);
        let head = HeadRows { head: model.head(), hidden, rows: n };
        let Some(grads) = grads else {
            return head.targets(targets.ids, targets.k, logprobs, &mut self.head, None);
        };
        let slopes = match targets.slope {
            Slope::Each(_) => Vec::new(),
            // The function needs all log-probabilities. Therefore the head runs twice, which costs little compared with
            // the layers.
            Slope::Sequence(of) => {
                head.targets(targets.ids, targets.k, logprobs, &mut self.head, None);
                of(logprobs)
            }
        };
        let read = |i: usize, _: f32| slopes[i];
        let slope: &(dyn Fn(usize, f32) -> f32 + Sync) = match targets.slope {
            Slope::Each(it) => it,
            Slope::Sequence(_) => &read,
        };
        let dnormed = self.dnormed.get(size);
        let backward = Backward { slope, dhidden: dnormed, grads };
        head.targets(targets.ids, targets.k, logprobs, &mut self.head, Some(backward));
        let dx = self.dx.get(size);
        dx.fill(0.0);
        rmsnorm_backward(self.x.read(size), &model.base.norm, self.inverse.read(n), dnormed, dx);
        for l in (0..c.layers).rev() {
            model.layer(l).backward(rows, &self.layers[l], dx, grads, &mut self.scratch, l == 0);
        }
    }
}
