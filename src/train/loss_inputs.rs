//! Reads the loss inputs of data.

use crate::error::{Error, Result};
use crate::types::{Datum, TensorData};

/// The values of an input of floats, row-major. `path` is that of the datum.
pub(super) fn floats(datum: &Datum, name: &str, path: &str) -> Result<Vec<f32>> {
    let path = format!("{path}.loss_fn_inputs[{name:?}]");
    let tensor = dense(datum, name, &path)?;
    let values = tensor.as_f32().map(<[f32]>::to_vec);
    values.ok_or_else(|| Error::invalid(path, "must hold 32-bit floats"))
}

/// The target tokens, one for each position of the input. `path` is that of the datum.
pub(super) fn target_tokens(datum: &Datum, path: &str) -> Result<Vec<i32>> {
    let path = format!("{path}.loss_fn_inputs[\"target_tokens\"]");
    let tensor = dense(datum, "target_tokens", &path)?;
    if tensor.shape().len() != 1 {
        return Err(Error::invalid(path, "must have one dimension"));
    }
    let ids = tensor.as_i64().ok_or_else(|| Error::invalid(path.as_str(), "must hold integers"))?;
    let id = |(i, id): (usize, &i64)| {
        i32::try_from(*id)
            .map_err(|_| Error::invalid(format!("{path}[{i}]"), format!("{id} is not a token id")))
    };
    ids.iter().enumerate().map(id).collect()
}

/// Refuses lists of different lengths.
pub(super) fn check_len(path: impl Into<String>, found: usize, expected: usize, of: &str) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::invalid(path, format!("has {found} values instead of {expected}, one for each {of}")))
    }
}

fn dense(datum: &Datum, name: &str, path: &str) -> Result<TensorData> {
    let Some(tensor) = datum.loss_fn_inputs.get(name) else { return Err(Error::invalid(path, "is missing")) };
    tensor.validate(path)?;
    tensor.check_room(path)?;
    let mut tensor = tensor.clone();
    tensor.make_dense();
    Ok(tensor)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Values;

    #[test]
    fn sparse_inputs_are_read_like_dense_ones() {
        let weights = TensorData::from_csr([2, 2], vec![0, 1, 1], vec![1], Values::F32(vec![0.5]));
        let datum = Datum::cross_entropy(&[1], &[2, 3]).with("weights", weights);
        assert_eq!(floats(&datum, "weights", "d").unwrap(), [0.0, 0.5, 0.0, 0.0]);
        assert_eq!(target_tokens(&datum, "d").unwrap(), [2, 3]);
    }

    #[test]
    fn missing_inputs_and_those_of_another_type_are_refused_with_their_path() {
        let datum = Datum::cross_entropy(&[1], &[2, 3]).with("mask", vec![1i64, 0]);
        let path = |result: Result<Vec<f32>>| result.unwrap_err().violation().unwrap().path.clone();
        assert_eq!(path(floats(&datum, "logprobs", "data[1]")), "data[1].loss_fn_inputs[\"logprobs\"]");
        assert_eq!(path(floats(&datum, "mask", "data[1]")), "data[1].loss_fn_inputs[\"mask\"]");
        let large = datum.with("target_tokens", vec![1i64, 1 << 40]);
        let error = target_tokens(&large, "data[1]").unwrap_err();
        assert_eq!(error.violation().unwrap().path, "data[1].loss_fn_inputs[\"target_tokens\"][1]");
    }
}
