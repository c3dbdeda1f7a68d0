//! A frozen projection and its adapter, computed separately (not merged), forward and backward.

use super::lora::Site;
use super::matrix::Stack;
use crate::local::kernel::{Mat, MatMut, Matrix, RowProduct, matmul};

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

    /// `y = keep·y + W·x + scale·B·A·x` for `rows` rows; saves `A·x` in `ax` for the backward pass.
    pub(super) fn forward(&self, rows: usize, x: &[f32], y: &mut [f32], keep: f32, ax: &mut [f32]) {
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
}
