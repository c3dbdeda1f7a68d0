//! Matrix products and vectorised loops over `f32`: safe matrix views for the crate `gemm-f32`, a product for the few rows
//! of a decoding step ([`PanelProduct`]), products on the matrix unit of newer processors ([`matmul_split`]), and sums over
//! slices.
//!
//! All results have the same bits for any number of threads: work is divided into pieces of fixed size, which does not
//! depend on the thread pool, and each sum is computed within one piece.

// `gemm-f32` takes raw pointers. The constructors of the views below check that all addresses which it may access lie
// inside the borrowed slices, so callers need no checks. No other module of the engine uses `unsafe`.
#![allow(unsafe_code)]

mod map;
mod rows;
mod split;

pub(crate) use map::{Format, MappedFile, MappedSlice};
pub(crate) use rows::{Matrix, RowProduct};
pub(crate) use split::Right;

use gemm_common::Parallelism;
use memmap2::Mmap;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;

/// Largest number of columns of the destination that one task of [`matmul`] computes, if there are more rows than one
/// task computes. Products with fewer rows come from groups of short sequences, which already run in parallel.
const TASK_COLS: usize = 384;

/// Smallest and largest number of rows of the destination that one task of [`matmul`] computes.
const TASK_ROWS: (usize, usize) = (32, 256);

/// Number of multiplications in one task of [`matmul`], if the limits of its rows and columns allow it. A smaller task
/// would spend more of its time on packing the operands, a larger one would leave threads idle.
const TASK_PRODUCTS: usize = 16 << 20;

/// The same number for products with a small destination, whose inner dimension is larger than their number of rows:
/// the gradients of the adapter's matrices.
const TASK_PRODUCTS_SMALL: usize = 4 << 20;

/// Number of outputs in one panel (see [`pack_panels`]). The weights of one input in a panel take 128 bytes: one or two
/// cache lines, or two AVX-512 registers.
pub(crate) const PANEL: usize = 32;

/// Number of weights that one thread multiplies in [`PanelProduct::run_in_parts`], if there are enough threads. At least
/// two threads share a product.
const PART: usize = 1 << 16;

/// Maps a file into memory, for [`MappedFile`].
fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read. If another program changes the file meanwhile, elements have other values, all of
    // which are valid for their types; if it cuts the file, an access ends the process with a signal. The documentation
    // of `Options::models` says that the files must not be changed while the engine runs.
    unsafe { Mmap::map(file) }
}

/// A read-only strided matrix inside a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix without gaps.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `row_stride` elements apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "the matrix reaches outside its slice");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose: a view of the same data with rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// True if a row-major matrix of this shape lies inside a slice of this length.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    if rows == 0 || cols == 0 {
        return true;
    }
    let last = (rows - 1).checked_mul(row_stride).and_then(|at| at.checked_add(cols));
    row_stride >= cols && last.is_some_and(|end| end <= len)
}

/// A writable row-major matrix inside a slice.
#[derive(Debug)]
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A row-major matrix without gaps.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `row_stride` elements apart.
    pub(crate) fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "the matrix reaches outside its slice");
        MatMut { data, rows, cols, row_stride }
    }
}

/// A whole product `dst = keep·dst + scale·lhs·rhs`, whose parts several threads can compute.
#[derive(Clone, Copy)]
struct Product<'a> {
    dst: *mut f32,
    dst_stride: usize,
    keep: f32,
    lhs: Mat<'a>,
    rhs: Mat<'a>,
    scale: f32,
}

// SAFETY: `dst` points into a slice that the creator of the product has borrowed uniquely for as long as the product
// lives, and `f32` can be written from any thread. The other fields are shared borrows and numbers.
unsafe impl Send for Product<'_> {}
// SAFETY: The same; the only use of `dst` is in the unsafe function `tile`, whose caller guarantees that no two threads
// write the same element.
unsafe impl Sync for Product<'_> {}

impl<'a> Product<'a> {
    /// Checks the shapes. The result must not be used after the borrow of `dst` ends, which the functions below ensure
    /// by dropping it before they return.
    fn new(dst: &mut MatMut<'_>, keep: f32, lhs: Mat<'a>, rhs: Mat<'a>, scale: f32) -> Self {
        assert_eq!(lhs.cols, rhs.rows, "the inner dimensions differ");
        assert_eq!((dst.rows, dst.cols), (lhs.rows, rhs.cols), "the destination has another shape");
        Product { dst: dst.data.as_mut_ptr(), dst_stride: dst.row_stride, keep, lhs, rhs, scale }
    }

