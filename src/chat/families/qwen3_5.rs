//! Qwen3.5 and Qwen3.6: as Qwen3, with an open thought in the prompt and calls in XML.

use std::sync::Arc;

use super::qwen3::{END, RESULT, RESULT_END, empty_thought, header, tool_json};
use crate::chat::answer::{Answer, Span, Termination, find, text_of};
use crate::chat::family::{At, Ends, Family, Splits};
use crate::chat::json::{Json, Style};
use crate::chat::message::{Message, Part, ToolCall, ToolSpec};
use crate::chat::pieces::{Pieces, Rendered};
use crate::chat::renderer::RendererOptions;
use crate::chat::tags::{
    Block, CALL, CALL_END, THINK, THINK_END, add_part, blocks, call_of_json, unparsed, unterminated,
};
use crate::error::Result;

const VISION: &str = "<|vision_start|>";
const VISION_END: &str = "<|vision_end|>";

#[derive(Debug)]
pub(in crate::chat) struct Qwen35 {
    thinks: bool,
    like_cookbook: bool,
}

impl Qwen35 {
    pub(in crate::chat) fn make(thinks: bool, options: &RendererOptions) -> Result<Arc<dyn Family>> {
        Ok(Arc::new(Qwen35 { thinks, like_cookbook: options.like_cookbook }))
    }

    /// The texts and images of a message, without white space at both ends, and its thoughts in their places.
    fn content(&self, at: &At<'_>, keeps_thoughts: bool) -> Vec<Pieces> {
        let mut parts = Vec::new();
        let mut visible = Pieces::default();
        for part in &at.message().content {
            match part {
                Part::Text(text) => {
                    visible.text(text);
                }
                Part::Image(image) => {
                    visible.marker(VISION).image(image).marker(VISION_END);
                }
                Part::Thinking(thought) if keeps_thoughts => {
                    parts.push(std::mem::take(&mut visible));
                    let mut block = Pieces::default();
                    let thought = if self.like_cookbook { thought } else { thought.trim() };
                    block.marker(THINK).text("\n").text(thought).text("\n").marker(THINK_END).text("\n\n");
                    parts.push(block);
                }
                Part::Thinking(_) => {}
            }
        }
        parts.push(visible);
        parts
    }

    fn answer(&self, at: &At<'_>, rendered: &mut Rendered) -> Result<()> {
        let message = at.message();
        let thinks = message.content.iter().any(|part| matches!(part, Part::Thinking(_)));
        let after_user = at.last_user().is_none_or(|user| user < at.index);
        let keeps_thoughts = at.is_last() || (!self.like_cookbook && after_user);
        let mut parts = self.content(at, keeps_thoughts);
        trim_visible(&mut parts);
        let has_text = parts.iter().any(is_visible);
        let mut block = Pieces::default();
        if after_user && !thinks {
            empty_thought(&mut block);
        }
        let mut whole = block;
        for part in parts {
            whole.extend(part);
        }
        let mut head = header(&message.role, at);
        let given = self.given();
        if at.is_last() && !thinks && whole.starts_with(&given) {
            // The prompt ends within the block of the empty thought, so that the rest is encoded apart.
            whole.remove_start(&given);
            head.extend(given);
            rendered.header().extend(head);
        } else if at.is_last() && whole.starts_with(&given) && !self.like_cookbook {
            rendered.header().extend(head);
            whole.remove_start(&given);
            rendered.output().extend(given);
        } else {
            let mut block = Pieces::default();
            empty_thought(&mut block);
            if after_user && !thinks && !at.is_last() {
                whole.remove_start(&block);
                head.extend(block);
            }
            rendered.header().extend(head);
        }
        let output = rendered.output();
        output.extend(whole);
        for (i, call) in message.tool_calls.iter().enumerate() {
            output.text(match (i, has_text) {
                (0, true) => "\n\n",
                (0, false) => "",
                _ => "\n",
            });
            self.call(at, i, call, output)?;
        }
        output.marker(END);
        Ok(())
    }

    /// The part of the thought that the prompt gives.
    fn given(&self) -> Pieces {
        let mut pieces = Pieces::default();
        if self.thinks {
            pieces.marker(THINK).text("\n");
        } else {
            empty_thought(&mut pieces);
        }
        pieces
    }

