//! Arrays of `f64`, the values during the evaluation of a loss.

use super::node::Problem;

/// A dense row-major array.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// The layout of an array for an operation along one dimension of size `n`: `outer` blocks of `n` rows of `inner`
/// values. `outer` is the product of the sizes before the dimension, `inner` the product of the sizes after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) outer: usize,
    pub(super) n: usize,
    pub(super) inner: usize,
}

/// Largest number of values of an array. Without this limit, a loss that broadcasts two long inputs by mistake could
/// use all memory.
const MAX_VALUES: usize = 1 << 24;
/// Limit for an input that has no values because a dimension has size 0: the largest product of its other, non-zero
/// sizes (see [`check_extent`]).
const MAX_EMPTY_EXTENT: usize = 1 << 20;

impl Array {
    pub(super) fn number(value: f64) -> Self {
        Array { shape: Vec::new(), values: vec![value] }
    }

    pub(super) fn filled(shape: &[usize], value: f64) -> Self {
        Array { shape: shape.to_vec(), values: vec![value; shape.iter().product()] }
    }

    pub(super) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Array { shape: self.shape.clone(), values: self.values.iter().map(|value| f(*value)).collect() }
    }

    /// Combines two arrays of the same shape element by element.
    pub(super) fn zip(&self, other: &Array, f: impl Fn(f64, f64) -> f64) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(a, b)| f(*a, *b)).collect();
        Array { shape: self.shape.clone(), values }
    }

    pub(super) fn add(&mut self, other: &Array) {
        self.values.iter_mut().zip(&other.values).for_each(|(a, b)| *a += b);
    }

    pub(super) fn sum(&self) -> f64 {
        self.values.iter().sum()
    }

    /// Replaces the shape; the values stay. `shape` must have the same number of values.
    pub(super) fn reshaped(mut self, shape: Vec<usize>) -> Self {
        self.shape = shape;
        self
    }

    /// Broadcasts to a shape: repeats the values along dimensions of size 1 and along leading dimensions that this
    /// array lacks.
    pub(super) fn broadcast(&self, shape: &[usize]) -> Array {
        if self.shape == shape {
            return self.clone();
        }
        let n = shape.iter().product();
        Array {
            shape: shape.to_vec(),
            values: (0..n).map(|i| self.values[self.source_index(i, shape)]).collect(),
        }
    }

    /// The transpose of [`broadcast`](Self::broadcast): returns an array of the given shape. Each of its values is the
    /// sum of the values at those places of this array to which `broadcast` would copy it. Turns the gradient of a
    /// broadcast array into the gradient of its source.
    pub(super) fn sum_to_shape(&self, shape: &[usize]) -> Array {
        if self.shape == shape {
            return self.clone();
        }
        let mut sums = Array::filled(shape, 0.0);
        for (i, value) in self.values.iter().enumerate() {
            let source = sums.source_index(i, &self.shape);
            sums.values[source] += value;
        }
        sums
    }

    /// Index of the value of this array that `broadcast` to `shape` copies to `index`.
    fn source_index(&self, mut index: usize, shape: &[usize]) -> usize {
        let n_missing = shape.len() - self.shape.len();
        let (mut source, mut stride) = (0, 1);
        for dim in (0..shape.len()).rev() {
            let coordinate = index % shape[dim];
            index /= shape[dim];
            if let Some(size) = dim.checked_sub(n_missing).map(|own_dim| self.shape[own_dim]) {
                if size != 1 {
                    source += coordinate * stride;
                }
                stride *= size;
            }
        }
        source
    }

    pub(super) fn axis(&self, dim: usize) -> Axis {
        Axis {
            outer: self.shape[..dim].iter().product(),
            n: self.shape[dim],
            inner: self.shape[dim + 1..].iter().product(),
        }
    }
}

/// Refuses an input with a huge shape but no values. An array of 2^42 rows and 0 columns takes no memory, but summing
/// its rows would give 2^42 values.
pub(super) fn check_extent(input: &Array) -> Result<(), Problem> {
    let extent = input.shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size.max(&1)));
    match extent {
        Some(n) if n <= input.values.len().max(MAX_EMPTY_EXTENT) => Ok(()),
        _ => Err(format!("an input of shape {:?} has no values", input.shape)),
    }
}

impl Axis {
    /// Calls `f` for each line along the dimension, with the indices of the `n` values of the line.
    pub(super) fn lines(self, mut f: impl FnMut(&mut dyn DoubleEndedIterator<Item = usize>)) {
        for outer in 0..self.outer {
            for inner in 0..self.inner {
                let first = outer * self.n * self.inner + inner;
                f(&mut (0..self.n).map(|i| first + i * self.inner));
            }
        }
    }
}

/// Common shape to which arrays of these shapes are broadcast.
pub(super) fn broadcast_shape(shapes: &[&[usize]]) -> Result<Vec<usize>, Problem> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or_default();
    let mut result = vec![1; rank];
    for shape in shapes {
        for (size, other) in result.iter_mut().rev().zip(shape.iter().rev()) {
            match (*size, *other) {
                (1, other) => *size = other,
                (_, 1) => {}
                (a, b) if a == b => {}
                _ => return Err(format!("shapes {} cannot be broadcast together", list(shapes))),
            }
        }
    }
    let n = result.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
    match n {
        Some(n) if n <= MAX_VALUES => Ok(result),
        _ => Err(format!("shapes {} broadcast to more than {MAX_VALUES} values", list(shapes))),
    }
}

fn list(shapes: &[&[usize]]) -> String {
    shapes.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_to_shape_is_the_transpose_of_broadcast() {
        let row = Array { shape: vec![2], values: vec![1.0, 2.0] };
        let wide = row.broadcast(&[3, 2]);
        assert_eq!(wide.values, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        assert_eq!(wide.sum_to_shape(&[2]).values, [3.0, 6.0]);
        let column = Array { shape: vec![2, 1], values: vec![1.0, 2.0] };
        let wide = column.broadcast(&[2, 3]);
        assert_eq!(wide.values, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(wide.sum_to_shape(&[2, 1]).values, [3.0, 6.0]);
        assert_eq!(wide.sum_to_shape(&[]).values, [9.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_or_broadcast_to_a_huge_one_are_refused() {
        assert_eq!(broadcast_shape(&[&[3], &[2, 1]]), Ok(vec![2, 3]));
        assert_eq!(broadcast_shape(&[&[], &[0]]), Ok(vec![0]));
        assert!(broadcast_shape(&[&[3], &[2]]).is_err());
        assert!(broadcast_shape(&[&[1, 1 << 20], &[1 << 20, 1]]).is_err());
    }
}
