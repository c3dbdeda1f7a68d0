//! Operands of the matrix unit (AMX), which multiplies numbers of 16 bits and adds up 32-bit floats.
//!
//! A 32-bit float is the exact sum of three numbers in bf16: its upper, middle and lower eight bits of mantissa. So the
//! product with weights that are bf16 already is the sum of three products, and that of two matrices of 32-bit floats
//! the sum of the six largest of nine; the other three are smaller than the rounding of the sums. Results are as
//! precise as those of 32-bit arithmetic.

#![deny(unsafe_code)]

use pulp::bytemuck;

use super::map::MappedSlice;
use super::{Mat, prefetch, simd};

/// Rows and columns of a block of the destination: two tiles each way.
pub(super) const SIDE: usize = 32;

/// Length of the inner dimension that one instruction handles.
pub(super) const STEP: usize = 32;

/// Number of rows of a matrix whose memory is asked for in advance.
const NEXT_STEP: usize = STEP;

/// An operand of one instruction: 16 lines of 16 pairs of bf16 numbers.
///
/// In a left operand a line is a row. In a right operand it is two neighbours in the inner dimension, and a pair of them
/// belongs to a column.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Tile([[u32; 16]; 16]);

impl Tile {
    pub(super) const ZERO: Tile = Tile([[0; 16]; 16]);
}

/// Number of parts of a number: three of a 32-bit float, one of a number that is bf16 already.
const PARTS: usize = 3;

/// Number of tiles of one step of a block of a left operand: two for each part.
pub(super) const LEFT: usize = 2 * PARTS;

/// The upper, middle and lower bits of two numbers, as pairs.
#[inline(always)]
fn split([a, b]: [f32; 2]) -> [u32; PARTS] {
    let cut = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
    let pair = |a: f32, b: f32| (a.to_bits() >> 16) | (b.to_bits() & 0xffff_0000);
    let (a_rest, b_rest) = (a - cut(a), b - cut(b));
    [pair(a, b), pair(a_rest, b_rest), pair(a_rest - cut(a_rest), b_rest - cut(b_rest))]
}

/// The pairs of up to [`STEP`] neighbours in a row, times `scale`; missing numbers are zeros.
#[inline(always)]
fn split_line(row: &[f32], scale: f32) -> [[u32; 16]; PARTS] {
    let whole;
    let row: &[f32; STEP] = match row.first_chunk() {
        Some(row) => row,
        None => {
            let mut padded = [0.0; STEP];
            padded[..row.len()].copy_from_slice(row);
            whole = padded;
            &whole
        }
    };
    let mut parts = [[0u16; STEP]; PARTS];
    let [upper, middle, lower] = &mut parts;
    for (((x, upper), middle), lower) in row.iter().zip(upper).zip(middle).zip(lower) {
        let cut = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        let half = |x: f32| (x.to_bits() >> 16) as u16;
        let x = scale * x;
        let rest = x - cut(x);
        *upper = half(x);
        *middle = half(rest);
        *lower = half(rest - cut(rest));
    }
    bytemuck::cast(parts)
}

/// Number of steps of an inner dimension.
pub(super) fn steps(inner: usize) -> usize {
    inner.div_ceil(STEP)
}

/// Packs one block of up to [`SIDE`] rows, from `first` on, times `scale`, of a left operand: for each step, for each part, two tiles.
pub(super) fn pack_left(x: Mat<'_>, first: usize, scale: f32, tiles: &mut [Tile]) {
    if x.row_stride == 1 {
        // The tiles of the same numbers as a right operand, with lines and columns exchanged.
        for (s, tiles) in tiles.as_chunks_mut::<LEFT>().0.iter_mut().enumerate() {
            (0..2).for_each(|half| floats(x.t(), first + 16 * half, s * STEP, half, tiles));
            tiles.iter_mut().for_each(transpose);
        }
        return;
    }
    simd(
        #[inline(always)]
        || {
            for (s, tiles) in tiles.as_chunks_mut::<LEFT>().0.iter_mut().enumerate() {
                let columns = s * STEP..x.cols.min((s + 1) * STEP);
                for r in 0..SIDE {
                    let line = if first + r < x.rows {
                        split_line(&x.data[(first + r) * x.row_stride..][columns.clone()], scale)
                    } else {
                        [[0; 16]; PARTS]
                    };
                    for (part, line) in line.into_iter().enumerate() {
                        tiles[2 * part + r / 16].0[r % 16] = line;
                    }
                }
            }
        },
    );
}