    /// Computes the rows and columns of `dst` in the given ranges, which must not be empty.
    ///
    /// # Safety
    /// The slice of `dst` is still borrowed for this product, and no other thread accesses the same elements of `dst`.
    unsafe fn tile(&self, rows: Range<usize>, cols: Range<usize>) {
        let Product { lhs, rhs, .. } = *self;
        assert!(rows.start < rows.end && rows.end <= lhs.rows, "the rows reach outside the matrix");
        assert!(cols.start < cols.end && cols.end <= rhs.cols, "the columns reach outside the matrix");
        // Without an inner dimension the operands may be empty slices, whose addresses must not be moved.
        let (lhs_at, rhs_at) = match lhs.cols {
            0 => (0, 0),
            _ => (rows.start * lhs.row_stride, cols.start * rhs.col_stride),
        };
        // SAFETY: the constructor of every view checked with `fits` that all addresses of its shape and strides lie
        // inside its slice, transposing a view keeps that, and the ranges lie inside the shapes. Strides are smaller
        // than the length of a slice, so they fit into isize. The rows of `dst` do not overlap (`row_stride >= cols`),
        // no other thread accesses its elements in the ranges, and the operands are shared borrows, so nothing aliases
        // what is written. All memory is initialised f32. The kernel prefers matrices whose columns have no gaps, so it
        // computes the transpose of the product: the operands are exchanged.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                cols.len(),
                rows.len(),
                lhs.cols,
                self.dst.add(rows.start * self.dst_stride + cols.start),
                self.dst_stride as isize,
                1,
                self.keep != 0.0,
                rhs.data.as_ptr().add(rhs_at),
                rhs.row_stride as isize,
                rhs.col_stride as isize,
                lhs.data.as_ptr().add(lhs_at),
                lhs.row_stride as isize,
                lhs.col_stride as isize,
                self.keep,
                self.scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// `dst = keep·dst + scale·lhs·rhs` on the calling thread. If `keep` is zero, the old content of `dst` is not read.
pub(crate) fn matmul_here(mut dst: MatMut<'_>, keep: f32, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    let product = Product::new(&mut dst, keep, lhs, rhs, scale);
    if dst.rows > 0 && dst.cols > 0 {
        // SAFETY: `dst` is borrowed until the end of this function, and there is only one task.
        unsafe { product.tile(0..dst.rows, 0..dst.cols) }
    }
}

/// `dst = keep·dst + scale·lhs·rhs` on the current rayon pool. If `keep` is zero, the old content of `dst` is not read.
/// Each task computes a tile of `dst`, whose size depends only on the shapes.
pub(crate) fn matmul(mut dst: MatMut<'_>, keep: f32, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    let product = Product::new(&mut dst, keep, lhs, rhs, scale);
    let (rows, cols) = (dst.rows, dst.cols);
    if rows == 0 || cols == 0 {
        return;
    }
    let max_cols = if rows > TASK_ROWS.1 { TASK_COLS } else { cols };
    let col_tasks = cols.div_ceil(max_cols);
    let tile_cols = cols.div_ceil(col_tasks).next_multiple_of(PANEL);
    let col_tasks = cols.div_ceil(tile_cols);
    let products = if lhs.cols > rows { TASK_PRODUCTS_SMALL } else { TASK_PRODUCTS };
    let wanted = products / (tile_cols.min(cols) * lhs.cols.max(1));
    let tile_rows = wanted.clamp(TASK_ROWS.0, TASK_ROWS.1).next_multiple_of(PANEL);
    let row_tasks = rows.div_ceil(tile_rows);
    let part = |at: usize, size: usize, end: usize| at * size..end.min((at + 1) * size);
    let task = |i: usize| {
        let (row, col) = (i / col_tasks, i % col_tasks);
        // SAFETY: `dst` is borrowed until the end of this function, and the tiles of different tasks do not overlap.
        unsafe { product.tile(part(row, tile_rows, rows), part(col, tile_cols, cols)) }
    };
    match row_tasks * col_tasks {
        1 => task(0),
        count => (0..count).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Asks for the memory `distance` elements after a block, which will be needed soon.
#[inline(always)]
fn prefetch<T, const N: usize>(block: &[T; N], distance: usize) {
    let address = block.as_ptr().wrapping_add(distance).cast::<i8>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads nothing and accepts every address. All processors of this architecture have it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// `dst = keep·dst + lhs·Wᵀ` on the current rayon pool, for a matrix `W` that is not in memory as a whole: `read` writes
/// some rows of it, from the given one on, to a slice. Each task reads `count` rows, or the rest, and multiplies them with
/// up to [`TASK_ROWS`] rows of `lhs`.
pub(crate) fn matmul_blocks(
    dst: MatMut<'_>,
    keep: f32,
    lhs: Mat<'_>,
    count: usize,
    read: impl Fn(usize, &mut [f32]) + Sync,
) {
    thread_local! {
        /// The rows of a task. Each thread keeps its memory for the next task.
        static BLOCK: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let (rows, cols, inputs) = (dst.rows, dst.cols, lhs.cols);
    assert_eq!(rows, lhs.rows, "the destination has another shape");
    let start = Start(dst.data.as_mut_ptr());
    let row_tasks = rows.div_ceil(TASK_ROWS.1);
    (0..row_tasks * cols.div_ceil(count)).into_par_iter().with_max_len(1).for_each(|i| {
        let (row, col) = (i % row_tasks * TASK_ROWS.1, i / row_tasks * count);
        let (task_rows, task_cols) = (TASK_ROWS.1.min(rows - row), count.min(cols - col));
        let mut buffer = BLOCK.take();
        buffer.resize(buffer.len().max(task_cols * inputs), 0.0);
        let block = &mut buffer[..task_cols * inputs];
        read(col, block);
        let lhs_at = row * lhs.row_stride;
        let product = Product {
            // SAFETY: row and column lie inside `dst`, whose view was checked.
            dst: unsafe { start.at(row * dst.row_stride + col) },
            dst_stride: dst.row_stride,
            keep,
            lhs: Mat { data: &lhs.data[lhs_at..], rows: task_rows, ..lhs },
            rhs: Mat::new(block, task_cols, inputs).t(),
            scale: 1.0,
        };
        // SAFETY: `dst` is borrowed until the end of this function, and the tiles of different tasks do not overlap.
        unsafe { product.tile(0..task_rows, 0..task_cols) }
        BLOCK.set(buffer);
    });
}

/// Number of rows and of columns of the destination that one task of [`matmul_split`] computes, and of steps of the
/// inner dimension after which it adds its sums to the destination.
const SPLIT_TASK: (usize, usize, usize) = (256, 256, 16);

/// Whether this machine has a matrix unit for bf16 numbers (AMX) that this process may use. The first call asks the system
/// for the permission, which it refuses if a thread has a stack for signals that is too small for the unit's registers.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn has_matrix_unit() -> bool {
    use std::arch::x86_64::__cpuid_count;
    use std::sync::LazyLock;
    /// The state component of tiles, and the number of the system call's function that asks to use it.
    const TILE_DATA: libc::c_long = 18;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: all processors of this architecture have the instruction; leaf 7 exists if there is AVX-512.
        #[allow(unused_unsafe)] // Newer versions of the standard library declare it as safe.
        let has = is_x86_feature_detected!("avx512bw") && {
            let features = unsafe { __cpuid_count(7, 0) }.edx;
            features & (1 << 22) != 0 && features & (1 << 24) != 0
        };
        // SAFETY: the call changes nothing but the permission of this process to use the tile registers.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
    });
    *FOUND
}

/// Only Linux on x86-64 is known to have one.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) fn has_matrix_unit() -> bool {
    false
}

/// Rows of 32-bit floats as a left operand of the matrix unit. The columns form groups, each of which has an inner
/// dimension of its own.
#[derive(Debug)]
pub(crate) struct Split {
    tiles: Vec<split::Tile>,
    rows: usize,
    /// The width of each group, and its first step.
    groups: Vec<(usize, usize)>,
    /// Number of steps of all groups.
    steps: usize,
}

/// One product of a sum: a group of a left operand times a right operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term<'a> {
    left: &'a Split,
    group: usize,
    right: Right<'a>,
}

impl<'a> Term<'a> {
    pub(crate) fn new(left: &'a Split, group: usize, right: Right<'a>) -> Term<'a> {
        Term { left, group, right }
    }
}

