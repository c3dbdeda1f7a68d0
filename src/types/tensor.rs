//! Numbers with a shape.

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
pub struct TensorData {
    /// The stored values: all of them if dense, the listed ones if sparse.
    pub values: Values,
    /// The shape of the dense tensor; `None` when a server did not say, which means one dimension.
    pub shape: Option<Vec<usize>>,
    /// Where the stored values stand, if the tensor is sparse.
    pub sparse: Option<Sparse>,
}

/// The values of a [`TensorData`].
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
}

/// The places of the values of a sparse 2-D tensor: compressed sparse rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sparse {
    /// For each row the index of its first value, and the number of values at the end: rows + 1 entries.
    pub crow_indices: Vec<i64>,
    /// The column of each value.
    pub col_indices: Vec<i64>,
}

/// The most places that a sparse tensor may have if its zeros are to be written out: 1 GiB of integers, which is what servers
/// take in one request.
const MOST_DENSE: usize = 1 << 27;

impl Values {
    /// How many values are stored.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(it) => it.len(),
            Values::I64(it) => it.len(),
        }
    }

    /// No values are stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the element type on the wire.
    pub fn dtype(&self) -> &'static str {
        match self {
            Values::F32(_) => "float32",
            Values::I64(_) => "int64",
        }
    }

    /// The bytes of one value.
    pub(crate) fn width(&self) -> usize {
        match self {
            Values::F32(_) => 4,
            Values::I64(_) => 8,
        }
    }

    /// The size in bytes.
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
        values.iter().map(|it| i64::from(*it)).collect::<Vec<_>>().into()
    }
}

impl TensorData {
    /// A dense tensor of a shape.
    ///
    /// # Errors
    /// A shape whose product is not the number of values.
    pub fn with_shape(mut self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        self.shape = Some(shape.into());
        self.validate("tensor")?;
        Ok(self)
    }

    /// The shape; one dimension when it is not stated.
    pub fn shape(&self) -> Vec<usize> {
        self.shape.clone().unwrap_or_else(|| vec![self.values.len()])
    }

    /// The length of the first dimension.
    pub fn rows(&self) -> usize {
        self.shape().first().copied().unwrap_or(1)
    }

