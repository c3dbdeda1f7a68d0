//! Examples as text, to be looked at.

use super::example::Example;
use crate::tokenizer::Tokenizer;
use crate::types::{Chunk, ModelInput};

/// An example as text: trained tokens stand between `⟦` and `⟧`, and an image is `[image]`.
pub(super) fn show(tokenizer: &dyn Tokenizer, example: &Example) -> String {
    let mut text = String::new();
    let mut weights = example.weights();
    for chunk in &example.tokens().chunks {
        match chunk {
            Chunk::EncodedText { tokens } => {
                let (these, rest) = weights.split_at(tokens.len().min(weights.len()));
                weights = rest;
                let mut tokens = tokens.as_slice();
                for run in these.chunk_by(|a, b| (*a == 0.0) == (*b == 0.0)) {
                    let (ids, rest) = tokens.split_at(run.len());
                    tokens = rest;
                    let decoded = tokenizer.decode(ids);
                    text += &if run[0] == 0.0 { decoded } else { format!("⟦{decoded}⟧") };
                }
            }
            other => {
                let n = ModelInput { chunks: vec![other.clone()] }.len().unwrap_or(0);
                weights = &weights[n.min(weights.len())..];
                text += "[image]";
            }
        }
    }
    text
}
