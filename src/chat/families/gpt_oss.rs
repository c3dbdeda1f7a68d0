//! gpt-oss, in OpenAI's Harmony format: `<|start|>role<|channel|>channel<|message|>text<|end|>`.

use std::sync::Arc;

use super::gpt_oss_tools::declare;
use crate::chat::answer::{Answer, Span, Termination, find, text_of};
use crate::chat::family::{At, Ends, Family, Splits};
use crate::chat::json::{Json, Style};
use crate::chat::message::{Message, Part, ToolCall};
use crate::chat::pieces::{Pieces, Rendered};
use crate::chat::renderer::RendererOptions;
use crate::chat::tags::unparsed;
use crate::error::{Error, Result};

const NAME: &str = "gpt_oss";
const START: &str = "<|start|>";
const END: &str = "<|end|>";
const MESSAGE: &str = "<|message|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const RETURN: &str = "<|return|>";
const CALL: &str = "<|call|>";

/// What stands before the name of a tool where it takes part in the conversation.
const FUNCTIONS: &str = "functions.";

/// Stands in the system message if there are tools.
const CALLS_GO_TO: &str = "Calls to these tools must go to the commentary channel: 'functions'.";

#[derive(Debug)]
pub(in crate::chat) struct GptOss {
    /// The text of the system message, without the line about tools. `None` for none.
    system: Option<String>,
    like_cookbook: bool,
}

impl GptOss {
    /// `reasoning` is how much the system message tells the model to reason; without it there is no such message.
    pub(in crate::chat) fn make(
        reasoning: Option<&'static str>,
        options: &RendererOptions,
    ) -> Result<Arc<dyn Family>> {
        let system = match reasoning {
            Some(reasoning) => Some(format!(
                "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\
                 Current date: {}\n\nReasoning: {reasoning}\n\n\
                 # Valid channels: analysis, commentary, final. Channel must be included for every message.",
                date(options)?
            )),
            None => None,
        };
        Ok(Arc::new(GptOss { system, like_cookbook: options.like_cookbook }))
    }

    /// A message of the role `system`, which holds instructions and tools; the model knows it as that of the developer.
    fn instructions(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let text = at.only_text(NAME)?;
        let mut rendered = Rendered::default();
        let has_tools = !message.tools.is_empty();
        // The template has one system message, which says where calls go, and so has the cookbook without reasoning.
        if has_tools && (self.like_cookbook || self.system.is_none()) {
            said_by(&mut rendered, "system").marker(MESSAGE).text(CALLS_GO_TO).marker(END);
        }
        let output = said_by(&mut rendered, "developer").marker(MESSAGE);
        if !text.is_empty() || !has_tools {
            output.text("# Instructions\n\n").text(text).text("\n\n");
        }
        if has_tools {
            output.text(declare(&message.tools, self.like_cookbook, at)?);
            rendered.of_no_role = self.like_cookbook;
        }
        if let Some((_, output)) = rendered.segments.last_mut() {
            output.marker(END);
        }
        Ok(rendered)
    }

    fn answer(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let text = at.text_without_images(NAME)?;
        let mut rendered = Rendered::default();
        let output = said_by(&mut rendered, "assistant");
        let thoughts = message.thinking().filter(|_| self.keeps_thoughts(at)).unwrap_or_default();
        if !thoughts.is_empty() {
            output.marker(CHANNEL).text("analysis").marker(MESSAGE).text(thoughts);
            output.marker(END).marker(START).text("assistant");
        }
        if message.tool_calls.is_empty() {
            let ends = if self.like_cookbook { at.is_last() } else { at.n_history <= at.index };
            output.marker(CHANNEL).text("final").marker(MESSAGE).text(text);
            output.marker(if ends { RETURN } else { END });
            return Ok(rendered);
        }
        if !text.is_empty() {
            output.marker(CHANNEL).text("commentary").marker(MESSAGE).text(text);
            output.marker(END).marker(START).text("assistant");
        }
        for (i, call) in message.tool_calls.iter().enumerate() {
            if 0 < i {
                output.marker(START).text("assistant");
            }
            output.text(format!(" to={FUNCTIONS}{}", call.name)).marker(CHANNEL).text("commentary ");
            if self.like_cookbook {
                output.marker(CONSTRAIN);
            }
            output.text("json").marker(MESSAGE).text(at.arguments(i, call)?).marker(CALL);
        }
        Ok(rendered)
    }

