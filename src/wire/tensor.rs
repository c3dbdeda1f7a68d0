//! Conversion of tensors to and from protobuf and JSON (PROTOCOL §5, §6.2).

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::types::{Sparse, TensorData, Values};

use super::le;
use super::proto::{DType, Encoding, SparseCsr, Tensor};

pub(super) fn dtype(values: &Values) -> DType {
    match values {
        Values::F32(_) => DType::Float32,
        Values::I64(_) => DType::Int64,
    }
}

pub(super) fn write_values(values: &Values) -> bytes::Bytes {
    match values {
        Values::F32(it) => le::write_f32(it),
        Values::I64(it) => le::write_i64(it),
    }
}

/// Size of one element in bytes.
pub(super) fn item_size(dtype: i32) -> Result<usize> {
    match DType::try_from(dtype) {
        Ok(DType::Float32 | DType::Int32) => Ok(4),
        Ok(DType::Int64) => Ok(8),
        Ok(DType::Bfloat16) => Ok(2),
        Ok(DType::Unspecified) | Err(_) => Err(Error::decode(format!("unknown element type {dtype}"))),
    }
}

/// Reads elements. `bf16` becomes `f32` and `int32` becomes `i64`, because [`Values`] has only these two types.
pub(super) fn read_values(dtype: i32, bytes: &[u8]) -> Result<Values> {
    match DType::try_from(dtype) {
        Ok(DType::Float32) => le::read_f32(bytes).map(Values::F32),
        Ok(DType::Bfloat16) => le::read_bf16(bytes).map(Values::F32),
        Ok(DType::Int64) => le::read_i64(bytes).map(Values::I64),
        Ok(DType::Int32) => {
            let narrow = le::read_i32(bytes)?;
            Ok(Values::I64(narrow.into_iter().map(i64::from).collect()))
        }
        Ok(DType::Unspecified) | Err(_) => Err(Error::decode(format!("unknown element type {dtype}"))),
    }
}

pub(super) fn to_proto(tensor: &TensorData) -> Tensor {
    let values = write_values(&tensor.values);
    let encoding = match &tensor.sparse {
        None => Encoding::Dense(values),
        Some(sparse) => Encoding::SparseCsr(SparseCsr {
            values,
            crow_indices: le::write_i64(&sparse.crow_indices),
            col_indices: le::write_i64(&sparse.col_indices),
        }),
    };
    let shape = tensor.shape.iter().flatten().map(|it| *it as i64).collect();
    Tensor { encoding: Some(encoding), dtype: dtype(&tensor.values).into(), shape }
}

/// Reads a tensor and validates its shape and indices. `path` is the path of the tensor in errors.
pub(super) fn from_proto(tensor: Tensor, path: &str) -> Result<TensorData> {
    let shape = if tensor.shape.is_empty() {
        None
    } else {
        Some(tensor.shape.iter().map(|it| dimension(*it)).collect::<Result<Vec<_>>>()?)
    };
    let (values, sparse) = match tensor.encoding {
        // Protobuf may omit an empty dense tensor.
        None => (read_values(tensor.dtype, &[])?, None),
        Some(Encoding::Dense(bytes)) => (read_values(tensor.dtype, &bytes)?, None),
        Some(Encoding::SparseCsr(csr)) => {
            let crow_indices = le::read_i64(&csr.crow_indices)?;
            let col_indices = le::read_i64(&csr.col_indices)?;
            (read_values(tensor.dtype, &csr.values)?, Some(Sparse { crow_indices, col_indices }))
        }
    };
    let tensor = TensorData { values, shape, sparse };
    tensor.validate(path)?;
    Ok(tensor)
}

/// Converts the size of a dimension. The result is below `isize::MAX`, so that callers can add 1 without overflow.
pub(super) fn dimension(n: i64) -> Result<usize> {
    match usize::try_from(n) {
        Ok(n) if n < isize::MAX as usize => Ok(n),
        _ => Err(Error::decode(format!("{n} is not a valid dimension"))),
    }
}

/// The numbers of a tensor in JSON: all as `i64`, or all as `f64` if at least one of them is not an integer. Takes 8
/// bytes for each number; a list of [`serde_json::Value`] would take several times that. NaN and infinities, which JSON
/// cannot represent, are written as null; null is read as NaN.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    Whole(Vec<i64>),
    Any(Vec<f64>),
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers::Whole(Vec::new())
    }
}