thread_local! {
    /// Memory of left operands, and that of the right operand of a task. Each thread keeps it for the next one.
    static LEFT_TILES: Cell<Vec<Vec<split::Tile>>> = const { Cell::new(Vec::new()) };
    static RIGHT_TILES: Cell<Vec<split::Tile>> = const { Cell::new(Vec::new()) };
}

impl Drop for Split {
    fn drop(&mut self) {
        let mut kept = LEFT_TILES.take();
        kept.push(std::mem::take(&mut self.tiles));
        LEFT_TILES.set(kept);
    }
}

impl Split {
    /// Packs a matrix times `scale`. Its columns have no gaps, and form groups of these widths.
    pub(crate) fn new(x: Mat<'_>, scale: f32, widths: impl IntoIterator<Item = usize>) -> Split {
        let mut steps = 0;
        let groups = widths.into_iter().map(|width| {
            steps += split::steps(width);
            (width, steps - split::steps(width))
        });
        let groups: Vec<_> = groups.collect();
        let len = x.rows.div_ceil(split::SIDE) * steps * split::LEFT;
        let mut kept = LEFT_TILES.take();
        let mut tiles = kept.pop().unwrap_or_default();
        LEFT_TILES.set(kept);
        if tiles.len() < len {
            // Drop the old tiles first: both together may take more memory than is planned.
            tiles = Vec::new();
            tiles.resize(len, split::Tile::ZERO);
        }
        let blocks = tiles[..len].par_chunks_mut((steps * split::LEFT).max(1)).enumerate().with_min_len(2);
        blocks.for_each(|(i, tiles)| {
            let mut at = 0;
            for &(width, step) in &groups {
                let tiles = &mut tiles[step * split::LEFT..][..split::steps(width) * split::LEFT];
                split::pack_left(
                    Mat { data: &x.data[at..], cols: width, ..x },
                    i * split::SIDE,
                    scale,
                    tiles,
                );
                at += width;
            }
        });
        Split { tiles, rows: x.rows, groups, steps }
    }

    /// Number of floats that take as much memory as rows with groups of these widths.
    pub(crate) fn len(rows: usize, widths: impl IntoIterator<Item = usize>) -> usize {
        let steps: usize = widths.into_iter().map(split::steps).sum();
        rows.div_ceil(split::SIDE) * steps * split::LEFT * (size_of::<split::Tile>() / size_of::<f32>())
    }

