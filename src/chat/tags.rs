//! Thoughts and calls of tools between pairs of markers in an answer.

use super::answer::{Span, find, text_of};
use super::json::{Json, Style};
use super::message::{Message, Part, ToolCall, UnparsedToolCall};

pub(super) const THINK: &str = "<think>";
pub(super) const THINK_END: &str = "</think>";
pub(super) const CALL: &str = "<tool_call>";
pub(super) const CALL_END: &str = "</tool_call>";

/// The largest number of characters of a call that could not be read.
const MAX_RAW_TEXT: usize = 16_384;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Text(String),
    Thinking(String),
    /// What stands between the markers of a call.
    Call(String),
}

/// The blocks of an answer, in their order. Thoughts and calls that do not end are text.
pub(super) fn blocks(spans: &[Span]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut i = 0;
    while i < spans.len() {
        let end = match spans[i] {
            Span::Marker(THINK) => find(spans, THINK_END, i),
            Span::Marker(CALL) => find(spans, CALL_END, i),
            _ => None,
        };
        let Some(end) = end else {
            add_text(&mut blocks, &text_of(&spans[i..=i]));
            i += 1;
            continue;
        };
        let inner = text_of(&spans[i + 1..end]);
        blocks.push(match spans[i] {
            Span::Marker(THINK) => Block::Thinking(inner),
            _ => Block::Call(inner),
        });
        i = end + 1;
    }
    blocks
}

fn add_text(blocks: &mut Vec<Block>, text: &str) {
    match blocks.last_mut() {
        _ if text.is_empty() => {}
        Some(Block::Text(last)) => last.push_str(text),
        _ => blocks.push(Block::Text(text.to_owned())),
    }
}

/// Appends a part to a message; neighbouring texts become one, and empty parts none.
pub(super) fn add_part(message: &mut Message, part: Part) {
    match (message.content.last_mut(), part) {
        (_, Part::Text(text) | Part::Thinking(text)) if text.is_empty() => {}
        (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
        (_, part) => message.content.push(part),
    }
}

/// A call of a tool, as an object with `name` and `arguments`.
pub(super) fn call_of_json(inner: &str) -> Result<ToolCall, String> {
    let json = Json::read(inner.trim()).map_err(|error| format!("Invalid JSON: {error}"))?;
    if json.as_object().is_none() {
        return Err("the call of a tool is not a JSON object".into());
    }
    let name = json.get("name").and_then(Json::as_text).ok_or("'name' is missing or not a text")?;
    let arguments = json.get("arguments").filter(|arguments| arguments.as_object().is_some());
    let arguments = arguments.ok_or("'arguments' is missing or not an object")?;
    let id = json.get("id").and_then(Json::as_text);
    Ok(ToolCall {
        id: id.map(str::to_owned),
        name: name.to_owned(),
        arguments: arguments.write(Style::TEMPLATE),
    })
}

/// A call that could not be read.
pub(super) fn unparsed(raw_text: &str, error: impl Into<String>) -> UnparsedToolCall {
    UnparsedToolCall { raw_text: raw_text.chars().take(MAX_RAW_TEXT).collect(), error: error.into() }
}

/// The last block of calls that begins and does not end.
pub(super) fn unterminated(
    spans: &[Span],
    open: &'static str,
    close: &'static str,
) -> Option<UnparsedToolCall> {
    let count = |marker| spans.iter().filter(|span| **span == Span::Marker(marker)).count();
    if count(open) <= count(close) {
        return None;
    }
    let last = spans.iter().rposition(|span| *span == Span::Marker(open))?;
    let error = format!("unterminated tool block: '{open}' opened without a matching '{close}'");
    Some(unparsed(&text_of(&spans[last..]), error))
}
