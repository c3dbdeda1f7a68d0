//! Conversations from lines.

use super::json::Value;
use super::jsonl::Record;
use super::message::{messages, sharegpt, tools};
use crate::chat::{Message, ToolSpec};
use crate::error::Result;

/// A conversation and the tools that the model may call in it.
///
/// Three kinds of lines are read:
/// - `{"messages": [{"role": "user", "content": "Hi"}, …]}` as OpenAI writes them;
/// - `{"conversations": [{"from": "human", "value": "Hi"}, …]}` as ShareGPT does;
/// - `{"prompt": [messages], "completion": [messages]}` as TRL does: the messages of the prompt become `trainable:
///   false` and those of the completion `trainable: true`.
///
/// The first and the third may have `tools`. `weight` (0 or 1) and `trainable` of a message become
/// [`Message::trainable`]; `reasoning_content` or `thinking` becomes a leading [`Part::Thinking`](crate::chat::Part).
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
    /// The tools.
    pub tools: Vec<ToolSpec>,
}

impl Record for Conversation {
    fn from_line(line: &str) -> Result<Self> {
        let object = Value::of_line(line)?.object()?;
        let kinds = ["messages", "conversations", "prompt"].map(|key| object.has(key));
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
                    all.extend(messages(&value)?.into_iter().map(|message| message.with_trainable(trained)));
                }
                (all, tools(&object)?)
            }
            _ => return Err(object.of_no_kind("messages; or conversations; or prompt and completion")),
        };
        Ok(Conversation { messages, tools })
    }
}
