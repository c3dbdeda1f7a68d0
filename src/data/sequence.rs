//! Plain texts and tokens from lines, and the examples that they make.

use super::json::{UnknownKeys, Value};
use super::jsonl::Record;
use crate::chat::Example;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::types::ModelInput;

/// A text to continue and its continuation: `{"prompt": "2 + 2 =", "completion": " 4"}`.
///
/// # Example: train on the completion
/// ```
/// use tinkex::data::{PromptCompletion, Record};
/// use tinkex::tokenizer::ByteTokenizer;
///
/// let pair = PromptCompletion::from_line(r#"{"prompt": "a", "completion": "b"}"#)?;
/// let example = pair.example(&ByteTokenizer)?;
/// assert_eq!(example.tokens().to_ints()?, [97, 98, ByteTokenizer::EOS]);
/// assert_eq!(example.weights(), [0.0, 1.0, 1.0]);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptCompletion {
    /// The text that is given.
    pub prompt: String,
    /// The text to learn.
    pub completion: String,
}

/// A text to learn: `{"text": "Once upon a time"}`.
///
/// # Example: train on all of a text
/// ```
/// use tinkex::data::{Record, Text};
/// use tinkex::tokenizer::ByteTokenizer;
///
/// let example = Text::from_line(r#"{"text": "ab"}"#)?.example(&ByteTokenizer)?;
/// assert_eq!(example.weights(), [1.0, 1.0, 1.0]);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
}

/// Tokens with one weight each: `{"tokens": [1, 2], "weights": [0, 1]}`, or `{"input_ids": [1, 2], "labels": [-100,
/// 2]}`, where the label -100 means weight 0 and any other label must be the token itself.
///
/// # Example: labels become weights
/// ```
/// use tinkex::data::{Record, WeightedTokens};
///
/// let tokens = WeightedTokens::from_line(r#"{"input_ids": [7, 8], "labels": [-100, 8]}"#)?;
/// assert_eq!(tokens.weights, [0.0, 1.0]);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightedTokens {
    /// The token ids.
    pub tokens: Vec<i32>,
    /// A weight for each token.
    pub weights: Vec<f32>,
}

impl PromptCompletion {
    /// The example: prompt with weight 0, completion with weight 1. The beginning and the end of sequence are added if
    /// the tokenizer has them, with the weights 0 and 1. Texts of markers are encoded as ordinary text.
    ///
    /// # Errors
    /// `InvalidInput` if a text cannot be encoded.
    pub fn example(&self, tokenizer: &dyn Tokenizer) -> Result<Example> {
        let mut tokens: Vec<i32> = tokenizer.bos_id().into_iter().collect();
        tokens.extend(tokenizer.encode_ordinary(&self.prompt)?);
        let n_prompt = tokens.len();
        tokens.extend(tokenizer.encode_ordinary(&self.completion)?);
        tokens.extend(tokenizer.eos_id());
        let weights = (0..tokens.len()).map(|i| if i < n_prompt { 0.0 } else { 1.0 }).collect();
        Example::new(ModelInput::from_ints(tokens), weights)
    }
}

impl Text {
    /// The example: all of the text with weight 1, as a [`PromptCompletion`] with an empty prompt.
    ///
    /// # Errors
    /// `InvalidInput` if the text cannot be encoded.
    pub fn example(&self, tokenizer: &dyn Tokenizer) -> Result<Example> {
        PromptCompletion { prompt: String::new(), completion: self.text.clone() }.example(tokenizer)
    }
}

impl WeightedTokens {
    /// The example of these tokens. Nothing is added.
    ///
    /// # Errors
    /// As for [`Example::new`].
    pub fn example(&self) -> Result<Example> {
        Example::new(ModelInput::from_ints(self.tokens.clone()), self.weights.clone())
    }
}

impl Record for PromptCompletion {
    fn from_line(line: &str) -> Result<Self> {
        PromptCompletion::read(line, UnknownKeys::Refused)
    }

    fn from_line_ignoring_unknown_keys(line: &str) -> Result<Self> {
        PromptCompletion::read(line, UnknownKeys::Ignored)
    }
}

