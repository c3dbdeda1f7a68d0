//! Reads messages and tools in the formats of OpenAI, TRL and ShareGPT.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::json::{Object, UnknownKeys, Value};
use crate::chat::{Image, Message, Part, ToolCall, ToolSpec};
use crate::error::{Error, Result};
use crate::types::ImageFormat;

const KEYS: [&str; 9] = [
    "role",
    "content",
    "reasoning_content",
    "thinking",
    "tool_calls",
    "tool_call_id",
    "name",
    "weight",
    "trainable",
];

/// Messages as OpenAI writes them.
pub(super) fn messages(value: &Value<'_>) -> Result<Vec<Message>> {
    non_empty(value)?.iter().map(message).collect()
}

/// Messages as ShareGPT writes them.
pub(super) fn sharegpt(value: &Value<'_>) -> Result<Vec<Message>> {
    non_empty(value)?.iter().map(sharegpt_message).collect()
}

fn non_empty<'a>(value: &Value<'a>) -> Result<Vec<Value<'a>>> {
    let items = value.list()?;
    if items.is_empty() { Err(value.invalid("has no messages")) } else { Ok(items) }
}

fn message(value: &Value<'_>) -> Result<Message> {
    let object = value.object()?;
    object.only(&KEYS)?;
    let role = object.need("role")?;
    let mut message = Message { role: role.text()?, ..Message::default() };
    if message.role.trim().is_empty() {
        return Err(role.invalid("must not be empty"));
    }
    message.content = match object.given("content") {
        Some(content) => parts(&content)?,
        None => Vec::new(),
    };
    if let Some(thinking) = one_of(&object, "reasoning_content", "thinking")? {
        message.content.insert(0, Part::Thinking(thinking.text()?));
    }
    if let Some(calls) = object.given("tool_calls") {
        message.tool_calls = calls.list()?.iter().map(tool_call).collect::<Result<_>>()?;
    }
    if message.content.is_empty() && message.tool_calls.is_empty() {
        return Err(value.invalid("has neither content nor tool calls"));
    }
    message.tool_call_id = object.given("tool_call_id").map(|id| id.text()).transpose()?;
    message.name = object.given("name").map(|name| name.text()).transpose()?;
    message.trainable = trainable(&object)?;
    Ok(message)
}

fn sharegpt_message(value: &Value<'_>) -> Result<Message> {
    let object = value.object()?;
    object.only(&["from", "value", "weight", "trainable"])?;
    let from = object.need("from")?;
    let name = from.text()?;
    let role = match name.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" => "assistant",
        "system" => "system",
        "tool" | "observation" => "tool",
        other => {
            let accepted = "human, user, gpt, assistant, system, tool, observation";
            return Err(from.invalid(format!("unknown speaker {other:?}; accepted: {accepted}")));
        }
    };
    let mut message = Message::new(role, object.need("value")?.text()?);
    message.trainable = trainable(&object)?;
    Ok(message)
}

/// The value of one of two keys that mean the same.
fn one_of<'a>(object: &Object<'a>, a: &str, b: &str) -> Result<Option<Value<'a>>> {
    match (object.given(a), object.given(b)) {
        (Some(_), Some(_)) => {
            Err(Error::invalid(object.path.clone(), format!("has both {a:?} and {b:?}; give one of them")))
        }
        (one, other) => Ok(one.or(other)),
    }
}

fn trainable(object: &Object<'_>) -> Result<Option<bool>> {
    let Some(value) = one_of(object, "weight", "trainable")? else { return Ok(None) };
    if object.given("trainable").is_some() {
        return value.bool().map(Some);
    }
    match value.number::<f64>("0 or 1")? {
        0.0 => Ok(Some(false)),
        1.0 => Ok(Some(true)),
        other => Err(value.invalid(format!("must be 0 or 1, not {other}"))),
    }
}

fn parts(content: &Value<'_>) -> Result<Vec<Part>> {
    match content.kind() {
        "a text" => Ok(vec![Part::Text(content.text()?)]),
        "a list" => content.list()?.iter().map(part).collect(),
        _ => Err(content.must_be("a text, a list of parts or null")),
    }
}

