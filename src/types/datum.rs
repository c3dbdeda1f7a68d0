//! Training examples.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

use super::datum_losses::targets;
use super::{Chunk, DenseRoom, ModelInput, Provenance, TensorData, Values};

/// One training example: the input of the model and the inputs of the loss function (PROTOCOL §6.3).
///
/// Row i of every loss input belongs to position i of `model_input`. At position i the model predicts token i + 1 of
/// the sequence: for a sequence of n tokens, `model_input` has the first n − 1 tokens and `target_tokens` the last
/// n − 1.
///
/// # Example: learn to continue `ab` with `cd`
/// ```
/// use tinkex::types::Datum;
///
/// let datum = Datum::cross_entropy(&[97, 98], &[99, 100]);
/// assert_eq!(datum.model_input.to_ints()?, [97, 98, 99]);
/// assert_eq!(datum.loss_fn_inputs["target_tokens"].as_i64(), Some(&[98, 99, 100][..]));
/// assert_eq!(datum.loss_fn_inputs["weights"].as_f32(), Some(&[0.0, 1.0, 1.0][..]));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Datum {
    /// Input of the model.
    pub model_input: ModelInput,
    /// Inputs of the loss function, by name.
    pub loss_fn_inputs: BTreeMap<String, TensorData>,
    /// Origin of the tokens, for losses that need it.
    pub provenance: Option<Provenance>,
}

impl Datum {
    /// An example without loss inputs.
    pub fn new(model_input: ModelInput) -> Self {
        Datum { model_input, ..Datum::default() }
    }