    /// The stored values, if they are floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(it) => Some(it),
            Values::I64(_) => None,
        }
    }

    /// The stored values, if they are integers.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.values {
            Values::I64(it) => Some(it),
            Values::F32(_) => None,
        }
    }

    /// The size of everything that is stored, in bytes: what chunking counts (PROTOCOL §8.1).
    pub(crate) fn n_bytes(&self) -> usize {
        let sparse = self.sparse.as_ref().map_or(0, |it| 8 * (it.crow_indices.len() + it.col_indices.len()));
        self.values.n_bytes() + sparse
    }

    /// Lists only the values that are not zero, if that takes less room (PROTOCOL §6.2). Matrices alone can be sparse.
    pub(crate) fn make_sparse_if_smaller(&mut self) {
        let (None, Some(&[rows, columns])) = (&self.sparse, self.shape.as_deref()) else { return };
        let kept: Vec<usize> = match &self.values {
            Values::F32(it) => positions(it, |it| *it != 0.0),
            Values::I64(it) => positions(it, |it| *it != 0),
        };
        if rows * columns <= rows + 1 + 2 * kept.len() {
            return;
        }
        let before = |row: usize| kept.partition_point(|it| *it < row * columns) as i64;
        let crow_indices = (0..=rows).map(before).collect();
        let col_indices = kept.iter().map(|it| (it % columns) as i64).collect();
        self.values = match &self.values {
            Values::F32(it) => Values::F32(kept.iter().map(|i| it[*i]).collect()),
            Values::I64(it) => Values::I64(kept.iter().map(|i| it[*i]).collect()),
        };
        self.sparse = Some(Sparse { crow_indices, col_indices });
    }

    /// Refuses a sparse tensor that would take too much memory with its zeros written out.
    pub(crate) fn check_room(&self, path: &str) -> Result<()> {
        let (Some(_), Some(&[rows, columns])) = (&self.sparse, self.shape.as_deref()) else { return Ok(()) };
        match rows.checked_mul(columns).is_some_and(|it| it <= MOST_DENSE) {
            true => Ok(()),
            false => {
                let problem = format!(
                    "has {rows} x {columns} places, too many to be written out; the most is {MOST_DENSE}"
                );
                Err(Error::invalid(path, problem))
            }
        }
    }

    /// Writes the zeros out. The tensor must have been validated, and there must be room for it.
    pub(crate) fn make_dense(&mut self) {
        let (Some(sparse), Some(&[rows, columns])) = (&self.sparse, self.shape.as_deref()) else { return };
        let places: Vec<usize> = sparse
            .crow_indices
            .windows(2)
            .enumerate()
            .flat_map(|(row, it)| (it[0]..it[1]).map(move |i| (row, i as usize)))
            .map(|(row, i)| row * columns + sparse.col_indices[i] as usize)
            .collect();
        self.values = match &self.values {
            Values::F32(it) => Values::F32(spread(it, &places, rows * columns)),
            Values::I64(it) => Values::I64(spread(it, &places, rows * columns)),
        };
        self.sparse = None;
    }

    /// Refuses values that are not as they should be.
    pub(crate) fn check_values(&self, path: &str, are: &str, fine: fn(f32) -> bool) -> Result<()> {
        let Values::F32(values) = &self.values else { return Ok(()) };
        match values.iter().position(|it| !fine(*it)) {
            Some(i) => Err(Error::invalid(format!("{path}[{i}]"), format!("{} is not {are}", values[i]))),
            None => Ok(()),
        }
    }

    /// Refuses a shape that does not fit, and broken sparse indices.
    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        match (&self.sparse, &self.shape) {
            (None, Some(shape)) => {
                let n = shape.iter().try_fold(1usize, |n, it| n.checked_mul(*it));
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

fn positions<T>(values: &[T], keep: impl Fn(&T) -> bool) -> Vec<usize> {
    values.iter().enumerate().filter(|(_, it)| keep(it)).map(|(i, _)| i).collect()
}

fn spread<T: Copy + Default>(values: &[T], places: &[usize], n: usize) -> Vec<T> {
    let mut all = vec![T::default(); n];
    for (value, place) in values.iter().zip(places) {
        all[*place] = *value;
    }
    all
}

impl Sparse {
    fn validate(&self, path: &str, shape: Option<&[usize]>, n_values: usize) -> Result<()> {
        let Some(&[rows, cols]) = shape else {
            return Err(Error::invalid(path, "a sparse tensor needs the two sizes of its dense shape"));
        };
        let starts_and_ends = self.crow_indices.first() == Some(&0)
            && self.crow_indices.last().copied() == i64::try_from(n_values).ok();
        // Places are counted in one number, and rows with one more than there are.
        if rows.checked_mul(cols).is_none_or(|it| isize::MAX as usize <= it) || isize::MAX as usize <= rows {
            return Err(Error::invalid(path, format!("a shape of {rows} x {cols} is too large")));
        }
        if self.crow_indices.len() != rows + 1
            || !starts_and_ends
            || self.crow_indices.windows(2).any(|it| it[1] < it[0])
        {
            let problem = format!("crow_indices must rise from 0 to {n_values} in {} entries", rows + 1);
            return Err(Error::invalid(path, problem));
        }
        if self.col_indices.len() != n_values {
            return Err(Error::invalid(path, "col_indices must have one entry per value"));
        }
        let inside = |it: &i64| usize::try_from(*it).is_ok_and(|it| it < cols);
        match self.col_indices.iter().position(|it| !inside(it)) {
            Some(i) => {
                Err(Error::invalid(format!("{path}.col_indices[{i}]"), format!("must be in 0..{cols}")))
            }
            None => Ok(()),
        }
    }
}
