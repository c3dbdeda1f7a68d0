//! A frozen projection and its adapter, computed separately (not merged), forward and backward.

use super::lora::Site;
use super::matrix::Stack;
use crate::local::kernel::{Mat, MatMut, Matrix, Right, RowProduct, Split, Term, matmul, matmul_split};
use std::cell::Cell;

/// A frozen matrix `[outputs, inputs]`. If it is adapted, `site` says where its adapter is in the flat parameters
/// `params`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear<'a> {
    pub(super) weight: &'a Stack,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) site: Option<&'a Site>,
    pub(super) params: &'a [f32],
    pub(super) scale: f32,
}

impl Linear<'_> {
    /// Width of the product `A·x` that [`forward`](Self::forward) saves for the backward pass; 0 without an adapter.
    pub(super) fn inner(&self) -> usize {
        self.site.map_or(0, Site::inner)
    }

    /// Number of floats that the operands of the matrix unit take in a pass over `rows` rows: the inputs or the gradients
    /// of the outputs, and rows of the adapter's inner width. A number takes six bytes there.
    pub(super) fn split_len(&self, rows: usize) -> usize {
        if !self.weight.splits(rows) {
            return 0;
        }
        let outputs = self.pieces().into_iter().map(|it| it.1);
        let dy = Split::len(rows, outputs);
        let inner = self.site.map_or(0, |it| Split::len(rows, it.parts.iter().map(|_| it.rank)));
        Split::len(rows, [self.inputs]).max(dy) + inner
    }

    /// `y = keep·y + W·x + scale·B·A·x` for `rows` rows; saves `A·x` in `ax` for the backward pass.
    pub(super) fn forward(&self, rows: usize, x: &[f32], y: &mut [f32], keep: f32, ax: &mut [f32]) {
        if self.weight.splits(rows) {
            return self.forward_split(rows, x, y, keep, ax);
        }
        self.weight.forward(rows, x, y, keep);
        let x = Mat::new(x, rows, self.inputs);
        let Some(site) = self.site else { return };
        let inner = site.inner();
        let a = Mat::new(&self.params[site.a.clone()], inner, site.inputs);
        matmul(MatMut::new(ax, rows, inner), 0.0, x, a.t(), 1.0);
        for (i, part) in site.parts.iter().enumerate() {
            let b = Mat::new(&self.params[part.b.clone()], part.width, site.rank);
            let ax = Mat::strided(&ax[i * site.rank..], rows, site.rank, inner);
            let y = MatMut::strided(&mut y[part.at..], rows, part.width, self.outputs);
            matmul(y, 1.0, ax, b.t(), self.scale);
        }
    }

    /// [`forward`](Self::forward) on the matrix unit.
    fn forward_split(&self, rows: usize, x: &[f32], y: &mut [f32], keep: f32, ax: &mut [f32]) {
        let split = Split::new(Mat::new(x, rows, self.inputs), 1.0, [self.inputs]);
        let adapted = self.site.map(|site| {
            let inner = site.inner();
            let a = Mat::new(&self.params[site.a.clone()], inner, site.inputs);
            let to = MatMut::new(ax, rows, inner);
            matmul_split(to, 0.0, &[Term::new(&split, 0, Right::Floats(a.t()))]);
            Split::new(Mat::new(ax, rows, inner), self.scale, site.parts.iter().map(|_| site.rank))
        });
        for (i, (at, width)) in self.pieces().into_iter().enumerate() {
            let y = MatMut::strided(&mut y[at..], rows, width, self.outputs);
            let mut terms = vec![Term::new(&split, 0, self.weight.operand(at, width, true))];
            if let (Some(site), Some(ax)) = (self.site, &adapted) {
                let b = Mat::new(&self.params[site.parts[i].b.clone()], width, site.rank);
                terms.push(Term::new(ax, i, Right::Floats(b.t())));
            }
            matmul_split(y, keep, &terms);
        }
    }

    /// The first output and the number of outputs of each projection, or of each matrix if none is adapted.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let mut at = 0;
        let mut next = |width| {
            at += width;
            (at - width, width)
        };
        match self.site {
            Some(site) => site.parts.iter().map(|part| next(part.width)).collect(),
            None => self.weight.widths().map(next).collect(),
        }
    }

    /// `y = keep·y + W·x + scale·B·A·x` for a few rows. A row has the same bits whether it is computed alone or with
    /// others. `ax` is scratch.
    pub(super) fn product(&self, rows: usize, x: &[f32], y: &mut [f32], keep: bool, ax: &mut Vec<f32>) {
        self.weight.product(rows, x, y, keep);
        let Some(site) = self.site else { return };
        let inner = site.inner();
        ax.resize(rows * inner, 0.0);
        let a = RowProduct {
            inputs: self.inputs,
            outputs: inner,
            rows,
            x,
            x_stride: self.inputs,
            dst: ax,
            dst_stride: inner,
            keep: false,
            scale: 1.0,
        };
        a.run(&[(inner, Matrix::Floats(&self.params[site.a.clone()]))]);
        for (i, part) in site.parts.iter().enumerate() {
            let b = RowProduct {
                inputs: site.rank,
                outputs: part.width,
                rows,
                x: &ax[i * site.rank..],
                x_stride: inner,
                dst: &mut y[part.at..],
                dst_stride: self.outputs,
                keep: true,
                scale: self.scale,
            };
            b.run(&[(part.width, Matrix::Floats(&self.params[part.b.clone()]))]);
        }
    }

    /// Computes the backward pass from `dy`, the gradient with respect to the output: adds the adapter's gradients to
    /// `grads` and, if `dx` is given, sets `dx = keep·dx + (gradient with respect to x)`. `x` and `ax` are those of the
    /// forward pass; `dax` is scratch.
    #[allow(clippy::too_many_arguments)] // Each is a different buffer; a struct would only rename them.
    pub(super) fn backward(
        &self,
        rows: usize,
        x: &[f32],
        ax: &[f32],
        dy: &[f32],
        dx: Option<(&mut [f32], f32)>,
        grads: &mut [f32],
        dax: &mut [f32],
    ) {
        if self.weight.splits(rows) {
            return self.backward_split(rows, x, ax, dy, dx, grads, dax);
        }
        if let Some(site) = self.site {
            let inner = site.inner();
            for (i, part) in site.parts.iter().enumerate() {
                let b = Mat::new(&self.params[part.b.clone()], part.width, site.rank);
                let dy = Mat::strided(&dy[part.at..], rows, part.width, self.outputs);
                let ax = Mat::strided(&ax[i * site.rank..], rows, site.rank, inner);
                let db = MatMut::new(&mut grads[part.b.clone()], part.width, site.rank);
                matmul(db, 1.0, dy.t(), ax, self.scale);
                let dax = MatMut::strided(&mut dax[i * site.rank..], rows, site.rank, inner);
                matmul(dax, 0.0, dy, b, self.scale);
            }
            let (x, dax) = (Mat::new(x, rows, self.inputs), Mat::new(dax, rows, inner));
            let da = MatMut::new(&mut grads[site.a.clone()], inner, site.inputs);
            matmul(da, 1.0, dax.t(), x, 1.0);
        }
        let Some((dx, keep)) = dx else { return };
        self.weight.backward(rows, dy, dx, keep);
        if let Some(site) = self.site {
            let a = Mat::new(&self.params[site.a.clone()], site.inner(), site.inputs);
            let dax = Mat::new(dax, rows, site.inner());
            matmul(MatMut::new(dx, rows, self.inputs), 1.0, dax, a, 1.0);
        }
    }

    /// [`backward`](Self::backward) on the matrix unit.
    #[allow(clippy::too_many_arguments)] // As there.
    fn backward_split(
        &self,
        rows: usize,
        x: &[f32],
        ax: &[f32],
        dy: &[f32],
        dx: Option<(&mut [f32], f32)>,
        grads: &mut [f32],
        dax: &mut [f32],
    ) {
        let pieces = self.pieces();
        let split = Split::new(Mat::new(dy, rows, self.outputs), 1.0, pieces.iter().map(|it| it.1));
        if let Some(site) = self.site {
            let inner = site.inner();
            for (i, part) in site.parts.iter().enumerate() {
                let b = Mat::new(&self.params[part.b.clone()], part.width, site.rank);
                let to = MatMut::strided(&mut dax[i * site.rank..], rows, site.rank, inner);
                matmul_split(to, 0.0, &[Term::new(&split, i, Right::Floats(b))]);
                // The transpose of the gradient, because the operand with more numbers is then the one that is packed
                // as it is.
                let ax =
                    Split::new(Mat::strided(&ax[i * site.rank..], rows, site.rank, inner).t(), 1.0, [rows]);
                let dy = Mat::strided(&dy[part.at..], rows, part.width, self.outputs);
                with_scratch(site.rank * part.width, |db| {
                    let to = MatMut::new(db, site.rank, part.width);
                    matmul_split(to, 0.0, &[Term::new(&ax, 0, Right::Floats(dy))]);
                    add_transposed(&mut grads[part.b.clone()], db, part.width, self.scale);
                });
            }
            dax[..rows * inner].iter_mut().for_each(|v| *v *= self.scale);
            let left = Split::new(Mat::new(dax, rows, inner).t(), 1.0, [rows]);
            let da = MatMut::new(&mut grads[site.a.clone()], inner, site.inputs);
            matmul_split(da, 1.0, &[Term::new(&left, 0, Right::Floats(Mat::new(x, rows, self.inputs)))]);
        }
        let Some((dx, keep)) = dx else { return };
        let dax = self.site.map(|it| Split::new(Mat::new(dax, rows, it.inner()), 1.0, [it.inner()]));
        let weights = pieces.iter().enumerate();
        let mut terms: Vec<_> = weights
            .map(|(i, &(at, width))| Term::new(&split, i, self.weight.operand(at, width, false)))
            .collect();
        if let (Some(site), Some(dax)) = (self.site, &dax) {
            let a = Mat::new(&self.params[site.a.clone()], site.inner(), site.inputs);
            terms.push(Term::new(dax, 0, Right::Floats(a)));
        }
        matmul_split(MatMut::new(dx, rows, self.inputs), keep, &terms);
    }
}

thread_local! {
    /// The transpose of a gradient. Each thread keeps its memory for the next one.
    static TRANSPOSED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `body` with memory of this length, whose content is arbitrary.
fn with_scratch(len: usize, body: impl FnOnce(&mut [f32])) {
    let mut buffer = TRANSPOSED.take();
    buffer.resize(buffer.len().max(len), 0.0);
    body(&mut buffer[..len]);
    TRANSPOSED.set(buffer);
}

/// `sum += scale·fromᵀ`, where the rows of `from` have `width` numbers.
fn add_transposed(sum: &mut [f32], from: &[f32], width: usize, scale: f32) {
    let cols = sum.len() / width;
    for (i, row) in sum.chunks_exact_mut(cols).enumerate() {
        for (slot, value) in row.iter_mut().zip(from[i..].iter().step_by(width)) {
            *slot += scale * value;
        }
    }
}
