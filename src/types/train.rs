//! What a forward or backward pass reports.

use std::collections::BTreeMap;

use super::TensorData;

/// The result of `forward` and `forward_backward` (PROTOCOL §6.7).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardBackwardOutput {
    /// The server's name for the kind of `loss_fn_outputs`.
    pub loss_fn_output_type: String,
    /// For each datum, in the order of the input, its outputs by name: usually `logprobs`, shaped like
    /// `target_tokens`.
    pub loss_fn_outputs: Vec<BTreeMap<String, TensorData>>,
    /// Metrics by name, each with its reduction behind a colon: `loss:sum` is the sum over tokens and data.
    pub metrics: BTreeMap<String, f64>,
}

impl ForwardBackwardOutput {
    /// The log-probabilities of the targets of datum `idx`, if the server sent them.
    pub fn logprobs(&self, idx: usize) -> Option<&[f32]> {
        let logprobs = self.loss_fn_outputs.get(idx)?.get("logprobs")?;
        // The stored values of a sparse tensor are not those of the targets one after the other.
        if logprobs.sparse.is_none() { logprobs.as_f32() } else { None }
    }
}