/// A right operand `[inner, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Right<'a> {
    /// 32-bit floats: `W` of the given shape, or its transpose.
    Floats(Mat<'a>),
    /// Rows of a row-major matrix of bf16 numbers in a file, from the row `first` on, or their transpose.
    Mapped { weight: &'a MappedSlice, first: usize, rows: usize, cols: usize, transposed: bool },
}

impl Right<'_> {
    /// Number of parts of its numbers.
    pub(super) fn parts(&self) -> usize {
        match self {
            Right::Floats(_) => PARTS,
            Right::Mapped { .. } => 1,
        }
    }

    /// Length of the inner dimension, and number of columns.
    pub(super) fn shape(&self) -> [usize; 2] {
        match *self {
            Right::Floats(mat) => [mat.rows, mat.cols],
            Right::Mapped { rows, cols, transposed, .. } => {
                if transposed {
                    [cols, rows]
                } else {
                    [rows, cols]
                }
            }
        }
    }

    /// Packs a block of [`SIDE`] columns from `column` on, and the steps from `step` on: for each step, for each part,
    /// two tiles. The columns and rows outside the matrix are zeros.
    pub(super) fn pack(&self, column: usize, step: usize, tiles: &mut [Tile]) {
        for (s, tiles) in tiles.chunks_exact_mut(2 * self.parts()).enumerate() {
            let inner = (step + s) * STEP;
            for half in 0..2 {
                let column = column + half * 16;
                match *self {
                    Right::Floats(mat) => floats(mat, column, inner, half, tiles),
                    Right::Mapped { weight, first, rows, cols, transposed } => {
                        let bytes = weight.range(first * cols, rows * cols);
                        mapped(bytes, [rows, cols], transposed, column, inner, &mut tiles[half]);
                    }
                }
            }
        }
    }
}

/// Packs the parts of 32-bit floats into every second tile, from the tile `half` on.
fn floats(mat: Mat<'_>, column: usize, inner: usize, half: usize, tiles: &mut [Tile]) {
    let columns = mat.cols.saturating_sub(column).min(16);
    let inners = mat.rows.saturating_sub(inner).min(STEP);
    let Some(tiles) = tiles.first_chunk_mut::<LEFT>() else { return };
    if columns < 16 || inners < STEP {
        (0..PARTS).for_each(|part| tiles[2 * part + half] = Tile::ZERO);
    }
    if columns == 0 {
        return;
    }
    if mat.row_stride == 1 {
        simd(
            #[inline(always)]
            || {
                for c in 0..columns {
                    let row = &mat.data[(column + c) * mat.col_stride + inner..][..inners];
                    for (part, line) in split_line(row, 1.0).into_iter().enumerate() {
                        tiles[2 * part + half].0[c] = line;
                    }
                }
            },
        );
        (0..PARTS).for_each(|part| transpose(&mut tiles[2 * part + half]));
        return;
    }
    let row = Neighbours { mat, column, columns, inner, inners };
    simd(
        #[inline(always)]
        || {
            for l in 0..inners.div_ceil(2) {
                let (a, b) = (row.of(2 * l), row.of(2 * l + 1));
                let mut parts = [[0; 16]; PARTS];
                let [upper, middle, lower] = &mut parts;
                for c in 0..16 {
                    [upper[c], middle[c], lower[c]] = split([a[c], b[c]]);
                }
                for (part, line) in parts.into_iter().enumerate() {
                    tiles[2 * part + half].0[l] = line;
                }
            }
        },
    );
}

/// Up to 16 neighbours in the rows of a right operand.
struct Neighbours<'a> {
    mat: Mat<'a>,
    column: usize,
    columns: usize,
    inner: usize,
    inners: usize,
}

impl Neighbours<'_> {
    /// Those of a row; missing numbers are zeros.
    #[inline(always)]
    fn of(&self, k: usize) -> [f32; 16] {
        let mut line = [0.0; 16];
        if k < self.inners {
            let from = &self.mat.data[(self.inner + k) * self.mat.row_stride + self.column..];
            match from.first_chunk() {
                Some(whole) if self.columns == 16 => {
                    prefetch::<f32, 16>(whole, STEP * self.mat.row_stride);
                    line = *whole;
                }
                _ => line[..self.columns].copy_from_slice(&from[..self.columns]),
            }
        }
        line
    }
}