    /// The tiles of a block of rows and some steps of a group.
    fn block(&self, row: usize, group: usize, step: usize, steps: usize) -> &[split::Tile] {
        let at = row / split::SIDE * self.steps + self.groups[group].1 + step;
        &self.tiles[at * split::LEFT..][..steps * split::LEFT]
    }
}

/// `dst = keep·dst + (sum of all terms)` on the current rayon pool; `keep` is 0 or 1. Each task computes a tile of `dst`,
/// whose size depends only on the shapes.
pub(crate) fn matmul_split(dst: MatMut<'_>, keep: f32, terms: &[Term<'_>]) {
    let (rows, cols) = (dst.rows, dst.cols);
    for it in terms {
        let [inner, width] = it.right.shape();
        assert_eq!(it.left.groups[it.group].0, inner, "the inner dimensions differ");
        assert_eq!((rows, cols), (it.left.rows, width), "the destination has another shape");
    }
    let (task_rows, task_cols, task_steps) = SPLIT_TASK;
    let row_tasks = rows.div_ceil(task_rows);
    let start = Start(dst.data.as_mut_ptr());
    let stride = dst.row_stride;
    let task = |i: usize| {
        let (row, col) = (i % row_tasks * task_rows, i / row_tasks * task_cols);
        let (row_end, col_end) = (rows.min(row + task_rows), cols.min(col + task_cols));
        let mut tiles = RIGHT_TILES.take();
        let mut keep = keep != 0.0;
        for &Term { left, group, right } in terms {
            let all_steps = split::steps(right.shape()[0]);
            for step in (0..all_steps).step_by(task_steps) {
                let steps = task_steps.min(all_steps - step);
                let panel = steps * 2 * right.parts();
                let len = (col_end - col).div_ceil(split::SIDE) * panel;
                if tiles.len() < len {
                    tiles = vec![split::Tile::ZERO; len];
                }
                for (p, tiles) in tiles[..len].chunks_exact_mut(panel).enumerate() {
                    right.pack(col + p * split::SIDE, step, tiles);
                }
                for first in (row..row_end).step_by(split::SIDE) {
                    let left = left.block(first, group, step, steps);
                    let height = split::SIDE.min(row_end - first);
                    // SAFETY: the rows and columns lie inside `dst`, which is borrowed until the end of this function,
                    // and the tiles of different tasks do not overlap.
                    unsafe {
                        let dst = start.at(first * stride + col);
                        multiply(left, &tiles[..len], panel, dst, stride, [height, col_end - col], keep);
                    }
                }
                keep = true;
            }
        }
        RIGHT_TILES.set(tiles);
    };
    match row_tasks * cols.div_ceil(task_cols) {
        1 => task(0),
        count => (0..count).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// `dst = keep·dst + left·right`, for a block of rows of a left operand, and blocks of columns of a right operand, which
/// have `panel` tiles each. The size of `dst` is that of the blocks, or less; its rows start `stride` elements apart.
///
/// # Safety
/// `dst` can be read and written, and no other thread accesses it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn multiply(
    left: &[split::Tile],
    right: &[split::Tile],
    panel: usize,
    dst: *mut f32,
    stride: usize,
    [rows, cols]: [usize; 2],
    keep: bool,
) {
    use std::arch::asm;
    #[repr(C, align(64))]
    struct Aligned<T>(T);
    /// All eight registers have 16 lines of 64 bytes.
    static CONFIGURATION: Aligned<[u8; 64]> = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut i = 0;
        while i < 8 {
            bytes[16 + 2 * i] = 64;
            bytes[48 + i] = 16;
            i += 1;
        }
        Aligned(bytes)
    };
    let steps = left.len() / split::LEFT;
    let exact = panel == steps * 2;
    assert!(has_matrix_unit(), "the machine lacks a matrix unit");
    assert!(steps > 0 && left.len() == steps * split::LEFT && right.len().is_multiple_of(panel));
    assert!(exact || panel == steps * split::LEFT, "the right operand has another inner dimension");
    // SAFETY: the processor has the instruction, and the process the permission. The compiler uses no tile registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) }
    // Two tiles of the left operand (its upper and lower rows) times two of the right one (its left and right columns).
    macro_rules! four {
        ($b0:literal, $b1:literal, $a0:literal, $a1:literal) => {
            concat!(
                "tileloadd tmm4, [{b} + {s} + ",
                $b0,
                "]\n tileloadd tmm6, [{a} + {s} + ",
                $a0,
                "]\n",
                "tdpbf16ps tmm0, tmm6, tmm4\n tileloadd tmm5, [{b} + {s} + ",
                $b1,
                "]\n",
                "tdpbf16ps tmm1, tmm6, tmm5\n tileloadd tmm7, [{a} + {s} + ",
                $a1,
                "]\n",
                "tdpbf16ps tmm2, tmm7, tmm4\n tdpbf16ps tmm3, tmm7, tmm5\n",
            )
        };
        ($a0:literal, $a1:literal) => {
            concat!(
                "tileloadd tmm6, [{a} + {s} + ",
                $a0,
                "]\n",
                "tdpbf16ps tmm0, tmm6, tmm4\n tileloadd tmm7, [{a} + {s} + ",
                $a1,
                "]\n",
                "tdpbf16ps tmm1, tmm6, tmm5\n tdpbf16ps tmm2, tmm7, tmm4\n tdpbf16ps tmm3, tmm7, tmm5\n",
            )
        };
    }
    macro_rules! block {
        ($right:expr, $dst:expr, $stride:expr, $keep:expr, $size:literal, $($products:expr),*) => {
            asm!(
                "test {keep}, {keep}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {cs}]", "tileloadd tmm1, [{c} + {cs} + 64]",
                "tileloadd tmm2, [{d} + {cs}]", "tileloadd tmm3, [{d} + {cs} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "3:",
                $($products,)*
                "add {a}, 6144",
                concat!("add {b}, ", $size),
                "dec {n}",
                "jnz 3b",
                "tilestored [{c} + {cs}], tmm0", "tilestored [{c} + {cs} + 64], tmm1",
                "tilestored [{d} + {cs}], tmm2", "tilestored [{d} + {cs} + 64], tmm3",
                a = inout(reg) left.as_ptr() => _,
                b = inout(reg) $right.as_ptr() => _,
                n = inout(reg) steps => _,
                s = in(reg) 64usize,
                c = in(reg) $dst,
                d = in(reg) $dst.add(16 * $stride),
                cs = in(reg) 4 * $stride,
                keep = in(reg) usize::from($keep),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: each of the steps reads as many tiles as the slices have for it. A block of the destination is read and
    // written as a whole if it lies inside `dst`; otherwise the products go through `edge`.
    unsafe {
        let product = |right: &[split::Tile], dst: *mut f32, stride: usize, keep: bool| {
            if exact {
                block!(
                    right,
                    dst,
                    stride,
                    keep,
                    "2048",
                    four!("0", "1024", "0", "1024"),
                    four!("2048", "3072"),
                    four!("4096", "5120")
                );
            } else {
                block!(
                    right,
                    dst,
                    stride,
                    keep,
                    "6144",
                    // Upper, middle and lower parts of the left operand with upper parts of the right one.
                    four!("0", "1024", "0", "1024"),
                    four!("2048", "3072"),
                    four!("4096", "5120"),
                    // Upper and middle parts with middle parts.
                    four!("2048", "3072", "0", "1024"),
                    four!("2048", "3072"),
                    // Upper parts with lower parts.
                    four!("4096", "5120", "0", "1024")
                );
            }
        };
        let mut edge = Aligned([[0.0f32; split::SIDE]; split::SIDE]);
        for (p, right) in right.chunks_exact(panel).enumerate() {
            let dst = dst.add(p * split::SIDE);
            let width = split::SIDE.min(cols - p * split::SIDE);
            if width == split::SIDE && rows == split::SIDE {
                product(right, dst, stride, keep);
                continue;
            }
            // A row has the same bits in a whole block and in a part of one: the sums go on from the old numbers, too.
            if keep {
                for (r, to) in edge.0.iter_mut().take(rows).enumerate() {
                    to[..width].copy_from_slice(std::slice::from_raw_parts(dst.add(r * stride), width));
                }
            }
            product(right, edge.0.as_mut_ptr().cast(), split::SIDE, keep);
            for (r, from) in edge.0.iter().take(rows).enumerate() {
                std::slice::from_raw_parts_mut(dst.add(r * stride), width).copy_from_slice(&from[..width]);
            }
        }
    }
    // SAFETY: as above. Without tiles in use, the system has less to save when it changes threads.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
unsafe fn multiply(
    _: &[split::Tile],
    _: &[split::Tile],
    _: usize,
    _: *mut f32,
    _: usize,
    _: [usize; 2],
    _: bool,
) {
    unreachable!("`has_matrix_unit` has said that it is missing");
}

/// The start of a destination that several threads write.
#[derive(Clone, Copy)]
struct Start(*mut f32);

// SAFETY: as for `Product`: the destination is borrowed uniquely, and no two threads write the same element.
unsafe impl Send for Start {}
// SAFETY: The same.
unsafe impl Sync for Start {}

impl Start {
    /// # Safety
    /// The element lies inside the destination.
    unsafe fn at(&self, element: usize) -> *mut f32 {
        // SAFETY: the caller guarantees it.
        unsafe { self.0.add(element) }
    }
}

/// Runs `body`, usually a loop, compiled for the widest vector instructions of this machine. The closure should be
/// marked `#[inline(always)]`. The compiler neither reorders nor fuses its floating-point operations, so the results
/// have the same bits on every machine.
#[inline(always)]
pub(crate) fn simd<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// `e^x`, approximated by a polynomial with an error of about two units in the last place. All operations can be
/// vectorised. Inputs are clamped to −87..88, so the result is never zero or infinite.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this number, 1.5·2^23, to a small number rounds it to the nearest integer, whose bits are then the low
    // bits of the mantissa. Subtracting it again gives the rounded number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // Subtract n·ln 2 in two steps for precision. The first constant has so few bits that its product with n is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = shifted.to_bits().wrapping_add(127).wrapping_shl(23);
    p * f32::from_bits(power)
}

/// Number of partial sums (or maxima) in [`sum_by`], [`dot`], [`max`] and [`exp_sum`]. It is fixed, so that the order
/// of additions does not depend on the machine.
const LANES: usize = 16;

/// The sum of `step(value)` over a slice, computed in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], step: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += step(v);
        }
    }
    let mut total = lanes.iter().sum::<f32>();
    for &v in rest {
        total += step(v);
    }
    total
}

