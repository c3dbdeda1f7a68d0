//! The examples of a batch.
//!
//! Tokens and weights stay in flat arrays, as the caller has them, until a request needs the examples as [`Datum`]s. So
//! adding examples costs one copy, and sending a batch builds each datum once, where a stored datum would be cloned.

use std::ops::Range;

use super::border::{Fault, Result};
use super::code;
use crate::types::{Datum, ModelInput, Provenance, TensorData, check_loss_input};

/// Examples, in the order in which they were added.
#[derive(Default)]
pub(super) struct Examples {
    tokens: Vec<i32>,
    weights: Vec<f32>,
    examples: Vec<Example>,
}

/// One example. The ranges are those of the flat arrays.
enum Example {
    /// Tokens without loss inputs.
    Tokens(Range<usize>),
    /// Tokens of which each has a weight. The input of the model is all but the last token; the targets and their
    /// weights are all but the first.
    Weighted { tokens: Range<usize>, first_weight: usize },
    /// An example that has more than tokens and weights.
    Datum(Box<Datum>),
}

/// Number of values that are checked and copied together. They fit into the first-level cache, so that checking them
/// reads no memory a second time.
const BLOCK: usize = 2048;

impl Examples {
    pub(super) fn len(&self) -> usize {
        self.examples.len()
    }

