//! A line of a file of prompts.

use std::fmt;

use serde_json::Value;
use tinkex::chat::Message;
use tinkex::data::{Conversation, Record};

use crate::examples::{Pairs, TemplateRoles, line_fields, line_hash, spelling};
use crate::similar::is_near;

/// What is asked for in a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

/// A line of a file of prompts.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// The file and the line.
    pub(crate) place: String,
    /// Number of the prompt in the file, from 0.
    pub(crate) index: usize,
    /// What identifies the prompt, if the line has it.
    pub(crate) id: Option<Value>,
    /// A hash of the line, for prompts without an id.
    pub(crate) hash: String,
    /// The prompt as JSON.
    pub(crate) json: Option<Value>,
    /// The prompt, or what is wrong with the line.
    pub(crate) prompt: Result<Prompt, String>,
}

/// Identifies a prompt in the file of answers: its id, or the hash of its line, which equal prompts share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Id(String),
    Hash(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Id(id) => write!(f, "id {id}"),
            Key::Hash(hash) => write!(f, "prompt_hash {hash}"),
        }
    }
}

impl Key {
    /// The key of a line of the file of answers.
    pub(crate) fn of_answer(line: &Value) -> Option<Key> {
        match line.get("id") {
            Some(id) if !id.is_null() => Some(Key::Id(id.to_string())),
            _ => Some(Key::Hash(line.get("prompt_hash")?.as_str()?.to_owned())),
        }
    }
}

impl Item {
    pub(crate) fn key(&self) -> Key {
        match &self.id {
            Some(id) => Key::Id(id.to_string()),
            None => Key::Hash(self.hash.clone()),
        }
    }

    /// Reads a line. A line that cannot be used is an item whose prompt is the problem. Unless `is_json`, a line may also be
    /// a text as it is. `roles` are those that the template has under other names.
    pub(crate) fn read(
        line: &[u8],
        index: usize,
        id_field: &str,
        is_json: bool,
        roles: &TemplateRoles,
    ) -> Self {
        let mut item = Item {
            place: String::new(),
            index,
            id: None,
            hash: format!("{:016x}", line_hash(line)),
            json: None,
            prompt: Err(String::new()),
        };
        // A text by itself is a prompt, too.
        if let Ok(text) = serde_json::from_slice::<String>(line) {
            item.json = Some(Value::from(text.as_str()));
            item.prompt = not_empty("prompt", text);
            return item;
        }
        if !is_json && !line.trim_ascii_start().starts_with(b"{") {
            match std::str::from_utf8(line) {
                Ok(text) => {
                    item.json = Some(text.into());
                    item.prompt = Ok(Prompt::Text(text.to_owned()));
                }
                Err(error) => {
                    item.prompt = Err(format!("not valid UTF-8 after {} bytes", error.valid_up_to()));
                }
            }
            return item;
        }
        let fields = match line_fields(line) {
            Ok(fields) => fields,
            Err(problem) => {
                item.prompt = Err(problem);
                return item;
            }
        };
        let id = fields.get(id_field).and_then(|raw| serde_json::from_str::<Value>(raw).ok());
        let is_usable = |id: &Value| matches!(id, Value::String(_) | Value::Number(_));
        match id {
            None | Some(Value::Null) => {}
            Some(id) if is_usable(&id) => item.id = Some(id),
            Some(_) => {
                item.prompt = Err(format!("{id_field}: must be a text or a number"));
                return item;
            }
        }
        item.prompt = match roles.translated(line) {
            Some((text, _)) => line_fields(text.as_bytes()).and_then(|fields| prompt(&fields)),
            None => prompt(&fields),
        };
        let raw = ["messages", "prompt"].into_iter().find_map(|key| fields.get(key));
        item.json = raw.and_then(|raw| serde_json::from_str(raw).ok());
        item
    }
}

