//! Numbers with a shape, as the computation of a loss needs them.

use super::plan::Problem;

/// A dense row-major array.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// An array as `outer` blocks of `n` rows of `inner` values: what an operation along one dimension sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) outer: usize,
    pub(super) n: usize,
    pub(super) inner: usize,
}

/// The largest array of a loss. A mistake in broadcasting must not take all memory.
const MAX_VALUES: usize = 1 << 24;
/// The product of the sizes of an array without values, those that are 0 left out.
const MOST_OF_NOTHING: usize = 1 << 20;

impl Array {
    pub(super) fn number(value: f64) -> Self {
        Array { shape: Vec::new(), values: vec![value] }
    }

    pub(super) fn filled(shape: &[usize], value: f64) -> Self {
        Array { shape: shape.to_vec(), values: vec![value; shape.iter().product()] }
    }

    pub(super) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Array { shape: self.shape.clone(), values: self.values.iter().map(|it| f(*it)).collect() }
    }

    /// Of two arrays of the same shape.
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

    /// The same values in another shape of as many.
    pub(super) fn reshaped(mut self, shape: Vec<usize>) -> Self {
        self.shape = shape;
        self
    }

    /// These values, repeated along what has size 1 or is missing in front.
    pub(super) fn broadcast(&self, shape: &[usize]) -> Array {
        if self.shape == shape {
            return self.clone();
        }
        let n = shape.iter().product();
        Array { shape: shape.to_vec(), values: (0..n).map(|i| self.values[self.origin(i, shape)]).collect() }
    }

    /// The reverse of [`broadcast`](Self::broadcast): the sums of the values that came from the same one.
    pub(super) fn gathered(&self, shape: &[usize]) -> Array {
        if self.shape == shape {
            return self.clone();
        }
        let mut sums = Array::filled(shape, 0.0);
        for (i, value) in self.values.iter().enumerate() {
            let origin = sums.origin(i, &self.shape);
            sums.values[origin] += value;
        }
        sums
    }

    /// Which value stands at a place of the broadcast array.
    fn origin(&self, mut place: usize, shape: &[usize]) -> usize {
        let missing = shape.len() - self.shape.len();
        let (mut origin, mut stride) = (0, 1);
        for dim in (0..shape.len()).rev() {
            let index = place % shape[dim];
            place /= shape[dim];
            if let Some(size) = dim.checked_sub(missing).map(|it| self.shape[it]) {
                if size != 1 {
                    origin += index * stride;
                }
                stride *= size;
            }
        }
        origin
    }

    pub(super) fn axis(&self, dim: usize) -> Axis {
        Axis {
            outer: self.shape[..dim].iter().product(),
            n: self.shape[dim],
            inner: self.shape[dim + 1..].iter().product(),
        }
    }
}

/// Refuses an input whose shape promises more than its values: an array of 2^42 rows and no columns has none, and its rows
/// have 2^42 sums.
pub(super) fn check_extent(input: &Array) -> Result<(), Problem> {
    let extent = input.shape.iter().try_fold(1usize, |n, it| n.checked_mul(*it.max(&1)));
    match extent {
        Some(n) if n <= input.values.len().max(MOST_OF_NOTHING) => Ok(()),
        _ => Err(format!("an input of shape {:?} has no values", input.shape)),
    }
}

impl Axis {
    /// Calls `f` with the places of each line along the dimension.
    pub(super) fn lines(self, mut f: impl FnMut(&mut dyn DoubleEndedIterator<Item = usize>)) {
        for outer in 0..self.outer {
            for inner in 0..self.inner {
                let first = outer * self.n * self.inner + inner;
                f(&mut (0..self.n).map(|i| first + i * self.inner));
            }
        }
    }
}

/// The shape in which arrays of these shapes meet.
pub(super) fn common(shapes: &[&[usize]]) -> Result<Vec<usize>, Problem> {
    let rank = shapes.iter().map(|it| it.len()).max().unwrap_or_default();
    let mut common = vec![1; rank];
    for shape in shapes {
        for (size, other) in common.iter_mut().rev().zip(shape.iter().rev()) {
            match (*size, *other) {
                (1, it) => *size = it,
                (_, 1) => {}
                (a, b) if a == b => {}
                _ => return Err(format!("shapes {} do not fit together", named(shapes))),
            }
        }
    }
    let n = common.iter().try_fold(1usize, |n, it| n.checked_mul(*it));
    match n {
        Some(n) if n <= MAX_VALUES => Ok(common),
        _ => Err(format!("shapes {} make more than {MAX_VALUES} values", named(shapes))),
    }
}

fn named(shapes: &[&[usize]]) -> String {
    shapes.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_repeated_from_the_last_dimension_backwards_and_gathered_again() {
        let row = Array { shape: vec![2], values: vec![1.0, 2.0] };
        let wide = row.broadcast(&[3, 2]);
        assert_eq!(wide.values, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        assert_eq!(wide.gathered(&[2]).values, [3.0, 6.0]);
        let column = Array { shape: vec![2, 1], values: vec![1.0, 2.0] };
        let wide = column.broadcast(&[2, 3]);
        assert_eq!(wide.values, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(wide.gathered(&[2, 1]).values, [3.0, 6.0]);
        assert_eq!(wide.gathered(&[]).values, [9.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_or_are_huge_together_are_refused() {
        assert_eq!(common(&[&[3], &[2, 1]]), Ok(vec![2, 3]));
        assert_eq!(common(&[&[], &[0]]), Ok(vec![0]));
        assert!(common(&[&[3], &[2]]).is_err());
        assert!(common(&[&[1, 1 << 20], &[1 << 20, 1]]).is_err());
    }
}
