//! The golden files of renderers; their format is in `tests/golden/README.md`.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use serde_json::Value;

use crate::chat::{Message, Part, ToolCall, ToolSpec, UnparsedToolCall};
use crate::tokenizer::bpe::tests::vocabularies::{self, golden};
use crate::tokenizer::{Bpe, Tokenizer};

/// A conversation of the fixtures.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub(super) name: String,
    pub(super) messages: Vec<Message>,
}

/// The golden file of a renderer.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) file: Value,
    pub(super) tokenizer: Arc<dyn Tokenizer>,
}

/// The oracles' results for a conversation.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    value: &'a Value,
    ids: Vec<Vec<i32>>,
}

/// A sequence and which of its tokens are trained; `None` is a refusal.
pub(super) type Rendered = Option<Vec<(Vec<i32>, Vec<bool>)>>;

pub(super) fn fixture(name: &str) -> Fixture {
    let file = golden(&format!("{name}.json"));
    let tokenizer = tokenizer(file["vocabulary"].as_str().unwrap());
    Fixture { file, tokenizer }
}

/// The tokenizer of a vocabulary, made once for all tests.
fn tokenizer(name: &str) -> Arc<dyn Tokenizer> {
    static MADE: LazyLock<Mutex<BTreeMap<String, Arc<dyn Tokenizer>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock();
    let make = || -> Arc<dyn Tokenizer> {
        let eos = match name {
            "qwen3" => "<|im_end|>",
            "llama3" => "<|eot_id|>",
            "deepseek" => "<｜end▁of▁sentence｜>",
            "o200k" => "<|return|>",
            _ => "[EOS]",
        };
        if !name.starts_with("kimi") {
            let made =
                Bpe::from_tokenizer_json(&vocabularies::tokenizer_json(name)).unwrap().with_eos(eos).unwrap();
            return Arc::new(if name == "llama3" {
                made.with_bos("<|begin_of_text|>").unwrap()
            } else {
                made
            });
        }
        let (ranks, pattern, mut markers) = vocabularies::kimi();
        if name == "kimi_k25" {
            for (marker, id) in
                [("<|media_begin|>", 163_602), ("<|media_content|>", 163_603), ("<|media_end|>", 163_604)]
            {
                markers.insert(marker.into(), id);
            }
        }
        Arc::new(Bpe::from_tiktoken(&ranks, &pattern, &markers).unwrap().with_eos(eos).unwrap())
    };
    Arc::clone(made.entry(name.to_owned()).or_insert_with(make))
}

pub(super) fn conversations() -> Vec<Conversation> {
    let file = golden("conversations.json");
    let read = |value: &Value| {
        let mut messages: Vec<Message> = value["messages"].as_array().unwrap().iter().map(message).collect();
        if let Some(tools) = value["tools"].as_array() {
            let tools: Vec<ToolSpec> = tools.iter().map(tool).collect();
            if messages.first().is_none_or(|message| message.role != "system") {
                messages.insert(0, Message { role: "system".into(), ..Message::default() });
            }
            messages[0].tools = tools;
        }
        Conversation { name: value["name"].as_str().unwrap().into(), messages }
    };
    file["conversations"].as_array().unwrap().iter().map(read).collect()
}

/// The text of the parameters keeps the order of their keys, which `serde_json` sorts.
fn tool(value: &Value) -> ToolSpec {
    let name = value["name"].as_str().unwrap();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text/conversations.json");
    let text = std::fs::read_to_string(path).unwrap();
    let at = text
        .match_indices("\"parameters\":")
        .map(|(at, key)| at + key.len())
        .find(|at| {
            let before = &text[..*at];
            before[before.rfind("\"name\":").unwrap()..].split('"').nth(3) == Some(name)
                && serde_json::Deserializer::from_str(&text[*at..])
                    .into_iter::<Value>()
                    .next()
                    .unwrap()
                    .unwrap()
                    == value["parameters"]
        })
        .unwrap();
    let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    stream.next().unwrap().unwrap();
    let parameters = text[at..at + stream.byte_offset()].trim().to_owned();
    ToolSpec { name: name.into(), description: value["description"].as_str().unwrap().into(), parameters }
}

