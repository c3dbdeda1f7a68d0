//! Kimi K2 Thinking and K2.5.

use std::sync::Arc;

use super::kimi_typescript;
use super::qwen3::tool_json;
use crate::chat::answer::{Answer, Span, Termination, find, text_of};
use crate::chat::family::{At, Ends, Family, Splits};
use crate::chat::json::{Json, Style};
use crate::chat::message::{Message, Part, ToolCall, ToolSpec};
use crate::chat::pieces::{Pieces, Rendered};
use crate::chat::renderer::RendererOptions;
use crate::chat::tags::{Block, THINK, THINK_END, add_part, blocks, unparsed, unterminated};
use crate::error::Result;

const USER: &str = "<|im_user|>";
const ASSISTANT: &str = "<|im_assistant|>";
const SYSTEM: &str = "<|im_system|>";
const MIDDLE: &str = "<|im_middle|>";
const END: &str = "<|im_end|>";
const CALLS: &str = "<|tool_calls_section_begin|>";
const CALLS_END: &str = "<|tool_calls_section_end|>";
const CALL: &str = "<|tool_call_begin|>";
const CALL_ARGUMENTS: &str = "<|tool_call_argument_begin|>";
const CALL_END: &str = "<|tool_call_end|>";
const MEDIA: &str = "<|media_begin|>";
const MEDIA_CONTENT: &str = "<|media_content|>";
const MEDIA_END: &str = "<|media_end|>";

/// How models write the markers of a section now and then: as text, because there are no such tokens.
const CALLS_MISSPELT: &str = "<|tool_call_section_begin|>";
const CALLS_END_MISSPELT: &str = "<|tool_call_section_end|>";

/// The system message of a conversation that has none.
const DEFAULT_SYSTEM: &str = "You are Kimi, an AI assistant created by Moonshot AI.";
const DECLARE: &str = "tool_declare";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum Variant {
    /// K2 Thinking, which decides itself whether it thinks.
    K2,
    /// K2.5, whose prompt begins a thought.
    K25,
    /// K2.5, told not to think by an empty thought.
    K25Disabled,
}

#[derive(Debug)]
pub(in crate::chat) struct Kimi {
    variant: Variant,
    like_cookbook: bool,
}

impl Kimi {
    pub(in crate::chat) fn make(variant: Variant, options: &RendererOptions) -> Result<Arc<dyn Family>> {
        Ok(Arc::new(Kimi { variant, like_cookbook: options.like_cookbook }))
    }

    fn name(&self) -> &'static str {
        match self.variant {
            Variant::K2 => "kimi_k2",
            Variant::K25 | Variant::K25Disabled => "kimi_k25",
        }
    }

    fn answer(&self, at: &At<'_>, rendered: &mut Rendered) -> Result<()> {
        let message = at.message();
        let text = at.text_without_images(self.name())?;
        let thought = message.thinking().filter(|_| at.in_last_turn()).unwrap_or_default();
        let output = rendered.output();
        output.marker(THINK).text(thought).marker(THINK_END).text(text);
        if !message.tool_calls.is_empty() {
            output.marker(CALLS);
            for (i, call) in message.tool_calls.iter().enumerate() {
                output.marker(CALL).text(self.call_id(at, i)).marker(CALL_ARGUMENTS);
                output.text(at.arguments(i, call)?).marker(CALL_END);
            }
            output.marker(CALLS_END);
        }
        output.marker(END);
        Ok(())
    }

    /// The id of a call. Calls without one are numbered by the template in the conversation, by the cookbook in the
    /// message.
    fn call_id(&self, at: &At<'_>, i: usize) -> String {
        let call = &at.message().tool_calls[i];
        match call.id.as_deref() {
            None | Some("") => {
                let before = if self.like_cookbook { 0 } else { calls_before(at) };
                format!("functions.{}:{}", call.name, before + i)
            }
            Some(id) => id.to_owned(),
        }
    }

    /// The id of the call that a result answers. The cookbook writes none if the result has none, the template that of
    /// the call in its place.
    fn answered_id(&self, at: &At<'_>) -> String {
        let message = at.message();
        match message.tool_call_id.as_deref() {
            Some(id) if !id.is_empty() => return id.to_owned(),
            _ if self.like_cookbook => return String::new(),
            _ => {}
        }
        let results =
            at.messages[..at.index].iter().rev().take_while(|message| message.role == "tool").count();
        let caller = (at.index - results).checked_sub(1).map(|index| At { index, ..*at });
        match caller.filter(|caller| results < caller.message().tool_calls.len()) {
            Some(caller) => self.call_id(&caller, results),
            None => {
                let name = message.name.as_deref().unwrap_or("unknown");
                format!("functions.{name}:{}", calls_before(at))
            }
        }
    }

    /// The content of a message that is not from the assistant.
    fn content(&self, at: &At<'_>, rendered: &mut Rendered) -> Result<()> {
        at.thoughts_of_the_assistant_only()?;
        if self.variant == Variant::K2 {
            at.text_without_images(self.name())?;
        }
        // The cookbook encodes each part on its own, but the mark of the end with the text if there is only one.
        let apart = self.like_cookbook && self.variant != Variant::K2;
        rendered.output();
        for (i, part) in at.message().content.iter().enumerate() {
            if apart && 0 < i {
                rendered.output();
            }
            let output = last(rendered);
            match part {
                Part::Image(image) => {
                    output.marker(MEDIA).text("image").marker(MEDIA_CONTENT).image(image);
                    output.marker(MEDIA_END).text("\n");
                }
                Part::Text(text) | Part::Thinking(text) => {
                    output.text(text);
                }
            }
        }
        last(rendered).marker(END);
        Ok(())
    }

    fn declare(&self, tools: &[ToolSpec], at: &At<'_>, rendered: &mut Rendered) -> Result<()> {
        if at.index != 0 || at.message().role != "system" {
            return Err(
                at.invalid(".tools", "tools are declared by a system message that is the first message")
            );
        }
        let text = match self.variant {
            Variant::K2 => {
                let mut list = Vec::new();
                for (i, tool) in tools.iter().enumerate() {
                    let function = tool_json(tool, i, at)?;
                    list.push(Json::object([("type", Json::text("function")), ("function", function)]));
                }
                let style = Style { comma: ",", colon: ":", ascii: self.like_cookbook, sorted: true };
                Json::List(list).write(style)
            }
            Variant::K25 | Variant::K25Disabled => kimi_typescript::declaration(tools)
                .map_err(|(i, problem)| at.invalid(&format!(".tools[{i}].parameters"), problem))?,
        };
        rendered.header().extend(header("system", DECLARE));
        rendered.output().text(text).marker(END);
        Ok(())
    }
}