/// Packs a tile of a row-major matrix of bf16 numbers with rows and columns of these numbers.
fn mapped(
    bytes: &[u8],
    [rows, cols]: [usize; 2],
    transposed: bool,
    column: usize,
    inner: usize,
    tile: &mut Tile,
) {
    if (if transposed { rows } else { cols }) <= column {
        *tile = Tile::ZERO;
        return;
    }
    if transposed {
        let inners = cols.saturating_sub(inner).min(STEP);
        let columns = rows.saturating_sub(column).min(16);
        let bytes = &bytes[(column * cols + inner) * 2..];
        if columns == 16 && inners == STEP {
            return transpose_lines(bytes, cols * 2, tile);
        }
        *tile = Tile::ZERO;
        for (c, line) in tile.0[..columns].iter_mut().enumerate() {
            for (i, it) in bytes[c * cols * 2..][..inners * 2].as_chunks::<2>().0.iter().enumerate() {
                line[i / 2] |= u32::from(u16::from_le_bytes(*it)) << (i % 2 * 16);
            }
        }
        return transpose(tile);
    }
    let columns = cols.saturating_sub(column).min(16);
    let inners = rows.saturating_sub(inner).min(STEP);
    let row = |k: usize| &bytes[((inner + k) * cols + column) * 2..][..columns * 2];
    if columns == 16 && inners == STEP {
        return simd(
            #[inline(always)]
            || {
                for (l, line) in tile.0.iter_mut().enumerate() {
                    let (a, b) = (row(2 * l).as_chunks::<2>().0, row(2 * l + 1).as_chunks::<2>().0);
                    let whole: (&[_; 16], &[_; 16]) = match (a.first_chunk(), b.first_chunk()) {
                        (Some(a), Some(b)) => (a, b),
                        _ => return,
                    };
                    prefetch(whole.0, NEXT_STEP * cols);
                    prefetch(whole.1, NEXT_STEP * cols);
                    for ((slot, a), b) in line.iter_mut().zip(a).zip(b) {
                        *slot = u32::from(u16::from_le_bytes(*a)) | (u32::from(u16::from_le_bytes(*b)) << 16);
                    }
                }
            },
        );
    }
    *tile = Tile::ZERO;
    for k in 0..inners {
        for (slot, it) in tile.0[k / 2].iter_mut().zip(row(k).as_chunks::<2>().0) {
            *slot |= u32::from(u16::from_le_bytes(*it)) << (k % 2 * 16);
        }
    }
}

/// Exchanges lines and columns of pairs.
fn transpose(tile: &mut Tile) {
    let old = *tile;
    let bytes: &[[[u8; 4]; 16]; 16] = bytemuck::cast_ref(&old.0);
    transpose_lines(bytes.as_flattened().as_flattened(), 64, tile);
}

/// Writes lines of 64 bytes, which start `stride` bytes apart, as columns of pairs. Lines of another block of 32 outputs,
/// which is the next one, are asked for meanwhile.
#[cfg(target_arch = "x86_64")]
fn transpose_lines(bytes: &[u8], stride: usize, tile: &mut Tile) {
    use pulp::x86::V4;
    use std::arch::x86_64::__m512i;
    let Some(v4) = V4::try_new() else { return transpose_plain(bytes, stride, tile) };
    let bytes = &bytes[..15 * stride + 64];
    v4.vectorize(
        #[inline(always)]
        || {
            let it = v4.avx512f;
            let mut rows = [pulp::cast::<[u32; 16], __m512i>([0; 16]); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                if let Some(line) = bytes[i * stride..].first_chunk::<64>() {
                    *row = pulp::cast(*line);
                    if stride > 64 {
                        prefetch(line, SIDE * stride);
                    }
                }
            }
            // Pairs within rows, then within groups of four rows, then whole quarters of rows.
            let mut two = rows;
            for i in 0..8 {
                two[2 * i] = it._mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
                two[2 * i + 1] = it._mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
            }
            let mut four = two;
            for i in (0..16).step_by(4) {
                four[i] = it._mm512_unpacklo_epi64(two[i], two[i + 2]);
                four[i + 1] = it._mm512_unpackhi_epi64(two[i], two[i + 2]);
                four[i + 2] = it._mm512_unpacklo_epi64(two[i + 1], two[i + 3]);
                four[i + 3] = it._mm512_unpackhi_epi64(two[i + 1], two[i + 3]);
            }
            for j in 0..4 {
                let [a, b, c, d] = [four[j], four[4 + j], four[8 + j], four[12 + j]];
                let outer = [it._mm512_shuffle_i32x4::<0x88>(a, b), it._mm512_shuffle_i32x4::<0x88>(c, d)];
                let inner = [it._mm512_shuffle_i32x4::<0xdd>(a, b), it._mm512_shuffle_i32x4::<0xdd>(c, d)];
                tile.0[j] = pulp::cast(it._mm512_shuffle_i32x4::<0x88>(outer[0], outer[1]));
                tile.0[8 + j] = pulp::cast(it._mm512_shuffle_i32x4::<0xdd>(outer[0], outer[1]));
                tile.0[4 + j] = pulp::cast(it._mm512_shuffle_i32x4::<0x88>(inner[0], inner[1]));
                tile.0[12 + j] = pulp::cast(it._mm512_shuffle_i32x4::<0xdd>(inner[0], inner[1]));
            }
        },
    );
}

#[cfg(not(target_arch = "x86_64"))]
fn transpose_lines(bytes: &[u8], stride: usize, tile: &mut Tile) {
    transpose_plain(bytes, stride, tile);
}

fn transpose_plain(bytes: &[u8], stride: usize, tile: &mut Tile) {
    for c in 0..16 {
        for (l, pair) in bytes[c * stride..][..64].as_chunks::<4>().0.iter().enumerate() {
            tile.0[l][c] = u32::from_le_bytes(*pair);
        }
    }
}
