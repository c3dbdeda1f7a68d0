//! `tinkex_result`: the result of an operation, borrowed from its pending.

use super::object::{Kind, Object};
use crate::types::{ForwardBackwardOutput, LossHandle, OptimStepOutput, SampleResponse};
use crate::{SamplingClient, TrainingClient};

pub type tinkex_result = Object<ResultView>;

/// The result of an operation, as the Rust interface gives it.
pub(super) enum Outcome {
    Pass(ForwardBackwardOutput),
    Optim(OptimStepOutput),
    /// The path of what was saved.
    Save(String),
    /// The path of the state that was loaded, if the server names it.
    Load(Option<String>),
    Sample(SampleResponse),
    Logprobs(Vec<Option<f32>>),
    Training(TrainingClient),
    Sampling(SamplingClient),
    Loss(LossHandle),
}

/// A result with the arrays and texts that C code has asked for.
pub struct ResultView {
    outcome: Outcome,
}

impl Kind for ResultView {
    const NAME: &'static str = "result";
}

impl ResultView {
    pub(super) fn new(outcome: Outcome) -> Self {
        ResultView { outcome }
    }
}
