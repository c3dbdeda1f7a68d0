//! Matrix products and vectorised loops over `f32`: safe matrix views for the crate `gemm-f32` (this file), a product for
//! the few rows of a decoding step ([`PanelProduct`]), products on the matrix unit of newer processors
//! ([`matmul_split`]), and sums over slices.
//!
//! All results have the same bits for any number of threads: work is divided into pieces of fixed size, which does not
//! depend on the thread pool, and each sum is computed within one piece.

// `gemm-f32` takes raw pointers. The constructors of the views below check that all addresses which it may access lie
// inside the borrowed slices, so callers need no checks. In the engine only this file and `unit` use `unsafe`.
#![allow(unsafe_code)]

mod map;
mod panels;
mod rows;
mod split;
mod unit;
mod vectors;

pub(crate) use map::{Format, MappedFile, MappedSlice};
pub(crate) use panels::{
    PANEL, PanelProduct, TransposedProduct, pack_panels, pack_rows, pack_scaled, packed_rows_len, panels_len,
};
pub(crate) use rows::{Matrix, RowProduct};
pub(crate) use split::Right;
pub(crate) use unit::{Split, Term, has_matrix_unit, matmul_split};
pub(crate) use vectors::{dot, exp, exp_sum, max, simd, sum_by};

use gemm_common::Parallelism;
use memmap2::Mmap;
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

#[cfg(test)]
mod tests;
