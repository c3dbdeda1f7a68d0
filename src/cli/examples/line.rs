//! What a line contains. The library reads the formats; this module leaves the keys out that a format does not have, and
//! gives those of other programs the names that the library knows.

use std::borrow::Cow;

use tinkex::chat::{Message, Part};
use tinkex::data::{Conversation, Preference, PromptCompletion, Record, Text, WeightedTokens};

use super::format::{Shape, misspelt};
use super::pairs::{Pairs, items};
use super::roles::mistaken;

/// An example as it was read.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A conversation; of the format completion if the prompt and the completion are lists of messages.
    Chat(Conversation),
    Completion(PromptCompletion),
    Text(Text),
    Tokens(WeightedTokens),
    Preference(Preference),
}

/// What is wrong with a line: `path: problem`, or the problem alone if it is one of the whole line.
pub(crate) type Problem = String;

/// The keys of a message that the library reads, and `train`, which the cookbook writes for `trainable`.
const MESSAGE_KEYS: [&str; 10] = [
    "role",
    "content",
    "reasoning_content",
    "thinking",
    "tool_calls",
    "tool_call_id",
    "name",
    "weight",
    "trainable",
    "train",
];

/// The keys of a message of ShareGPT.
const SHARE_GPT_KEYS: [&str; 4] = ["from", "value", "weight", "trainable"];

/// The fields of a line.
pub(crate) fn fields(line: &[u8]) -> Result<Pairs<'_>, Problem> {
    let text = std::str::from_utf8(line)
        .map_err(|error| format!("not valid UTF-8 after {} bytes", error.valid_up_to()))?;
    Pairs::of(text).map_err(|error| {
        if error.is_data() {
            return "must be a JSON object".into();
        }
        let problem = error.to_string();
        let what = problem.rsplit_once(" at line ").map_or(problem.as_str(), |(what, _)| what);
        let hint = if error.is_eof() { "; each object must be on one line" } else { "" };
        format!("not valid JSON: {what} at column {}{hint}", error.column())
    })
}

/// Reads the fields of a line of a shape.
pub(super) fn content(fields: &Pairs<'_>, shape: Shape) -> Result<Content, Problem> {
    let known: Vec<&'static str> = shape.keys().collect();
    if let Some((found, key)) = misspelt(&fields.given_keys(), &known) {
        return Err(format!("unknown key {found:?}; did you mean {key:?}?"));
    }
    let own = || fields.0.iter().filter(|(key, _)| known.contains(&key.as_str()));
    let plain = || Pairs::text(own().map(|(key, raw)| (key.as_str(), *raw)));
    match shape {
        Shape::Messages => chat(&with_flags(fields, &known)?, None),
        Shape::ShareGpt => share_gpt(fields),
        Shape::Completion if fields.get("prompt").is_some_and(|prompt| prompt.starts_with('[')) => {
            let n_prompt = fields.get("prompt").and_then(items).map(|items| items.len());
            chat(&with_flags(fields, &known)?, n_prompt)
        }
        Shape::Completion => of_line(&plain()).map(Content::Completion),
        Shape::Alpaca => alpaca(fields),
        Shape::Text => of_line(&plain()).map(Content::Text),
        Shape::Tokens | Shape::Labels => {
            let tokens: WeightedTokens = of_line(&plain())?;
            if tokens.weights.iter().all(|weight| *weight == 0.0) {
                return Err("all weights are 0, so that nothing is trained".into());
            }
            Ok(Content::Tokens(tokens))
        }
        Shape::Chosen => chosen(fields, &known),
        Shape::PreferredOutput => preferred_output(fields),
        Shape::Comparison => {
            let comparison = fields.get("comparison").unwrap_or_default();
            if let Ok(inner) = Pairs::of(comparison) {
                let known = ["prompt_conversation", "completion_A", "completion_B"];
                if let Some((found, key)) = misspelt(&inner.given_keys(), &known) {
                    return Err(format!("comparison: unknown key {found:?}; did you mean {key:?}?"));
                }
                for (key, raw) in &inner.0 {
                    spelling(raw, &format!("comparison.{key}"))?;
                }
            }
            preference(of_line(&plain())?)
        }
    }
}

