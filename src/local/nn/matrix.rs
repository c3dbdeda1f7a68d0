//! Frozen matrices. Those of a small model are in memory; those of a model in a folder stay in its files, and are widened
//! to `f32` block by block when they are used.

use crate::local::kernel::{
    Format, MappedSlice, Mat, MatMut, Matrix, Right, RowProduct, has_matrix_unit, matmul, matmul_blocks,
    matmul_here,
};
use rayon::prelude::*;
use std::cell::Cell;

/// Rows that one task of the backward product with a mapped matrix handles. Each task widens the whole matrix, which takes
/// a small part of the time of the product.
const TASK_ROWS: usize = 256;

/// Number of rows up to which weights of a file are widened in vector registers, as in decoding. Blocks of widened weights
/// in memory pay for more rows only.
const FEW_ROWS: usize = 16;

/// Limit of the elements that are widened at once; they should fit into the second cache.
const BLOCK: usize = 1 << 17;

/// Elements of a frozen matrix, row-major.
#[derive(Debug)]
pub(super) enum Elements {
    Owned(Vec<f32>),
    Mapped(MappedSlice),
}

/// Several frozen matrices that read the same input, one below the other: `[outputs, inputs]`.
#[derive(Debug)]
pub(super) struct Stack {
    /// Each part with the number of its outputs.
    parts: Vec<(usize, Elements)>,
    inputs: usize,
    outputs: usize,
}

