//! The row-wise operations of a decoder layer, forward and backward.

use super::weights::Weights;
use crate::local::kernel::{dot, exp, simd, sum_by};
use rayon::prelude::*;

/// Number of rows that one task of a row-wise operation handles.
const TASK_ROWS: usize = 128;

/// Number of heads, counted over all rows, that one task of [`head_dots`] handles.
const TASK_HEADS: usize = 1024;

/// `y = x / rms(x) · gain` for each row; saves `1 / rms(x)`.
pub(super) fn rmsnorm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) {
    let h = gain.len();
    let rows = |x: &[f32], y: &mut [f32], inverse: &mut [f32]| {
        simd(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(h).zip(y.chunks_exact_mut(h)).zip(inverse);
                for ((x, y), inverse) in rows {
                    let square = sum_by(x, |v| v * v) / h as f32;
                    *inverse = 1.0 / (square + eps).sqrt();
                    for ((y, &x), &gain) in y.iter_mut().zip(x).zip(gain) {
                        *y = x * *inverse * gain;
                    }
                }
            },
        );
    };
    x.par_chunks(TASK_ROWS * h)
        .zip(y.par_chunks_mut(TASK_ROWS * h))
        .zip(inverse.par_chunks_mut(TASK_ROWS))
        .for_each(|((x, y), inverse)| rows(x, y, inverse));
}

/// Adds the gradient with respect to the input of [`rmsnorm`] to `dx`.
pub(super) fn rmsnorm_backward(x: &[f32], gain: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32]) {
    let h = gain.len();
    let rows = |x: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32]| {
        simd(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(h).zip(dy.chunks_exact(h)).zip(dx.chunks_exact_mut(h)).zip(inverse);
                for (((x, dy), dx), &inverse) in rows {
                    let mut lanes = [0.0f32; 16];
                    let triples = x.chunks(16).zip(dy.chunks(16)).zip(gain.chunks(16));
                    for ((x, dy), gain) in triples {
                        for (lane, ((&x, &dy), &gain)) in lanes.iter_mut().zip(x.iter().zip(dy).zip(gain)) {
                            *lane += x * dy * gain;
                        }
                    }
                    let along = lanes.iter().sum::<f32>() * inverse * inverse * inverse / h as f32;
                    for (((dx, &dy), &gain), &x) in dx.iter_mut().zip(dy).zip(gain).zip(x) {
                        *dx += dy * gain * inverse - x * along;
                    }
                }
            },
        );
    };
    x.par_chunks(TASK_ROWS * h)
        .zip(inverse.par_chunks(TASK_ROWS))
        .zip(dy.par_chunks(TASK_ROWS * h))
        .zip(dx.par_chunks_mut(TASK_ROWS * h))
        .for_each(|(((x, inverse), dy), dx)| rows(x, inverse, dy, dx));
}