    /// Adds a loss input. `target_tokens` takes `i64`, the other known names take `f32`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: impl Into<TensorData>) -> Self {
        self.loss_fn_inputs.insert(name.into(), tensor.into());
        self
    }

    /// Adds a loss input of one dimension. Its type follows from its name: `target_tokens` becomes `i64`, `weights`,
    /// `advantages`, `logprobs`, `clip_low_threshold`, `clip_high_threshold` and `sequence_ratio_mask` become `f32`
    /// (PROTOCOL §6.3).
    ///
    /// # Errors
    /// Another name, or a token id that is not a whole number.
    ///
    /// # Example: whole numbers as advantages
    /// ```
    /// use tinkex::types::Datum;
    ///
    /// let datum = Datum::cross_entropy(&[1], &[2, 3]).with_list("advantages", [1, -1])?;
    /// assert_eq!(datum.loss_fn_inputs["advantages"].as_f32(), Some(&[1.0, -1.0][..]));
    /// assert!(datum.with_list("returns", [0.5, 0.5]).is_err());
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn with_list<V: Into<f64>>(self, name: &str, values: impl IntoIterator<Item = V>) -> Result<Self> {
        let tensor = typed(name, values.into_iter().map(Into::into).collect())?;
        Ok(self.with(name, tensor))
    }

    /// As [`with_list`](Self::with_list), for a loss input of two dimensions: one row for each token.
    ///
    /// # Errors
    /// As for [`with_list`](Self::with_list); also rows of different lengths.
    pub fn with_rows<V: Into<f64> + Copy>(self, name: &str, rows: &[impl AsRef<[V]>]) -> Result<Self> {
        let n_columns = rows.first().map_or(0, |row| row.as_ref().len());
        if let Some(i) = rows.iter().position(|row| row.as_ref().len() != n_columns) {
            let path = format!("loss_fn_inputs[{name:?}][{i}]");
            let problem = format!("has {} columns, the first row {n_columns}", rows[i].as_ref().len());
            return Err(Error::invalid(path, problem));
        }
        let values = rows.iter().flat_map(|row| row.as_ref().iter().map(|value| (*value).into()));
        let tensor = typed(name, values.collect())?.with_shape([rows.len(), n_columns])?;
        Ok(self.with(name, tensor))
    }

    /// Sets the origin of the tokens.
    #[must_use]
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = Some(provenance);
        self
    }

    /// Subtracts from `room` the memory that the sparse tensors will need when they are made dense. Refuses a tensor
    /// for which too little is left.
    pub(crate) fn take_room(&self, room: &mut DenseRoom, path: &str) -> Result<()> {
        let take = |(name, tensor): (&String, &TensorData)| {
            room.take(tensor, tensor.values.width(), &format!("{path}.loss_fn_inputs[{name:?}]"))
        };
        self.loss_fn_inputs.iter().try_for_each(take)
    }

    /// Makes the tensors dense or sparse, as they will be sent: all dense if the server takes only dense tensors,
    /// otherwise sparse where that is smaller (PROTOCOL §6.2).
    pub(crate) fn pack(&mut self, dense: bool) {
        for (name, tensor) in &mut self.loss_fn_inputs {
            if dense {
                tensor.make_dense();
            } else if matches!(name.as_str(), "target_tokens" | "weights") {
                tensor.make_sparse_if_smaller();
            }
        }
    }

    /// An example for [`LossFn::CrossEntropy`](super::LossFn::CrossEntropy): a prompt and the completion to learn, with
    /// weight 0 on the tokens of the prompt and 1 on those of the completion.
    ///
    /// Other losses refuse the input `weights`; they have other constructors, such as
    /// [`importance_sampling`](Self::importance_sampling).
    pub fn cross_entropy(prompt: &[i32], completion: &[i32]) -> Self {
        let n = (prompt.len() + completion.len()).saturating_sub(1);
        let first_weighted = prompt.len().saturating_sub(1);
        let weights: Vec<f32> = (0..n).map(|i| if i < first_weighted { 0.0 } else { 1.0 }).collect();
        targets(prompt, completion).with("weights", weights)
    }

    /// Number of log-probabilities that a pass reports for this example: one for each target. `None` without targets.
    pub(crate) fn n_targets(&self) -> Option<usize> {
        Some(self.loss_fn_inputs.get("target_tokens")?.shape().iter().product())
    }

    /// Estimated size in a request in bytes, used to split a batch into requests (PROTOCOL §8.1).
    pub(crate) fn n_bytes(&self) -> usize {
        let chunks = self.model_input.chunks.iter().map(|chunk| match chunk {
            Chunk::EncodedText { tokens } => 4 * tokens.len(),
            Chunk::Image { data, .. } => data.len(),
            Chunk::ImageAssetPointer { location, .. } => location.len(),
            Chunk::Dmel { dmel } => dmel.len(),
        });
        chunks.sum::<usize>() + self.loss_fn_inputs.values().map(TensorData::n_bytes).sum::<usize>()
    }

    /// Refuses examples that no server can train on. Errors name the invalid value by a path that starts with `path`.
    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        self.model_input.validate(&format!("{path}.model_input"))?;
        for (i, chunk) in self.model_input.chunks.iter().enumerate() {
            if matches!(chunk, Chunk::ImageAssetPointer { .. }) {
                let path = format!("{path}.model_input.chunks[{i}]");
                return Err(Error::invalid(path, "an image pointer can be sampled from but not trained on"));
            }
        }
        let n_tokens = self.model_input.len().ok();
        for (name, tensor) in &self.loss_fn_inputs {
            check_loss_input(name, tensor, n_tokens, &format!("{path}.loss_fn_inputs[{name:?}]"))?;
        }
        let targets = self.loss_fn_inputs.get("target_tokens");
        match &self.provenance {
            Some(provenance) => {
                let targets = targets.map(TensorData::shape);
                provenance.validate(&format!("{path}.provenance"), n_tokens, targets.as_deref())
            }
            None => Ok(()),
        }
    }
}

