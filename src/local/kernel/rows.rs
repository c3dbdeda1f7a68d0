//! Products of a row-major matrix with a few rows, for generating tokens with weights that stay in their file: each
//! weight is read from memory once for all rows, and widened on the way.

#![deny(unsafe_code)]

use std::borrow::Cow;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::map::{Format, MappedSlice};
use super::{prefetch, simd};

/// Number of elements in a block, which is widened at once: two to eight vector registers.
const BLOCK: usize = 32;

/// Outputs that one task of a product computes.
const TASK_OUTPUTS: usize = 64;

/// Elements of a matrix below which one thread computes the whole product: starting tasks would take longer.
const MIN_PARALLEL: usize = 1 << 16;

/// Number of results above which several threads write them to their places.
const MIN_SCATTER: usize = 1 << 16;

/// A kind of elements that are widened to `f32`.
pub(super) trait Kind {
    type Raw: Copy + Sync;

    /// Whether [`widen`](Self::widen) returns the elements with even numbers before those with odd ones.
    const SPLIT: bool;

    fn one(element: Self::Raw) -> f32;

    fn widen(block: &[Self::Raw; BLOCK]) -> [f32; BLOCK];

    /// The widened elements in vector registers, of which there must be as many as a block fills.
    #[inline(always)]
    fn vectors<S: Simd, const NV: usize>(simd: S, block: &[Self::Raw; BLOCK]) -> [S::f32s; NV] {
        let mut vectors = [simd.splat_f32s(0.0); NV];
        vectors.copy_from_slice(S::as_simd_f32s(&Self::widen(block)).0);
        vectors
    }
}

/// Writes all elements to `out`.
pub(super) fn read<K: Kind>(elements: &[K::Raw], out: &mut [f32]) {
    simd(
        #[inline(always)]
        || out.iter_mut().zip(elements).for_each(|(value, element)| *value = K::one(*element)),
    );
}

/// Numbers in memory.
struct Floats;

/// 32-bit floats in a file.
pub(super) struct F32;

/// The upper halves of 32-bit floats in a file.
pub(super) struct Bf16;

/// IEEE 754 floats of 16 bits in a file.
pub(super) struct F16;

impl Kind for Floats {
    type Raw = f32;
    const SPLIT: bool = false;

    #[inline(always)]
    fn one(element: f32) -> f32 {
        element
    }

    #[inline(always)]
    fn widen(block: &[f32; BLOCK]) -> [f32; BLOCK] {
        *block
    }
}

impl Kind for F32 {
    type Raw = [u8; 4];
    const SPLIT: bool = false;

    #[inline(always)]
    fn one(element: [u8; 4]) -> f32 {
        f32::from_le_bytes(element)
    }

    #[inline(always)]
    fn widen(block: &[[u8; 4]; BLOCK]) -> [f32; BLOCK] {
        let mut widened = [0.0; BLOCK];
        for (value, bytes) in widened.iter_mut().zip(block) {
            *value = f32::from_le_bytes(*bytes);
        }
        widened
    }
}

impl Kind for F16 {
    type Raw = [u8; 2];
    const SPLIT: bool = false;

    #[inline(always)]
    fn one(element: [u8; 2]) -> f32 {
        widen_f16(element)
    }

    #[inline(always)]
    fn widen(block: &[[u8; 2]; BLOCK]) -> [f32; BLOCK] {
        let mut widened = [0.0; BLOCK];
        for (value, bytes) in widened.iter_mut().zip(block) {
            *value = widen_f16(*bytes);
        }
        widened
    }
}

impl Kind for Bf16 {
    type Raw = [u8; 2];
    const SPLIT: bool = true;

    #[inline(always)]
    fn one(element: [u8; 2]) -> f32 {
        widen_bf16(element)
    }

