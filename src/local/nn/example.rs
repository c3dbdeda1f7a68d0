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
    /// Number of targets per position. It may exceed 1 only for cross entropy, and for custom losses that declare
    /// log-probabilities of two dimensions.
    pub k: usize,
    /// Weight of each target, for cross entropy; empty for the other losses.
    pub weights: Vec<f32>,
    /// Log-probability of each target when it was sampled; empty for cross entropy.
    pub logprobs: Vec<f32>,
    /// Advantage of each target; empty for cross entropy.
    pub advantages: Vec<f32>,
    /// For GSPO, nonzero for targets that count in the ratio of their sequence; empty for the other losses.
    pub mask: Vec<f32>,
    /// Inputs of a custom loss besides the log-probabilities, in their declared order.
    pub inputs: Vec<LossArray>,
}
