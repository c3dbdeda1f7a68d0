//! Memory for the zeros of sparse tensors.

use crate::error::{Error, Result};

use super::TensorData;

/// Memory that sparse tensors may take with their zeros written out. A sparse tensor of a few bytes can have any shape, so
/// the limit follows from the bytes that were given.
#[derive(Debug)]
pub(crate) struct DenseRoom {
    left: usize,
}

/// Granted to data of any size.
const SPARE: usize = 64 << 20;
/// Granted for each byte of the data: rows of 256 columns fit even if all of them are empty.
const PER_BYTE: usize = 256;

impl DenseRoom {
    /// The memory that data of so many bytes may take.
    pub(crate) fn of(n_bytes: usize) -> Self {
        DenseRoom { left: SPARE.saturating_add(n_bytes.saturating_mul(PER_BYTE)) }
    }

    /// Reserves the memory of a tensor with its zeros written out. A dense tensor takes nothing, because it is there.
    ///
    /// # Errors
    /// There is no room for it; `path` names it.
    pub(crate) fn take(&mut self, tensor: &TensorData, bytes_per_value: usize, path: &str) -> Result<()> {
        let (Some(_), Some(&[rows, columns])) = (&tensor.sparse, tensor.shape.as_deref()) else {
            return Ok(());
        };
        tensor.check_room(path)?;
        match self.left.checked_sub((rows * columns).saturating_mul(bytes_per_value)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let problem =
                    format!("has {rows} x {columns} places, too many for so few values to be written out");
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
    fn zeros_may_take_a_multiple_of_the_bytes_that_were_given() {
        let sparse = |columns| TensorData {
            values: Values::F32(vec![1.0]),
            shape: Some(vec![1, columns]),
            sparse: Some(Sparse { crow_indices: vec![0, 1], col_indices: vec![0] }),
        };
        let table = [
            ("a few bytes may become the least that is granted", 20, 16 << 20, true),
            ("but no more", 20, (16 << 20) + 20 * 64 + 1, false),
            ("many bytes may become more", 1 << 20, 64 << 20, true),
            ("but a tensor no more than a request can hold", usize::MAX, (1 << 27) + 1, false),
            ("a shape that no memory holds", 20, 1 << 42, false),
        ];
        for (name, n_bytes, columns, fits) in table {
            assert_eq!(DenseRoom::of(n_bytes).take(&sparse(columns), 4, "t").is_ok(), fits, "{name}");
        }
        // What one tensor took is gone for the next.
        let mut room = DenseRoom::of(0);
        room.take(&sparse(10 << 20), 4, "a").expect("the first");
        assert_eq!(
            room.take(&sparse(10 << 20), 4, "b").expect_err("the second").violation().expect("b").path,
            "b"
        );
        room.take(&vec![1.0f32; 100].into(), 4, "c").expect("a dense tensor is there already");
    }
}
