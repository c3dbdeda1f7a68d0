//! Products of a row-major matrix with a few rows, for generating tokens with weights that stay in their file: each
//! weight is read from memory once for all rows, and widened on the way.

#![deny(unsafe_code)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::map::{Format, MappedSlice};
use super::simd;

/// Number of elements that are widened at once: two to eight vector registers.
const STEP: usize = 32;

/// Outputs that one task of a product computes. A task writes its results without gaps, so that tasks share no memory.
const TASK_OUTPUTS: usize = 64;

/// Elements of a matrix below which one thread computes the whole product: starting tasks would take longer.
const MIN_PARALLEL: usize = 1 << 17;

/// Rows that one task writes to the destination, if there are more.
const COPY_ROWS: usize = 16;

/// A list of elements that are widened to `f32`.
pub(super) trait Source: Copy {
    fn len(self) -> usize;

    /// Element `i`.
    fn one(self, i: usize) -> f32;

    /// The elements from `i` on. There are at least [`STEP`] of them.
    fn step(self, i: usize) -> [f32; STEP];

    /// Elements `start..start + len`.
    fn part(self, start: usize, len: usize) -> Self;

    /// Writes all elements to `out`.
    fn read(self, out: &mut [f32]) {
        simd(
            #[inline(always)]
            || {
                let (chunks, rest) = out.as_chunks_mut::<STEP>();
                for (i, chunk) in chunks.iter_mut().enumerate() {
                    *chunk = self.step(i * STEP);
                }
                let at = self.len() - rest.len();
                for (i, slot) in rest.iter_mut().enumerate() {
                    *slot = self.one(at + i);
                }
            },
        );
    }
}

/// Numbers in memory.
#[derive(Clone, Copy)]
struct Floats<'a>(&'a [f32]);

impl Source for Floats<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn one(self, i: usize) -> f32 {
        self.0[i]
    }

    #[inline(always)]
    fn step(self, i: usize) -> [f32; STEP] {
        self.0[i..].first_chunk().copied().unwrap_or([0.0; STEP])
    }

    #[inline(always)]
    fn part(self, start: usize, len: usize) -> Self {
        Floats(&self.0[start..start + len])
    }
}

macro_rules! source {
    ($(#[$doc:meta])* $name:ident, $size:literal, $widen:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name<'a>(&'a [[u8; $size]]);

        impl<'a> $name<'a> {
            pub(super) fn new(bytes: &'a [u8]) -> Self {
                $name(bytes.as_chunks::<$size>().0)
            }
        }

        impl Source for $name<'_> {
            #[inline(always)]
            fn len(self) -> usize {
                self.0.len()
            }

            #[inline(always)]
            fn one(self, i: usize) -> f32 {
                $widen(self.0[i])
            }

            #[inline(always)]
            fn step(self, i: usize) -> [f32; STEP] {
                let bytes: &[[u8; $size]; STEP] = self.0[i..].first_chunk().unwrap_or(&[[0; $size]; STEP]);
                std::array::from_fn(|i| $widen(bytes[i]))
            }

            #[inline(always)]
            fn part(self, start: usize, len: usize) -> Self {
                $name(&self.0[start..start + len])
            }
        }
    };
}

source!(
    /// 32-bit floats in a file.
    F32, 4, f32::from_le_bytes
);
source!(
    /// The upper halves of 32-bit floats in a file.
    Bf16, 2, widen_bf16
);
source!(
    /// IEEE 754 floats of 16 bits in a file.
    F16, 2, widen_f16
);

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