/// What `show` says of a line beside its content: the keys that the format does not have.
pub(super) fn further(fields: &Pairs<'_>, shape: Shape) -> Vec<(String, String)> {
    let known: Vec<&'static str> = shape.keys().collect();
    let further = fields.0.iter().filter(|(key, _)| !known.contains(&key.as_str()));
    further.map(|(key, raw)| (key.clone(), (*raw).to_owned())).collect()
}

fn of_line<T: Record>(text: &str) -> Result<T, Problem> {
    T::from_line_ignoring_unknown_keys(text).map_err(|error| match error.violation() {
        Some(violation) if violation.path == "line" => violation.problem.clone(),
        Some(violation) => format!("{}: {}", violation.path, violation.problem),
        None => error.message().to_owned(),
    })
}

/// A conversation. `n_prompt` is the number of messages in `prompt`, if the others are in `completion`.
fn chat(text: &str, n_prompt: Option<usize>) -> Result<Content, Problem> {
    let conversation: Conversation = of_line(text)?;
    // Tools beside the messages become a system message.
    let is_made = |first: &Message| first.role == "system" && first.content.is_empty();
    let n_made = usize::from(conversation.messages.first().is_some_and(is_made));
    let path = |i: usize| match n_prompt {
        Some(n) if n <= i => format!("completion[{}]", i - n),
        Some(_) => format!("prompt[{i}]"),
        None => format!("messages[{i}]"),
    };
    not_empty(&conversation.messages, |i| path(i.saturating_sub(n_made)))?;
    Ok(Content::Chat(conversation))
}

/// Refuses messages without a word, from which nothing can be learned.
fn not_empty(messages: &[Message], path: impl Fn(usize) -> String) -> Result<(), Problem> {
    let is_empty = |message: &Message| {
        matches!(message.role.as_str(), "user" | "assistant")
            && message.tool_calls.is_empty()
            && message.content.iter().all(|part| matches!(part, Part::Text(text) if text.is_empty()))
    };
    match messages.iter().position(is_empty) {
        Some(i) => Err(format!("{}.content: is empty", path(i))),
        None => Ok(()),
    }
}

/// The text of an object of these keys, in whose messages the flag `train` has the name that the library knows.
fn with_flags(fields: &Pairs<'_>, known: &[&str]) -> Result<String, Problem> {
    let mut changed: Vec<(&str, Cow<'_, str>)> = Vec::new();
    for (key, raw) in fields.0.iter().filter(|(key, _)| known.contains(&key.as_str())) {
        spelling(raw, key)?;
        let value = if raw.contains("\"train\"") { flags(raw) } else { Cow::Borrowed(*raw) };
        changed.push((key.as_str(), value));
    }
    Ok(Pairs::text(changed.iter().map(|(key, raw)| (*key, raw.as_ref()))))
}

/// Renames `train` of each message to `trainable`.
fn flags(raw: &str) -> Cow<'_, str> {
    let Some(messages) = items(raw) else { return Cow::Borrowed(raw) };
    let renamed = messages.into_iter().map(|message| match Pairs::of(message) {
        Ok(fields) => Pairs::text(
            fields.0.iter().map(|(key, raw)| (if key == "train" { "trainable" } else { key.as_str() }, *raw)),
        ),
        Err(_) => message.to_owned(),
    });
    Cow::Owned(format!("[{}]", renamed.collect::<Vec<_>>().join(",")))
}