thread_local! {
    /// A block of widened elements. Each thread keeps its own for the next block.
    static WIDENED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Stack {
    /// Matrices from top to bottom. The number of elements of each must be a multiple of `inputs`.
    pub(super) fn new(inputs: usize, parts: impl IntoIterator<Item = Elements>) -> Stack {
        let part = |elements: Elements| {
            let len = match &elements {
                Elements::Owned(values) => values.len(),
                Elements::Mapped(values) => values.len(),
            };
            assert!(len.is_multiple_of(inputs), "a matrix of {len} elements has no rows of {inputs}");
            (len / inputs, elements)
        };
        let parts: Vec<_> = parts.into_iter().map(part).collect();
        let outputs = parts.iter().map(|part| part.0).sum();
        Stack { parts, inputs, outputs }
    }

    pub(super) fn owned(inputs: usize, values: Vec<f32>) -> Stack {
        Stack::new(inputs, [Elements::Owned(values)])
    }

    #[cfg(test)]
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    #[cfg(test)]
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// True if all elements are in memory.
    pub(super) fn is_owned(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.1, Elements::Owned(_)))
    }

    /// Whether products with this number of rows use the matrix unit.
    pub(super) fn splits(&self, rows: usize) -> bool {
        let fits = |it: &Elements| matches!(it, Elements::Mapped(it) if it.format() == Format::Bf16);
        FEW_ROWS < rows && has_matrix_unit() && self.parts.iter().all(|part| fits(&part.1))
    }

    /// The numbers of outputs of the matrices.
    pub(super) fn widths(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|part| part.0)
    }

    /// Some rows of one of the matrices as a right operand: their transpose, or they themselves.
    pub(super) fn operand(&self, first: usize, rows: usize, transposed: bool) -> Right<'_> {
        let (mut first, cols) = (first, self.inputs);
        for (outputs, elements) in &self.parts {
            if *outputs <= first {
                first -= outputs;
                continue;
            }
            assert!(first + rows <= *outputs, "the rows belong to several matrices");
            return match elements {
                Elements::Mapped(weight) => Right::Mapped { weight, first, rows, cols, transposed },
                Elements::Owned(weight) => {
                    let weight = Mat::new(&weight[first * cols..], rows, cols);
                    Right::Floats(if transposed { weight.t() } else { weight })
                }
            };
        }
        unreachable!("the stack has no such rows");
    }

    /// Bytes of the elements that are in memory.
    pub(super) fn owned_bytes(&self) -> u64 {
        let owned = self.parts.iter().filter_map(|part| match &part.1 {
            Elements::Owned(values) => Some(size_of_val(&values[..]) as u64),
            Elements::Mapped(_) => None,
        });
        owned.sum()
    }

    /// All elements, row-major.
    pub(super) fn to_vec(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.outputs * self.inputs];
        let mut at = 0;
        for (outputs, elements) in &self.parts {
            elements.read(0, &mut all[at..][..outputs * self.inputs]);
            at += outputs * self.inputs;
        }
        all
    }

    /// Writes row `row` to `out`, such as the embedding of a token.
    pub(super) fn row(&self, mut row: usize, out: &mut [f32]) {
        for (outputs, elements) in &self.parts {
            match row.checked_sub(*outputs) {
                Some(rest) => row = rest,
                None => return elements.read(row * self.inputs, out),
            }
        }
    }

    /// `y = keep·y + x·Wᵀ` for `rows` rows; `keep` is 0 or 1.
    pub(super) fn forward(&self, rows: usize, x: &[f32], y: &mut [f32], keep: f32) {
        if rows <= FEW_ROWS && !self.is_owned() {
            return self.product(rows, x, y, keep != 0.0);
        }
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut at = 0;
        for (part, elements) in &self.parts {
            match elements {
                Elements::Owned(weight) => {
                    let (x, weight) = (Mat::new(x, rows, inputs), Mat::new(weight, *part, inputs));
                    matmul(MatMut::strided(&mut y[at..], rows, *part, outputs), keep, x, weight.t(), 1.0);
                }
                Elements::Mapped(weight) => {
                    let y = MatMut::strided(&mut y[at..], rows, *part, outputs);
                    let count = (BLOCK / inputs).max(1);
                    matmul_blocks(y, keep, Mat::new(x, rows, inputs), count, |first, block| {
                        weight.read(first * inputs, block);
                    });
                }
            }
            at += part;
        }
    }

    /// `dx = keep·dx + dy·W` for `rows` rows.
    pub(super) fn backward(&self, rows: usize, dy: &[f32], dx: &mut [f32], keep: f32) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let (mut at, mut keep) = (0, keep);
        for (part, elements) in &self.parts {
            match elements {
                Elements::Owned(weight) => {
                    let dy = Mat::strided(&dy[at..], rows, *part, outputs);
                    matmul(MatMut::new(dx, rows, inputs), keep, dy, Mat::new(weight, *part, inputs), 1.0);
                }
                Elements::Mapped(weight) => {
                    let tasks = dy.par_chunks(TASK_ROWS * outputs).zip(dx.par_chunks_mut(TASK_ROWS * inputs));
                    tasks.for_each(|(dy, dx)| {
                        let rows = dx.len() / inputs;
                        let mut keep = keep;
                        blocks(weight, *part, inputs, |first, block| {
                            let count = block.len() / inputs;
                            let dy = Mat::strided(&dy[at + first..], rows, count, outputs);
                            matmul_here(
                                MatMut::new(dx, rows, inputs),
                                keep,
                                dy,
                                Mat::new(block, count, inputs),
                                1.0,
                            );
                            keep = 1.0;
                        });
                    });
                }
            }
            keep = 1.0;
            at += part;
        }
    }

    /// `y = keep·y + x·Wᵀ` for a few rows. A row has the same bits whether it is computed alone or with others.
    pub(super) fn product(&self, rows: usize, x: &[f32], y: &mut [f32], keep: bool) {
        let parts = self.parts.iter().map(|(outputs, elements)| (*outputs, elements.matrix()));
        let parts: Vec<_> = parts.collect();
        let product = RowProduct {
            inputs: self.inputs,
            outputs: self.outputs,
            rows,
            x,
            x_stride: self.inputs,
            dst: y,
            dst_stride: self.outputs,
            keep,
            scale: 1.0,
        };
        product.run(&parts);
    }
}

impl Elements {
    fn matrix(&self) -> Matrix<'_> {
        match self {
            Elements::Owned(weight) => Matrix::Floats(weight),
            Elements::Mapped(weight) => Matrix::Mapped(weight),
        }
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        match self {
            Elements::Owned(values) => out.copy_from_slice(&values[start..][..out.len()]),
            Elements::Mapped(values) => values.read(start, out),
        }
    }
}

/// Calls `body` with blocks of widened rows and the number of their first row.
fn blocks(weight: &MappedSlice, rows: usize, inputs: usize, mut body: impl FnMut(usize, &[f32])) {
    let count = (BLOCK / inputs).clamp(1, rows.max(1));
    let mut buffer = WIDENED.take();
    buffer.resize(buffer.len().max(count * inputs), 0.0);
    for first in (0..rows).step_by(count) {
        let block = &mut buffer[..count.min(rows - first) * inputs];
        weight.read(first * inputs, block);
        body(first, block);
    }
    WIDENED.set(buffer);
}