pub(super) fn message(value: &Value) -> Message {
    let mut message = Message { role: value["role"].as_str().unwrap().into(), ..Message::default() };
    match &value["content"] {
        Value::String(text) => message.content.push(Part::Text(text.clone())),
        Value::Array(parts) => {
            message.content.extend(parts.iter().map(|part| match part["type"].as_str().unwrap() {
                "thinking" => Part::Thinking(part["thinking"].as_str().unwrap().into()),
                _ => Part::Text(part["text"].as_str().unwrap().into()),
            }))
        }
        _ => {}
    }
    for call in value["tool_calls"].as_array().into_iter().flatten() {
        message.tool_calls.push(ToolCall {
            id: call["id"].as_str().map(str::to_owned),
            name: call["function"]["name"].as_str().unwrap().into(),
            arguments: call["function"]["arguments"].as_str().unwrap().into(),
        });
    }
    for call in value["unparsed_tool_calls"].as_array().into_iter().flatten() {
        message.unparsed_tool_calls.push(UnparsedToolCall {
            raw_text: call["raw_text"].as_str().unwrap().into(),
            error: call["error"].as_str().unwrap().into(),
        });
    }
    message.tool_call_id = value["tool_call_id"].as_str().map(str::to_owned);
    message.name = value["name"].as_str().map(str::to_owned);
    message.trainable = value["trainable"].as_bool();
    message
}

pub(super) fn ints(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|id| i32::try_from(id.as_i64().unwrap()).unwrap()).collect()
}

impl Fixture {
    pub(super) fn entry(&self, name: &str) -> Entry<'_> {
        let all = self.file["conversations"].as_array().unwrap();
        let value = all.iter().find(|entry| entry["name"] == name).unwrap();
        let mut ids: Vec<Vec<i32>> = Vec::new();
        for entry in value["ids"].as_array().into_iter().flatten() {
            ids.push(match entry["like"].as_u64() {
                Some(like) => {
                    let take = usize::try_from(entry["take"].as_u64().unwrap()).unwrap();
                    let mut these = ids[usize::try_from(like).unwrap()][..take].to_vec();
                    these.extend(ints(&entry["then"]));
                    these
                }
                None => ints(entry),
            });
        }
        Entry { value, ids }
    }
}

impl Entry<'_> {
    fn sequence(&self, index: &Value) -> Option<Vec<i32>> {
        index.as_u64().map(|i| self.ids[usize::try_from(i).unwrap()].clone())
    }

    fn examples(&self, list: &Value) -> Rendered {
        let list = list.as_array()?;
        Some(list.iter().map(|i| self.example(i)).collect())
    }

    fn example(&self, index: &Value) -> (Vec<i32>, Vec<bool>) {
        let example = &self.value["examples"][usize::try_from(index.as_u64().unwrap()).unwrap()];
        let ids = self.sequence(&example[0]).unwrap();
        let mut weights = Vec::new();
        for (i, run) in example[1].as_array().unwrap().iter().enumerate() {
            weights.resize(weights.len() + usize::try_from(run.as_u64().unwrap()).unwrap(), i % 2 == 1);
        }
        assert_eq!(ids.len(), weights.len());
        (ids, weights)
    }

    pub(super) fn is_refused(&self) -> bool {
        self.value["refused"].is_object() || self.value.get("refused").is_some_and(|it| !it.is_null())
    }

    pub(super) fn prompt(&self) -> Option<Vec<i32>> {
        self.sequence(&self.value["prompt"])
    }

    /// The examples of a mode, from `build_supervised_examples`.
    pub(super) fn plural(&self, mode: usize) -> Rendered {
        self.examples(&self.value["modes"][mode])
    }

    /// The example of a mode, from `build_supervised_example`.
    pub(super) fn single(&self, mode: usize) -> Rendered {
        match &self.value["single"][mode] {
            Value::Null => self.plural(mode),
            other => self.examples(other),
        }
    }

    pub(super) fn template_prompt(&self) -> Option<Vec<i32>> {
        self.sequence(&self.value["template"][0])
    }

    pub(super) fn template_conversation(&self) -> Option<Vec<i32>> {
        self.sequence(&self.value["template"][1])
    }

    pub(super) fn native_prompt(&self) -> Option<Vec<i32>> {
        self.sequence(&self.value["native"][0])
    }

    pub(super) fn native_examples(&self) -> Rendered {
        self.examples(&self.value["native"][1])
    }
}