    fn style(&self) -> Style {
        if self.like_cookbook { Style::PYTHON } else { Style::TEMPLATE }
    }

    fn call(&self, at: &At<'_>, i: usize, call: &ToolCall, output: &mut Pieces) -> Result<()> {
        let arguments = Json::read(&at.arguments(i, call)?)
            .map_err(|error| at.invalid(&format!(".tool_calls[{i}].arguments"), error))?;
        output.marker(CALL).text(format!("\n<function={}>\n", call.name));
        for (name, value) in arguments.as_object().unwrap_or_default() {
            let value = match value {
                Json::Text(text) => text.clone(),
                Json::Null => "None".into(),
                Json::Bool(true) => "True".into(),
                Json::Bool(false) => "False".into(),
                other => other.write(self.style()),
            };
            output.text(format!("<parameter={name}>\n{value}\n</parameter>\n"));
        }
        output.text("</function>\n").marker(CALL_END);
        Ok(())
    }
}

impl Family for Qwen35 {
    fn markers(&self) -> &'static [&'static str] {
        &["<|im_start|>", END, THINK, THINK_END, CALL, CALL_END, RESULT, RESULT_END]
    }

    fn optional_markers(&self) -> &'static [&'static str] {
        &[VISION, VISION_END]
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let mut rendered = Rendered::default();
        at.thoughts_of_the_assistant_only()?;
        match message.role.as_str() {
            "assistant" => self.answer(at, &mut rendered)?,
            "tool" => {
                if at.previous_role() == Some("tool") {
                    rendered.header().text("\n");
                } else {
                    rendered.header().extend(header("user", at));
                }
                let mut parts = self.content(at, false);
                trim_visible(&mut parts);
                let output = rendered.output();
                output.marker(RESULT).text("\n");
                for part in parts {
                    output.extend(part);
                }
                output.text("\n").marker(RESULT_END);
                if at.next_role() != Some("tool") {
                    output.marker(END);
                }
            }
            role => {
                rendered.header().extend(header(role, at));
                let mut parts = self.content(at, false);
                trim_visible(&mut parts);
                let output = rendered.output();
                let has_text = parts.iter().any(is_visible);
                if !message.tools.is_empty() {
                    self.declare(&message.tools, at, output)?;
                    output.text(if has_text { "\n\n" } else { "" });
                }
                for part in parts {
                    output.extend(part);
                }
                output.marker(END);
            }
        }
        Ok(rendered)
    }

    fn suffix(&self, role: &str, at: &At<'_>) -> Pieces {
        let mut pieces = header(role, at);
        pieces.extend(self.given());
        pieces
    }

    fn stop(&self) -> Ends {
        Ends::Markers(&[END])
    }

    fn splits(&self) -> Splits {
        Splits::AtAnswers
    }

    fn refuses_thinking(&self, _at: &At<'_>) -> bool {
        !self.thinks
    }

    fn parse(&self, mut answer: Answer) -> Result<(Message, Termination)> {
        // The prompt has the beginning of the thought.
        let begins = answer.spans.first() == Some(&Span::Marker(THINK));
        if !begins && find(&answer.spans, THINK_END, 0).is_some() {
            answer.spans.splice(..0, [Span::Marker(THINK), Span::Text("\n".into())]);
        }
        let (spans, termination) = answer.until(self.stop())?;
        if !termination.is_clean() {
            return Ok((Message::assistant(text_of(&spans)), termination));
        }
        let mut message = Message { role: "assistant".into(), ..Message::default() };
        let mut after_thought = false;
        let blocks = blocks(&spans);
        for (i, block) in blocks.iter().enumerate() {
            match block {
                Block::Thinking(thought) => {
                    add_part(&mut message, Part::Thinking(thought.trim().to_owned()));
                    after_thought = true;
                }
                Block::Text(text) => {
                    let text = if after_thought { text.trim_start_matches('\n') } else { text };
                    let text = match blocks.get(i + 1) {
                        // White space before a call is part of the format.
                        Some(Block::Call(_)) => text.trim_end(),
                        _ => text,
                    };
                    add_part(&mut message, Part::Text(text.to_owned()));
                    after_thought = false;
                }
                Block::Call(inner) => {
                    let call =
                        if inner.contains("<function=") { call_of_xml(inner) } else { call_of_json(inner) };
                    match call {
                        Ok(call) => message.tool_calls.push(call),
                        Err(error) => {
                            let raw_text = format!("{CALL}{inner}{CALL_END}");
                            message.unparsed_tool_calls.push(unparsed(&raw_text, error));
                        }
                    }
                }
            }
        }
        message.unparsed_tool_calls.extend(unterminated(&spans, CALL, CALL_END));
        Ok((message, termination))
    }
}