    /// Removes all examples. The memory of the arrays stays reserved for the next ones.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.weights.clear();
        self.examples.clear();
    }

    /// Adds an example and returns its index.
    pub(super) fn add(&mut self, datum: Datum) -> usize {
        self.examples.push(Example::Datum(Box::new(datum)));
        self.len() - 1
    }

    /// Adds an example of each row of tokens, and returns the index of the first one. `offsets` must have been checked.
    pub(super) fn add_tokens(&mut self, offsets: &[i64], tokens: &[i32]) -> Result<usize> {
        check_lengths(offsets, 1, "tokens of an example must not be empty")?;
        let start = self.append_tokens(&[("tokens", tokens)])?;
        let first = self.len();
        self.examples.extend(rows(offsets).map(|row| Example::Tokens(shifted(&row, start))));
        Ok(first)
    }

    /// As [`add_tokens`](Self::add_tokens), with one weight for each token.
    pub(super) fn add_weighted(&mut self, offsets: &[i64], tokens: &[i32], weights: &[f32]) -> Result<usize> {
        check_lengths(offsets, 2, TOO_SHORT)?;
        let start = self.append_tokens(&[("tokens", tokens)])?;
        let first_weight = self.weights.len();
        if let Err(i) = append(&mut self.weights, weights, are_finite, |weight| weight.is_finite()) {
            self.tokens.truncate(start);
            let text = format!("the weight {} is not a finite number", weights[i]);
            return Err(Fault::invalid(format!("weights[{i}]"), text));
        }
        let first = self.len();
        self.examples.extend(rows(offsets).map(|row| Example::Weighted {
            tokens: shifted(&row, start),
            first_weight: first_weight + row.start,
        }));
        Ok(first)
    }

    /// Adds an example with weight 0 on the tokens of the prompt and 1 on those of the completion, and returns its
    /// index.
    pub(super) fn add_completion(&mut self, prompt: &[i32], completion: &[i32]) -> Result<usize> {
        if completion.is_empty() {
            return Err(Fault::invalid(
                "completion",
                "the completion has no tokens, so there is nothing to learn",
            ));
        }
        if prompt.len() + completion.len() < 2 {
            return Err(Fault::invalid("prompt", TOO_SHORT));
        }
        let start = self.append_tokens(&[("prompt", prompt), ("completion", completion)])?;
        let first_weight = self.weights.len();
        self.weights.resize(first_weight + prompt.len(), 0.0);
        self.weights.resize(first_weight + prompt.len() + completion.len(), 1.0);
        self.examples.push(Example::Weighted { tokens: start..self.tokens.len(), first_weight });
        Ok(self.len() - 1)
    }

    /// Appends lists of tokens and returns the position of the first token, or leaves the tokens as they were.
    fn append_tokens(&mut self, lists: &[(&str, &[i32])]) -> Result<usize> {
        let start = self.tokens.len();
        self.tokens.reserve(lists.iter().map(|(_, tokens)| tokens.len()).sum());
        for (name, tokens) in lists {
            if let Err(i) = append(&mut self.tokens, tokens, are_not_negative, |token| 0 <= *token) {
                self.tokens.truncate(start);
                let text = format!("the token id {} is negative", tokens[i]);
                return Err(Fault::invalid(format!("{name}[{i}]"), text));
            }
        }
        Ok(start)
    }

    /// Refuses an index without an example.
    fn example(&self, index: usize) -> Result<&Example> {
        self.examples.get(index).ok_or_else(|| Fault::range("index", index, self.len()))
    }

    /// Number of tokens of the model's input, if it is known.
    fn n_tokens(&self, index: usize) -> Result<Option<usize>> {
        Ok(match self.example(index)? {
            Example::Tokens(tokens) => Some(tokens.len()),
            Example::Weighted { tokens, .. } => Some(tokens.len() - 1),
            Example::Datum(datum) => datum.model_input.len().ok(),
        })
    }

    /// Sets a loss input of one example.
    pub(super) fn set(&mut self, index: usize, name: &str, tensor: TensorData) -> Result<()> {
        self.check(index, name, &tensor)?;
        self.edit(index)?.loss_fn_inputs.insert(name.into(), tensor);
        Ok(())
    }

    /// Sets a loss input of consecutive examples from `first`.
    pub(super) fn set_all(&mut self, first: usize, name: &str, tensors: Vec<TensorData>) -> Result<()> {
        let end = first.saturating_add(tensors.len());
        if self.len() < end {
            let text = format!("the examples {first} to {end} were given, but there are {}", self.len());
            return Err(Fault::new(code::RANGE, text).at("first"));
        }
        for (i, tensor) in tensors.iter().enumerate() {
            self.check(first + i, name, tensor)?;
        }
        for (i, tensor) in tensors.into_iter().enumerate() {
            self.edit(first + i)?.loss_fn_inputs.insert(name.into(), tensor);
        }
        Ok(())
    }

    fn check(&self, index: usize, name: &str, tensor: &TensorData) -> Result<()> {
        if name.is_empty() {
            return Err(Fault::invalid("name", "the name of a loss input is empty"));
        }
        let path = format!("data[{index}].loss_fn_inputs[{name:?}]");
        Ok(check_loss_input(name, tensor, self.n_tokens(index)?, &path)?)
    }

    /// Sets the origin of the tokens. Without targets its lengths are checked only when the example is sent.
    pub(super) fn set_provenance(&mut self, index: usize, provenance: Provenance) -> Result<()> {
        let n_tokens = self.n_tokens(index)?;
        let targets = match self.example(index)? {
            Example::Tokens(_) => None,
            Example::Weighted { .. } => n_tokens.map(|n| vec![n]),
            Example::Datum(datum) => datum.loss_fn_inputs.get("target_tokens").map(TensorData::shape),
        };
        if let Some(targets) = targets {
            provenance.validate(&format!("data[{index}].provenance"), n_tokens, Some(&targets))?;
        }
        self.edit(index)?.provenance = Some(provenance);
        Ok(())
    }

    /// The example as a datum that can be changed.
    fn edit(&mut self, index: usize) -> Result<&mut Datum> {
        if !matches!(self.example(index)?, Example::Datum(_)) {
            self.examples[index] = Example::Datum(Box::new(self.datum(&self.examples[index])));
        }
        match &mut self.examples[index] {
            Example::Datum(datum) => Ok(datum),
            _ => unreachable!("the example has just been made a datum"),
        }
    }

    /// All examples, as they are sent.
    pub(super) fn data(&self) -> Vec<Datum> {
        self.examples.iter().map(|example| self.datum(example)).collect()
    }

    fn datum(&self, example: &Example) -> Datum {
        match example {
            Example::Tokens(tokens) => Datum::new(ModelInput::from_ints(&self.tokens[tokens.clone()])),
            Example::Weighted { tokens, first_weight } => {
                let (tokens, n) = (&self.tokens[tokens.clone()], tokens.len() - 1);
                let weights = &self.weights[first_weight + 1..][..n];
                Datum::new(ModelInput::from_ints(&tokens[..n]))
                    .with("target_tokens", &tokens[1..])
                    .with("weights", weights)
            }
            Example::Datum(datum) => (**datum).clone(),
        }
    }
}

const TOO_SHORT: &str = "an example needs at least 2 tokens: one to read and one to predict";

/// Rows of tokens that are too short are refused.
fn check_lengths(offsets: &[i64], min: usize, problem: &'static str) -> Result<()> {
    match rows(offsets).position(|row| row.len() < min) {
        // A single row was given without offsets.
        Some(_) if offsets.len() == 2 => Err(Fault::invalid("tokens", problem)),
        Some(i) => {
            let text = format!("{problem}; row {i} of the tokens has {}", offsets[i + 1] - offsets[i]);
            Err(Fault::invalid(format!("offsets[{}]", i + 1), text))
        }
        None => Ok(()),
    }
}

/// The ranges between offsets.
pub(super) fn rows(offsets: &[i64]) -> impl Iterator<Item = Range<usize>> {
    // Checked offsets are not negative and at most the length of an array, so that the casts are lossless.
    offsets.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
}