/// Rotates one head by its position (rotary embedding). Each element of the first half and the element at the same
/// index in the second half are rotated as a pair. `direction` is 1 in the forward pass and −1 in the backward pass.
#[inline(always)]
pub(super) fn rotate(head: &mut [f32], (cos, sin): (&[f32], &[f32]), direction: f32) {
    let (a, b) = head.split_at_mut(cos.len());
    for (((a, b), &cos), &sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let sin = sin * direction;
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// Rotates the queries and keys of packed `[q, k, v]` rows in place; `positions` has one entry per row.
pub(super) fn rope(weights: &Weights, positions: &[u32], qkv: &mut [f32]) {
    let c = &weights.config;
    let (width, rotated) = (c.qkv_width(), c.q_width() + c.kv_width());
    let tasks = qkv.par_chunks_mut(TASK_ROWS * width).zip(positions.par_chunks(TASK_ROWS));
    tasks.for_each(|(qkv, positions)| {
        simd(
            #[inline(always)]
            || {
                for (row, &position) in qkv.chunks_exact_mut(width).zip(positions) {
                    let table = weights.rope(position as usize);
                    for head in row[..rotated].chunks_exact_mut(c.head_dim) {
                        rotate(head, table, 1.0);
                    }
                }
            },
        );
    });
}

/// `act = silu(gate) · up` for rows of `[gate, up]`.
pub(super) fn swiglu(gate_up: &[f32], mlp: usize, act: &mut [f32]) {
    let tasks = gate_up.par_chunks(TASK_ROWS * 2 * mlp).zip(act.par_chunks_mut(TASK_ROWS * mlp));
    tasks.for_each(|(gate_up, act)| {
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
    });
}

/// The gradients with respect to `gate` and `up`, for one element of a row.
#[inline(always)]
fn swiglu_slopes(gate: f32, up: f32, dact: f32) -> [f32; 2] {
    let sigmoid = 1.0 / (1.0 + exp(-gate));
    let silu = gate * sigmoid;
    [dact * up * (sigmoid + silu * (1.0 - sigmoid)), dact * silu]
}

/// Computes the gradient with respect to `[gate, up]` from the gradient with respect to `act`.
pub(super) fn swiglu_backward(gate_up: &[f32], mlp: usize, dact: &[f32], dgate_up: &mut [f32]) {
    let width = 2 * mlp;
    let tasks = gate_up
        .par_chunks(TASK_ROWS * width)
        .zip(dact.par_chunks(TASK_ROWS * mlp))
        .zip(dgate_up.par_chunks_mut(TASK_ROWS * width));
    tasks.for_each(|((gate_up, dact), dgate_up)| {
        simd(
            #[inline(always)]
            || {
                let rows = gate_up.chunks_exact(width).zip(dact.chunks_exact(mlp));
                for ((row, dact), drow) in rows.zip(dgate_up.chunks_exact_mut(width)) {
                    let ((gate, up), (dgate, dup)) = (row.split_at(mlp), drow.split_at_mut(mlp));
                    // Compute in blocks of 16 with local arrays. Over the five plain slices the compiler would not
                    // vectorise the loop, because it cannot prove that they do not overlap.
                    let ((g, g_rest), (u, u_rest)) = (gate.as_chunks::<16>(), up.as_chunks::<16>());
                    let (d, d_rest) = dact.as_chunks::<16>();
                    let ((dg, dg_rest), (du, du_rest)) =
                        (dgate.as_chunks_mut::<16>(), dup.as_chunks_mut::<16>());
                    for (((g, u), d), (dg, du)) in g.iter().zip(u).zip(d).zip(dg.iter_mut().zip(du)) {
                        let slopes: [[f32; 2]; 16] = std::array::from_fn(|i| swiglu_slopes(g[i], u[i], d[i]));
                        *dg = slopes.map(|s| s[0]);
                        *du = slopes.map(|s| s[1]);
                    }
                    let rest = g_rest.iter().zip(u_rest).zip(d_rest);
                    for (((&g, &u), &d), (dg, du)) in rest.zip(dg_rest.iter_mut().zip(du_rest)) {
                        [*dg, *du] = swiglu_slopes(g, u, d);
                    }
                }
            },
        );
    });
}

/// Dot products of each head of `x` with the same head of `y`, two `[rows, heads·head_dim]` matrices; `out` is `[rows,
/// heads]`.
pub(super) fn head_dots(x: &[f32], y: &[f32], head_dim: usize, out: &mut [f32]) {
    let tasks = x.par_chunks(TASK_HEADS * head_dim).zip(y.par_chunks(TASK_HEADS * head_dim));
    tasks.zip(out.par_chunks_mut(TASK_HEADS)).for_each(|((x, y), out)| {
        simd(
            #[inline(always)]
            || {
                for ((x, y), out) in x.chunks_exact(head_dim).zip(y.chunks_exact(head_dim)).zip(out) {
                    *out = dot(x, y);
                }
            },
        );
    });
}
