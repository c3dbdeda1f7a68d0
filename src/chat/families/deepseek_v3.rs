//! DeepSeek V3.1, with and without thoughts.

use std::sync::Arc;

use super::qwen3::tool_json;
use crate::chat::answer::{Answer, Span, Termination, find, text_of};
use crate::chat::family::{At, Begin, Ends, Family, Splits};
use crate::chat::json::{Json, Style};
use crate::chat::message::{Message, Part, ToolCall, ToolSpec};
use crate::chat::pieces::{Pieces, Rendered};
use crate::chat::renderer::RendererOptions;
use crate::chat::tags::{Block, THINK, THINK_END, add_part, blocks, unparsed, unterminated};
use crate::error::Result;

const BEGIN: &str = "<｜begin▁of▁sentence｜>";
const END: &str = "<｜end▁of▁sentence｜>";
const USER: &str = "<｜User｜>";
const ASSISTANT: &str = "<｜Assistant｜>";
const CALLS: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
const CALL: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const CALL_SEPARATOR: &str = "<｜tool▁sep｜>";
const RESULT: &str = "<｜tool▁output▁begin｜>";
const RESULT_END: &str = "<｜tool▁output▁end｜>";

#[derive(Debug)]
pub(in crate::chat) struct DeepSeekV3 {
    thinks: bool,
    like_cookbook: bool,
}

impl DeepSeekV3 {
    pub(in crate::chat) fn make(thinks: bool, options: &RendererOptions) -> Result<Arc<dyn Family>> {
        Ok(Arc::new(DeepSeekV3 { thinks, like_cookbook: options.like_cookbook }))
    }

    fn answer(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let mut rendered = Rendered::default();
        let follows_result = at.previous_role() == Some("tool");
        let has_calls = !message.tool_calls.is_empty();
        let has_thought = message.content.iter().any(|part| matches!(part, Part::Thinking(_)));
        let has_content = has_thought || !message.text().is_empty();
        let keeps_thoughts = if self.thinks {
            at.is_last() || (self.like_cookbook && has_calls)
        } else {
            // The cookbook leaves a thought after the result of a tool as it is.
            self.like_cookbook && follows_result && (at.is_last() || has_calls)
        };
        if !follows_result {
            let header = rendered.header();
            header.marker(ASSISTANT);
            if !self.thinks || !at.is_last() {
                header.marker(THINK_END);
            }
        }
        let output = rendered.output();
        if self.thinks
            && !follows_result
            && at.is_last()
            && !has_thought
            && (has_content || !self.like_cookbook)
        {
            output.marker(THINK).marker(THINK_END);
        }
        for (i, part) in message.content.iter().enumerate() {
            match part {
                Part::Thinking(thought) if keeps_thoughts => {
                    output.marker(THINK).text(thought).marker(THINK_END);
                }
                Part::Thinking(_) => {}
                Part::Text(text) => {
                    output.text(text);
                }
                Part::Image(_) => {
                    let problem = "is an image, which the format of deepseekv3 cannot write";
                    return Err(at.invalid(&format!(".content[{i}]"), problem));
                }
            }
        }
        if has_calls {
            output.marker(CALLS);
            for (i, call) in message.tool_calls.iter().enumerate() {
                output.marker(CALL).text(&call.name).marker(CALL_SEPARATOR);
                output.text(at.arguments(i, call)?).marker(CALL_END);
            }
            output.marker(CALLS_END);
        }
        let has_content = if self.thinks {
            has_content
        } else {
            has_content && (keeps_thoughts || !message.text().is_empty() || follows_result)
        };
        if has_content || !self.like_cookbook {
            output.marker(END);
        }
        Ok(rendered)
    }
}

