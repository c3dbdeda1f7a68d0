//! What distinguishes the chat format of one family of models from another.

use std::fmt::Debug;

use super::answer::{Answer, Termination};
use super::json::Json;
use super::message::{Message, Part, ToolCall};
use super::pieces::{Pieces, Rendered};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::types::Stop;

/// The chat format of a family of models: pure functions from messages to pieces, and from an answer to a message.
pub(super) trait Family: Debug + Send + Sync {
    /// The markers that the format needs. A tokenizer without one of them belongs to another model.
    fn markers(&self) -> &'static [&'static str];

    /// The markers that the format needs only for some messages, such as those with images.
    fn optional_markers(&self) -> &'static [&'static str] {
        &[]
    }

    /// The marker that begins a sequence.
    fn begin(&self) -> Begin {
        Begin::Nothing
    }

    /// What stands before the first message though the caller did not write it, such as a default system message.
    fn opening(&self, _messages: &[Message]) -> Option<Rendered> {
        None
    }

    /// Renders a message.
    fn message(&self, at: &At<'_>) -> Result<Rendered>;

    /// What stands before an answer of a role: the end of a prompt.
    fn suffix(&self, role: &str, at: &At<'_>) -> Pieces;

    /// What ends an answer.
    fn stop(&self) -> Ends;

    /// How a conversation of many answers becomes training examples.
    fn splits(&self) -> Splits;

    /// The first message of the turn that the model is about to write, or has just written: what comes before it is
    /// history.
    fn turn_start(&self, messages: &[Message]) -> usize {
        last_user(messages).map_or(0, |user| user + 1)
    }

    /// True if a message may have any name as its role, which stands in the text as it is.
    fn takes_any_role(&self) -> bool {
        false
    }

    /// True if the model is not asked to think where the answer stands, or its thought would be left out there: then an
    /// answer with a thought must not be trained.
    fn refuses_thinking(&self, _at: &At<'_>) -> bool {
        false
    }

    /// Makes a message of an answer that the model wrote.
    fn parse(&self, answer: Answer) -> Result<(Message, Termination)>;
}

/// How a sequence begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Nothing,
    Marker(&'static str),
    /// The tokenizer's own, if it has one.
    Bos,
}

/// What ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Text(&'static str),
    Markers(&'static [&'static str]),
}

/// How a conversation of many answers becomes training examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splits {
    /// One example: each answer stands in the history as the model wrote it (the extension property).
    Whole,
    /// An example for each answer, because history is written in another way than the answer that is being written.
    AtAnswers,
    /// An example for each turn: answers of one turn that call tools stand as the model wrote them.
    AtTurns,
}

/// A message within its conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) messages: &'a [Message],
    /// The message; the number of messages for what comes after them.
    pub(super) index: usize,
    /// The first message of the turn that is being written.
    pub(super) turn_start: usize,
    /// The number of messages that are history: all in a prompt, all but the last in an example.
    pub(super) n_history: usize,
    /// True if nothing stands before the message.
    pub(super) is_first: bool,
}

impl<'a> At<'a> {
    /// The message. Only for an index below the number of messages.
    pub(super) fn message(&self) -> &'a Message {
        &self.messages[self.index]
    }

    pub(super) fn is_last(&self) -> bool {
        self.index + 1 == self.messages.len()
    }

    pub(super) fn previous_role(&self) -> Option<&'a str> {
        self.index.checked_sub(1).and_then(|i| self.messages.get(i)).map(|message| message.role.as_str())
    }

    pub(super) fn next_role(&self) -> Option<&'a str> {
        self.messages.get(self.index + 1).map(|message| message.role.as_str())
    }

    pub(super) fn last_user(&self) -> Option<usize> {
        last_user(self.messages)
    }

    pub(super) fn in_last_turn(&self) -> bool {
        self.turn_start <= self.index
    }

    /// An error at a field of the message.
    pub(super) fn invalid(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::invalid(format!("messages[{}]{field}", self.index), problem)
    }

    /// The texts of the message, for formats that know nothing else.
    pub(super) fn only_text(&self, renderer: &str) -> Result<String> {
        for (i, part) in self.message().content.iter().enumerate() {
            let kind = match part {
                Part::Text(_) => continue,
                Part::Thinking(_) => "a thought",
                Part::Image(_) => "an image",
            };
            let problem = format!("is {kind}, which the format of {renderer} cannot write");
            return Err(self.invalid(&format!(".content[{i}]"), problem));
        }
        Ok(self.message().text())
    }

    /// The texts of a message that may have thoughts, but no images.
    pub(super) fn text_without_images(&self, renderer: &str) -> Result<String> {
        let image = self.message().content.iter().position(|part| matches!(part, Part::Image(_)));
        match image {
            Some(i) => {
                let problem = format!("is an image, which the format of {renderer} cannot write");
                Err(self.invalid(&format!(".content[{i}]"), problem))
            }
            None => Ok(self.message().text()),
        }
    }

    /// Refuses a thought of anybody but the assistant.
    pub(super) fn thoughts_of_the_assistant_only(&self) -> Result<()> {
        let message = self.message();
        match message.content.iter().position(|part| matches!(part, Part::Thinking(_))) {
            Some(i) if message.role != "assistant" => {
                Err(self.invalid(&format!(".content[{i}]"), "is a thought, but only an assistant can think"))
            }
            _ => Ok(()),
        }
    }

    /// The arguments of a call, as they are.
    pub(super) fn arguments(&self, i: usize, call: &ToolCall) -> Result<String> {
        let problem = match Json::read(&call.arguments) {
            Ok(Json::Object(_)) => return Ok(call.arguments.clone()),
            Ok(_) => "must be a JSON object".to_owned(),
            Err(error) => format!("not valid JSON: {error}"),
        };
        Err(self.invalid(&format!(".tool_calls[{i}].arguments"), problem))
    }

    /// Refuses tools and calls of tools, for formats that have none.
    pub(super) fn no_tools(&self, renderer: &str) -> Result<()> {
        let message = self.message();
        if !message.tools.is_empty() {
            let problem = format!("the format of {renderer} has no tools");
            return Err(self.invalid(".tools", problem));
        }
        if !message.tool_calls.is_empty() {
            let problem = format!("the format of {renderer} has no calls of tools");
            return Err(self.invalid(".tool_calls", problem));
        }
        Ok(())
    }
}

fn last_user(messages: &[Message]) -> Option<usize> {
    messages.iter().rposition(|message| message.role == "user")
}

impl Ends {
    /// The ends in the form that sampling takes. The markers are known to the tokenizer.
    pub(super) fn stop(self, tokenizer: &dyn Tokenizer) -> Stop {
        match self {
            Ends::Text(text) => Stop::Strings(vec![text.into()]),
            Ends::Markers(markers) => {
                Stop::Tokens(markers.iter().filter_map(|marker| tokenizer.token_id(marker)).collect())
            }
        }
    }
}
