//! One example to train on.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

use super::{Chunk, ModelInput, TensorData, Values};

/// One example: what the model reads, and what the loss function needs besides (PROTOCOL §6.3).
///
/// Row i of every input belongs to position i of `model_input`, which predicts the token at i + 1: for a sequence
/// of n tokens the input is the first n − 1 and `target_tokens` the last n − 1.
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
pub struct Datum {
    /// What the model reads.
    pub model_input: ModelInput,
    /// The inputs of the loss function, by name.
    pub loss_fn_inputs: BTreeMap<String, TensorData>,
}

impl Datum {
    /// An example without loss inputs yet.
    pub fn new(model_input: ModelInput) -> Self {
        Datum { model_input, loss_fn_inputs: BTreeMap::new() }
    }

    /// This example with a loss input added. `target_tokens` takes `i64`, the other usual ones `f32`.
    pub fn with(mut self, name: impl Into<String>, tensor: impl Into<TensorData>) -> Self {
        self.loss_fn_inputs.insert(name.into(), tensor.into());
        self
    }

    /// A prompt and the completion to learn: weight 0 on the prompt's tokens, 1 on the completion's.
    pub fn cross_entropy(prompt: &[i32], completion: &[i32]) -> Self {
        let all: Vec<i32> = prompt.iter().chain(completion).copied().collect();
        let n = all.len().saturating_sub(1);
        let first_weighted = prompt.len().saturating_sub(1);
        let weights: Vec<f32> = (0..n).map(|i| if i < first_weighted { 0.0 } else { 1.0 }).collect();
        Datum::new(ModelInput::from_ints(&all[..n]))
            .with("target_tokens", all.get(1..).unwrap_or_default())
            .with("weights", weights)
    }

    /// Estimated bytes of this example in a request: what splitting into requests counts (PROTOCOL §8.1).
    pub(crate) fn n_bytes(&self) -> usize {
        let chunks = self.model_input.chunks.iter().map(|it| match it {
            Chunk::EncodedText { tokens } => 4 * tokens.len(),
            Chunk::Image { data, .. } => data.len(),
            Chunk::ImageAssetPointer { location, .. } => location.len(),
            Chunk::Dmel { dmel } => dmel.len(),
        });
        chunks.sum::<usize>() + self.loss_fn_inputs.values().map(TensorData::n_bytes).sum::<usize>()
    }

    /// Refuses what no server can train on, naming the place under `path`.
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
            let path = format!("{path}.loss_fn_inputs[{name:?}]");
            tensor.validate(&path, true)?;
            if let Some(n) = n_tokens
                && is_per_token(name)
                && tensor.rows() != n
            {
                let problem = format!("has {} rows for an input of {n} tokens", tensor.rows());
                return Err(Error::invalid(path, problem));
            }
        }
        match self.loss_fn_inputs.get("target_tokens") {
            Some(targets) => validate_targets(targets, &format!("{path}.loss_fn_inputs[\"target_tokens\"]")),
            None => Ok(()),
        }
    }
}

/// The inputs that every loss function reads as one row per token.
fn is_per_token(name: &str) -> bool {
    matches!(name, "target_tokens" | "weights" | "advantages" | "logprobs" | "sequence_ratio_mask" | "mask")
}

fn validate_targets(targets: &TensorData, path: &str) -> Result<()> {
    match &targets.values {
        Values::F32(_) => Err(Error::invalid(path, "must hold integers")),
        Values::I64(ids) => match ids.iter().position(|it| !(0..=i64::from(i32::MAX)).contains(it)) {
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
        let negative = good.clone().with("target_tokens", vec![1i64, -1, 2]);
        assert_eq!(path(&negative), "data[3].loss_fn_inputs[\"target_tokens\"][1]");
        let short = good.clone().with("target_tokens", vec![1i64]);
        assert_eq!(path(&short), "data[3].loss_fn_inputs[\"target_tokens\"]");
        assert_eq!(path(&Datum::new(ModelInput::default())), "data[3].model_input");
        let negative = Datum::cross_entropy(&[1, -2], &[3]);
        assert_eq!(path(&negative), "data[3].model_input.chunks[0].tokens[1]");
    }

    #[test]
    fn an_empty_prompt_and_completion_make_an_empty_input_that_is_refused() {
        assert_eq!(path(&Datum::cross_entropy(&[], &[])), "data[3].model_input");
    }
}