fn prompt(fields: &Pairs<'_>) -> Result<Prompt, String> {
    let raw = match (fields.get("messages"), fields.get("prompt")) {
        (Some(messages), _) => messages,
        (None, Some(prompt)) if prompt.starts_with('[') => prompt,
        (None, Some(prompt)) => {
            let text: String = serde_json::from_str(prompt)
                .map_err(|_| "prompt: must be a text or a list of messages".to_owned())?;
            return not_empty("prompt", text);
        }
        (None, None) => {
            let near = |(key, _): &&(String, &str)| ["messages", "prompt"].iter().any(|it| is_near(key, it));
            if let Some((key, _)) = fields.0.iter().find(near) {
                let meant = if key.to_lowercase().starts_with('m') { "messages" } else { "prompt" };
                return Err(format!("unknown key {key:?}; did you mean {meant:?}?"));
            }
            let keys = fields.keys().join(", ");
            return Err(format!("has neither prompt nor messages (the keys found: {keys})"));
        }
    };
    let path = if fields.has("messages") { "messages" } else { "prompt" };
    spelling(raw, path)?;
    let tools = fields.get("tools").map(|tools| ("tools", tools));
    let text = Pairs::text([("messages", raw)].into_iter().chain(tools));
    let mut chat =
        Conversation::from_line_ignoring_unknown_keys(&text).map_err(|error| match error.violation() {
            Some(violation) => format!("{}: {}", violation.path, violation.problem),
            None => error.message().to_owned(),
        })?;
    if chat.messages.last().is_some_and(|last| last.role == "assistant") {
        return Err(format!(
            "{path}: the last one is an answer already; leave it out, or make prompts of the examples: \
             `tinkex data convert --to completion`"
        ));
    }
    for message in &mut chat.messages {
        message.trainable = None;
    }
    Ok(Prompt::Messages(chat.messages))
}

fn not_empty(path: &str, text: String) -> Result<Prompt, String> {
    if text.is_empty() { Err(format!("{path}: is empty")) } else { Ok(Prompt::Text(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Item {
        Item::read(line.as_bytes(), 3, "id", true, &TemplateRoles::default())
    }

    #[test]
    fn prompts_are_texts_or_messages() {
        for line in [r#"{"prompt":"Hi"}"#, r#""Hi""#, r#"{"id":1,"prompt":"Hi","answer":7}"#] {
            assert_eq!(read(line).prompt, Ok(Prompt::Text("Hi".into())), "{line}");
        }
        for line in [
            r#"{"messages":[{"role":"user","content":"Hi"}]}"#,
            r#"{"prompt":[{"role":"user","content":"Hi"}]}"#,
            r#"{"messages":[{"role":"user","content":"Hi","weight":0}],"prompt":"x"}"#,
        ] {
            assert_eq!(read(line).prompt, Ok(Prompt::Messages(vec![Message::user("Hi")])), "{line}");
        }
    }

    #[test]
    fn lines_that_cannot_be_used_say_why() {
        for (line, expected) in [
            ("", "not valid JSON"),
            ("{", "not valid JSON"),
            ("[1]", "must be a JSON object"),
            ("{}", "has neither prompt nor messages"),
            (r#"{"promt":"x"}"#, "unknown key \"promt\"; did you mean \"prompt\"?"),
            (r#"{"message":[]}"#, "unknown key \"message\"; did you mean \"messages\"?"),
            (r#"{"prompt":[{"role":"user","contents":"x"}]}"#, "prompt[0]: unknown key \"contents\""),
            (r#"{"messages":[{"role":"usr","content":"x"}]}"#, "messages[0].role: unknown role \"usr\""),
            (r#"{"prompt":""}"#, "prompt: is empty"),
            (r#"{"prompt":3}"#, "prompt: must be a text or a list of messages"),
            (r#"{"prompt":"\ud800"}"#, "prompt: must be a text"),
            (r#"{"messages":[]}"#, "messages: has no messages"),
            (
                r#"{"messages":[{"role":"assistant","content":"x"}]}"#,
                "messages: the last one is an answer already",
            ),
            (r#"{"id":[1],"prompt":"x"}"#, "id: must be a text or a number"),
        ] {
            match read(line).prompt {
                Err(problem) => assert!(problem.contains(expected), "{line}: {problem}"),
                Ok(prompt) => panic!("{line}: {prompt:?}"),
            }
        }
        let roles = TemplateRoles::default();
        assert!(Item::read(b"{\"prompt\":\"\xff\"}", 0, "id", true, &roles).prompt.is_err());
    }

    #[test]
    fn a_prompt_is_known_again_by_its_id_or_by_its_hash_wherever_it_stands() {
        let of_answer = |json: &str| Key::of_answer(&serde_json::from_str(json).unwrap_or_default());
        assert_eq!(Some(read(r#"{"id":"a","prompt":"x"}"#).key()), of_answer(r#"{"id":"a","index":9}"#));
        assert_ne!(Some(read(r#"{"id":1,"prompt":"x"}"#).key()), of_answer(r#"{"id":"1","index":9}"#));
        let item = read(r#"{"prompt":"x"}"#);
        let line = format!(r#"{{"id":null,"index":9,"prompt_hash":"{}"}}"#, item.hash);
        assert_eq!(Some(item.key()), of_answer(&line));
        assert_ne!(Some(read(r#"{"prompt":"y"}"#).key()), of_answer(&line));
        assert_eq!(of_answer(r#"{"index":3}"#), None);
    }
}
