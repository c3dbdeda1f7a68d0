//! Conversion between arrays of numbers and little-endian bytes, the content of `bytes` fields in protobuf.

use bytes::Bytes;

use crate::error::{Error, Result};

/// Defines a writer and a reader for one number type. It is a macro because the standard library has no trait with
/// `to_le_bytes`. Both functions iterate over byte arrays of constant size, so that the compiler can use block copies.
macro_rules! array {
    ($write:ident, $read:ident, $number:ty, $size:literal) => {
        pub(super) fn $write(values: &[$number]) -> Bytes {
            values.iter().map(|it| it.to_le_bytes()).collect::<Vec<_>>().into_flattened().into()
        }

        pub(super) fn $read(bytes: &[u8]) -> Result<Vec<$number>> {
            let (whole, rest) = bytes.as_chunks::<$size>();
            if rest.is_empty() {
                Ok(whole.iter().map(|it| <$number>::from_le_bytes(*it)).collect())
            } else {
                Err(partial_number(bytes.len(), $size))
            }
        }
    };
}

array!(write_f32, read_f32, f32, 4);
array!(write_i32, read_i32, i32, 4);
array!(write_i64, read_i64, i64, 8);

/// Reads `bf16` numbers. A `bf16` is the upper half of a 32-bit float.
pub(super) fn read_bf16(bytes: &[u8]) -> Result<Vec<f32>> {
    let (whole, rest) = bytes.as_chunks::<2>();
    if rest.is_empty() {
        let widen = |half: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
        Ok(whole.iter().map(widen).collect())
    } else {
        Err(partial_number(bytes.len(), 2))
    }
}

#[cold]
fn partial_number(len: usize, size: usize) -> Error {
    Error::decode(format!("{len} bytes are not a multiple of the {size} bytes of one number"))
}