impl PromptCompletion {
    fn read(line: &str, unknown_keys: UnknownKeys) -> Result<Self> {
        let object = Value::of_line(line, unknown_keys)?.object()?;
        if !object.has("prompt") {
            return Err(object.of_no_kind("prompt and completion"));
        }
        object.only(&["prompt", "completion"])?;
        let text = |key: &str| {
            let value = object.need(key)?;
            if value.kind() == "a list" {
                return Err(value.invalid("must be a text; read messages as `Conversation`"));
            }
            value.text()
        };
        let completion = text("completion")?;
        if completion.is_empty() {
            return Err(Error::invalid("completion", "must not be empty"));
        }
        Ok(PromptCompletion { prompt: text("prompt")?, completion })
    }
}

impl Record for Text {
    fn from_line(line: &str) -> Result<Self> {
        Text::read(line, UnknownKeys::Refused)
    }

    fn from_line_ignoring_unknown_keys(line: &str) -> Result<Self> {
        Text::read(line, UnknownKeys::Ignored)
    }
}

impl Text {
    fn read(line: &str, unknown_keys: UnknownKeys) -> Result<Self> {
        let object = Value::of_line(line, unknown_keys)?.object()?;
        object.only(&["text"])?;
        let value = object.need("text")?;
        let text = value.text()?;
        if text.is_empty() { Err(value.invalid("must not be empty")) } else { Ok(Text { text }) }
    }
}

impl Record for WeightedTokens {
    fn from_line(line: &str) -> Result<Self> {
        WeightedTokens::read(line, UnknownKeys::Refused)
    }

    fn from_line_ignoring_unknown_keys(line: &str) -> Result<Self> {
        WeightedTokens::read(line, UnknownKeys::Ignored)
    }
}

impl WeightedTokens {
    fn read(line: &str, unknown_keys: UnknownKeys) -> Result<Self> {
        let object = Value::of_line(line, unknown_keys)?.object()?;
        let with_labels = object.has("input_ids");
        if with_labels == object.has("tokens") {
            return Err(object.of_no_kind("tokens and weights; or input_ids and labels"));
        }
        let [ids, marks] = if with_labels { ["input_ids", "labels"] } else { ["tokens", "weights"] };
        object.only_and(&[ids, marks], &["attention_mask"])?;
        let (ids, marks) = (object.need(ids)?, object.need(marks)?);
        let tokens = ids.list()?.iter().map(token).collect::<Result<Vec<i32>>>()?;
        if let Some(mask) = object.given("attention_mask") {
            for item in mask.list()? {
                if item.raw != "1" {
                    return Err(item.invalid(format!("must be 1, not {}; leave padding out", item.raw)));
                }
            }
        }
        let items = marks.list()?;
        if tokens.is_empty() {
            return Err(ids.invalid("must not be empty"));
        }
        if items.len() != tokens.len() {
            return Err(marks.invalid(format!("has {} values for {} tokens", items.len(), tokens.len())));
        }
        let weight = |(item, id): (&Value<'_>, &i32)| {
            if with_labels { label(item, *id) } else { weight(item) }
        };
        let weights = items.iter().zip(&tokens).map(weight).collect::<Result<_>>()?;
        Ok(WeightedTokens { tokens, weights })
    }
}

fn token(value: &Value<'_>) -> Result<i32> {
    let expected = "a token id from 0 to 2147483647";
    let id: i32 = value.number(expected)?;
    if id < 0 { Err(value.invalid(format!("must be {expected}, not {id}"))) } else { Ok(id) }
}

fn weight(value: &Value<'_>) -> Result<f32> {
    let expected = "a number of at least 0";
    let weight: f32 = value.number(expected)?;
    if weight.is_finite() && 0.0 <= weight {
        Ok(weight)
    } else {
        Err(value.invalid(format!("must be {expected}, not {}", value.raw)))
    }
}

fn label(value: &Value<'_>, id: i32) -> Result<f32> {
    match value.number::<i64>("-100 or the token id")? {
        -100 => Ok(0.0),
        label if label == i64::from(id) => Ok(1.0),
        label => Err(value.invalid(format!("must be -100 or the token id {id}, not {label}"))),
    }
}