/// The dot product of two slices of the same length, computed in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (a, b) in xs.iter().zip(ys) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    let mut total = lanes.iter().sum::<f32>();
    for (&a, &b) in x_rest.iter().zip(y_rest) {
        total += a * b;
    }
    total
}

/// The largest value of a slice; −∞ if it is empty.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Replaces every value by `e^(value − shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = exp(*v - shift);
            *lane += *v;
        }
    }
    let mut total = lanes.iter().sum::<f32>();
    for v in rest {
        *v = exp(*v - shift);
        total += *v;
    }
    total
}

/// Packs an `[outputs, inputs]` matrix into panels. A panel holds the weights of [`PANEL`] outputs, stored as
/// `[inputs][PANEL]`; the last panel is padded with zeros. A product with panels reads memory in sequence and never has
/// to add up the elements of one vector register.
pub(crate) fn pack_panels(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut packed = vec![0.0; outputs.div_ceil(PANEL) * inputs * PANEL];
    for (o, row) in weight.chunks_exact(inputs).take(outputs).enumerate() {
        let panel = &mut packed[o / PANEL * inputs * PANEL..][..inputs * PANEL];
        for (slot, &value) in panel.iter_mut().skip(o % PANEL).step_by(PANEL).zip(row) {
            *slot = value;
        }
    }
    packed
}