impl PartialEq for Numbers {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
        match (self, other) {
            (Numbers::Whole(a), Numbers::Whole(b)) => a == b,
            (Numbers::Any(a), Numbers::Any(b)) => a.len() == b.len() && a.iter().zip(b).all(same),
            _ => false,
        }
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, output: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Numbers::Whole(it) => it.serialize(output),
            Numbers::Any(it) => it.serialize(output),
        }
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Numbers, A::Error> {
                let mut whole = Vec::new();
                let first_float = loop {
                    match items.next_element::<Number>()? {
                        None => return Ok(Numbers::Whole(whole)),
                        Some(Number::Whole(number)) => whole.push(number),
                        Some(Number::Any(number)) => break number,
                    }
                };
                let mut any: Vec<f64> = whole.into_iter().map(|it| it as f64).collect();
                any.push(first_float);
                while let Some(number) = items.next_element::<Number>()? {
                    any.push(match number {
                        Number::Whole(number) => number as f64,
                        Number::Any(number) => number,
                    });
                }
                Ok(Numbers::Any(any))
            }
        }

        input.deserialize_seq(Reader)
    }
}

/// One number of [`Numbers`]. A null is read as NaN.
enum Number {
    Whole(i64),
    Any(f64),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E: serde::de::Error>(self, it: i64) -> std::result::Result<Number, E> {
                Ok(Number::Whole(it))
            }

            fn visit_u64<E: serde::de::Error>(self, it: u64) -> std::result::Result<Number, E> {
                Ok(i64::try_from(it).map_or(Number::Any(it as f64), Number::Whole))
            }

            fn visit_f64<E: serde::de::Error>(self, it: f64) -> std::result::Result<Number, E> {
                Ok(Number::Any(it))
            }

            fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Number, E> {
                Ok(Number::Any(f64::NAN))
            }
        }

        input.deserialize_any(Reader)
    }
}

/// A tensor in JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TensorJson {
    pub(crate) data: Numbers,
    #[serde(default = "float32")]
    pub(crate) dtype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Vec<i64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sparse_crow_indices: Option<Vec<i64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sparse_col_indices: Option<Vec<i64>>,
}

fn float32() -> String {
    "float32".into()
}

impl From<&TensorData> for TensorJson {
    fn from(tensor: &TensorData) -> Self {
        let data = match &tensor.values {
            // `Numbers` has only f64. Its NaN and infinities are written as null.
            Values::F32(it) => Numbers::Any(it.iter().copied().map(f64::from).collect()),
            Values::I64(it) => Numbers::Whole(it.clone()),
        };
        let sparse = tensor.sparse.clone();
        let (crow, col) = sparse.map(|sparse| (sparse.crow_indices, sparse.col_indices)).unzip();
        TensorJson {
            data,
            dtype: tensor.values.dtype().into(),
            shape: tensor.shape.as_ref().map(|shape| shape.iter().map(|it| *it as i64).collect()),
            sparse_crow_indices: crow,
            sparse_col_indices: col,
        }
    }
}

impl TensorJson {
    pub(crate) fn read(self, path: &str) -> Result<TensorData> {
        let values = match (self.dtype.as_str(), self.data) {
            ("int64", Numbers::Whole(numbers)) => Values::I64(numbers),
            ("int64", Numbers::Any(numbers)) => {
                let wrong = |i, number| Error::decode(format!("{path}[{i}] is not an integer: {number}"));
                let integer = |(i, number)| whole(number).ok_or_else(|| wrong(i, number));
                Values::I64(numbers.into_iter().enumerate().map(integer).collect::<Result<_>>()?)
            }
            ("float32", Numbers::Whole(numbers)) => {
                Values::F32(numbers.into_iter().map(|it| it as f64 as f32).collect())
            }
            ("float32", Numbers::Any(numbers)) => {
                Values::F32(numbers.into_iter().map(|it| it as f32).collect())
            }
            (other, _) => {
                return Err(Error::decode(format!("{path} has the unknown element type {other:?}")));
            }
        };
        let shape = self.shape.map(|shape| shape.into_iter().map(dimension).collect::<Result<Vec<_>>>());
        let sparse = match (self.sparse_crow_indices, self.sparse_col_indices) {
            (Some(crow_indices), Some(col_indices)) => Some(Sparse { crow_indices, col_indices }),
            (None, None) => None,
            _ => {
                return Err(Error::decode(format!("{path} has only one of the two lists of sparse indices")));
            }
        };
        let tensor = TensorData { values, shape: shape.transpose()?, sparse };
        tensor.validate(path)?;
        Ok(tensor)
    }
}

/// Converts a float to an integer. `None` if it has a fraction or its absolute value is 2^53 or more.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 2f64.powi(53)).then_some(number as i64)
}