    #[inline(always)]
    fn widen(block: &[[u8; 2]; BLOCK]) -> [f32; BLOCK] {
        let mut widened = [0.0; BLOCK];
        let (even, odd) = widened.split_at_mut(BLOCK / 2);
        for ((even, odd), [first, second]) in even.iter_mut().zip(odd).zip(block.as_chunks::<2>().0) {
            (*even, *odd) = (widen_bf16(*first), widen_bf16(*second));
        }
        widened
    }

    /// Two elements together are a 32-bit number; one instruction makes the first of them a float, and one the second.
    #[inline(always)]
    fn vectors<S: Simd, const NV: usize>(simd: S, block: &[[u8; 2]; BLOCK]) -> [S::f32s; NV] {
        let mut pairs = [0u32; BLOCK / 2];
        for (pair, bytes) in pairs.iter_mut().zip(block.as_flattened().as_chunks::<4>().0) {
            *pair = u32::from_le_bytes(*bytes);
        }
        let (bits, upper) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        let mut vectors = [simd.splat_f32s(0.0); NV];
        let (even, odd) = vectors.split_at_mut(NV / 2);
        for ((even, odd), &pairs) in even.iter_mut().zip(odd).zip(S::as_simd_u32s(&pairs).0) {
            *even = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, bits));
            *odd = simd.transmute_f32s_u32s(simd.and_u32s(pairs, upper));
        }
        vectors
    }
}

#[inline(always)]
fn widen_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[inline(always)]
fn widen_f16(bytes: [u8; 2]) -> f32 {
    /// 2^112: the distance of the biases of the exponents.
    const SCALE: f32 = 5.192_297e33;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
    // As a 32-bit float with a too small exponent; the product also normalises numbers without a leading one.
    let finite = f32::from_bits(magnitude << 13) * SCALE;
    // Infinities and NaNs keep their mantissa and get the largest exponent.
    let special = f32::from_bits((magnitude << 13) | 0x7f80_0000);
    let value = if magnitude < 0x7c00 { finite } else { special };
    f32::from_bits(value.to_bits() | sign)
}

/// `dst[r] = keep·dst[r] + scale·W·x[r]` for a few rows `r` and a row-major matrix `W` of `inputs` columns.
///
/// The product of a row has the same bits whether it is computed alone or with other rows, and for any number of
/// threads.
#[derive(Debug)]
pub(crate) struct RowProduct<'a> {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) rows: usize,
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) dst: &'a mut [f32],
    pub(crate) dst_stride: usize,
    /// Whether the product is added to `dst`.
    pub(crate) keep: bool,
    pub(crate) scale: f32,
}