/// Packs rows of `outputs` numbers, which start `stride` elements apart in `rows`, into panels: the product of a vector
/// with these panels is the sum of the rows, each times one number of the vector. `panels` is overwritten, its length
/// must be that of [`packed_rows_len`], and the last panel is padded with zeros.
pub(crate) fn pack_rows(rows: &[f32], stride: usize, outputs: usize, panels: &mut [f32]) {
    let count = panels.len() / outputs.next_multiple_of(PANEL).max(1);
    for (p, panel) in panels.chunks_exact_mut((count * PANEL).max(1)).enumerate() {
        let at = p * PANEL;
        let width = PANEL.min(outputs - at);
        for (slot, row) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(rows.chunks(stride)) {
            slot[..width].copy_from_slice(&row[at..][..width]);
            slot[width..].fill(0.0);
        }
    }
}

/// Number of elements in the panels of `count` rows with `outputs` numbers each; see [`pack_rows`].
pub(crate) fn packed_rows_len(count: usize, outputs: usize) -> usize {
    count * outputs.next_multiple_of(PANEL)
}

/// Packs `outputs` rows with `inputs` numbers each, which start `stride` elements apart in `rows`, as [`pack_panels`]
/// does, into `panels`, and multiplies them by `scale`.
pub(crate) fn pack_scaled(
    rows: &[f32],
    stride: usize,
    [outputs, inputs]: [usize; 2],
    scale: f32,
    panels: &mut [f32],
) {
    let mut rows = rows.chunks(stride).take(outputs);
    for panel in panels.chunks_exact_mut((inputs * PANEL).max(1)) {
        for o in 0..PANEL {
            let slots = panel.iter_mut().skip(o).step_by(PANEL);
            match rows.next() {
                Some(row) => slots.zip(&row[..inputs]).for_each(|(slot, v)| *slot = v * scale),
                None => slots.for_each(|slot| *slot = 0.0),
            }
        }
    }
}

/// Number of elements in the panels of an `[outputs, inputs]` matrix; see [`pack_panels`].
pub(crate) fn panels_len(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(PANEL) * inputs
}

/// `dst[r] = panels·x[r]` for a few rows `r`; with `keep`, the product is added to `dst[r]`.
///
/// Each output is one chain of multiply-adds over the inputs in order, so a row gets the same bits whether it is
/// computed alone or with other rows. A panel has room for `panel_inputs` inputs, but only the first `inputs` are read:
/// a cache that still grows can be multiplied without copying it.
#[derive(Debug)]
pub(crate) struct PanelProduct<'a> {
    pub(crate) panels: &'a [f32],
    pub(crate) panel_inputs: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) rows: usize,
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) dst: &'a mut [f32],
    pub(crate) dst_stride: usize,
    pub(crate) keep: bool,
}