impl Family for DeepSeekV3 {
    fn markers(&self) -> &'static [&'static str] {
        &[
            BEGIN,
            END,
            USER,
            ASSISTANT,
            THINK,
            THINK_END,
            CALLS,
            CALLS_END,
            CALL,
            CALL_END,
            CALL_SEPARATOR,
            RESULT,
            RESULT_END,
        ]
    }

    fn begin(&self) -> Begin {
        Begin::Marker(BEGIN)
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        let message = at.message();
        let mut rendered = Rendered::default();
        if message.role != "system" && !message.tools.is_empty() {
            return Err(at.invalid(".tools", "only a system message declares tools"));
        }
        match message.role.as_str() {
            "system" if at.index == 0 => {
                let output = rendered.output();
                output.text(at.only_text("deepseekv3")?);
                declare(&message.tools, self.like_cookbook, at, output)?;
            }
            "system" => {
                let problem = "a system message must be the first message in the format of deepseekv3";
                return Err(at.invalid(".role", problem));
            }
            "user" => {
                rendered.header().marker(USER);
                rendered.output().text(at.only_text("deepseekv3")?);
            }
            "tool" => {
                rendered.header().marker(RESULT);
                rendered.output().text(at.only_text("deepseekv3")?).marker(RESULT_END);
            }
            "assistant" => return self.answer(at),
            role => {
                let problem = format!("{role:?} is not a role of the format of deepseekv3");
                return Err(at.invalid(".role", problem));
            }
        }
        Ok(rendered)
    }

    fn suffix(&self, _role: &str, at: &At<'_>) -> Pieces {
        let mut pieces = Pieces::default();
        if at.previous_role() != Some("tool") {
            pieces.marker(ASSISTANT).marker(if self.thinks { THINK } else { THINK_END });
        }
        pieces
    }

    fn stop(&self) -> Ends {
        Ends::Markers(&[END])
    }

    fn splits(&self) -> Splits {
        if self.thinks { Splits::AtAnswers } else { Splits::Whole }
    }

    fn refuses_thinking(&self, _at: &At<'_>) -> bool {
        !self.thinks && !self.like_cookbook
    }

    fn parse(&self, mut answer: Answer) -> Result<(Message, Termination)> {
        // The prompt has the beginning of the thought.
        let begins = answer.spans.first() == Some(&Span::Marker(THINK));
        if self.thinks && !begins && find(&answer.spans, THINK_END, 0).is_some() {
            answer.spans.insert(0, Span::Marker(THINK));
        }
        let (mut spans, termination) = answer.until(self.stop())?;
        if !termination.is_clean() {
            return Ok((Message::assistant(text_of(&spans)), termination));
        }
        let mut message = Message { role: "assistant".into(), ..Message::default() };
        let section = find(&spans, CALLS, 0).and_then(|start| Some(start..=find(&spans, CALLS_END, start)?));
        if let Some(section) = section {
            let section: Vec<Span> = spans.drain(section).collect();
            calls(&section, &mut message);
        }
        let dangling = unterminated(&spans, CALLS, CALLS_END);
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

/// Reads the calls between the markers of a section.
fn calls(section: &[Span], message: &mut Message) {
    let mut from = 0;
    while let Some(start) = find(section, CALL, from) {
        let Some(end) = find(section, CALL_END, start) else {
            message.unparsed_tool_calls.extend(unterminated(&section[start..], CALL, CALL_END));
            return;
        };
        from = end + 1;
        let raw_text = text_of(&section[start..=end]);
        let Some(separator) = find(section, CALL_SEPARATOR, start).filter(|separator| *separator < end)
        else {
            let error = format!("{CALL_SEPARATOR} is missing between the name of the tool and its arguments");
            message.unparsed_tool_calls.push(unparsed(&raw_text, error));
            continue;
        };
        let name = text_of(&section[start + 1..separator]);
        let arguments = text_of(&section[separator + 1..end]).trim().to_owned();
        match Json::read(&arguments) {
            _ if name.is_empty() => {
                message.unparsed_tool_calls.push(unparsed(&raw_text, "the name of the tool is missing"));
            }
            Ok(_) => message.tool_calls.push(ToolCall { id: None, name, arguments }),
            Err(error) => {
                let error = format!("Invalid JSON: {error}");
                message.unparsed_tool_calls.push(unparsed(&raw_text, error));
            }
        }
    }
}

fn declare(tools: &[ToolSpec], like_cookbook: bool, at: &At<'_>, output: &mut Pieces) -> Result<()> {
    if tools.is_empty() {
        return Ok(());
    }
    let style = if like_cookbook { Style::PYTHON } else { Style::TEMPLATE };
    output.text("\n\n## Tools\nYou have access to the following tools:\n\n");
    for (i, tool) in tools.iter().enumerate() {
        output.text(if i == 0 { "" } else { "\n" });
        output.text(format!("### {}\nDescription: {}\n\nParameters: ", tool.name, tool.description));
        let parameters = tool_json(tool, i, at)?;
        output.text(parameters.get("parameters").map(|json| json.write(style)).unwrap_or_default());
    }
    output.text("\n\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
    output
        .marker(CALLS)
        .marker(CALL)
        .text("tool_call_name")
        .marker(CALL_SEPARATOR)
        .text("tool_call_arguments");
    output.marker(CALL_END).marker(CALLS_END);
    output.text(
        "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n- `tool_call_arguments` must \
         be valid JSON that strictly follows the tool's Parameters Schema\n- For multiple tool calls, chain them directly \
         without separators or spaces",
    );
    Ok(())
}