impl RowProduct<'_> {
    /// Computes the product with a matrix in a file.
    pub(crate) fn mapped(self, weight: &MappedSlice) {
        let bytes = weight.range(0, self.outputs * self.inputs);
        match weight.format() {
            Format::F32 => self.run(F32::new(bytes)),
            Format::F16 => self.run(F16::new(bytes)),
            Format::Bf16 => self.run(Bf16::new(bytes)),
        }
    }

    /// Computes the product with a matrix in memory.
    pub(crate) fn floats(self, weight: &[f32]) {
        let weight = Floats(&weight[..self.outputs * self.inputs]);
        self.run(weight);
    }

    fn run<W: Source + Sync + Send>(self, weight: W) {
        let (rows, outputs) = (self.rows, self.outputs);
        if rows == 0 || outputs == 0 {
            return;
        }
        let task = |start: usize, out: &mut [f32]| {
            let outputs = out.len() / rows;
            let weight = weight.part(start * self.inputs, outputs * self.inputs);
            let (inputs, x, x_stride) = (self.inputs, self.x, self.x_stride);
            Arch::new().dispatch(Tiles { weight, inputs, outputs, rows, x, x_stride, out });
        };
        // The results, `[outputs, rows]`.
        let mut results = vec![0.0; outputs * rows];
        if outputs * self.inputs < MIN_PARALLEL {
            task(0, &mut results);
        } else {
            let tasks = results.par_chunks_mut(TASK_OUTPUTS * rows).enumerate();
            tasks.for_each(|(i, out)| task(i * TASK_OUTPUTS, out));
        }
        let (keep, scale, dst_stride) = (self.keep, self.scale, self.dst_stride);
        let copy = |first: usize, dst: &mut [f32]| {
            for (o, values) in results.chunks_exact(rows).enumerate() {
                for (r, value) in values[first..].iter().take(COPY_ROWS).enumerate() {
                    let slot = &mut dst[r * dst_stride + o];
                    *slot = if keep { *slot + scale * value } else { scale * value };
                }
            }
        };
        if rows <= COPY_ROWS {
            copy(0, self.dst);
        } else {
            let tasks = self.dst.par_chunks_mut(COPY_ROWS * dst_stride).enumerate();
            tasks.take(rows.div_ceil(COPY_ROWS)).for_each(|(i, dst)| copy(i * COPY_ROWS, dst));
        }
    }
}

/// The product of some outputs with all rows; `out` is `[outputs, rows]`.
struct Tiles<'a, W> {
    weight: W,
    inputs: usize,
    outputs: usize,
    rows: usize,
    x: &'a [f32],
    x_stride: usize,
    out: &'a mut [f32],
}

impl<W: Source> WithSimd for Tiles<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut output = 0;
        while output < self.outputs {
            // A tile of accumulators must fit into the vector registers, and be large enough to hide the latency of a
            // multiply-add.
            let left = self.outputs - output;
            output += match (self.rows, S::F32_LANES) {
                (1, _) if 8 <= left => self.rows::<S, 8, 1>(simd, output),
                (2.., 16) if 4 <= left => self.rows::<S, 4, 4>(simd, output),
                _ if 2 <= left => self.rows::<S, 2, 2>(simd, output),
                _ => self.rows::<S, 1, 2>(simd, output),
            };
        }
    }
}

impl<W: Source> Tiles<'_, W> {
    #[inline(always)]
    fn rows<S: Simd, const O: usize, const R: usize>(&mut self, simd: S, output: usize) -> usize {
        let mut row = 0;
        while row + R <= self.rows {
            self.tile::<S, O, R>(simd, output, row);
            row += R;
        }
        while R > 2 && row + 2 <= self.rows {
            self.tile::<S, O, 2>(simd, output, row);
            row += 2;
        }
        while row < self.rows {
            self.tile::<S, O, 1>(simd, output, row);
            row += 1;
        }
        O
    }

    #[inline(always)]
    fn tile<S: Simd, const O: usize, const R: usize>(&mut self, simd: S, output: usize, row: usize) {
        let inputs = self.inputs;
        let weights: [W; O] = std::array::from_fn(|o| self.weight.part((output + o) * inputs, inputs));
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * self.x_stride..][..inputs]);
        let mut sums = [[simd.splat_f32s(0.0); R]; O];
        let whole = inputs / STEP * STEP;
        for at in (0..whole).step_by(STEP) {
            for (weight, sums) in weights.iter().zip(&mut sums) {
                let weight = weight.step(at);
                for (x, sum) in x.iter().zip(sums) {
                    let x: &[f32; STEP] = x[at..].first_chunk().unwrap_or(&[0.0; STEP]);
                    let (weight, x) = (S::as_simd_f32s(&weight).0, S::as_simd_f32s(x).0);
                    for (&weight, &x) in weight.iter().zip(x) {
                        *sum = simd.mul_add_e_f32s(weight, x, *sum);
                    }
                }
            }
        }
        for (o, (weight, sums)) in weights.iter().zip(sums).enumerate() {
            for (r, (x, sum)) in x.iter().zip(sums).enumerate() {
                let rest = (whole..inputs).map(|i| weight.one(i) * x[i]).sum::<f32>();
                self.out[(output + o) * self.rows + row + r] = simd.reduce_sum_f32s(sum) + rest;
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
                product.floats(&weight);
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
}