/// Refuses a message with a key or a role that is almost one of those that messages have.
pub(crate) fn spelling(raw: &str, path: &str) -> Result<(), Problem> {
    for (i, message) in items(raw).unwrap_or_default().into_iter().enumerate() {
        let Ok(fields) = Pairs::of(message) else { continue };
        let is_share_gpt = fields.has("from") || fields.has("value");
        let known = if is_share_gpt { SHARE_GPT_KEYS.as_slice() } else { MESSAGE_KEYS.as_slice() };
        if fields.keys().iter().any(|key| known[..2].contains(key))
            && let Some((found, key)) = misspelt(&fields.given_keys(), known)
        {
            return Err(format!("{path}[{i}]: unknown key {found:?}; did you mean {key:?}?"));
        }
        let role: Option<String> = fields.get("role").and_then(|raw| serde_json::from_str(raw).ok());
        if let Some(role) = role
            && let Some(meant) = mistaken(&role)
        {
            return Err(format!("{path}[{i}].role: unknown role {role:?}; did you mean {meant:?}?"));
        }
    }
    Ok(())
}

/// The system text and the tools of a ShareGPT line stand beside the conversation.
fn share_gpt(fields: &Pairs<'_>) -> Result<Content, Problem> {
    let conversations = fields.get("conversations").unwrap_or_default();
    // Some data sets have the keys of OpenAI under the name of ShareGPT.
    let has_roles = items(conversations)
        .and_then(|items| items.first().and_then(|first| Some(Pairs::of(first).ok()?.has("role"))))
        .unwrap_or_default();
    let mut conversation: Conversation = if has_roles {
        spelling(conversations, "conversations")?;
        of_line(&Pairs::text([("messages", flags(conversations).as_ref())]))
            .map_err(|problem| problem.replace("messages", "conversations"))?
    } else {
        spelling(conversations, "conversations")?;
        of_line(&Pairs::text([("conversations", conversations)]))?
    };
    not_empty(&conversation.messages, |i| format!("conversations[{i}]"))?;
    if let Some(system) = fields.get("system")
        && let Ok(text) = serde_json::from_str::<String>(system)
        && !text.is_empty()
        && conversation.messages.first().is_some_and(|first| first.role != "system")
    {
        let flagged = conversation.messages.iter().any(|message| message.trainable.is_some());
        let mut message = Message::system(text);
        message.trainable = flagged.then_some(false);
        conversation.messages.insert(0, message);
    }
    if let Some(raw) = fields.get("tools").filter(|raw| !raw.is_empty() && *raw != "null") {
        // ShareGPT has the list of tools as a text.
        let list = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
        if !list.trim().is_empty() {
            declare(&mut conversation.messages, &list)?;
        }
    }
    Ok(Content::Chat(conversation))
}

/// Puts tools into the system message, which is made if there is none.
fn declare(messages: &mut Vec<Message>, tools: &str) -> Result<(), Problem> {
    let bare = r#"[{"role":"system","content":""}]"#;
    let declared: Conversation = of_line(&Pairs::text([("messages", bare), ("tools", tools)]))?;
    let mut system = declared.messages.into_iter().next().unwrap_or_default();
    if system.tools.is_empty() {
        return Ok(());
    }
    match messages.first_mut() {
        Some(first) if first.role == "system" => first.tools = system.tools,
        _ => {
            system.content.clear();
            system.trainable = messages.first().and_then(|first| first.trainable).map(|_| false);
            messages.insert(0, system);
        }
    }
    Ok(())
}

/// An instruction, an input that may be empty, and the answer, as messages.
fn alpaca(fields: &Pairs<'_>) -> Result<Content, Problem> {
    let text = |key: &str| match fields.get(key) {
        None | Some("null") => Ok(String::new()),
        Some(raw) => serde_json::from_str::<String>(raw).map_err(|_| format!("{key}: must be a text")),
    };
    let (instruction, input, output) = (text("instruction")?, text("input")?, text("output")?);
    for (key, value) in [("instruction", &instruction), ("output", &output)] {
        if value.is_empty() {
            return Err(format!("{key}: is empty"));
        }
    }
    let question = if input.is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
    let system = Some(text("system")?).filter(|system| !system.is_empty()).map(Message::system);
    let messages = system.into_iter().chain([Message::user(question)]);
    let mut conversation = Conversation::default();
    conversation.messages = messages.map(|message| message.with_trainable(false)).collect();
    conversation.messages.push(Message::assistant(output).with_trainable(true));
    Ok(Content::Chat(conversation))
}