/// Refuses a loss input that no server can train with, for an input of `n_tokens` tokens. `n_tokens` is `None` if the
/// length of the input is unknown, because it has images.
pub(crate) fn check_loss_input(
    name: &str,
    tensor: &TensorData,
    n_tokens: Option<usize>,
    path: &str,
) -> Result<()> {
    tensor.validate(path)?;
    match name {
        "weights" | "advantages" | "sequence_ratio_mask" => {
            tensor.check_values(path, "a finite number", f32::is_finite)?;
        }
        // Minus infinity is the log-probability of a token with probability 0; infinite thresholds do not clip.
        "logprobs" | "clip_low_threshold" | "clip_high_threshold" => {
            tensor.check_values(path, "a number", |value| !value.is_nan())?;
        }
        // Only the loss knows the meaning of other names.
        _ => {}
    }
    if is_float(name) && tensor.as_f32().is_none() {
        return Err(Error::invalid(path, "must hold 32-bit floats"));
    }
    if let Some(n) = n_tokens
        && is_per_token(name)
        && tensor.rows() != n
    {
        let problem = format!("has {} rows for an input of {n} tokens", tensor.rows());
        return Err(Error::invalid(path, problem));
    }
    if name == "target_tokens" { validate_targets(tensor, path) } else { Ok(()) }
}

/// Returns true if every loss function reads the input as one row for each token.
fn is_per_token(name: &str) -> bool {
    matches!(name, "target_tokens" | "weights" | "advantages" | "logprobs" | "sequence_ratio_mask" | "mask")
}

/// Returns true if the input is a tensor of floats for every loss function.
fn is_float(name: &str) -> bool {
    matches!(
        name,
        "weights"
            | "advantages"
            | "logprobs"
            | "clip_low_threshold"
            | "clip_high_threshold"
            | "sequence_ratio_mask"
    )
}

/// Converts numbers to the element type of the named input.
fn typed(name: &str, values: Vec<f64>) -> Result<TensorData> {
    let path = |i: usize| format!("loss_fn_inputs[{name:?}][{i}]");
    match name {
        "target_tokens" => match values.iter().position(|value| value.fract() != 0.0) {
            Some(i) => Err(Error::invalid(path(i), format!("{} is not a whole number", values[i]))),
            None => Ok(values.iter().map(|value| *value as i64).collect::<Vec<_>>().into()),
        },
        name if is_float(name) => Ok(values.iter().map(|value| *value as f32).collect::<Vec<_>>().into()),
        _ => {
            let problem = "has no known element type; pass a tensor of i64 or f32 to `with`";
            Err(Error::invalid(format!("loss_fn_inputs[{name:?}]"), problem))
        }
    }
}

