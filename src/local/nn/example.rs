//! One training sequence.

use crate::loss::LossArray;

/// One training sequence. With `N` tokens and `k` targets per position, `targets` and `weights` are `[N, k]`
/// row-major.
#[derive(Clone, Debug, Default)]
pub(crate) struct Example {
    /// The input, `N` token ids.
    pub tokens: Vec<u32>,
    /// The tokens to predict after each input token.
    pub targets: Vec<i64>,
    /// Targets per position; 1 except for cross entropy against several candidates.
    pub k: usize,
    /// Weight of each target, for cross entropy; empty for the other losses.
    pub weights: Vec<f32>,
    /// Log-probability of each target when it was sampled; empty for cross entropy.
    pub logprobs: Vec<f32>,
    /// Advantage of each target; empty for cross entropy.
    pub advantages: Vec<f32>,
    /// Nonzero for targets that count in the ratio of their sequence, for GSPO; empty for the other losses.
    pub mask: Vec<f32>,
    /// Inputs of a custom loss besides the log-probabilities, in their declared order.
    pub inputs: Vec<LossArray>,
}