impl PanelProduct<'_> {
    /// Computes the product on the calling thread.
    pub(crate) fn run(self) {
        if self.rows > 0 && self.outputs > 0 {
            Arch::new().dispatch(self);
        }
    }

    /// Computes the product on the current rayon pool: each thread computes some of the panels, as a rule the same ones
    /// at each call, so that they stay in its cache. `scratch` is overwritten.
    pub(crate) fn run_in_parts(self, scratch: &mut Vec<f32>) {
        let (rows, outputs, panel_len) = (self.rows, self.outputs, self.panel_inputs * PANEL);
        let count = outputs.div_ceil(PANEL);
        let wanted = (count * panel_len).div_ceil(PART).max(2).min(rayon::current_num_threads());
        let part_panels = count.div_ceil(wanted);
        if rows == 0 || part_panels == count {
            return self.run();
        }
        let width = part_panels * PANEL;
        let panels = self.panels[..count * panel_len].par_chunks(part_panels * panel_len);
        let PanelProduct { panel_inputs, inputs, x, x_stride, keep, .. } = self;
        let part = |panels: &[f32], dst: &mut [f32], dst_stride: usize, outputs: usize, keep: bool| {
            PanelProduct { panels, panel_inputs, inputs, outputs, rows, x, x_stride, dst, dst_stride, keep }
                .run();
        };
        if rows == 1 {
            let parts = panels.zip(self.dst[..outputs].par_chunks_mut(width)).with_max_len(1);
            return parts.for_each(|(panels, dst)| part(panels, dst, width, dst.len(), keep));
        }
        // Threads that write into the same rows would share cache lines: each part has memory of its own.
        scratch.resize(count.div_ceil(part_panels) * rows * width, 0.0);
        let parts = panels.zip(scratch.par_chunks_mut(rows * width)).enumerate().with_max_len(1);
        parts.for_each(|(i, (panels, part_dst))| {
            part(panels, part_dst, width, width.min(outputs - i * width), false);
        });
        for (i, from) in scratch.chunks_exact(rows * width).enumerate() {
            let len = width.min(outputs - i * width);
            for (r, from) in from.chunks_exact(width).enumerate() {
                let slot = &mut self.dst[r * self.dst_stride + i * width..][..len];
                if keep {
                    slot.iter_mut().zip(from).for_each(|(slot, value)| *slot += value);
                } else {
                    slot.copy_from_slice(&from[..len]);
                }
            }
        }
    }
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Size of a tile of accumulators: NV vectors per panel, R rows, P panels. A tile must fit into the vector
        // registers, and it must be large enough to hide the latency of a multiply-add. R1 is the number of rows in a
        // tile of a single panel.
        match (S::F32_LANES, self.rows) {
            (16, 1) => self.walk::<S, 2, 1, 4, 1>(simd),
            (16, _) => self.walk::<S, 2, 4, 2, 8>(simd),
            (8, 1) => self.walk::<S, 4, 1, 2, 1>(simd),
            (8, _) => self.walk::<S, 4, 2, 1, 2>(simd),
            (4, _) => self.walk::<S, 8, 1, 1, 1>(simd),
            _ => self.walk::<S, 32, 1, 1, 1>(simd),
        }
    }
}

impl PanelProduct<'_> {
    /// Loops over the panels outside and over the rows inside, so that each panel is read from memory once for all
    /// rows.
    #[inline(always)]
    fn walk<S: Simd, const NV: usize, const R: usize, const P: usize, const R1: usize>(mut self, simd: S) {
        let count = self.outputs.div_ceil(PANEL);
        let mut panel = 0;
        while panel + P <= count {
            self.rows::<S, NV, R, P>(simd, panel);
            panel += P;
        }
        while P > 2 && panel + 2 <= count {
            self.rows::<S, NV, R, 2>(simd, panel);
            panel += 2;
        }
        while panel < count {
            self.rows::<S, NV, R1, 1>(simd, panel);
            panel += 1;
        }
    }

    /// Multiplies `P` panels with all rows: `R` rows at a time, then the remaining rows in smaller tiles.
    #[inline(always)]
    fn rows<S: Simd, const NV: usize, const R: usize, const P: usize>(&mut self, simd: S, panel: usize) {
        let mut row = 0;
        while row + R <= self.rows {
            self.tile::<S, NV, R, P>(simd, panel, row);
            row += R;
        }
        while R > 4 && row + 4 <= self.rows {
            self.tile::<S, NV, 4, P>(simd, panel, row);
            row += 4;
        }
        while R > 2 && row + 2 <= self.rows {
            self.tile::<S, NV, 2, P>(simd, panel, row);
            row += 2;
        }
        while row < self.rows {
            self.tile::<S, NV, 1, P>(simd, panel, row);
            row += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        panel: usize,
        row: usize,
    ) {
        let panel_len = self.panel_inputs * PANEL;
        // Loops, because the compiler takes long for `array::from_fn` in so many forms of this function.
        let mut panels: [&[[f32; PANEL]]; P] = [&[]; P];
        for (p, slot) in panels.iter_mut().enumerate() {
            *slot = self.panels[(panel + p) * panel_len..][..self.inputs * PANEL].as_chunks::<PANEL>().0;
        }
        let mut x: [&[f32]; R] = [&[]; R];
        for (r, slot) in x.iter_mut().enumerate() {
            *slot = &self.x[(row + r) * self.x_stride..][..self.inputs];
        }
        let tile = accumulate::<S, NV, R, P>(simd, panels, x);
        for (p, rows) in tile.iter().enumerate() {
            let at = (panel + p) * PANEL;
            let width = PANEL.min(self.outputs - at);
            for (r, vectors) in rows.iter().enumerate() {
                let slot = &mut self.dst[(row + r) * self.dst_stride + at..][..width];
                store::<S, NV>(slot, self.keep, vectors);
            }
        }
    }
}

