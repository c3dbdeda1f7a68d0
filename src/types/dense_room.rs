//! Memory limit for making sparse tensors dense.

use crate::error::{Error, Result};

use super::TensorData;

/// Memory that is left for making sparse tensors dense. A sparse tensor of a few bytes can have a huge shape and would
/// fill the memory as a dense tensor; the limit therefore grows with the size of the stored data.
#[derive(Debug)]
pub(crate) struct DenseRoom {
    n_bytes_left: usize,
}

/// Bytes granted independently of the size of the data.
const BASE: usize = 64 << 20;
/// Bytes granted for each byte of the data. A sparse row without stored values takes 8 bytes. The 2048 bytes granted
/// for it are enough for a dense row of 256 integers.
const PER_BYTE: usize = 256;

impl DenseRoom {
    /// The limit for data with a stored size of `n_bytes`.
    pub(crate) fn of(n_bytes: usize) -> Self {
        DenseRoom { n_bytes_left: BASE.saturating_add(n_bytes.saturating_mul(PER_BYTE)) }
    }

    /// Subtracts the memory that a sparse tensor needs when it is made dense. A tensor that is dense already needs
    /// none.
    ///
    /// # Errors
    /// Not enough memory is left; the error names `path`.
    pub(crate) fn take(&mut self, tensor: &TensorData, bytes_per_value: usize, path: &str) -> Result<()> {
        let (Some(_), Some(&[rows, columns])) = (&tensor.sparse, tensor.shape.as_deref()) else {
            return Ok(());
        };
        tensor.check_room(path)?;
        match self.n_bytes_left.checked_sub((rows * columns).saturating_mul(bytes_per_value)) {
            Some(left) => {
                self.n_bytes_left = left;
                Ok(())
            }
            None => {
                let problem =
                    format!("has {rows} x {columns} elements, too many to make dense for data of this size");
                Err(Error::invalid(path, problem))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Sparse, Values};

    #[test]
    fn the_limit_is_a_multiple_of_the_size_of_the_data_within_bounds() {
        let sparse = |columns| TensorData {
            values: Values::F32(vec![1.0]),
            shape: Some(vec![1, columns]),
            sparse: Some(Sparse { crow_indices: vec![0, 1], col_indices: vec![0] }),
        };
        let table = [
            ("small data may use the minimum", 20, 16 << 20, true),
            ("small data may not use more than the minimum", 20, (16 << 20) + 20 * 64 + 1, false),
            ("large data may use more", 1 << 20, 64 << 20, true),
            ("a tensor may not exceed the size of a request", usize::MAX, (1 << 27) + 1, false),
            ("the size of the shape overflows", 20, 1 << 42, false),
        ];
        for (name, n_bytes, columns, fits) in table {
            assert_eq!(DenseRoom::of(n_bytes).take(&sparse(columns), 4, "t").is_ok(), fits, "{name}");
        }
        // Each tensor reduces the memory left for the next.
        let mut room = DenseRoom::of(0);
        room.take(&sparse(10 << 20), 4, "a").expect("the first");
        assert_eq!(
            room.take(&sparse(10 << 20), 4, "b").expect_err("the second").violation().expect("b").path,
            "b"
        );
        room.take(&vec![1.0f32; 100].into(), 4, "c").expect("a dense tensor needs no further memory");
    }
}
