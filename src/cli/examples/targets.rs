//! What a training reads of an example, and what it learns: each token but the last one is read, and each but the first
//! one can be learned, because the first has nothing before it.

use tinkex::chat::Example;

/// Number of tokens that go through the model.
pub(crate) fn n_inputs(example: &Example) -> usize {
    example.n_tokens().saturating_sub(1)
}

/// Number of tokens that are learned.
pub(crate) fn n_targets(example: &Example) -> usize {
    example.weights().iter().skip(1).filter(|weight| **weight != 0.0).count()
}
