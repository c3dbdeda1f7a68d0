//! Tensors of at most two dimensions, and how they fit together.

use super::Fault;

/// What a tensor holds. Everything is computed in `f64`; whole numbers are exact up to 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Bool,
    Int,
    Float,
}

/// Numbers in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) kind: Kind,
    /// At most two sizes.
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Tensor {
    pub(crate) fn new(kind: Kind, shape: Vec<usize>, data: Vec<f64>) -> Self {
        Tensor { kind, shape, data }
    }

    pub(super) fn scalar(kind: Kind, value: f64) -> Self {
        Tensor::new(kind, Vec::new(), vec![value])
    }

    pub(super) fn filled(kind: Kind, shape: Vec<usize>, value: f64) -> Self {
        let data = vec![value; count(&shape)];
        Tensor::new(kind, shape, data)
    }
}

pub(super) fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

pub(super) fn matrix(shape: &[usize]) -> (usize, usize) {
    match *shape {
        [rows, cols] => (rows, cols),
        [cols] => (1, cols),
        _ => (1, 1),
    }
}

/// Refuses what has too many dimensions.
pub(super) fn check_rank(shape: &[usize]) -> Result<(), Fault> {
    match shape.len() {
        0..=2 => Ok(()),
        n => Err(Fault::always(format!("the result has {n} dimensions; tensors here have at most 2"))),
    }
}

/// The shape that both fit into.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let size = |of: &[usize], i: usize| (i + of.len()).checked_sub(rank).map_or(1, |at| of[at]);
    (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Fault::data(format!("the shapes {a:?} and {b:?} do not fit"))),
        })
        .collect()
}

/// How a tensor is walked when it is spread over a larger shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    row: usize,
    col: usize,
}

impl Walk {
    pub(super) fn new(shape: &[usize]) -> Self {
        let (rows, cols) = matrix(shape);
        Walk { row: if rows == 1 { 0 } else { cols }, col: usize::from(cols != 1) }
    }

    pub(super) fn at(self, row: usize, col: usize) -> usize {
        row * self.row + col * self.col
    }
}

/// A dimension as it may be counted from either end.
pub(super) fn axis(dim: i64, rank: usize) -> Result<usize, Fault> {
    // A scalar may be reduced along a dimension that it does not have.
    let most = rank.max(1) as i64;
    match dim {
        it if (0..most).contains(&it) => Ok(it as usize),
        it if (-most..0).contains(&it) => Ok((it + most) as usize),
        _ => Err(Fault::always(format!("there is no dimension {dim} in a tensor of {rank}"))),
    }
}
