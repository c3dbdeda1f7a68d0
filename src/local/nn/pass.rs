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
    /// Limit of the floats that a pass keeps for its backward pass; see [`MAX_KEPT`].
    pub(super) max_kept: usize,
}

impl Model {
    pub(super) fn new(base: Arc<Weights>, spec: &LoraSpec) -> Model {
        let layout = Layout::new(&base.config, spec);
        let params = layout.init(spec.seed);
        Model { base, layout: Arc::new(layout), params, scale: spec.scale(), max_kept: MAX_KEPT }
    }

    /// A model with the parameters of an adapter of this kind.
    pub(super) fn with_params(base: Arc<Weights>, spec: &LoraSpec, params: Vec<f32>) -> Model {
        let layout = Arc::new(Layout::new(&base.config, spec));
        Model { base, layout, params, scale: spec.scale(), max_kept: MAX_KEPT }
    }

    /// What a pass with this many rows keeps of its layers, at most `max_kept` floats for all of them.
    pub(super) fn keep(&self, rows: usize, backward: bool, max_kept: usize) -> Keep {
        let all = || (0..self.base.config.layers).map(|l| rows * self.layer(l).kept_per_row()).sum::<usize>();
        if !backward {
            Keep::Nothing
        } else if max_kept < all() {
            Keep::Inputs
        } else {
            Keep::All
        }
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

/// Limit of the 32-bit floats that a pass keeps for its backward pass. Above it only the input of each layer is kept, and
/// the backward pass computes the layer again.
pub(super) const MAX_KEPT: usize = 1 << 27;

/// What a forward pass keeps of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// The input of each layer.
    Inputs,
    /// All that the backward pass needs.
    All,
}

/// Buffers of a pass. They are kept for the next pass, because fetching fresh memory from the system is slow.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    layers: Vec<Activations>,
    /// The inputs of the layers that are computed again.
    inputs: Vec<Buffer>,
    x: Buffer,
    inverse: Buffer,
    normed: Buffer,
    dnormed: Buffer,
    dx: Buffer,
    scratch: Scratch,
    head: HeadScratch,
}

impl Workspace {
    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> u64 {
        let all = [&self.x, &self.inverse, &self.normed, &self.dnormed, &self.dx];
        let buffers = all.into_iter().chain(&self.inputs).map(Buffer::bytes).sum::<u64>();
        let layers = self.layers.iter().map(Activations::bytes).sum::<u64>();
        buffers + layers + self.scratch.bytes() + self.head.bytes()
    }
}

/// Targets of a training pass.
pub(super) struct Targets<'a> {
    pub(super) ids: &'a [u32],
    /// Number of targets per row.
    pub(super) k: usize,
    pub(super) slope: Slope<'a>,
    /// Limit of the floats that the pass keeps of its layers; see [`Model::max_kept`].
    pub(super) max_kept: usize,
}

/// Function that gives the derivatives of the loss with respect to the log-probabilities.
#[derive(Clone, Copy)]
pub(super) enum Slope<'a> {
    /// Maps the index of a target and its log-probability to the derivative.
    Each(&'a (dyn Fn(usize, f32) -> f32 + Sync)),
    /// Maps the log-probabilities of all targets to all derivatives, for losses of whole sequences.
    Sequence(&'a dyn Fn(&[f32]) -> Vec<f32>),
}

impl Workspace {
    /// Runs `tokens` forward through all layers and the final norm, and keeps of the layers what `keep` says.
    fn body(&mut self, model: &Model, rows: &Rows, tokens: impl Iterator<Item = u32>, keep: Keep) {
        let c = &model.base.config;
        let size = rows.len() * c.hidden;
        self.layers.resize_with(if keep == Keep::All { c.layers } else { 1 }, Activations::default);
        self.inputs.resize_with(if keep == Keep::Inputs { c.layers } else { 0 }, Buffer::default);
        for (slot, token) in self.x.get(size).chunks_exact_mut(c.hidden).zip(tokens) {
            model.base.embed(token, slot);
        }
        for l in 0..c.layers {
            let a = &mut self.layers[if keep == Keep::All { l } else { 0 }];
            // Swap the buffers instead of copying: `a.x` now holds the layer's input, and `self.x` is the old buffer of
            // `a.x`, which takes the layer's output.
            std::mem::swap(&mut a.x, &mut self.x);
            if keep == Keep::Inputs {
                self.inputs[l].get(size).copy_from_slice(a.x.read(size));
            }
            model.layer(l).forward(rows, a, self.x.get(size));
        }
        let normed = self.normed.get(size);
        rmsnorm(self.x.read(size), &model.base.norm, c.norm_eps, normed, self.inverse.get(rows.len()));
    }

    /// The logits after each token of a sequence.
    #[cfg(test)]
    pub(super) fn logits(&mut self, model: &Model, tokens: &[u32]) -> Vec<f32> {
        let rows = Rows::new([tokens.len()]);
        self.body(model, &rows, tokens.iter().copied(), Keep::Nothing);
        let hidden = self.normed.read(rows.len() * model.base.config.hidden);
        HeadRows { head: model.head(), hidden, rows: rows.len() }.logits(&mut self.head)
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
        let keep = model.keep(n, grads.is_some(), targets.max_kept);
        self.body(model, rows, tokens, keep);
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
            let layer = model.layer(l);
            let a = match keep {
                Keep::All => &self.layers[l],
                _ => {
                    let a = &mut self.layers[0];
                    std::mem::swap(&mut a.x, &mut self.inputs[l]);
                    layer.forward(rows, a, self.x.get(size));
                    &*a
                }
            };
            layer.backward(rows, a, dx, grads, &mut self.scratch, l == 0);
        }
    }
}
