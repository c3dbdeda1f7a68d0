//! Conversations from lines.

use super::json::{UnknownKeys, Value};
use super::jsonl::Record;
use super::message::{messages, sharegpt, tools};
use crate::chat::{Message, ToolSpec};
use crate::error::Result;

/// A conversation.
///
/// Three kinds of lines are read:
/// - `{"messages": [{"role": "user", "content": "Hi"}, …]}` as OpenAI writes them;
/// - `{"conversations": [{"from": "human", "value": "Hi"}, …]}` as ShareGPT does;
/// - `{"prompt": [messages], "completion": [messages]}` as TRL does: the messages of the prompt become `trainable:
///   false` and those of the completion `trainable: true`, unless they say otherwise themselves.
///
/// The first and the third may have `tools`; they become [`Message::tools`] of the system message, which is made if there
/// is none. `reasoning_content` or `thinking` becomes a leading [`Part::Thinking`](crate::chat::Part). `weight` (0 or 1)
/// and `trainable` of a message become [`Message::trainable`]; if only some messages have one of them, the others are
/// trained if they are from the assistant. Such conversations need the mode
/// [`Customized`](crate::chat::TrainOnWhat::Customized).
///
/// # Example: a conversation from a text
/// ```
/// use tinkex::data::{Conversation, Record};
///
/// let line = r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}"#;
/// let conversation = Conversation::from_line(line)?;
/// assert_eq!(conversation.messages[1].role, "assistant");
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Conversation {
    /// The messages, at least one.
    pub messages: Vec<Message>,
}

impl Record for Conversation {
    fn from_line(line: &str) -> Result<Self> {
        Conversation::read(line, UnknownKeys::Refused)
    }

    fn from_line_ignoring_unknown_keys(line: &str) -> Result<Self> {
        Conversation::read(line, UnknownKeys::Ignored)
    }
}

impl Conversation {
    fn read(line: &str, unknown_keys: UnknownKeys) -> Result<Self> {
        let object = Value::of_line(line, unknown_keys)?.object()?;
        // Data sets of chats may have the first question as a further column `prompt`.
        let is_trl = object.has("prompt") && (object.has("completion") || !object.has("messages"));
        let kinds = [object.has("messages"), object.has("conversations"), is_trl];
        let (messages, tools) = match kinds {
            [true, false, false] => {
                object.only(&["messages", "tools"])?;
                (messages(&object.need("messages")?)?, tools(&object)?)
            }
            [false, true, false] => {
                object.only(&["conversations"])?;
                (sharegpt(&object.need("conversations")?)?, Vec::new())
            }
            [false, false, true] => {
                object.only(&["prompt", "completion", "tools"])?;
                let mut all = Vec::new();
                for (key, trained) in [("prompt", false), ("completion", true)] {
                    let value = object.need(key)?;
                    if value.kind() == "a text" {
                        return Err(
                            value.invalid("must be a list of messages; read texts as `PromptCompletion`")
                        );
                    }
                    let mut list = messages(&value)?;
                    for message in &mut list {
                        message.trainable.get_or_insert(trained);
                    }
                    all.append(&mut list);
                }
                (all, tools(&object)?)
            }
            _ => return Err(object.of_no_kind("messages; or conversations; or prompt and completion")),
        };
        let mut conversation = Conversation { messages };
        conversation.declare(tools);
        conversation.flag();
        Ok(conversation)
    }
}

impl Conversation {
    /// Puts tools into the system message.
    fn declare(&mut self, tools: Vec<ToolSpec>) {
        if tools.is_empty() {
            return;
        }
        if self.messages.first().is_none_or(|message| message.role != "system") {
            let system = Message { role: "system".into(), ..Message::default() };
            self.messages.insert(0, system);
        }
        if let Some(system) = self.messages.first_mut() {
            system.tools = tools;
        }
    }

    /// If some messages say whether they are trained, the others say it too.
    fn flag(&mut self) {
        if self.messages.iter().any(|message| message.trainable.is_some()) {
            for message in &mut self.messages {
                let is_answer = message.role == "assistant";
                message.trainable.get_or_insert(is_answer);
            }
        }
    }
}