fn validate_targets(targets: &TensorData, path: &str) -> Result<()> {
    if 2 < targets.shape().len() {
        return Err(Error::invalid(path, "must have one or two dimensions"));
    }
    match &targets.values {
        Values::F32(_) => Err(Error::invalid(path, "must hold integers")),
        Values::I64(ids) => match ids.iter().position(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            Some(i) => {
                Err(Error::invalid(format!("{path}[{i}]"), format!("token id {} is not in 0..2^31", ids[i])))
            }
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(datum: &Datum) -> String {
        datum.validate("data[3]").expect_err("a refusal").violation().expect("a path").path.clone()
    }

    #[test]
    fn every_refusal_names_the_path_of_the_value() {
        let good = Datum::cross_entropy(&[1, 2, 3], &[4]);
        good.validate("data[3]").expect("good input");
        assert_eq!(
            path(&good.clone().with("weights", vec![0.0, 0.0])),
            "data[3].loss_fn_inputs[\"weights\"]"
        );
        let nan = good.clone().with("weights", vec![0.0, 0.0, f32::NAN]);
        assert_eq!(path(&nan), "data[3].loss_fn_inputs[\"weights\"][2]");
        let infinite = good.clone().with("advantages", vec![f32::INFINITY, 0.0, 0.0]);
        assert_eq!(path(&infinite), "data[3].loss_fn_inputs[\"advantages\"][0]");
        let nan = good.clone().with("logprobs", vec![f32::NEG_INFINITY, f32::NAN, 0.0]);
        assert_eq!(path(&nan), "data[3].loss_fn_inputs[\"logprobs\"][1]");
        let negative = good.clone().with("target_tokens", vec![1i64, -1, 2]);
        assert_eq!(path(&negative), "data[3].loss_fn_inputs[\"target_tokens\"][1]");
        let short = good.clone().with("target_tokens", vec![1i64]);
        assert_eq!(path(&short), "data[3].loss_fn_inputs[\"target_tokens\"]");
        assert_eq!(path(&Datum::new(ModelInput::default())), "data[3].model_input");
        let negative = Datum::cross_entropy(&[1, -2], &[3]);
        assert_eq!(path(&negative), "data[3].model_input.chunks[0].tokens[1]");
    }

    #[test]
    fn inputs_of_a_wrong_type_or_too_many_dimensions_are_refused() {
        let good = Datum::cross_entropy(&[1, 2, 3], &[4]);
        let integers = good.clone().with("advantages", vec![1i64, 2, 3]);
        assert_eq!(path(&integers), "data[3].loss_fn_inputs[\"advantages\"]");
        let deep = TensorData::from(vec![1i64; 12]).with_shape([3, 2, 2]).expect("a shape");
        assert_eq!(path(&good.with("target_tokens", deep)), "data[3].loss_fn_inputs[\"target_tokens\"]");
    }

    #[test]
    fn lists_and_rows_get_the_element_type_of_their_name() {
        let datum = || Datum::cross_entropy(&[1, 2], &[3]);
        let rows = datum().with_rows("target_tokens", &[[1, 2], [3, 4]]).expect("a matrix");
        assert_eq!(rows.loss_fn_inputs["target_tokens"].shape(), [2, 2]);
        assert_eq!(rows.loss_fn_inputs["target_tokens"].as_i64(), Some(&[1, 2, 3, 4][..]));
        let refused =
            |datum: Result<Datum>| datum.expect_err("a refusal").violation().expect("a path").path.clone();
        assert_eq!(
            refused(datum().with_list("target_tokens", [1.0, 2.5])),
            "loss_fn_inputs[\"target_tokens\"][1]"
        );
        assert_eq!(refused(datum().with_list("values", [1.0, 2.5])), "loss_fn_inputs[\"values\"]");
        let ragged: [&[f32]; 2] = [&[1.0, 2.0], &[1.0]];
        assert_eq!(refused(datum().with_rows("weights", &ragged)), "loss_fn_inputs[\"weights\"][1]");
    }

    #[test]
    fn only_targets_and_weights_of_two_dimensions_are_made_sparse_and_only_where_that_is_smaller() {
        let matrix = |n_non_zero: usize| {
            let mut values = vec![0.0f32; 40];
            values[..n_non_zero].fill(0.5);
            TensorData::from(values).with_shape([4, 10]).expect("a shape")
        };
        // The dense form has 40 numbers. The sparse form has 4 + 1 row indices, and a column index and a value for each
        // of n non-zero elements: 5 + 2 · 17 = 39 is less than 40, and 5 + 2 · 18 = 41 is not.
        for (name, tensor, sparse) in [
            ("weights", matrix(17), true),
            ("weights", matrix(18), false),
            ("advantages", matrix(1), false),
            ("weights", vec![0.0f32; 40].into(), false),
        ] {
            let mut datum = Datum::default().with(name, tensor.clone());
            datum.pack(false);
            let packed = &datum.loss_fn_inputs[name];
            assert_eq!(packed.sparse.is_some(), sparse, "{name} {:?}", tensor.shape());
            packed.validate("t").expect("a good tensor");
            datum.pack(true);
            assert_eq!(datum.loss_fn_inputs[name], tensor, "the dense form is the original");
        }
    }

    #[test]
    fn an_empty_prompt_and_completion_make_an_empty_input_that_is_refused() {
        assert_eq!(path(&Datum::cross_entropy(&[], &[])), "data[3].model_input");
    }
}
