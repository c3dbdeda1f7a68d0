//! Tensors.

use crate::error::{Error, Result};

/// A tensor of `f32` or `i64`, dense row-major or sparse (PROTOCOL §6.2).
///
/// # Example: one weight per token
/// ```
/// use tinkex::types::TensorData;
///
/// let weights = TensorData::from(vec![0.0f32, 1.0, 1.0]);
/// assert_eq!(weights.shape(), [3]);
/// assert_eq!(weights.as_f32(), Some(&[0.0, 1.0, 1.0][..]));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorData {
    /// Stored values: all elements if dense, those at the listed positions if sparse.
    pub values: Values,
    /// Shape of the (dense) tensor. `None`: the server did not send the shape; the tensor has one dimension.
    pub shape: Option<Vec<usize>>,
    /// Positions of the stored values, if the tensor is sparse.
    pub sparse: Option<Sparse>,
}

/// Values of a [`TensorData`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
}

/// Positions of the values of a sparse tensor of two dimensions, as compressed sparse rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sparse {
    /// For each row, the index of its first value; at the end, the number of values. Rows + 1 entries.
    pub crow_indices: Vec<i64>,
    /// Column of each value.
    pub col_indices: Vec<i64>,
}

/// Largest number of elements of a sparse tensor that is made dense: 1 GiB of integers, the size limit of requests.
const MAX_DENSE: usize = 1 << 27;

impl Values {
    /// Number of stored values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(it) => it.len(),
            Values::I64(it) => it.len(),
        }
    }

    /// Returns true if no values are stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the element type on the wire.
    pub fn dtype(&self) -> &'static str {
        match self {
            Values::F32(_) => "float32",
            Values::I64(_) => "int64",
        }
    }

    /// Size of one value in bytes.
    pub(crate) fn width(&self) -> usize {
        match self {
            Values::F32(_) => 4,
            Values::I64(_) => 8,
        }
    }

    /// Size in bytes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.width() * self.len()
    }
}

impl From<Vec<f32>> for TensorData {
    fn from(values: Vec<f32>) -> Self {
        TensorData { shape: Some(vec![values.len()]), values: Values::F32(values), sparse: None }
    }
}

impl From<Vec<i64>> for TensorData {
    fn from(values: Vec<i64>) -> Self {
        TensorData { shape: Some(vec![values.len()]), values: Values::I64(values), sparse: None }
    }
}

impl From<&[f32]> for TensorData {
    fn from(values: &[f32]) -> Self {
        values.to_vec().into()
    }
}

/// Token ids become `i64`, the type of `target_tokens` on the wire.
impl From<&[i32]> for TensorData {
    fn from(values: &[i32]) -> Self {
        values.iter().map(|id| i64::from(*id)).collect::<Vec<_>>().into()
    }
}

impl TensorData {
    /// A sparse tensor of two dimensions, stored as compressed sparse rows: see [`Sparse`] for the indices. They are
    /// checked when the tensor is submitted.
    ///
    /// # Example: the matrix `[[0, 7], [0, 0]]`
    /// ```
    /// use tinkex::types::{TensorData, Values};
    ///
    /// let matrix = TensorData::from_csr([2, 2], vec![0, 1, 1], vec![1], Values::I64(vec![7]));
    /// assert_eq!((matrix.shape(), matrix.values.len()), (vec![2, 2], 1));
    /// ```
    pub fn from_csr(
        shape: [usize; 2],
        crow_indices: Vec<i64>,
        col_indices: Vec<i64>,
        values: Values,
    ) -> Self {
        TensorData { values, shape: Some(shape.into()), sparse: Some(Sparse { crow_indices, col_indices }) }
    }

    /// Sets the shape.
    ///
    /// # Errors
    /// A shape that does not fit the number of values.
    pub fn with_shape(mut self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        self.shape = Some(shape.into());
        self.validate("tensor")?;
        Ok(self)
    }

    /// Shape. If the field `shape` is `None`, one dimension with the number of values.
    pub fn shape(&self) -> Vec<usize> {
        self.shape.clone().unwrap_or_else(|| vec![self.values.len()])
    }

    /// Length of the first dimension.
    pub fn rows(&self) -> usize {
        self.shape().first().copied().unwrap_or(1)
    }