fn part(value: &Value<'_>) -> Result<Part> {
    let object = value.object()?;
    let kind = object.need("type")?;
    let kind_name = kind.text()?;
    match kind_name.as_str() {
        "text" | "thinking" => {
            object.only(&["type", &kind_name])?;
            let text = object.need(&kind_name)?.text()?;
            Ok(if kind_name == "text" { Part::Text(text) } else { Part::Thinking(text) })
        }
        "image_url" => {
            object.only(&["type", "image_url", "expected_tokens"])?;
            let inner = object.need("image_url")?.object()?;
            inner.only(&["url", "detail"])?;
            image(&inner.need("url")?, &object)
        }
        "image" => {
            object.only(&["type", "image", "expected_tokens"])?;
            image(&object.need("image")?, &object)
        }
        other => {
            let accepted = "text, thinking, image, image_url";
            Err(kind.invalid(format!("unknown type {other:?}; accepted: {accepted}")))
        }
    }
}

fn image(url: &Value<'_>, object: &Object<'_>) -> Result<Part> {
    let text = url.text()?;
    let refused = || url.invalid("must start with \"data:image/png;base64,\" or \"data:image/jpeg;base64,\"");
    let (head, data) = text.split_once(',').ok_or_else(refused)?;
    let format = match head {
        "data:image/png;base64" => ImageFormat::Png,
        "data:image/jpeg;base64" => ImageFormat::Jpeg,
        _ => return Err(refused()),
    };
    let data = STANDARD.decode(data).map_err(|error| url.invalid(format!("not valid base64: {error}")))?;
    let expected_tokens = match object.given("expected_tokens") {
        Some(n) => Some(n.number("a whole number of at least 0")?),
        None => None,
    };
    Ok(Part::Image(Image { data, format, expected_tokens }))
}

fn tool_call(value: &Value<'_>) -> Result<ToolCall> {
    let object = value.object()?;
    object.only(&["id", "type", "function"])?;
    only_functions(&object)?;
    let function = object.need("function")?.object()?;
    function.only(&["name", "arguments"])?;
    let arguments = function.need("arguments")?;
    let text = match arguments.kind() {
        "an object" => arguments.raw.to_owned(),
        "a text" => arguments.text()?,
        _ => return Err(arguments.must_be("an object, or a text that is a JSON object")),
    };
    let parsed = Value::of_line(&text, UnknownKeys::Refused)
        .map_err(|_| arguments.invalid("the text is not valid JSON"))?;
    if parsed.kind() != "an object" {
        return Err(arguments.invalid(format!("the text must be a JSON object, not {}", parsed.kind())));
    }
    // Duplicate keys are refused here, under the path of the arguments.
    Value { path: arguments.path, ..parsed }.object()?;
    let id = object.given("id").map(|id| id.text()).transpose()?;
    Ok(ToolCall { id, name: function.need("name")?.text()?, arguments: text })
}

fn only_functions(object: &Object<'_>) -> Result<()> {
    match object.given("type") {
        Some(kind) if kind.text()? != "function" => Err(kind.invalid("must be \"function\"")),
        _ => Ok(()),
    }
}

/// The tools of a conversation; none if the key is missing.
pub(super) fn tools(object: &Object<'_>) -> Result<Vec<ToolSpec>> {
    match object.given("tools") {
        Some(tools) => tools.list()?.iter().map(tool).collect(),
        None => Ok(Vec::new()),
    }
}

fn tool(value: &Value<'_>) -> Result<ToolSpec> {
    let mut object = value.object()?;
    if object.has("function") {
        object.only(&["type", "function"])?;
        only_functions(&object)?;
        object = object.need("function")?.object()?;
    }
    object.only(&["name", "description", "parameters", "strict"])?;
    let parameters = match object.given("parameters") {
        Some(parameters) => {
            parameters.object()?;
            parameters.raw.to_owned()
        }
        None => "{}".to_owned(),
    };
    let description = object.given("description").map_or(Ok(String::new()), |text| text.text())?;
    Ok(ToolSpec { name: object.need("name")?.text()?, description, parameters })
}