    /// Thoughts before a call help until the answer to the user is there; then the model does not see them any more. The
    /// cookbook keeps all thoughts.
    fn keeps_thoughts(&self, at: &At<'_>) -> bool {
        let answers = |message: &Message| message.role == "assistant" && message.tool_calls.is_empty();
        self.like_cookbook
            || at.n_history <= at.index
            || !at.messages[at.index..at.n_history].iter().any(answers)
    }

    fn result(&self, at: &At<'_>) -> Result<Rendered> {
        let text = at.only_text(NAME)?;
        let name = self.tool(at)?;
        let name = name.strip_prefix(FUNCTIONS).unwrap_or(name);
        let mut rendered = Rendered::default();
        rendered.header().marker(START).text(format!("{FUNCTIONS}{name} to=assistant"));
        let text = if self.like_cookbook { text } else { Json::text(text).write(Style::TEMPLATE) };
        rendered.output().marker(CHANNEL).text("commentary").marker(MESSAGE).text(text).marker(END);
        Ok(rendered)
    }

    /// The name of the tool that a result is from.
    fn tool<'a>(&self, at: &At<'a>) -> Result<&'a str> {
        let result = at.message();
        match &result.name {
            Some(name) if !name.is_empty() => return Ok(name),
            _ if self.like_cookbook => return Ok("unknown"),
            _ => {}
        }
        let asked = at.messages[..at.index].iter().rfind(|message| !message.tool_calls.is_empty());
        let calls = asked.map(|message| message.tool_calls.as_slice()).unwrap_or_default();
        let called = match &result.tool_call_id {
            Some(_) => calls.iter().find(|call| call.id == result.tool_call_id),
            None => calls.first().filter(|first| calls.iter().all(|call| call.name == first.name)),
        };
        called.map(|call| call.name.as_str()).ok_or_else(|| {
            let problem =
                "is missing, and the call that the result answers does not say it; set the name of the tool";
            at.invalid(".name", problem)
        })
    }
}

impl Family for GptOss {
    fn markers(&self) -> &'static [&'static str] {
        &[START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL]
    }

    fn opening(&self, messages: &[Message]) -> Option<Rendered> {
        let system = self.system.as_ref()?;
        let mut rendered = Rendered { of_no_role: true, ..Rendered::default() };
        let output = said_by(&mut rendered, "system").marker(MESSAGE).text(system);
        if !self.like_cookbook && messages.first().is_some_and(|message| !message.tools.is_empty()) {
            output.text("\n").text(CALLS_GO_TO);
        }
        output.marker(END);
        Some(rendered)
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let role = message.role.as_str();
        if role != "assistant" && !message.tool_calls.is_empty() {
            return Err(at.invalid(".tool_calls", "only an assistant can call tools"));
        }
        if !message.tools.is_empty() && (role != "system" || 0 < at.index) {
            return Err(at.invalid(".tools", "tools are declared by a system message at the beginning"));
        }
        match role {
            "assistant" => self.answer(at),
            "system" => self.instructions(at),
            "tool" => self.result(at),
            "user" | "developer" => {
                let mut rendered = Rendered::default();
                said_by(&mut rendered, role).marker(MESSAGE).text(at.only_text(NAME)?).marker(END);
                Ok(rendered)
            }
            other => {
                let problem = format!(
                    "{other:?} is not a role of {NAME}; they are system, developer, user, assistant and tool"
                );
                Err(at.invalid(".role", problem))
            }
        }
    }

    fn suffix(&self, role: &str, _at: &At<'_>) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.marker(START).text(if role == "system" { "developer" } else { role });
        pieces
    }

    fn stop(&self) -> Ends {
        Ends::Markers(&[RETURN, CALL])
    }

    fn splits(&self) -> Splits {
        Splits::AtAnswers
    }

    fn parse(&self, answer: Answer) -> Result<(Message, Termination)> {
        let (spans, termination) = answer.until(self.stop())?;
        if !termination.is_clean() {
            return Ok((Message::assistant(text_of(&spans)), termination));
        }
        let mut message = Message { role: "assistant".into(), ..Message::default() };
        let mut is_read = true;
        let mut from = 0;
        while from < spans.len() {
            let body = find(&spans, MESSAGE, from);
            let before = &spans[from..body.unwrap_or(spans.len())];
            // What stands before the last beginning belongs to nothing.
            let start =
                before.iter().rposition(|span| *span == Span::Marker(START)).map_or(from, |i| from + i);
            let end = body.and_then(|body| find(&spans, END, body)).map_or(spans.len(), |end| end + 1);
            is_read &= read(&spans[start..end], &mut message);
            from = end;
        }
        let has_something = !message.content.is_empty()
            || !message.tool_calls.is_empty()
            || !message.unparsed_tool_calls.is_empty();
        if !is_read && !has_something {
            message = Message::assistant(text_of(&spans));
        }
        Ok((message, termination))
    }
}