fn shifted(row: &Range<usize>, start: usize) -> Range<usize> {
    row.start + start..row.end + start
}

/// Appends values that pass the check, or none; then returns the index of the first bad value.
fn append<T: Copy>(
    list: &mut Vec<T>,
    values: &[T],
    are_valid: fn(&[T]) -> bool,
    is_valid: fn(&T) -> bool,
) -> std::result::Result<(), usize> {
    let start = list.len();
    list.reserve(values.len());
    for block in values.chunks(BLOCK) {
        if !are_valid(block) {
            list.truncate(start);
            return Err(values.iter().position(|value| !is_valid(value)).unwrap_or_default());
        }
        list.extend_from_slice(block);
    }
    Ok(())
}

// These loops do not stop at the first bad value, so that the compiler makes vector instructions of them.

fn are_not_negative(tokens: &[i32]) -> bool {
    0 <= tokens.iter().fold(0, |all, token| all | token)
}

fn are_finite(weights: &[f32]) -> bool {
    weights.iter().fold(true, |all, weight| all & weight.is_finite())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_the_data_that_the_rust_constructors_make() {
        let mut examples = Examples::default();
        // A second call appends to the arrays of the first.
        assert_eq!(examples.add_completion(&[1, 2], &[3, 4]).unwrap(), 0);
        let weights = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0];
        assert_eq!(examples.add_weighted(&[0, 3, 6], &[5, 6, 7, 8, 9, 10], &weights).unwrap(), 1);
        assert_eq!(examples.add_tokens(&[0, 1, 3], &[11, 12, 13]).unwrap(), 3);
        assert_eq!(examples.add_completion(&[], &[14, 15]).unwrap(), 5);
        let expected = [
            Datum::cross_entropy(&[1, 2], &[3, 4]),
            Datum::cross_entropy(&[5, 6], &[7]),
            Datum::cross_entropy(&[8], &[9, 10]),
            Datum::new(ModelInput::from_ints([11])),
            Datum::new(ModelInput::from_ints([12, 13])),
            Datum::cross_entropy(&[], &[14, 15]),
        ];
        assert_eq!(examples.data(), expected);
    }

    #[test]
    fn a_refused_call_changes_nothing() {
        let mut examples = Examples::default();
        examples.add_completion(&[1], &[2]).unwrap();
        let (before, n_tokens) = (examples.data(), examples.tokens.len());
        let mut tokens = vec![7; 3 * BLOCK];
        let weights = vec![f32::NAN; 3 * BLOCK];
        let offsets = [0, 3 * BLOCK as i64];
        let path = |fault: Fault| match fault {
            Fault::Misuse { path, .. } => path.unwrap(),
            Fault::Sdk(error) => error.violation().unwrap().path.clone(),
        };
        assert_eq!(path(examples.add_weighted(&offsets, &tokens, &weights).unwrap_err()), "weights[0]");
        tokens[2 * BLOCK + 5] = -1;
        assert_eq!(path(examples.add_tokens(&offsets, &tokens).unwrap_err()), "tokens[4101]");
        assert_eq!(path(examples.add_completion(&[1], &[2, -3]).unwrap_err()), "completion[1]");
        assert_eq!(path(examples.add_weighted(&[0, 1], &[1], &[1.0]).unwrap_err()), "tokens");
        let short = examples.add_weighted(&[0, 2, 3], &[1, 2, 3], &[1.0; 3]).unwrap_err();
        assert_eq!(path(short), "offsets[2]");
        let fits = TensorData::from(vec![1.0f32]);
        let wrong = vec![fits.clone(), vec![1.0f32; 2].into()];
        examples.add_completion(&[1], &[2]).unwrap();
        let fault = examples.set_all(0, "advantages", wrong).unwrap_err();
        assert_eq!(path(fault), "data[1].loss_fn_inputs[\"advantages\"]");
        assert_eq!(examples.set_all(1, "advantages", vec![fits; 2]).unwrap_err().code(), code::RANGE);
        assert_eq!(examples.data(), [before.clone(), before].concat());
        assert_eq!(examples.tokens.len(), 2 * n_tokens);
        assert_eq!(examples.weights.len(), 2 * n_tokens);
    }

    #[test]
    fn inputs_are_added_to_flat_examples() {
        let mut examples = Examples::default();
        examples.add_weighted(&[0, 3], &[1, 2, 3], &[0.0, 0.0, 1.0]).unwrap();
        examples.set(0, "advantages", vec![1.0f32, 2.0].into()).unwrap();
        let expected = Datum::cross_entropy(&[1, 2], &[3]).with("advantages", vec![1.0f32, 2.0]);
        assert_eq!(examples.data(), [expected]);
    }
}
