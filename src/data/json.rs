//! Reads JSON one level at a time, so that keys keep their order, duplicates are seen and each error has a path.

use serde::de::Deserialize;
use serde_json::value::RawValue;

use crate::chat::Pairs;
use crate::error::{Error, Result};

/// The path of a whole line.
pub(super) const LINE: &str = "line";

/// Keys that formats of data sets have and that say nothing about what is trained. They are passed over everywhere.
const PASSED_OVER: [&str; 8] = [
    "id",
    "parallel_tool_calls",
    "prompt_id",
    "score_chosen",
    "score_rejected",
    "source",
    "special_tokens_mask",
    "token_type_ids",
];

/// A JSON value: its source text and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Value<'a> {
    pub(super) path: String,
    pub(super) raw: &'a str,
    pub(super) unknown_keys: UnknownKeys,
}

/// What becomes of keys that a format does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum UnknownKeys {
    #[default]
    Refused,
    Ignored,
}

/// The fields of a JSON object, in their order.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) path: String,
    unknown_keys: UnknownKeys,
    fields: Vec<(String, &'a str)>,
}

impl<'a> Value<'a> {
    /// The value of a whole line.
    pub(super) fn of_line(line: &'a str, unknown_keys: UnknownKeys) -> Result<Self> {
        let raw: &RawValue = serde_json::from_str(line).map_err(|error| {
            let text = error.to_string();
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            Error::invalid(LINE, format!("not valid JSON: {what} at column {}", error.column()))
        })?;
        Ok(Value { path: LINE.to_owned(), raw: raw.get(), unknown_keys })
    }

    /// The kind of the value, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self.raw.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a text",
            Some(b't' | b'f') => "true or false",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.raw == "null"
    }

    pub(super) fn invalid(&self, problem: impl Into<String>) -> Error {
        Error::invalid(self.path.clone(), problem)
    }

    /// The error of a value of another kind than `expected`.
    pub(super) fn must_be(&self, expected: &str) -> Error {
        self.invalid(format!("must be {expected}, not {}", self.kind()))
    }

    pub(super) fn object(&self) -> Result<Object<'a>> {
        if self.kind() != "an object" {
            return Err(self.must_be("an object"));
        }
        let Pairs(fields) = serde_json::from_str(self.raw)
            .map_err(|_| self.invalid("has a key whose escapes are not valid Unicode"))?;
        let mut keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(self.invalid(format!("has the key {:?} twice", pair[0])));
        }
        let fields = fields.into_iter().map(|(key, raw)| (key, raw.get())).collect();
        Ok(Object { path: self.path.clone(), unknown_keys: self.unknown_keys, fields })
    }

    pub(super) fn list(&self) -> Result<Vec<Value<'a>>> {
        if self.kind() != "a list" {
            return Err(self.must_be("a list"));
        }
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw).map_err(|_| self.must_be("a list"))?;
        let value = |(i, raw): (usize, &'a RawValue)| Value {
            path: format!("{}[{i}]", self.path),
            raw: raw.get(),
            unknown_keys: self.unknown_keys,
        };
        Ok(items.into_iter().enumerate().map(value).collect())
    }

    pub(super) fn text(&self) -> Result<String> {
        if self.kind() != "a text" {
            return Err(self.must_be("a text"));
        }
        serde_json::from_str(self.raw).map_err(|_| self.invalid("has escapes that are not valid Unicode"))
    }

    pub(super) fn bool(&self) -> Result<bool> {
        serde_json::from_str(self.raw).map_err(|_| self.must_be("true or false"))
    }

    /// A number that fits into `T`; `expected` describes it.
    pub(super) fn number<T: for<'de> Deserialize<'de>>(&self, expected: &str) -> Result<T> {
        serde_json::from_str(self.raw).map_err(|_| {
            if self.kind() == "a number" {
                self.invalid(format!("must be {expected}, not {}", self.raw))
            } else {
                self.must_be(expected)
            }
        })
    }
}

impl<'a> Object<'a> {
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == key)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path == LINE { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        let (_, raw) = self.fields.iter().find(|(name, _)| name == key)?;
        Some(Value { path: self.path_of(key), raw, unknown_keys: self.unknown_keys })
    }

    /// A field that is there and not null.
    pub(super) fn given(&self, key: &str) -> Option<Value<'a>> {
        self.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn need(&self, key: &str) -> Result<Value<'a>> {
        self.get(key).ok_or_else(|| Error::invalid(self.path.clone(), format!("the key {key:?} is missing")))
    }

    /// Refuses other keys than these, unless they say nothing: those whose value is null, and those that are passed over.
    pub(super) fn only(&self, accepted: &[&str]) -> Result<()> {
        self.only_and(accepted, &[])
    }

    /// As [`only`](Object::only), with further keys that are passed over.
    pub(super) fn only_and(&self, accepted: &[&str], passed_over: &[&str]) -> Result<()> {
        if self.unknown_keys == UnknownKeys::Ignored {
            return Ok(());
        }
        let says_something = |(key, raw): &&(String, &str)| {
            let key = key.as_str();
            !accepted.contains(&key)
                && !PASSED_OVER.contains(&key)
                && !passed_over.contains(&key)
                && *raw != "null"
        };
        match self.fields.iter().find(says_something) {
            Some((key, _)) => Err(self.unknown(key, accepted)),
            None => Ok(()),
        }
    }

    fn unknown(&self, key: &str, accepted: &[&str]) -> Error {
        let problem = format!(
            "unknown key {key:?}; accepted: {}; `ignore_unknown_keys` of the reader reads the line without it",
            accepted.join(", ")
        );
        Error::invalid(self.path.clone(), problem)
    }

    /// The error of a line whose kind cannot be told from its keys.
    pub(super) fn of_no_kind(&self, accepted: &str) -> Error {
        let keys: Vec<&str> = self.fields.iter().map(|(key, _)| key.as_str()).collect();
        let found = if keys.is_empty() { "none".into() } else { keys.join(", ") };
        Error::invalid(self.path.clone(), format!("the keys found: {found}; accepted: {accepted}"))
    }
}