fn preference(preference: Preference) -> Result<Content, Problem> {
    not_empty(&preference.prompt, |i| format!("prompt[{i}]"))?;
    for (answer, name) in [(&preference.completion_a, "chosen"), (&preference.completion_b, "rejected")] {
        if !answer.iter().any(|message| message.role == "assistant") {
            return Err(format!("{name}: has no message of the assistant"));
        }
        not_empty(answer, |i| format!("{name}[{i}]"))?;
    }
    if preference.completion_a == preference.completion_b && preference.chosen_and_rejected().is_some() {
        return Err("both answers are the same".into());
    }
    Ok(Content::Preference(preference))
}

fn chosen(fields: &Pairs<'_>, known: &[&str]) -> Result<Content, Problem> {
    for key in ["prompt", "chosen", "rejected"] {
        spelling(fields.get(key).unwrap_or_default(), key)?;
    }
    let own = fields.0.iter().filter(|(key, _)| key != "tools" && known.contains(&key.as_str()));
    let mut read: Preference = of_line(&Pairs::text(own.map(|(key, raw)| (key.as_str(), *raw))))?;
    if let Some(tools) = fields.get("tools").filter(|raw| *raw != "null") {
        declare(&mut read.prompt, tools)?;
    }
    preference(read)
}

/// `input` has the messages and perhaps tools; the outputs are lists of messages.
fn preferred_output(fields: &Pairs<'_>) -> Result<Content, Problem> {
    let raw = |key: &str| fields.get(key).unwrap_or_default();
    let input = Pairs::of(raw("input")).map_err(|_| "input: must be an object".to_owned())?;
    if let Some((found, key)) = misspelt(&input.given_keys(), &["messages", "tools"]) {
        return Err(format!("input: unknown key {found:?}; did you mean {key:?}?"));
    }
    let Some(messages) = input.get("messages") else {
        return Err("input: the key \"messages\" is missing".into());
    };
    let names = [
        ("prompt", "input.messages", messages),
        ("chosen", "preferred_output", raw("preferred_output")),
        ("rejected", "non_preferred_output", raw("non_preferred_output")),
    ];
    for (_, name, raw) in names {
        spelling(raw, name)?;
    }
    let renamed = |problem: Problem| {
        let found = names
            .iter()
            .find(|(key, ..)| problem.strip_prefix(key).is_some_and(|rest| rest.starts_with(['[', ':'])));
        match found {
            Some((key, name, _)) => format!("{name}{}", &problem[key.len()..]),
            None => problem,
        }
    };
    let text = Pairs::text(names.iter().map(|(key, _, raw)| (*key, *raw)));
    let mut read: Preference = of_line(&text).map_err(renamed)?;
    if let Some(tools) = input.get("tools").filter(|raw| *raw != "null") {
        declare(&mut read.prompt, tools).map_err(|problem| format!("input.{problem}"))?;
    }
    preference(read).map_err(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_message_are_those_that_the_library_reads() {
        let line = r#"{"messages":[{"role":"user","content":"q","nonsense":1}]}"#;
        let problem =
            Conversation::from_line(line).map(|_| String::new()).unwrap_or_else(|it| it.to_string());
        let accepted = problem.split_once("accepted: ").and_then(|(_, rest)| rest.split(';').next());
        let of_library: Vec<&str> = accepted.unwrap_or_default().split(", ").chain(["train"]).collect();
        assert_eq!(of_library, MESSAGE_KEYS, "{problem}");
    }
}
