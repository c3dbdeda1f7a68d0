//! Cuts examples that are too long.

use tinkex::chat::Example;
use tinkex::types::{Chunk, ModelInput};

/// The first `max` tokens of an example. An image is kept whole or not at all. `None` if too little is left to train on.
pub(super) fn cut(example: &Example, max: usize) -> Option<Example> {
    let mut chunks = ModelInput::default();
    let mut n = 0;
    for chunk in &example.tokens().chunks {
        let len = ModelInput::default().with_chunk(chunk.clone()).len().ok()?;
        match chunk {
            _ if n + len <= max => chunks = chunks.with_chunk(chunk.clone()),
            Chunk::EncodedText { tokens } => {
                if n < max {
                    chunks = chunks.with_chunk(Chunk::EncodedText { tokens: tokens[..max - n].to_vec() });
                }
                n = max;
                break;
            }
            _ => break,
        }
        n += len;
    }
    let cut = Example::new(chunks, example.weights()[..n].to_vec()).ok()?;
    is_trained(&cut).then_some(cut)
}

/// True if something is trained: the first token never is, because nothing comes before it.
pub(super) fn is_trained(example: &Example) -> bool {
    example.weights().iter().skip(1).any(|weight| 0.0 < *weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_the_beginning_and_refuses_what_trains_nothing() -> tinkex::Result<()> {
        let example = Example::new(ModelInput::from_ints([1, 2, 3, 4]), vec![0.0, 0.0, 1.0, 1.0])?;
        let three = cut(&example, 3);
        assert_eq!(three.as_ref().map(|it| it.tokens().to_ints()).transpose()?, Some(vec![1, 2, 3]));
        assert_eq!(three.map(|it| it.weights().to_vec()), Some(vec![0.0, 0.0, 1.0]));
        assert_eq!(cut(&example, 2), None);
        assert_eq!(cut(&example, 9), Some(example));
        Ok(())
    }
}
