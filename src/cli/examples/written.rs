//! Examples as lines of another format.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tinkex::chat::{Message, Part, ToolCall, ToolSpec};
use tinkex::types::ImageFormat;

use super::format::DataFormat;
use super::line::Content;
use super::pairs::Pairs;

/// The line of an example in another format; `None` for a tie, of which no format but that of ties knows a better answer.
///
/// # Errors
/// Says why the example cannot be written in this format.
pub(crate) fn line(content: &Content, to: DataFormat) -> Result<Option<String>, String> {
    let fields = match (content, to) {
        (Content::Preference(preference), _) => {
            let Some((chosen, rejected)) = preference.chosen_and_rejected() else { return Ok(None) };
            let (tools, prompt) = split_tools(&preference.prompt);
            match to {
                DataFormat::Preference => vec![
                    ("prompt", messages(&prompt, false)),
                    ("chosen", messages(chosen, false)),
                    ("rejected", messages(rejected, false)),
                ]
                .into_iter()
                .chain(tools)
                .collect(),
                DataFormat::Completion => {
                    vec![("prompt", messages(&prompt, false)), ("completion", messages(chosen, false))]
                        .into_iter()
                        .chain(tools)
                        .collect()
                }
                DataFormat::Chat => {
                    let all: Vec<Message> = prompt.iter().chain(chosen).cloned().collect();
                    [("messages", messages(&all, false))].into_iter().chain(tools).collect()
                }
                DataFormat::Text | DataFormat::Tokens => return Err(refused("preference", to)),
            }
        }
        (Content::Chat(chat), DataFormat::Chat) => {
            let (tools, list) = split_tools(&chat.messages);
            [("messages", messages(&list, true))].into_iter().chain(tools).collect()
        }
        (Content::Chat(chat), DataFormat::Completion) => {
            let (tools, list) = split_tools(&chat.messages);
            let Some(last) = list.iter().rposition(is_answer) else {
                return Err("messages: no answer is trained, which a completion needs".into());
            };
            let (prompt, rest) = list.split_at(last);
            if prompt.is_empty() {
                return Err("messages: nothing comes before the answer, which a completion needs".into());
            }
            vec![("prompt", messages(prompt, false)), ("completion", messages(&rest[..1], false))]
                .into_iter()
                .chain(tools)
                .collect()
        }
        (Content::Completion(it), DataFormat::Completion) => {
            vec![("prompt", text(&it.prompt)), ("completion", text(&it.completion))]
        }
        (Content::Completion(it), DataFormat::Chat) => {
            let list = [Message::user(it.prompt.as_str()), Message::assistant(it.completion.as_str())];
            vec![("messages", messages(&list, false))]
        }
        (Content::Chat(_), _) => return Err(refused("chat", to)),
        (Content::Completion(_), _) => return Err(refused("completion", to)),
        (Content::Text(_), _) => return Err(refused("text", to)),
        (Content::Tokens(_), _) => return Err(refused("tokens", to)),
    };
    Ok(Some(object(fields)))
}

/// True for a message of the assistant that the data do not keep from being trained.
fn is_answer(message: &Message) -> bool {
    message.role == "assistant" && message.trainable != Some(false)
}

/// True if an example trains answers that its line in another format does not train.
pub(crate) fn trains_less(content: &Content, to: DataFormat) -> bool {
    match (content, to) {
        (Content::Chat(chat), DataFormat::Completion) => {
            1 < chat.messages.iter().filter(|it| is_answer(it)).count()
        }
        _ => false,
    }
}

fn refused(from: &str, to: DataFormat) -> String {
    let possible = match from {
        "chat" | "completion" => "; it can be to chat and completion: only preferences have a second answer",
        "preference" => "; it can be to chat, completion and preference",
        _ => " or to another one: it has no question and answer",
    };
    format!("the format {from} cannot be converted to {}{possible}", to.name())
}

fn object(fields: Vec<(&str, String)>) -> String {
    Pairs::text(fields.iter().map(|(key, raw)| (*key, raw.as_str())))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn text(text: &str) -> String {
    Value::from(text).to_string()
}

/// The tools of a conversation as a field of the line, and the messages without them.
fn split_tools(all: &[Message]) -> (Option<(&'static str, String)>, Vec<Message>) {
    let mut messages = all.to_vec();
    let tools = messages.first_mut().map(|first| std::mem::take(&mut first.tools)).unwrap_or_default();
    if tools.is_empty() {
        return (None, messages);
    }
    // The message that was made for the tools alone.
    if messages.first().is_some_and(|first| first.role == "system" && first.text().is_empty()) {
        messages.remove(0);
    }
    (Some(("tools", list(tools.iter().map(tool)))), messages)
}

fn tool(tool: &ToolSpec) -> String {
    let function = object(vec![
        ("name", text(&tool.name)),
        ("description", text(&tool.description)),
        ("parameters", tool.parameters.clone()),
    ]);
    object(vec![("type", text("function")), ("function", function)])
}

fn messages(all: &[Message], with_flags: bool) -> String {
    list(all.iter().map(|it| message(it, with_flags)))
}

fn message(message: &Message, with_flags: bool) -> String {
    let mut fields = vec![("role", text(&message.role))];
    let (thinking, content) = match message.content.split_first() {
        Some((Part::Thinking(thinking), rest)) => (Some(thinking), rest),
        _ => (None, message.content.as_slice()),
    };
    let content = match content {
        [] if !message.tool_calls.is_empty() => "null".to_owned(),
        [] => text(""),
        [Part::Text(one)] => text(one),
        parts => list(parts.iter().map(part)),
    };
    fields.extend(thinking.map(|it| ("reasoning_content", text(it))));
    fields.push(("content", content));
    if !message.tool_calls.is_empty() {
        fields.push(("tool_calls", list(message.tool_calls.iter().map(call))));
    }
    fields.extend(message.tool_call_id.as_deref().map(|id| ("tool_call_id", text(id))));
    fields.extend(message.name.as_deref().map(|name| ("name", text(name))));
    if let Some(trainable) = message.trainable.filter(|_| with_flags) {
        fields.push(("weight", u8::from(trainable).to_string()));
    }
    object(fields)
}

fn part(part: &Part) -> String {
    match part {
        Part::Thinking(it) => object(vec![("type", text("thinking")), ("thinking", text(it))]),
        Part::Image(image) => {
            let kind = if image.format == ImageFormat::Png { "png" } else { "jpeg" };
            let url = format!("data:image/{kind};base64,{}", STANDARD.encode(&image.data));
            let mut fields =
                vec![("type", text("image_url")), ("image_url", object(vec![("url", text(&url))]))];
            fields.extend(image.expected_tokens.map(|n| ("expected_tokens", n.to_string())));
            object(fields)
        }
        Part::Text(it) => object(vec![("type", text("text")), ("text", text(it))]),
        _ => "null".into(),
    }
}

fn call(call: &ToolCall) -> String {
    let function = object(vec![("name", text(&call.name)), ("arguments", text(&call.arguments))]);
    let mut fields: Vec<(&str, String)> = call.id.iter().map(|id| ("id", text(id))).collect();
    fields.push(("type", text("function")));
    fields.push(("function", function));
    object(fields)
}
