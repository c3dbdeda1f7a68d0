//! Qwen2.5 and Qwen3: `<|im_start|>role`, text, `<|im_end|>`.

use std::sync::Arc;

use crate::chat::answer::{Answer, Termination, text_of};
use crate::chat::family::{At, Ends, Family, Splits};
use crate::chat::json::{Json, Style};
use crate::chat::message::{Message, Part, ToolCall, ToolSpec};
use crate::chat::pieces::{Pieces, Rendered};
use crate::chat::renderer::RendererOptions;
use crate::chat::tags::{
    Block, CALL, CALL_END, THINK, THINK_END, add_part, blocks, call_of_json, unparsed, unterminated,
};
use crate::error::Result;

const START: &str = "<|im_start|>";
pub(super) const END: &str = "<|im_end|>";
pub(super) const RESULT: &str = "<tool_response>";
pub(super) const RESULT_END: &str = "</tool_response>";

/// What Qwen2.5's template writes if there is no system message.
const QWEN25_SYSTEM: &str = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum Variant {
    /// Qwen3, which thinks.
    Thinking,
    /// Qwen3, told not to think by an empty thought.
    Disabled,
    /// Qwen3 of July 2025, which does not think.
    Instruct,
    /// Qwen2.5 Instruct.
    Qwen25,
}

#[derive(Debug)]
pub(in crate::chat) struct Qwen3 {
    variant: Variant,
    like_cookbook: bool,
}

impl Qwen3 {
    pub(in crate::chat) fn make(variant: Variant, options: &RendererOptions) -> Result<Arc<dyn Family>> {
        Ok(Arc::new(Qwen3 { variant, like_cookbook: options.like_cookbook }))
    }

    /// True if answers are written with a block of thoughts, empty if there is none.
    fn frames(&self) -> bool {
        matches!(self.variant, Variant::Thinking | Variant::Disabled)
    }

    /// The content of an answer, without calls. Returns whether it has text.
    fn content(&self, at: &At<'_>, rendered: &mut Rendered) -> Result<bool> {
        let message = at.message();
        let thinks = message.content.iter().any(|part| matches!(part, Part::Thinking(_)));
        let is_assistant = message.role == "assistant";
        let after_user = at.last_user().is_some_and(|user| user < at.index);
        // The templates keep the thoughts of the whole turn, the cookbook those of the last message.
        let framed = is_assistant
            && self.frames()
            && match (at.is_last(), self.like_cookbook) {
                (true, _) => at.last_user().is_some() || self.variant == Variant::Disabled,
                (false, true) => false,
                (false, false) => after_user && thinks,
            };
        let keeps_thoughts = !is_assistant || at.is_last() || framed;
        let mut pieces = Pieces::default();
        let mut after_block = framed && !thinks;
        let mut has_text = false;
        for (i, part) in message.content.iter().enumerate() {
            match part {
                Part::Thinking(_) if !keeps_thoughts => {}
                Part::Thinking(thought) if framed => {
                    let thought = thought.trim_matches('\n');
                    pieces.marker(THINK).text("\n").text(thought).text("\n").marker(THINK_END).text("\n\n");
                    after_block = true;
                    has_text |= self.like_cookbook;
                }
                Part::Thinking(thought) => {
                    pieces.marker(THINK).text(thought).marker(THINK_END);
                    has_text |= self.like_cookbook;
                }
                Part::Text(text) => {
                    let text = if after_block { text.trim_start_matches('\n') } else { text };
                    pieces.text(text);
                    has_text |= !text.is_empty();
                    after_block = false;
                }
                Part::Image(_) => {
                    let problem = "is an image, which the format of qwen3 cannot write";
                    return Err(at.invalid(&format!(".content[{i}]"), problem));
                }
            }
        }
        if framed && !thinks {
            let block = match self.variant {
                // The prompt ends with the empty thought, so that it is encoded apart.
                Variant::Disabled => rendered.output(),
                _ => {
                    let mut whole = Pieces::default();
                    empty_thought(&mut whole);
                    whole.extend(pieces);
                    pieces = whole;
                    rendered.output().extend(pieces);
                    return Ok(has_text);
                }
            };
            empty_thought(block);
        }
        rendered.output().extend(pieces);
        Ok(has_text)
    }

    fn style(&self) -> Style {
        if self.like_cookbook { Style::PYTHON } else { Style::TEMPLATE }
    }

    fn call(&self, at: &At<'_>, i: usize, call: &ToolCall) -> Result<Json> {
        let arguments = Json::read(&at.arguments(i, call)?)
            .map_err(|error| at.invalid(&format!(".tool_calls[{i}].arguments"), error))?;
        Ok(Json::object([("name", Json::text(&call.name)), ("arguments", arguments)]))
    }
}