/// `dst += xᵀ·panels`, where `x` has `inputs` rows, and a row of `dst` belongs to a column of `x`. The panels hold
/// `[inputs, outputs]`, packed by [`pack_rows`].
#[derive(Debug)]
pub(crate) struct TransposedProduct<'a> {
    pub(crate) panels: &'a [f32],
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Number of rows of `dst`.
    pub(crate) rows: usize,
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    /// Row-major without gaps.
    pub(crate) dst: &'a mut [f32],
}

impl TransposedProduct<'_> {
    /// Computes the product on the calling thread.
    pub(crate) fn run(self) {
        if self.rows > 0 && self.outputs > 0 {
            Arch::new().dispatch(self);
        }
    }
}

impl WithSimd for TransposedProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.walk::<S, 2, 8>(simd),
            8 => self.walk::<S, 4, 2>(simd),
            4 => self.walk::<S, 8, 1>(simd),
            _ => self.walk::<S, 32, 1>(simd),
        }
    }
}

impl TransposedProduct<'_> {
    #[inline(always)]
    fn walk<S: Simd, const NV: usize, const R: usize>(mut self, simd: S) {
        for panel in 0..self.outputs.div_ceil(PANEL) {
            let mut row = 0;
            while row + R <= self.rows {
                self.tile::<S, NV, R>(simd, panel, row);
                row += R;
            }
            while row < self.rows {
                self.tile::<S, NV, 1>(simd, panel, row);
                row += 1;
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const R: usize>(&mut self, simd: S, panel: usize, row: usize) {
        let weights = self.panels[panel * self.inputs * PANEL..].as_chunks::<PANEL>().0;
        let mut acc = [[simd.splat_f32s(0.0); NV]; R];
        for (weights, x) in weights[..self.inputs].iter().zip(self.x.chunks(self.x_stride)) {
            let weights = S::as_simd_f32s(weights).0;
            let x: &[f32; R] = x[row..].first_chunk().unwrap_or(&[0.0; R]);
            for r in 0..R {
                let value = simd.splat_f32s(x[r]);
                for v in 0..NV {
                    acc[r][v] = simd.mul_add_e_f32s(value, weights[v], acc[r][v]);
                }
            }
        }
        let at = panel * PANEL;
        let width = PANEL.min(self.outputs - at);
        for (r, vectors) in acc.iter().enumerate() {
            let slot = &mut self.dst[(row + r) * self.outputs + at..][..width];
            store::<S, NV>(slot, true, vectors);
        }
    }
}

/// Computes one tile: the products of `P` panels with `R` rows.
#[inline(always)]
fn accumulate<S: Simd, const NV: usize, const R: usize, const P: usize>(
    simd: S,
    mut panels: [&[[f32; PANEL]]; P],
    mut x: [&[f32]; R],
) -> [[[S::f32s; NV]; R]; P] {
    let mut acc = [[[simd.splat_f32s(0.0); NV]; R]; P];
    let inputs = x[0].len();
    // Slices of the same length let the compiler omit the bounds checks in the loop.
    for panel in &mut panels {
        *panel = &panel[..inputs];
    }
    for x in &mut x {
        *x = &x[..inputs];
    }
    for i in 0..inputs {
        for p in 0..P {
            let weights = S::as_simd_f32s(&panels[p][i]).0;
            for r in 0..R {
                let value = simd.splat_f32s(x[r][i]);
                for v in 0..NV {
                    acc[p][r][v] = simd.mul_add_e_f32s(value, weights[v], acc[p][r][v]);
                }
            }
        }
    }
    acc
}

/// Writes the products of one row with one panel to `slot`, or adds them if `keep` is set. `slot` may be shorter than a
/// panel.
#[inline(always)]
fn store<S: Simd, const NV: usize>(slot: &mut [f32], keep: bool, vectors: &[S::f32s; NV]) {
    if let Ok(slot) = <&mut [f32; PANEL]>::try_from(&mut *slot) {
        // The usual case has a length that the compiler knows.
        let mut values = [0.0f32; PANEL];
        S::as_mut_simd_f32s(&mut values).0.copy_from_slice(vectors);
        for (slot, value) in slot.iter_mut().zip(values) {
            *slot = if keep { *slot + value } else { value };
        }
        return;
    }
    let mut values = [0.0f32; PANEL];
    S::as_mut_simd_f32s(&mut values).0.copy_from_slice(vectors);
    if keep {
        for (slot, value) in slot.iter_mut().zip(values) {
            *slot += value;
        }
    } else {
        slot.copy_from_slice(&values[..slot.len()]);
    }
}

#[cfg(test)]
mod tests;
