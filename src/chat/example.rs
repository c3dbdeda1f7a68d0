//! Training examples with one weight for each token.

use crate::error::{Error, Result};
use crate::types::{Chunk, Datum, ModelInput, TensorData};

/// A sequence of tokens, and how much each of them counts.
///
/// # Example: train on the second half of a sequence
/// ```
/// use tinkex::chat::{Example, Reduction};
/// use tinkex::types::ModelInput;
///
/// let example = Example::new(ModelInput::from_ints([5, 6, 7, 8]), vec![0.0, 0.0, 1.0, 1.0])?;
/// let datum = example.datum(None, Reduction::Mean)?;
/// assert_eq!(datum.model_input.to_ints()?, [5, 6, 7]);
/// assert_eq!(datum.loss_fn_inputs["target_tokens"].as_i64(), Some(&[6, 7, 8][..]));
/// assert_eq!(datum.loss_fn_inputs["weights"].as_f32(), Some(&[0.0, 0.5, 0.5][..]));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    tokens: ModelInput,
    weights: Vec<f32>,
}

/// How the weights of an example are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// The weights of an example sum to 1, so that long and short examples count the same. For supervised training.
    #[default]
    Mean,
    /// The weights stay as they are, so that each token counts the same. For preference data.
    Sum,
}

impl Example {
    /// An example of tokens and their weights.
    ///
    /// # Errors
    /// Another number of weights than of tokens, a weight that is not a finite number or is negative, or an image whose
    /// number of tokens is unknown.
    pub fn new(tokens: ModelInput, weights: Vec<f32>) -> Result<Self> {
        let n = tokens.len()?;
        if weights.len() != n {
            let problem = format!("there are {} weights for {n} tokens", weights.len());
            return Err(Error::invalid("weights", problem));
        }
        if let Some(i) = weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
            let problem = format!("the weight {} is not a finite number of at least 0", weights[i]);
            return Err(Error::invalid(format!("weights[{i}]"), problem));
        }
        Ok(Example { tokens, weights })
    }

    /// The tokens.
    pub fn tokens(&self) -> &ModelInput {
        &self.tokens
    }

    /// The weights: one for each token; an image has as many as it has tokens.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.weights.len()
    }

    /// Number of tokens whose weight is not 0.
    pub fn n_trained(&self) -> usize {
        self.weights.iter().filter(|weight| 0.0 < **weight).count()
    }

    /// The example as it is sent to the server: the input is all but the last token, the targets are all but the first
    /// (PROTOCOL §6.3). A position before an image has the target 0 and the weight 0.
    ///
    /// `max_length`: keep only so many tokens from the beginning, before the shift by one; an image is kept whole or not
    /// at all, and images at the end are dropped, because nothing can be learned from them.
    ///
    /// # Errors
    /// `InvalidInput` if fewer than two tokens are left, or none that would be trained: such an example would only cost
    /// time.
    pub fn datum(&self, max_length: Option<usize>, reduction: Reduction) -> Result<Datum> {
        let (chunks, n) = self.cut(max_length.unwrap_or(usize::MAX))?;
        if n < 2 {
            let problem = match max_length {
                Some(max) if n < self.n_tokens() => {
                    format!("only {n} tokens are left after the cut to {max}")
                }
                _ => format!("an example needs at least 2 tokens; this one has {n} before images at its end"),
            };
            return Err(Error::invalid("tokens", problem));
        }
        let (input, targets) = shifted(chunks)?;
        let mut weights = self.weights[1..n].to_vec();
        for (weight, target) in weights.iter_mut().zip(&targets) {
            if target.is_none() {
                *weight = 0.0;
            }
        }
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        if sum <= 0.0 {
            let problem = match max_length {
                Some(max) if n < self.n_tokens() => format!(
                    "the cut from {} to {max} tokens leaves nothing to train on; allow longer examples or leave it out",
                    self.n_tokens()
                ),
                _ => "all weights are 0, so that there is nothing to train on".into(),
            };
            return Err(Error::invalid("weights", problem));
        }
        if reduction == Reduction::Mean {
            for weight in &mut weights {
                *weight = (f64::from(*weight) / sum) as f32;
            }
        }
        let targets: Vec<i64> = targets.into_iter().map(|target| target.unwrap_or(0)).collect();
        Ok(Datum::new(input).with("target_tokens", TensorData::from(targets)).with("weights", weights))
    }

    /// The chunks that fit into `max` tokens, without images at the end, and their number of tokens.
    fn cut(&self, max: usize) -> Result<(Vec<Chunk>, usize)> {
        let (mut chunks, mut n) = (Vec::new(), 0);
        for chunk in &self.tokens.chunks {
            let len = chunk_len(chunk)?;
            let free = max - n;
            match chunk {
                Chunk::EncodedText { tokens } if free < len => {
                    chunks.push(Chunk::EncodedText { tokens: tokens[..free].to_vec() });
                    n = max;
                    break;
                }
                _ if free < len => break,
                _ => {
                    chunks.push(chunk.clone());
                    n += len;
                }
            }
        }
        while let Some(last) = chunks.last() {
            let len = chunk_len(last)?;
            if matches!(last, Chunk::EncodedText { .. }) && 0 < len {
                break;
            }
            n -= len;
            chunks.pop();
        }
        Ok((chunks, n))
    }
}