impl Family for Kimi {
    fn markers(&self) -> &'static [&'static str] {
        &[
            USER,
            ASSISTANT,
            SYSTEM,
            MIDDLE,
            END,
            THINK,
            THINK_END,
            CALLS,
            CALLS_END,
            CALL,
            CALL_ARGUMENTS,
            CALL_END,
        ]
    }

    fn optional_markers(&self) -> &'static [&'static str] {
        match self.variant {
            Variant::K2 => &[],
            Variant::K25 | Variant::K25Disabled => &[MEDIA, MEDIA_CONTENT, MEDIA_END],
        }
    }

    fn opening(&self, messages: &[Message]) -> Option<Rendered> {
        if messages.first().is_some_and(|message| message.role == "system") {
            return None;
        }
        let mut rendered = Rendered::default();
        rendered.header().extend(header("system", "system"));
        rendered.output().text(DEFAULT_SYSTEM).marker(END);
        Some(rendered)
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let mut rendered = Rendered::default();
        if !message.tools.is_empty() {
            self.declare(&message.tools, at, &mut rendered)?;
        }
        if message.role == DECLARE {
            return Err(at.invalid(".role", "tools are declared by the tools of a system message"));
        }
        if message.role != "assistant" && !message.tool_calls.is_empty() {
            return Err(at.invalid(".tool_calls", "only an assistant can call tools"));
        }
        let name = match message.name.as_deref() {
            Some(name) if message.role == "tool" && !name.is_empty() => name,
            _ => &message.role,
        };
        rendered.header().extend(header(&message.role, name));
        match message.role.as_str() {
            "assistant" => self.answer(at, &mut rendered)?,
            "tool" => {
                last(&mut rendered).text(format!("## Return of {}\n", self.answered_id(at)));
                self.content(at, &mut rendered)?;
            }
            "system" if !message.tools.is_empty() && message.text().is_empty() => {
                at.only_text(self.name())?;
                rendered.output().text(DEFAULT_SYSTEM).marker(END);
            }
            _ => self.content(at, &mut rendered)?,
        }
        Ok(rendered)
    }

    fn suffix(&self, role: &str, _at: &At<'_>) -> Pieces {
        let mut pieces = header(role, role);
        match self.variant {
            Variant::K2 => &mut pieces,
            // The cookbook begins a thought for any role.
            _ if role != "assistant" && !self.like_cookbook => &mut pieces,
            Variant::K25 => pieces.marker(THINK),
            Variant::K25Disabled => pieces.marker(THINK).marker(THINK_END),
        };
        pieces
    }

    fn stop(&self) -> Ends {
        Ends::Markers(&[END])
    }

    fn splits(&self) -> Splits {
        Splits::AtTurns
    }

    /// A turn begins after the last answer that called no tool: only such an answer makes history of the thoughts
    /// before it.
    fn turn_start(&self, messages: &[Message]) -> usize {
        let ends_turn = |message: &Message| message.role == "assistant" && message.tool_calls.is_empty();
        messages.iter().rposition(ends_turn).map_or(0, |end| end + 1)
    }

    fn refuses_thinking(&self, _at: &At<'_>) -> bool {
        self.variant == Variant::K25Disabled
    }

    fn parse(&self, mut answer: Answer) -> Result<(Message, Termination)> {
        // The prompt of K2.5 has the beginning of the thought.
        let begins = answer.spans.first() == Some(&Span::Marker(THINK));
        if self.variant != Variant::K2 && !begins && find(&answer.spans, THINK_END, 0).is_some() {
            answer.spans.insert(0, Span::Marker(THINK));
        }
        let (spans, termination) = answer.until(self.stop())?;
        if !termination.is_clean() {
            return Ok((Message::assistant(text_of(&spans)), termination));
        }
        let mut spans = spelt(spans);
        let mut message = Message { role: "assistant".into(), ..Message::default() };
        let dangling =
            unterminated(&spans, CALLS, CALLS_END).or_else(|| unterminated(&spans, CALL, CALL_END));
        while let Some(start) = find(&spans, CALLS, 0)
            && let Some(end) = find(&spans, CALLS_END, start)
        {
            let section: Vec<Span> = spans.drain(start..=end).collect();
            read_calls(&section, &mut message);
        }
        message.unparsed_tool_calls.extend(dangling);
        for block in blocks(&spans) {
            match block {
                Block::Thinking(thought) => add_part(&mut message, Part::Thinking(thought)),
                Block::Text(text) => add_part(&mut message, Part::Text(text)),
                // The format has no such markers.
                Block::Call(_) => {}
            }
        }
        Ok((message, termination))
    }
}