/// Begins a message of a role, and returns its output.
fn said_by<'a>(rendered: &'a mut Rendered, role: &str) -> &'a mut Pieces {
    rendered.header().marker(START).text(role);
    rendered.output()
}

/// Reads one message of an answer, with its end. Returns false if it is neither a call nor in a known channel.
fn read(spans: &[Span], message: &mut Message) -> bool {
    let body = find(spans, MESSAGE, 0);
    let header = &spans[..body.unwrap_or(spans.len())];
    let text = body.map(|body| match &spans[body + 1..] {
        [text @ .., Span::Marker(END)] => text_of(text),
        text => text_of(text),
    });
    if let Some(name) = words(header).find_map(|word| word.strip_prefix("to=")?.strip_prefix(FUNCTIONS)) {
        match call(name, text.as_deref()) {
            Ok(call) => message.tool_calls.push(call),
            Err(error) => message.unparsed_tool_calls.push(unparsed(&text_of(spans), error)),
        }
        return true;
    }
    let channel = find(header, CHANNEL, 0).and_then(|at| words(&header[at..]).next());
    match (channel, text) {
        (Some("analysis"), Some(text)) if !text.is_empty() => message.content.push(Part::Thinking(text)),
        (Some("final" | "commentary"), Some(text)) if !text.is_empty() => {
            message.content.push(Part::Text(text))
        }
        (Some("analysis" | "final" | "commentary"), Some(_)) => {}
        _ => return false,
    }
    true
}

/// The words of the texts of a header.
fn words(header: &[Span]) -> impl Iterator<Item = &str> {
    let texts = header.iter().filter_map(|span| match span {
        Span::Text(text) => Some(text.as_str()),
        Span::Marker(_) => None,
    });
    texts.flat_map(str::split_whitespace)
}

fn call(name: &str, arguments: Option<&str>) -> Result<ToolCall, String> {
    let arguments = arguments.unwrap_or_default().trim();
    if name.is_empty() {
        return Err("the call does not name a function".into());
    }
    if arguments.is_empty() {
        return Err(format!("the call of {name} has no arguments; {{}} stands for none"));
    }
    match Json::read(arguments) {
        Ok(Json::Object(_)) => {
            Ok(ToolCall { id: None, name: name.to_owned(), arguments: arguments.to_owned() })
        }
        Ok(_) => Err(format!("the arguments of {name} are not a JSON object")),
        Err(error) => Err(format!("the arguments of {name} are not valid JSON: {error}")),
    }
}

/// The date of the system message. It is not taken from a clock: a prompt must not depend on the day it is made.
fn date(options: &RendererOptions) -> Result<&str> {
    let Some(date) = options.current_date.as_deref() else {
        let problem = "is missing; the system message of this renderer needs a date, such as 2026-11-27";
        return Err(Error::invalid("current_date", problem));
    };
    if !is_date(date) {
        let problem = format!("{date:?} is not a date of the form 2026-11-27");
        return Err(Error::invalid("current_date", problem));
    }
    Ok(date)
}

fn is_date(text: &str) -> bool {
    let is_form = text.len() == 10
        && text.bytes().enumerate().all(|(i, byte)| match i {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !is_form {
        return false;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().unwrap_or(0);
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}