    /// Stored values, if they are floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(it) => Some(it),
            Values::I64(_) => None,
        }
    }

    /// Stored values, if they are integers.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.values {
            Values::I64(it) => Some(it),
            Values::F32(_) => None,
        }
    }

    /// Size of the stored values and indices in bytes, used to split a batch into requests (PROTOCOL §8.1).
    pub(crate) fn n_bytes(&self) -> usize {
        let sparse = self.sparse.as_ref().map_or(0, Sparse::n_bytes);
        self.values.n_bytes() + sparse
    }

    /// Makes a tensor of two dimensions sparse if that is smaller (PROTOCOL §6.2). Other tensors stay as they are.
    pub(crate) fn make_sparse_if_smaller(&mut self) {
        let (None, Some(&[rows, columns])) = (&self.sparse, self.shape.as_deref()) else { return };
        let kept: Vec<usize> = match &self.values {
            Values::F32(values) => positions(values, |value| *value != 0.0),
            Values::I64(values) => positions(values, |value| *value != 0),
        };
        if rows * columns <= rows + 1 + 2 * kept.len() {
            return;
        }
        let n_before = |row: usize| kept.partition_point(|position| *position < row * columns) as i64;
        let crow_indices = (0..=rows).map(n_before).collect();
        let col_indices = kept.iter().map(|position| (position % columns) as i64).collect();
        self.values = match &self.values {
            Values::F32(values) => Values::F32(kept.iter().map(|i| values[*i]).collect()),
            Values::I64(values) => Values::I64(kept.iter().map(|i| values[*i]).collect()),
        };
        self.sparse = Some(Sparse { crow_indices, col_indices });
    }

    /// Refuses a sparse tensor that is too large to make dense.
    pub(crate) fn check_room(&self, path: &str) -> Result<()> {
        let (Some(_), Some(&[rows, columns])) = (&self.sparse, self.shape.as_deref()) else { return Ok(()) };
        if rows.checked_mul(columns).is_some_and(|n| n <= MAX_DENSE) {
            Ok(())
        } else {
            let problem =
                format!("has {rows} x {columns} elements, too many to make dense; the limit is {MAX_DENSE}");
            Err(Error::invalid(path, problem))
        }
    }

    /// Makes the tensor dense. The tensor must have passed `validate` and `check_room`.
    pub(crate) fn make_dense(&mut self) {
        let (Some(sparse), Some(&[rows, columns])) = (&self.sparse, self.shape.as_deref()) else { return };
        let positions: Vec<usize> = sparse
            .crow_indices
            .windows(2)
            .enumerate()
            .flat_map(|(row, range)| (range[0]..range[1]).map(move |i| (row, i as usize)))
            .map(|(row, i)| row * columns + sparse.col_indices[i] as usize)
            .collect();
        self.values = match &self.values {
            Values::F32(values) => Values::F32(scatter(values, &positions, rows * columns)),
            Values::I64(values) => Values::I64(scatter(values, &positions, rows * columns)),
        };
        self.sparse = None;
    }

    /// Refuses floats for which `is_valid` is false; `expected` describes a valid value.
    pub(crate) fn check_values(&self, path: &str, expected: &str, is_valid: fn(f32) -> bool) -> Result<()> {
        let Values::F32(values) = &self.values else { return Ok(()) };
        match values.iter().position(|value| !is_valid(*value)) {
            Some(i) => {
                Err(Error::invalid(format!("{path}[{i}]"), format!("{} is not {expected}", values[i])))
            }
            None => Ok(()),
        }
    }

    /// Refuses a shape that does not fit the values, and inconsistent sparse indices.
    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        match (&self.sparse, &self.shape) {
            (None, Some(shape)) => {
                let n = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
                if n != Some(self.values.len()) {
                    let problem = format!("shape {shape:?} does not fit {} values", self.values.len());
                    return Err(Error::invalid(path, problem));
                }
            }
            (None, None) => {}
            (Some(sparse), shape) => sparse.validate(path, shape.as_deref(), self.values.len())?,
        }
        Ok(())
    }
}

/// Indices of the values for which `keep` is true.
fn positions<T>(values: &[T], keep: impl Fn(&T) -> bool) -> Vec<usize> {
    values.iter().enumerate().filter(|(_, value)| keep(value)).map(|(i, _)| i).collect()
}

/// A list of `n` values with `values` at `positions` and zeros elsewhere.
fn scatter<T: Copy + Default>(values: &[T], positions: &[usize], n: usize) -> Vec<T> {
    let mut all = vec![T::default(); n];
    for (value, position) in values.iter().zip(positions) {
        all[*position] = *value;
    }
    all
}

impl Sparse {
    fn n_bytes(&self) -> usize {
        size_of::<i64>() * (self.crow_indices.len() + self.col_indices.len())
    }

    fn validate(&self, path: &str, shape: Option<&[usize]>, n_values: usize) -> Result<()> {
        let Some(&[rows, cols]) = shape else {
            return Err(Error::invalid(path, "a sparse tensor needs a shape of two dimensions"));
        };
        let starts_and_ends = self.crow_indices.first() == Some(&0)
            && self.crow_indices.last().copied() == i64::try_from(n_values).ok();
        // Element indices and rows + 1 must not overflow.
        if rows.checked_mul(cols).is_none_or(|n| isize::MAX as usize <= n) || isize::MAX as usize <= rows {
            return Err(Error::invalid(path, format!("a shape of {rows} x {cols} is too large")));
        }
        if self.crow_indices.len() != rows + 1
            || !starts_and_ends
            || self.crow_indices.windows(2).any(|pair| pair[1] < pair[0])
        {
            let problem = format!("crow_indices must rise from 0 to {n_values} in {} entries", rows + 1);
            return Err(Error::invalid(path, problem));
        }
        if self.col_indices.len() != n_values {
            return Err(Error::invalid(path, "col_indices must have one entry per value"));
        }
        let is_outside = |column: &i64| !usize::try_from(*column).is_ok_and(|column| column < cols);
        match self.col_indices.iter().position(is_outside) {
            Some(i) => {
                Err(Error::invalid(format!("{path}.col_indices[{i}]"), format!("must be in 0..{cols}")))
            }
            None => Ok(()),
        }
    }
}