fn chunk_len(chunk: &Chunk) -> Result<usize> {
    ModelInput { chunks: vec![chunk.clone()] }.len()
}

/// The input of all tokens but the last one, and the target of each of its positions: `None` if that is part of an image.
/// The last chunk must be text.
fn shifted(mut chunks: Vec<Chunk>) -> Result<(ModelInput, Vec<Option<i64>>)> {
    let mut targets = Vec::new();
    for chunk in &chunks {
        match chunk {
            Chunk::EncodedText { tokens } => targets.extend(tokens.iter().map(|id| Some(i64::from(*id)))),
            other => targets.resize(targets.len() + chunk_len(other)?, None),
        }
    }
    targets.drain(..1.min(targets.len()));
    if let Some(Chunk::EncodedText { tokens }) = chunks.last_mut() {
        tokens.pop();
    }
    chunks.retain(|chunk| !matches!(chunk, Chunk::EncodedText { tokens } if tokens.is_empty()));
    Ok((ModelInput { chunks }, targets))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::ImageFormat;

    fn image(n: u32) -> Chunk {
        Chunk::Image { data: vec![1], format: ImageFormat::Png, expected_tokens: Some(n) }
    }

    fn text(tokens: &[i32]) -> Chunk {
        Chunk::EncodedText { tokens: tokens.to_vec() }
    }

    fn example(chunks: Vec<Chunk>, weights: &[f32]) -> Result<Example> {
        Example::new(ModelInput { chunks }, weights.to_vec())
    }

    fn weights(datum: &Datum) -> Vec<f32> {
        datum.loss_fn_inputs["weights"].as_f32().unwrap().to_vec()
    }

    #[test]
    fn the_cut_is_made_before_the_shift_and_the_weights_are_scaled_after_it() {
        let five = example(vec![text(&[1, 2, 3, 4, 5])], &[0.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
        let cut = five.datum(Some(3), Reduction::Mean).unwrap();
        assert_eq!(cut.model_input.to_ints().unwrap(), [1, 2]);
        assert_eq!(cut.loss_fn_inputs["target_tokens"].as_i64(), Some(&[2, 3][..]));
        assert_eq!(weights(&cut), [0.5, 0.5]);
        assert_eq!(weights(&five.datum(None, Reduction::Sum).unwrap()), [1.0; 4]);
        assert_eq!(weights(&five.datum(Some(9), Reduction::Mean).unwrap()), [0.25; 4]);
    }

    #[test]
    fn an_image_is_kept_whole_or_not_at_all_and_nothing_is_trained_before_or_in_it() {
        let chunks = vec![text(&[1]), image(2), text(&[4, 5])];
        let all = example(chunks, &[1.0; 5]).unwrap();
        let datum = all.datum(None, Reduction::Sum).unwrap();
        assert_eq!(datum.model_input.chunks, [text(&[1]), image(2), text(&[4])]);
        assert_eq!(datum.loss_fn_inputs["target_tokens"].as_i64(), Some(&[0, 0, 4, 5][..]));
        assert_eq!(weights(&datum), [0.0, 0.0, 1.0, 1.0]);
        // The cut within the image leaves the text before it, of which nothing can be learned.
        assert!(all.datum(Some(2), Reduction::Sum).is_err());
        let ends = example(vec![text(&[1, 2]), image(3)], &[1.0; 5]).unwrap();
        let datum = ends.datum(None, Reduction::Sum).unwrap();
        assert_eq!(datum.model_input.chunks, [text(&[1])]);
    }

    #[test]
    fn what_cannot_be_trained_is_an_error_that_says_why() {
        let all_zero = example(vec![text(&[1, 2])], &[1.0, 0.0]).unwrap();
        let late = example(vec![text(&[1, 2, 3])], &[0.0, 0.0, 1.0]).unwrap();
        let short = example(vec![text(&[1])], &[1.0]).unwrap();
        for (error, expected) in [
            (all_zero.datum(None, Reduction::Mean), "weights: all weights are 0"),
            (late.datum(Some(2), Reduction::Mean), "the cut from 3 to 2 tokens leaves nothing"),
            (short.datum(None, Reduction::Mean), "tokens: an example needs at least 2 tokens"),
            (late.datum(Some(1), Reduction::Mean), "only 1 tokens are left after the cut to 1"),
        ] {
            let error = error.unwrap_err();
            assert!(error.is_user_error() && error.to_string().contains(expected), "{error}");
        }
        for (weights, expected) in [
            (vec![1.0], "weights: there are 1 weights for 2 tokens"),
            (vec![1.0, f32::NAN], "weights[1]: the weight NaN"),
            (vec![-1.0, 1.0], "weights[0]: the weight -1"),
        ] {
            let error = example(vec![text(&[1, 2])], &weights).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
