//! Pairs of answers of which one is preferred.

use super::json::Value;
use super::jsonl::Record;
use super::message::messages;
use crate::chat::Message;
use crate::error::{Error, Result};

/// Two answers to the same prompt.
///
/// Three kinds of lines are read:
/// - `{"prompt": …, "chosen": …, "rejected": …}`, each a text or a list of messages (a text becomes a message of the
///   user or of the assistant);
/// - `{"chosen": [messages], "rejected": [messages]}`: the messages that both begin with are the prompt;
/// - `{"comparison": {"prompt_conversation": …, "completion_A": …, "completion_B": …}, "label": "A"}` as the cookbook
///   writes them, with the label `A`, `B` or `Tie`.
///
/// # Example: the answer that was preferred
/// ```
/// use tinkex::data::{Preference, Record};
///
/// let line = r#"{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}"#;
/// let preference = Preference::from_line(line)?;
/// let (chosen, rejected) = preference.chosen_and_rejected().expect("not a tie");
/// assert_eq!((chosen[0].text(), rejected[0].text()), ("4".into(), "5".into()));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Preference {
    /// The messages before the answers.
    pub prompt: Vec<Message>,
    /// One answer; in lines of `chosen` and `rejected` the chosen one.
    pub completion_a: Vec<Message>,
    /// The other answer.
    pub completion_b: Vec<Message>,
    /// The better one.
    pub preferred: Preferred,
}

/// The better one of two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferred {
    /// The first one.
    A,
    /// The second one.
    B,
    /// Both are equally good. Such a pair teaches nothing to a loss that compares the two.
    Tie,
}

impl Preference {
    /// The better and the worse answer, or `None` for a tie.
    pub fn chosen_and_rejected(&self) -> Option<(&[Message], &[Message])> {
        match self.preferred {
            Preferred::A => Some((&self.completion_a, &self.completion_b)),
            Preferred::B => Some((&self.completion_b, &self.completion_a)),
            Preferred::Tie => None,
        }
    }
}

impl Record for Preference {
    fn from_line(line: &str) -> Result<Self> {
        let object = Value::of_line(line)?.object()?;
        if object.has("comparison") && !object.has("chosen") {
            object.only(&["comparison", "label"])?;
            let comparison = object.need("comparison")?.object()?;
            comparison.only(&["prompt_conversation", "completion_A", "completion_B"])?;
            let label = object.need("label")?;
            let preferred = match label.text()?.as_str() {
                "A" => Preferred::A,
                "B" => Preferred::B,
                "Tie" => Preferred::Tie,
                other => return Err(label.invalid(format!("must be \"A\", \"B\" or \"Tie\", not {other:?}"))),
            };
            return Ok(Preference {
                prompt: messages(&comparison.need("prompt_conversation")?)?,
                completion_a: messages(&comparison.need("completion_A")?)?,
                completion_b: messages(&comparison.need("completion_B")?)?,
                preferred,
            });
        }
        if !object.has("chosen") || object.has("comparison") {
            return Err(object.of_no_kind("chosen, rejected and perhaps prompt; or comparison and label"));
        }
        object.only(&["prompt", "chosen", "rejected"])?;
        let (chosen, rejected) = (object.need("chosen")?, object.need("rejected")?);
        if let Some(prompt) = object.get("prompt") {
            return Ok(Preference {
                prompt: text_or_messages(&prompt, "user")?,
                completion_a: text_or_messages(&chosen, "assistant")?,
                completion_b: text_or_messages(&rejected, "assistant")?,
                preferred: Preferred::A,
            });
        }
        let (mut chosen, mut rejected) = (messages(&chosen)?, messages(&rejected)?);
        let n = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
        if n == chosen.len() || n == rejected.len() {
            return Err(Error::invalid("rejected", "one of `chosen` and `rejected` begins with the other"));
        }
        if n == 0 {
            return Err(Error::invalid("rejected", "does not begin with the same message as `chosen`"));
        }
        let completion_b = rejected.split_off(n);
        let completion_a = chosen.split_off(n);
        Ok(Preference { prompt: chosen, completion_a, completion_b, preferred: Preferred::A })
    }
}

fn text_or_messages(value: &Value<'_>, role: &str) -> Result<Vec<Message>> {
    match value.kind() {
        "a text" => Ok(vec![Message::new(role, value.text()?)]),
        "a list" => messages(value),
        _ => Err(value.must_be("a text or a list of messages")),
    }
}
