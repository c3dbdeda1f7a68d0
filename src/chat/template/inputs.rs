//! What a template is given for a conversation.

use super::{TemplateOptions, ToolArguments};
use crate::chat::json::Json;
use crate::chat::message::{Message, Part, ToolSpec};
use crate::chat::roles::check_role;
use crate::error::{Error, Result};

/// Rewrites the text of a message. The error is a problem with the text.
pub(super) type Rewrite<'a> = &'a dyn Fn(&str) -> std::result::Result<String, String>;

/// The names under which templates find the thoughts of a message, unless one is chosen. They are those that
/// `transformers` gives.
const THINKING: [&str; 2] = ["thinking", "reasoning_content"];

/// A message as `transformers` and servers with the interface of OpenAI give it to templates. `None` for one that only
/// declares tools. All texts but the role are rewritten.
pub(super) fn message(
    i: usize,
    message: &Message,
    options: &TemplateOptions,
    rewrite: Rewrite<'_>,
) -> Result<Option<Json>> {
    check(i, message)?;
    if !message.tools.is_empty() && message.content.is_empty() {
        return Ok(None);
    }
    let text = |field: &str, text: &str| {
        rewrite(text)
            .map(Json::Text)
            .map_err(|problem| Error::invalid(format!("messages[{i}].{field}"), problem))
    };
    let mut fields = vec![
        ("role".to_owned(), Json::text(&message.role)),
        ("content".to_owned(), text("content", &message.text())?),
    ];
    if let Some(thoughts) = message.thinking() {
        let thoughts = text("content", &thoughts)?;
        match &options.thinking_key {
            Some(key) => fields.push((key.clone(), thoughts)),
            None => fields.extend(THINKING.map(|key| (key.to_owned(), thoughts.clone()))),
        }
    }
    let mut calls = Vec::new();
    for (k, call) in message.tool_calls.iter().enumerate() {
        let path = format!("tool_calls[{k}].arguments");
        let at = || format!("messages[{i}].{path}");
        let read = Json::read(&call.arguments)
            .map_err(|error| Error::invalid(at(), format!("not valid JSON: {error}")))?;
        if read.as_object().is_none() {
            return Err(Error::invalid(at(), "must be a JSON object"));
        }
        let arguments = match options.arguments {
            ToolArguments::Object => {
                rewritten(&read, rewrite).map_err(|problem| Error::invalid(at(), problem))?
            }
            ToolArguments::Text => text(&path, &call.arguments)?,
        };
        let name = text(&format!("tool_calls[{k}].name"), &call.name)?;
        let mut object = vec![("type".to_owned(), Json::text("function"))];
        if let Some(id) = &call.id {
            object.push(("id".to_owned(), text(&format!("tool_calls[{k}].id"), id)?));
        }
        object.push(("function".to_owned(), Json::object([("name", name), ("arguments", arguments)])));
        calls.push(Json::Object(object));
    }
    if !calls.is_empty() {
        fields.push(("tool_calls".to_owned(), Json::List(calls)));
    }
    for (key, value) in [("tool_call_id", &message.tool_call_id), ("name", &message.name)] {
        if let Some(value) = value {
            fields.push((key.to_owned(), text(key, value)?));
        }
    }
    Ok(Some(Json::Object(fields)))
}

/// The tools that the first message declares.
pub(super) fn tools(messages: &[Message], rewrite: Rewrite<'_>) -> Result<Option<Json>> {
    let Some(first) = messages.first().filter(|first| !first.tools.is_empty()) else { return Ok(None) };
    let tool = |(k, tool): (usize, &ToolSpec)| {
        let invalid =
            |field: &str, problem: String| Error::invalid(format!("messages[0].tools[{k}].{field}"), problem);
        let text = |field: &str, text: &str| {
            rewrite(text).map(Json::Text).map_err(|problem| invalid(field, problem))
        };
        let parameters = Json::read(&tool.parameters)
            .map_err(|error| invalid("parameters", format!("not valid JSON: {error}")))?;
        let function = Json::object([
            ("name", text("name", &tool.name)?),
            ("description", text("description", &tool.description)?),
            (
                "parameters",
                rewritten(&parameters, rewrite).map_err(|problem| invalid("parameters", problem))?,
            ),
        ]);
        Ok(Json::object([("type", Json::text("function")), ("function", function)]))
    };
    first
        .tools
        .iter()
        .enumerate()
        .map(tool)
        .collect::<Result<Vec<Json>>>()
        .map(|tools| Some(Json::List(tools)))
}

/// JSON with its texts and keys rewritten.
fn rewritten(json: &Json, rewrite: Rewrite<'_>) -> std::result::Result<Json, String> {
    Ok(match json {
        Json::Text(text) => Json::Text(rewrite(text)?),
        Json::List(items) => Json::List(
            items.iter().map(|item| rewritten(item, rewrite)).collect::<std::result::Result<_, _>>()?,
        ),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| Ok((rewrite(key)?, rewritten(value, rewrite)?)));
            Json::Object(fields.collect::<std::result::Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// Refuses what no template can be given.
fn check(i: usize, message: &Message) -> Result<()> {
    let invalid = |field: &str, problem: &str| Err(Error::invalid(format!("messages[{i}].{field}"), problem));
    // A template may make a marker of the role, so that a role must not be able to contain another one.
    check_role(&format!("messages[{i}].role"), &message.role, false)?;
    if 0 < i && !message.tools.is_empty() {
        return invalid("tools", "only the first message can declare tools");
    }
    let mut after_text = false;
    for (k, part) in message.content.iter().enumerate() {
        match part {
            Part::Text(text) => after_text |= !text.is_empty(),
            Part::Thinking(_) if after_text => {
                let problem =
                    "is a thought after a text, but a template is given all thoughts before the text";
                return invalid(&format!("content[{k}]"), problem);
            }
            Part::Thinking(_) => {}
            Part::Image(_) => {
                return invalid(&format!("content[{k}]"), "is an image, which a template cannot be given");
            }
        }
    }
    Ok(())
}