/// A matrix of a [`RowProduct`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix<'a> {
    Floats(&'a [f32]),
    Mapped(&'a MappedSlice),
}

impl RowProduct<'_> {
    /// Computes the product with several matrices, one below the other, each with the number of its outputs.
    pub(crate) fn run(self, parts: &[(usize, Matrix<'_>)]) {
        let RowProduct { inputs, outputs, rows, dst, dst_stride, keep, scale, .. } = self;
        if rows == 0 || outputs == 0 {
            return;
        }
        let x = X::new(self.x, self.x_stride, inputs, rows);
        // The matrices and the first outputs of the tasks.
        let mut tasks = Vec::new();
        for (count, matrix) in parts {
            let starts = (0..*count).step_by(TASK_OUTPUTS);
            tasks.extend(starts.map(|start| (*matrix, start, TASK_OUTPUTS.min(count - start))));
        }
        let write = |slot: &mut f32, value: f32| {
            *slot = if keep { *slot + scale * value } else { scale * value };
        };
        let parallel = MIN_PARALLEL <= outputs * inputs;
        if rows == 1 {
            let mut rest = &mut dst[..outputs];
            let task = |((matrix, start, count), dst): ((Matrix<'_>, usize, usize), &mut [f32])| {
                let mut results = [0.0; TASK_OUTPUTS];
                x.product(matrix, start, &mut results[..count]);
                dst.iter_mut().zip(results).for_each(|(slot, value)| write(slot, value));
            };
            let tasks = tasks.into_iter().map(|task| {
                let (dst, later) = std::mem::take(&mut rest).split_at_mut(task.2);
                rest = later;
                (task, dst)
            });
            if parallel {
                tasks.collect::<Vec<_>>().into_par_iter().for_each(task);
            } else {
                tasks.for_each(task);
            }
            return;
        }
        // The results, `[outputs, rows]`: tasks share no memory.
        let mut results = vec![0.0; outputs * rows];
        let mut rest = &mut results[..];
        let tasks = tasks.into_iter().map(|task| {
            let (out, later) = std::mem::take(&mut rest).split_at_mut(task.2 * rows);
            rest = later;
            (task, out)
        });
        let task = |((matrix, start, _), out): ((Matrix<'_>, usize, usize), &mut [f32])| {
            x.product(matrix, start, out);
        };
        if parallel {
            tasks.collect::<Vec<_>>().into_par_iter().for_each(task);
        } else {
            tasks.for_each(task);
        }
        let scatter = |(r, dst): (usize, &mut [f32])| {
            let values = results[r..].iter().step_by(rows);
            dst[..outputs].iter_mut().zip(values).for_each(|(slot, value)| write(slot, *value));
        };
        if MIN_SCATTER <= results.len() {
            dst.par_chunks_mut(dst_stride).take(rows).enumerate().for_each(scatter);
        } else {
            dst.chunks_mut(dst_stride).take(rows).enumerate().for_each(scatter);
        }
    }
}

/// The rows that are multiplied, without gaps.
struct X<'a> {
    inputs: usize,
    rows: usize,
    plain: Cow<'a, [f32]>,
    /// In the order of split blocks (see [`Kind::SPLIT`]).
    split: Vec<f32>,
}

impl<'a> X<'a> {
    fn new(x: &'a [f32], stride: usize, inputs: usize, rows: usize) -> X<'a> {
        let plain = if stride == inputs || rows == 1 {
            Cow::Borrowed(&x[..rows * inputs])
        } else {
            x.chunks(stride).take(rows).flat_map(|row| &row[..inputs]).copied().collect()
        };
        let mut split = Vec::with_capacity(rows * inputs);
        for row in plain.chunks_exact(inputs) {
            let (blocks, rest) = row.as_chunks::<BLOCK>();
            for block in blocks {
                split.extend(block.iter().step_by(2));
                split.extend(block.iter().skip(1).step_by(2));
            }
            split.extend(rest);
        }
        X { inputs, rows, plain, split }
    }

    /// The products of some outputs of a matrix with all rows, `[outputs, rows]`.
    fn product(&self, matrix: Matrix<'_>, start: usize, out: &mut [f32]) {
        let (start, len) = (start * self.inputs, out.len() / self.rows * self.inputs);
        match matrix {
            Matrix::Floats(weight) => self.tiles::<Floats>(&weight[start..][..len], out),
            Matrix::Mapped(weight) => {
                let bytes = weight.range(start, len);
                match weight.format() {
                    Format::F32 => self.tiles::<F32>(bytes.as_chunks().0, out),
                    Format::F16 => self.tiles::<F16>(bytes.as_chunks().0, out),
                    Format::Bf16 => self.tiles::<Bf16>(bytes.as_chunks().0, out),
                }
            }
        }
    }

    fn tiles<K: Kind>(&self, weight: &[K::Raw], out: &mut [f32]) {
        let X { inputs, rows, .. } = *self;
        let x = if K::SPLIT { &self.split } else { &*self.plain };
        Arch::new().dispatch(Tiles::<K> { weight, inputs, outputs: out.len() / rows, rows, x, out });
    }
}

/// The product of some outputs with all rows; `x` is `[rows, inputs]`, and `out` is `[outputs, rows]`.
struct Tiles<'a, K: Kind> {
    weight: &'a [K::Raw],
    inputs: usize,
    outputs: usize,
    rows: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<K: Kind> WithSimd for Tiles<'_, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F32_LANES {
            16 => self.all::<S, 2, 4>(simd),
            8 => self.all::<S, 4, 2>(simd),
            4 => self.all::<S, 8, 2>(simd),
            _ => self.all::<S, BLOCK, 2>(simd),
        }
    }
}

impl<K: Kind> Tiles<'_, K> {
    /// `NV` is the number of vectors of a block. A tile of accumulators must fit into the vector registers, and be large
    /// enough to hide the latency of a multiply-add: with several rows it has `T` outputs and `T` rows.
    #[inline(always)]
    fn all<S: Simd, const NV: usize, const T: usize>(&mut self, simd: S) {
        let mut output = 0;
        while output < self.outputs {
            let left = self.outputs - output;
            output += match self.rows {
                1 if 8 <= left => self.rows::<S, NV, 8, 1>(simd, output),
                2.. if T <= left => self.rows::<S, NV, T, T>(simd, output),
                _ if 2 <= left => self.rows::<S, NV, 2, 2>(simd, output),
                _ => self.rows::<S, NV, 1, 2>(simd, output),
            };
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const NV: usize, const O: usize, const R: usize>(
        &mut self,
        simd: S,
        output: usize,
    ) -> usize {
        let mut row = 0;
        if self.rows / R < O {
            if R <= self.rows {
                self.tile::<S, NV, O, R, O>(simd, output, row);
                row += R;
            }
        } else {
            // Each tile asks for an equal part of the weights of the next outputs, so that they arrive meanwhile.
            for _ in 0..O {
                self.tile::<S, NV, O, R, 1>(simd, output, row);
                row += R;
            }
        }
        while row + R <= self.rows {
            self.tile::<S, NV, O, R, 0>(simd, output, row);
            row += R;
        }
        while R > 2 && row + 2 <= self.rows {
            self.tile::<S, NV, O, 2, 0>(simd, output, row);
            row += 2;
        }
        while row < self.rows {
            self.tile::<S, NV, O, 1, 0>(simd, output, row);
            row += 1;
        }
        O
    }

    /// Asks for the weights of `AHEAD` of the next outputs meanwhile.
    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const O: usize, const R: usize, const AHEAD: usize>(
        &mut self,
        simd: S,
        output: usize,
        row: usize,
    ) {
        let inputs = self.inputs;
        let count = inputs / BLOCK;
        let weight = |o: usize| &self.weight[(output + o) * inputs..][..inputs];
        let x = |r: usize| &self.x[(row + r) * inputs..][..inputs];
        // Loops, because the compiler takes long for `array::map` and `array::from_fn` in so many forms of this function.
        let mut blocks: [&[[K::Raw; BLOCK]]; O] = [&[]; O];
        for (o, blocks) in blocks.iter_mut().enumerate() {
            *blocks = &weight(o).as_chunks::<BLOCK>().0[..count];
        }
        let mut x_blocks: [&[[f32; BLOCK]]; R] = [&[]; R];
        for (r, blocks) in x_blocks.iter_mut().enumerate() {
            *blocks = &x(r).as_chunks::<BLOCK>().0[..count];
        }
        let mut sums = [[simd.splat_f32s(0.0); R]; O];
        let first_ahead = if AHEAD == 1 { row / R } else { 0 };
        let ahead = &blocks[first_ahead..][..AHEAD];
        for b in 0..count {
            for ahead in ahead {
                prefetch(&ahead[b], O * inputs);
            }
            for o in 0..O {
                let weight: [S::f32s; NV] = K::vectors(simd, &blocks[o][b]);
                for r in 0..R {
                    let x = S::as_simd_f32s(&x_blocks[r][b]).0;
                    for v in 0..NV {
                        sums[o][r] = simd.mul_add_e_f32s(weight[v], x[v], sums[o][r]);
                    }
                }
            }
        }
        let whole = count * BLOCK;
        for (o, sums) in sums.iter().enumerate() {
            for (r, sum) in sums.iter().enumerate() {
                let mut rest = 0.0;
                for (weight, x) in weight(o)[whole..].iter().zip(&x(r)[whole..]) {
                    rest += K::one(*weight) * x;
                }
                self.out[(output + o) * self.rows + row + r] = simd.reduce_sum_f32s(*sum) + rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn sixteen_bit_floats_of_all_kinds_are_widened() {
        let half = |bits: u16| widen_f16(bits.to_le_bytes());
        let cases = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65_504.0),
            (0x0001, 5.960_464_5e-8),
            (0x83ff, -6.097_555e-5),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits), value, "{bits:x}");
        }
        assert!(half(0x7e00).is_nan());
        assert_eq!(widen_bf16(0x3fc0u16.to_le_bytes()), 1.5);
        assert_eq!(widen_bf16(0xff80u16.to_le_bytes()), f32::NEG_INFINITY);
    }

    #[test]
    fn products_agree_with_plain_loops_and_each_row_is_independent_of_the_others() {
        for (outputs, inputs) in [(1, 1), (9, 33), (70, 64), (300, 500)] {
            let weight = numbers(outputs * inputs);
            let x = numbers(7 * inputs);
            let product = |rows: usize, x: &[f32], keep: bool| {
                let mut dst = vec![1.0; rows * (outputs + 2)];
                let (x_stride, dst_stride) = (inputs, outputs + 2);
                let dst_all = &mut dst;
                let product = RowProduct {
                    inputs,
                    outputs,
                    rows,
                    x,
                    x_stride,
                    dst: dst_all,
                    dst_stride,
                    keep,
                    scale: 2.0,
                };
                product.run(&[(outputs, Matrix::Floats(&weight))]);
                dst
            };
            let (all, kept) = (product(7, &x, false), product(7, &x, true));
            for r in 0..7 {
                let row = &all[r * (outputs + 2)..][..outputs + 2];
                assert_eq!(row, product(1, &x[r * inputs..], false), "{outputs} {inputs} {r}");
                assert_eq!(row[outputs..], [1.0; 2]);
                for o in 0..outputs {
                    let sum: f32 = (0..inputs).map(|i| weight[o * inputs + i] * x[r * inputs + i]).sum();
                    assert!((row[o] - 2.0 * sum).abs() < 1e-3, "{} {sum}", row[o]);
                    assert_eq!(kept[r * (outputs + 2) + o], 1.0 + row[o]);
                }
            }
        }
    }

    #[test]
    fn halved_floats_in_pairs_give_the_products_of_their_values() {
        // Of the 33 inputs, the last belongs to no block.
        let (outputs, inputs, rows) = (9, 33, 5);
        let bits = |value: f32| [value.to_bits().to_le_bytes()[2], value.to_bits().to_le_bytes()[3]];
        let weight: Vec<[u8; 2]> = numbers(outputs * inputs).into_iter().map(bits).collect();
        let x = numbers(rows * inputs);
        let mut out = vec![0.0; outputs * rows];
        X::new(&x, inputs, inputs, rows).tiles::<Bf16>(&weight, &mut out);
        for (at, value) in out.iter().enumerate() {
            let (o, r) = (at / rows, at % rows);
            let sum: f32 = (0..inputs).map(|i| widen_bf16(weight[o * inputs + i]) * x[r * inputs + i]).sum();
            assert!((value - sum).abs() < 1e-4, "{o} {r}: {value} {sum}");
            let mut alone = vec![0.0; outputs];
            X::new(&x[r * inputs..], inputs, inputs, 1).tiles::<Bf16>(&weight, &mut alone);
            assert_eq!(*value, alone[o]);
        }
    }
}