/// The segment that was begun last. The caller has begun one.
fn last(rendered: &mut Rendered) -> &mut Pieces {
    if rendered.segments.is_empty() {
        rendered.output();
    }
    let last = rendered.segments.len() - 1;
    &mut rendered.segments[last].1
}

fn header(role: &str, name: &str) -> Pieces {
    let mut pieces = Pieces::default();
    let begin = match role {
        "user" => USER,
        "assistant" => ASSISTANT,
        _ => SYSTEM,
    };
    pieces.marker(begin).text(name).marker(MIDDLE);
    pieces
}

/// The number of calls in the messages before this one.
fn calls_before(at: &At<'_>) -> usize {
    at.messages[..at.index].iter().map(|message| message.tool_calls.len()).sum()
}

/// The spans with the misspelt markers of a section, where a call of a tool stands beside them, as markers.
fn spelt(spans: Vec<Span>) -> Vec<Span> {
    let mut spelt: Vec<Span> = Vec::with_capacity(spans.len());
    for (i, span) in spans.iter().enumerate() {
        let Span::Text(text) = span else {
            spelt.push(span.clone());
            continue;
        };
        let mut text = text.as_str();
        if spelt.last() == Some(&Span::Marker(CALL_END))
            && let Some(rest) = text.strip_prefix(CALLS_END_MISSPELT)
        {
            spelt.push(Span::Marker(CALLS_END));
            text = rest;
        }
        let begins = text.strip_suffix(CALLS_MISSPELT);
        let begins = begins.filter(|_| spans.get(i + 1) == Some(&Span::Marker(CALL)));
        let text = begins.unwrap_or(text);
        if !text.is_empty() {
            spelt.push(Span::Text(text.to_owned()));
        }
        if begins.is_some() {
            spelt.push(Span::Marker(CALLS));
        }
    }
    spelt
}

/// Reads the calls of a section. A call that does not end is left out.
fn read_calls(section: &[Span], message: &mut Message) {
    let mut from = 0;
    while let Some(start) = find(section, CALL, from) {
        let Some(end) = find(section, CALL_END, start) else { return };
        from = end + 1;
        match read_call(&section[start + 1..end]) {
            Ok(call) => message.tool_calls.push(call),
            Err(error) => {
                let raw_text = text_of(&section[start..=end]);
                message.unparsed_tool_calls.push(unparsed(&raw_text, error));
            }
        }
    }
}

/// Reads the id of a call and its arguments.
fn read_call(inner: &[Span]) -> std::result::Result<ToolCall, String> {
    let Some(separator) = find(inner, CALL_ARGUMENTS, 0) else {
        return Err(format!("{CALL_ARGUMENTS} is missing between the id of the call and its arguments"));
    };
    let id = text_of(&inner[..separator]).trim().to_owned();
    let numbered = id
        .rsplit_once(':')
        .filter(|(_, number)| !number.is_empty() && number.chars().all(|letter| letter.is_ascii_digit()));
    let name = numbered.map(|(path, _)| path.split_once('.').map_or(path, |(_, name)| name));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(format!("the id {id:?} of the call does not have the form functions.NAME:NUMBER"));
    };
    let arguments = text_of(&inner[separator + 1..]).trim().to_owned();
    match Json::read(&arguments) {
        Ok(Json::Object(_)) => Ok(ToolCall { name: name.to_owned(), id: Some(id), arguments }),
        Ok(_) => Err("the arguments are not a JSON object".into()),
        Err(error) => Err(format!("Invalid JSON: {error}")),
    }
}