impl Family for Qwen3 {
    fn markers(&self) -> &'static [&'static str] {
        match self.variant {
            // The tokenizer of Qwen2.5 has no tokens for thoughts and results.
            Variant::Qwen25 => &[START, END, CALL, CALL_END],
            _ => &[START, END, THINK, THINK_END, CALL, CALL_END, RESULT, RESULT_END],
        }
    }

    fn opening(&self, messages: &[Message]) -> Option<Rendered> {
        let has_system = messages.first().is_some_and(|message| message.role == "system");
        if self.variant != Variant::Qwen25 || has_system {
            return None;
        }
        let mut rendered = Rendered::default();
        rendered.header().marker(START).text("system\n");
        rendered.output().text(QWEN25_SYSTEM).marker(END);
        Some(rendered)
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        at.thoughts_of_the_assistant_only()?;
        let mut rendered = Rendered::default();
        let is_tool = message.role == "tool";
        let groups = is_tool && !self.like_cookbook;
        if groups && at.previous_role() == Some("tool") {
            rendered.header().text("\n");
        } else {
            rendered.header().extend(header(if is_tool { "user" } else { &message.role }, at));
        }
        if is_tool {
            let output = rendered.output();
            let text = at.text_without_images("qwen3")?;
            match self.variant {
                Variant::Qwen25 => {
                    output.text(RESULT).text("\n").text(text).text("\n").text(RESULT_END);
                }
                _ => {
                    output.marker(RESULT).text("\n").text(text).text("\n").marker(RESULT_END);
                }
            }
            if !(groups && at.next_role() == Some("tool")) {
                output.marker(END);
            }
            return Ok(rendered);
        }
        let mut has_text = self.content(at, &mut rendered)?;
        // `content` begins at least one output.
        let output = match rendered.segments.last_mut() {
            Some((_, pieces)) => pieces,
            None => rendered.output(),
        };
        if !message.tools.is_empty() {
            if self.variant == Variant::Qwen25 && !has_text {
                output.text(QWEN25_SYSTEM);
                has_text = true;
            }
            output.text(if has_text { "\n\n" } else { "" });
            declare(&message.tools, self.style(), at, output)?;
        }
        for (i, call) in message.tool_calls.iter().enumerate() {
            output.text(if has_text || 0 < i { "\n" } else { "" });
            let call = self.call(at, i, call)?.write(self.style());
            output.marker(CALL).text("\n").text(call).text("\n").marker(CALL_END);
        }
        output.marker(END);
        Ok(rendered)
    }

    fn suffix(&self, role: &str, at: &At<'_>) -> Pieces {
        let mut pieces = header(role, at);
        if self.variant == Variant::Disabled {
            empty_thought(&mut pieces);
        }
        pieces
    }

    fn stop(&self) -> Ends {
        Ends::Markers(&[END])
    }

    fn splits(&self) -> Splits {
        if self.frames() { Splits::AtAnswers } else { Splits::Whole }
    }

    fn refuses_thinking(&self, at: &At<'_>) -> bool {
        match self.variant {
            Variant::Thinking => false,
            Variant::Disabled => true,
            Variant::Instruct => !self.like_cookbook && !at.is_last(),
            Variant::Qwen25 => !self.like_cookbook,
        }
    }

    fn parse(&self, answer: Answer) -> Result<(Message, Termination)> {
        let (spans, termination) = answer.until(self.stop())?;
        if !termination.is_clean() {
            return Ok((Message::assistant(text_of(&spans)), termination));
        }
        let mut message = Message { role: "assistant".into(), ..Message::default() };
        let mut after_block = false;
        let blocks = blocks(&spans);
        for (i, block) in blocks.iter().enumerate() {
            match block {
                Block::Thinking(thought) => {
                    let framed = self.frames();
                    let thought = if framed { thought.trim_matches('\n') } else { thought };
                    add_part(&mut message, Part::Thinking(thought.to_owned()));
                    after_block = framed;
                }
                Block::Text(text) => {
                    let text = if after_block { text.trim_start_matches('\n') } else { text };
                    // The newline before a call is part of the format.
                    let text = match blocks.get(i + 1) {
                        Some(Block::Call(_)) => text.strip_suffix('\n').unwrap_or(text),
                        _ => text,
                    };
                    add_part(&mut message, Part::Text(text.to_owned()));
                    after_block = false;
                }
                Block::Call(inner) => match call_of_json(inner) {
                    Ok(call) => message.tool_calls.push(call),
                    Err(error) => {
                        let raw_text = format!("{CALL}{inner}{CALL_END}");
                        message.unparsed_tool_calls.push(unparsed(&raw_text, error));
                    }
                },
            }
        }
        message.unparsed_tool_calls.extend(unterminated(&spans, CALL, CALL_END));
        Ok((message, termination))
    }
}

pub(super) fn header(role: &str, at: &At<'_>) -> Pieces {
    let mut pieces = Pieces::default();
    pieces.text(if at.is_first { "" } else { "\n" }).marker(START).text(role).text("\n");
    pieces
}

pub(super) fn empty_thought(pieces: &mut Pieces) {
    pieces.marker(THINK).text("\n\n").marker(THINK_END).text("\n\n");
}

/// A tool as the templates give it to the model.
pub(super) fn tool_json(tool: &ToolSpec, i: usize, at: &At<'_>) -> Result<Json> {
    let parameters = Json::read(&tool.parameters).map_err(|error| {
        at.invalid(&format!(".tools[{i}].parameters"), format!("not valid JSON: {error}"))
    })?;
    let function = Json::object([
        ("name", Json::text(&tool.name)),
        ("description", Json::text(&tool.description)),
        ("parameters", parameters),
    ]);
    Ok(function)
}

fn declare(tools: &[ToolSpec], style: Style, at: &At<'_>, output: &mut Pieces) -> Result<()> {
    output.text(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function \
         signatures within <tools></tools> XML tags:\n<tools>",
    );
    for (i, tool) in tools.iter().enumerate() {
        let function = tool_json(tool, i, at)?;
        let tool = Json::object([("type", Json::text("function")), ("function", function)]);
        output.text("\n").text(tool.write(style));
    }
    output.text(
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ",
    );
    output.marker(CALL).marker(CALL_END).text(" XML tags:\n").marker(CALL);
    output.text("\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n").marker(CALL_END);
    Ok(())
}
