//! Tensors in protobuf and in JSON (PROTOCOL §5, §6.2).

use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// The bytes of one element.
pub(super) fn item_size(dtype: i32) -> Result<usize> {
    match DType::try_from(dtype) {
        Ok(DType::Float32 | DType::Int32) => Ok(4),
        Ok(DType::Int64) => Ok(8),
        Ok(DType::Bfloat16) => Ok(2),
        Ok(DType::Unspecified) | Err(_) => Err(Error::decode(format!("unknown element type {dtype}"))),
    }
}

/// Reads elements, widening the two types that have no public twin.
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

/// Reads a tensor and checks that its shape and indices fit; `path` names it in an error.
pub(super) fn from_proto(tensor: Tensor, path: &str) -> Result<TensorData> {
    let shape = match tensor.shape.is_empty() {
        true => None,
        false => Some(tensor.shape.iter().map(|it| dimension(*it)).collect::<Result<Vec<_>>>()?),
    };
    let (values, sparse) = match tensor.encoding {
        // An empty dense tensor may be left out of the bytes.
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

/// A dimension; far fewer than the largest `usize`, so that one may be added.
pub(super) fn dimension(it: i64) -> Result<usize> {
    match usize::try_from(it) {
        Ok(it) if it < isize::MAX as usize => Ok(it),
        _ => Err(Error::decode(format!("a dimension of {it}"))),
    }
}

/// A tensor in JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TensorJson {
    pub(crate) data: Vec<Value>,
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
            // Through f64: JSON has no other floats. A value that JSON cannot say becomes null, and null NaN again.
            Values::F32(it) => it.iter().map(|it| Value::from(*it)).collect(),
            Values::I64(it) => it.iter().map(|it| Value::from(*it)).collect(),
        };
        let sparse = tensor.sparse.clone();
        let (crow, col) = sparse.map(|it| (it.crow_indices, it.col_indices)).unzip();
        TensorJson {
            data,
            dtype: tensor.values.dtype().into(),
            shape: tensor.shape.as_ref().map(|it| it.iter().map(|it| *it as i64).collect()),
            sparse_crow_indices: crow,
            sparse_col_indices: col,
        }
    }
}

impl TensorJson {
    pub(crate) fn read(self, path: &str) -> Result<TensorData> {
        let wrong = |i: usize, it: &Value| Error::decode(format!("{path}[{i}]: {it} is no number"));
        let float = |(i, it): (usize, &Value)| match it {
            Value::Null => Ok(f32::NAN),
            it => it.as_f64().map(|it| it as f32).ok_or_else(|| wrong(i, it)),
        };
        let integer =
            |(i, it): (usize, &Value)| it.as_i64().or_else(|| whole(it)).ok_or_else(|| wrong(i, it));
        let values = match self.dtype.as_str() {
            "int64" => Values::I64(self.data.iter().enumerate().map(integer).collect::<Result<_>>()?),
            "float32" => Values::F32(self.data.iter().enumerate().map(float).collect::<Result<_>>()?),
            other => return Err(Error::decode(format!("{path}: unknown element type {other:?}"))),
        };
        let shape = self.shape.map(|it| it.into_iter().map(dimension).collect::<Result<Vec<_>>>());
        let sparse = match (self.sparse_crow_indices, self.sparse_col_indices) {
            (Some(crow_indices), Some(col_indices)) => Some(Sparse { crow_indices, col_indices }),
            (None, None) => None,
            _ => return Err(Error::decode(format!("{path}: only one of its two lists of sparse indices"))),
        };
        let tensor = TensorData { values, shape: shape.transpose()?, sparse };
        tensor.validate(path)?;
        Ok(tensor)
    }
}

/// An integer that arrived as a float.
fn whole(it: &Value) -> Option<i64> {
    let it = it.as_f64()?;
    (it.fract() == 0.0 && it.abs() < 2f64.powi(53)).then_some(it as i64)
}
