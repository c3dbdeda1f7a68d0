//! Arrays of numbers as little-endian bytes.

use bytes::Bytes;

use crate::error::{Error, Result};

/// Writes numbers one after the other. A macro because no trait of the standard library has `to_le_bytes`. Both ways are
/// loops over arrays of a known size and over a known number of them, which become block copies.
macro_rules! array {
    ($write:ident, $read:ident, $number:ty, $size:literal) => {
        pub(super) fn $write(values: &[$number]) -> Bytes {
            values.iter().map(|it| it.to_le_bytes()).collect::<Vec<_>>().into_flattened().into()
        }

        pub(super) fn $read(bytes: &[u8]) -> Result<Vec<$number>> {
            let (whole, rest) = bytes.as_chunks::<$size>();
            match rest.is_empty() {
                true => Ok(whole.iter().map(|it| <$number>::from_le_bytes(*it)).collect()),
                false => Err(uneven(bytes.len(), $size)),
            }
        }
    };
}

array!(write_f32, read_f32, f32, 4);
array!(write_i32, read_i32, i32, 4);
array!(write_i64, read_i64, i64, 8);

/// Reads brain floats: the upper halves of 32-bit floats.
pub(super) fn read_bf16(bytes: &[u8]) -> Result<Vec<f32>> {
    let (whole, rest) = bytes.as_chunks::<2>();
    match rest.is_empty() {
        true => {
            let widen = |it: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*it)) << 16);
            Ok(whole.iter().map(widen).collect())
        }
        false => Err(uneven(bytes.len(), 2)),
    }
}

#[cold]
fn uneven(len: usize, size: usize) -> Error {
    Error::decode(format!("{len} bytes do not hold numbers of {size} bytes each"))
}
