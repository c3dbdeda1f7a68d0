//! Pairs of answers of which one is preferred.

use super::json::{UnknownKeys, Value};
use super::jsonl::Record;
use super::message::messages;
use crate::chat::Message;
use crate::error::{Error, Result};

/// Two answers to the same prompt.
///
/// Three kinds of lines are read:
/// - `{"prompt": …, "chosen": …, "rejected": …}`, each a text or a list of messages (a text becomes a message of the
///   user or of the assistant); if an answer repeats the messages of the prompt, they are left out of it;
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
        Preference::read(line, UnknownKeys::Refused)
    }

    fn from_line_ignoring_unknown_keys(line: &str) -> Result<Self> {
        Preference::read(line, UnknownKeys::Ignored)
    }
}

impl Preference {
    fn read(line: &str, unknown_keys: UnknownKeys) -> Result<Self> {
        let object = Value::of_line(line, unknown_keys)?.object()?;
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
        // Some data sets repeat the chosen conversation as `messages`.
        object.only_and(&["prompt", "chosen", "rejected"], &["messages"])?;
        let (chosen, rejected) = (object.need("chosen")?, object.need("rejected")?);
        if let Some(prompt) = object.get("prompt") {
            return of_prompt(&prompt, &chosen, &rejected);
        }
        of_whole(messages(&chosen)?, messages(&rejected)?)
    }
}

/// A pair whose prompt has a key of its own.
fn of_prompt(prompt: &Value<'_>, chosen: &Value<'_>, rejected: &Value<'_>) -> Result<Preference> {
    let list = text_or_messages(prompt, "user")?;
    let a = text_or_messages(chosen, "assistant")?;
    let b = text_or_messages(rejected, "assistant")?;
    // A prompt that is a text may be one question of the conversation that both answers repeat.
    if prompt.kind() == "a text" && a[..n_shared(&a, &b)].iter().any(|message| list.contains(message)) {
        return of_whole(a, b);
    }
    let completion_a = without_prompt(a, &list, chosen)?;
    let completion_b = without_prompt(b, &list, rejected)?;
    Ok(Preference { prompt: list, completion_a, completion_b, preferred: Preferred::A })
}

/// The messages without those of the prompt, if they begin with them.
fn without_prompt(mut list: Vec<Message>, prompt: &[Message], value: &Value<'_>) -> Result<Vec<Message>> {
    if !list.starts_with(prompt) {
        return Ok(list);
    }
    if list.len() == prompt.len() {
        return Err(value.invalid("repeats the prompt and has no answer after it"));
    }
    Ok(list.split_off(prompt.len()))
}

/// How many messages two conversations begin with that are the same.
fn n_shared(a: &[Message], b: &[Message]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A pair of whole conversations: what both begin with is the prompt.
fn of_whole(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Result<Preference> {
    let n = n_shared(&chosen, &rejected);
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

fn text_or_messages(value: &Value<'_>, role: &str) -> Result<Vec<Message>> {
    match value.kind() {
        "a text" => Ok(vec![Message::new(role, value.text()?)]),
        "a list" => messages(value),
        _ => Err(value.must_be("a text or a list of messages")),
    }
}