impl Qwen35 {
    fn declare(&self, tools: &[ToolSpec], at: &At<'_>, output: &mut Pieces) -> Result<()> {
        output.text("# Tools\n\nYou have access to the following functions:\n\n<tools>");
        for (i, tool) in tools.iter().enumerate() {
            let mut tool = tool_json(tool, i, at)?;
            if !self.like_cookbook {
                tool = Json::object([("type", Json::text("function")), ("function", tool)]);
            }
            output.text("\n").text(tool.write(self.style()));
        }
        output.text(
            "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n",
        );
        output.marker(CALL).text(
            "\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n\
             <parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n\
             </parameter>\n</function>\n",
        );
        output.marker(CALL_END).text(
            "\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified format: an inner \
             <function=...></function> block must be nested within ",
        );
        output.marker(CALL).marker(CALL_END).text(
            " XML tags\n- Required parameters MUST be specified\n- You may provide optional reasoning for your function \
             call in natural language BEFORE the function call, but NOT after\n- If there is",
        );
        output.text(
            " no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls\n\
             </IMPORTANT>",
        );
        Ok(())
    }
}

fn is_visible(pieces: &Pieces) -> bool {
    !pieces.is_empty() && !pieces.starts_with_marker(THINK)
}

/// Removes white space around what the reader sees; thoughts stay as they are.
fn trim_visible(parts: &mut [Pieces]) {
    for part in parts.iter_mut().filter(|part| !part.starts_with_marker(THINK)) {
        part.trim_start();
        if !part.is_empty() {
            break;
        }
    }
    for part in parts.iter_mut().rev().filter(|part| !part.starts_with_marker(THINK)) {
        part.trim_end();
        if !part.is_empty() {
            break;
        }
    }
}

/// A call as `<function=name>` with its parameters.
fn call_of_xml(inner: &str) -> Result<ToolCall, String> {
    let rest = inner.trim().strip_prefix("<function=").ok_or("does not begin with <function=name>")?;
    let (name, rest) = rest.split_once('>').ok_or("'>' is missing after the name of the function")?;
    let name = name.trim();
    if name.is_empty() || name.contains('\n') {
        return Err("the name of the function is missing".into());
    }
    let body = rest.trim_end().strip_suffix("</function>").ok_or("does not end with </function>")?;
    let mut arguments: Vec<(String, Json)> = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let parameter = rest.strip_prefix("<parameter=").ok_or("has other text than parameters")?;
        let (key, parameter) =
            parameter.split_once('>').ok_or("'>' is missing after the name of a parameter")?;
        let (value, after) =
            parameter.split_once("</parameter>").ok_or("a parameter does not end with </parameter>")?;
        let key = key.trim();
        if key.is_empty() || key.contains('\n') {
            return Err("the name of a parameter is missing".into());
        }
        let value = value.trim();
        let value = match value {
            "None" => Json::Null,
            "True" => Json::Bool(true),
            "False" => Json::Bool(false),
            _ => Json::read(value).unwrap_or_else(|_| Json::text(value)),
        };
        match arguments.iter_mut().find(|(name, _)| name == key) {
            Some(argument) => argument.1 = value,
            None => arguments.push((key.to_owned(), value)),
        }
        rest = after.trim_start();
    }
    let arguments = Json::Object(arguments).write(Style::TEMPLATE);
    Ok(ToolCall { id: None, name: name.to_owned(), arguments })
}
