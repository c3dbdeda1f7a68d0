//! Reads `tokenizer.json`, the format of Hugging Face.
//!
//! A file may describe steps that are not implemented here. Ignoring them would give wrong ids without a signal, so that
//! everything that may change an id is checked, and anything unknown is an error.

use serde_json::Value;

use super::alphabet;
use super::plan::{Added, Plan, Vocabulary, check_added, check_merges, check_pattern};
use crate::error::{Error, Result};

/// The pattern of a file that does not split the text, as that of the embedded engine.
const WHOLE_TEXT: &str = r"[\s\S]+";

/// The pattern of GPT-2, which a `ByteLevel` pre-tokenizer with `use_regex` splits by.
pub(super) const GPT2_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A place in a file, for errors: the file and the path of the value.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Place<'a> {
    pub(super) fn new(file: &str, value: &'a Value) -> Self {
        Place { value, path: format!("{file}:") }
    }

    pub(super) fn path(&self) -> &str {
        self.path.trim_end_matches(':')
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// The member of an object; `null` if there is none.
    pub(super) fn get(&self, name: &str) -> Place<'a> {
        let path = if self.path.ends_with(':') {
            format!("{} {name}", self.path)
        } else {
            format!("{}.{name}", self.path)
        };
        Place { value: self.value.get(name).unwrap_or(&Value::Null), path }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::invalid(self.path(), problem)
    }

    /// The error of a value of a wrong type.
    fn not(&self, expected: &str) -> Error {
        if self.is_null() {
            return self.error(format!("is missing; {expected} is needed"));
        }
        let text = self.value.to_string();
        let shown: String = text.chars().take(60).collect();
        self.error(format!("is {shown}; {expected} is needed"))
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.not("a text"))
    }

    /// A flag that may be missing.
    pub(super) fn flag(&self, default: bool) -> Result<bool> {
        if self.is_null() {
            Ok(default)
        } else {
            self.value.as_bool().ok_or_else(|| self.not("true or false"))
        }
    }

    pub(super) fn id(&self) -> Result<i32> {
        let id = self.value.as_i64().and_then(|id| i32::try_from(id).ok()).filter(|id| 0 <= *id);
        id.ok_or_else(|| self.not("an id from 0 to 2147483647"))
    }

    pub(super) fn items(&self) -> Result<Vec<Place<'a>>> {
        let items = self.value.as_array().ok_or_else(|| self.not("a list"))?;
        let place = |(i, value)| Place { value, path: format!("{}[{i}]", self.path) };
        Ok(items.iter().enumerate().map(place).collect())
    }
}

/// Parses a JSON file. `file` is its name in errors.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(file, format!("is not valid JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Place::new(file, &value).not("an object")) }
}

/// The name of the file in errors.
pub(super) const FILE: &str = "tokenizer.json";

/// Reads a file into a plan. `more` are added tokens from other files.
pub(super) fn plan(bytes: &[u8], more: Vec<Added>) -> Result<Plan> {
    let document = parse(FILE, bytes)?;
    let file = Place::new(FILE, &document);
    let version = file.get("version");
    if !version.is_null() && version.text()? != "1.0" {
        return Err(version.error(format!("is {:?}; the supported version is \"1.0\"", version.text()?)));
    }
    let nfc = normalizer(&file.get("normalizer"))?;
    let patterns = pre_tokenizer(&file.get("pre_tokenizer"))?;
    decoder(&file.get("decoder"))?;
    let model = file.get("model");
    let ignore_merges = options(&model)?;
    let places =
        if file.get("added_tokens").is_null() { vec![] } else { file.get("added_tokens").items()? };
    let mut added = places.iter().map(added_token).collect::<Result<Vec<_>>>()?;
    let vocabulary = vocabulary(&model.get("vocab"), &added)?;
    let n_own = added.len();
    added.extend(more_tokens(&added, more)?);
    check_added(&added, &vocabulary, |i| {
        if i < n_own { format!("{FILE}: added_tokens[{i}]") } else { configured_path(added[i].id) }
    })?;
    let merges = merges(&model.get("merges"), &vocabulary)?;
    Ok(Plan { nfc, patterns, vocabulary, merges, ignore_merges, added })
}

/// The type of a component.
fn kind<'a>(place: &Place<'a>) -> Result<&'a str> {
    if !place.value.is_object() {
        return Err(place.not("an object"));
    }
    place.get("type").text()
}

fn unsupported(place: &Place<'_>, kind: &str, supported: &str) -> Error {
    place.get("type").error(format!("is {kind:?}, which is not supported; supported: {supported}"))
}

/// Returns true for NFC.
fn normalizer(place: &Place<'_>) -> Result<bool> {
    if place.is_null() {
        return Ok(false);
    }
    match kind(place)? {
        "NFC" => Ok(true),
        // NFC twice is the same as once.
        "Sequence" => {
            let steps =
                place.get("normalizers").items()?.iter().map(normalizer).collect::<Result<Vec<_>>>()?;
            Ok(steps.contains(&true))
        }
        other => Err(unsupported(place, other, "NFC, Sequence")),
    }
}

/// Returns the patterns by which the text is split.
fn pre_tokenizer(place: &Place<'_>) -> Result<Vec<String>> {
    if place.is_null() {
        return Err(place.error("is missing; the ByteLevel pre-tokenizer is needed"));
    }
    let steps = match kind(place)? {
        "Sequence" => place.get("pretokenizers").items()?,
        _ => vec![place.clone()],
    };
    let Some((last, splits)) = steps.split_last() else {
        return Err(place.get("pretokenizers").error("is empty; the ByteLevel pre-tokenizer is needed"));
    };
    let mut patterns = splits.iter().map(split).collect::<Result<Vec<_>>>()?;
    match kind(last)? {
        "ByteLevel" => {}
        "Split" => {
            return Err(last.get("type").error("is \"Split\"; the last pre-tokenizer must be ByteLevel"));
        }
        other => return Err(unsupported(last, other, "Sequence, Split, and ByteLevel at the end")),
    }
    // Missing flags are true in this format.
    if last.get("add_prefix_space").flag(true)? {
        return Err(last.get("add_prefix_space").error("is true, which is not supported"));
    }
    if last.get("use_regex").flag(true)? {
        patterns.push(GPT2_PATTERN.into());
    }
    if patterns.is_empty() {
        patterns.push(WHOLE_TEXT.into());
    }
    Ok(patterns)
}

/// Returns the pattern of one split.
fn split(place: &Place<'_>) -> Result<String> {
    match kind(place)? {
        "Split" => {}
        "ByteLevel" => {
            return Err(place.get("type").error("is \"ByteLevel\", which must be the last pre-tokenizer"));
        }
        other => return Err(unsupported(place, other, "Split, and ByteLevel at the end")),
    }
    let behavior = place.get("behavior");
    if behavior.text()? != "Isolated" {
        return Err(behavior.error(format!("is {:?}; the supported behavior is Isolated", behavior.text()?)));
    }
    let invert = place.get("invert");
    if invert.flag(false)? {
        return Err(invert.error("is true, which is not supported"));
    }
    let pattern = place.get("pattern").get("Regex");
    check_pattern(pattern.text()?, pattern.path())?;
    Ok(pattern.text()?.into())
}

/// The decoder has no influence on ids. One of another kind is the sign of a tokenizer that is not byte-level.
fn decoder(place: &Place<'_>) -> Result<()> {
    if place.is_null() {
        return Ok(());
    }
    match kind(place)? {
        "ByteLevel" => Ok(()),
        "Sequence" => place.get("decoders").items()?.iter().try_for_each(decoder),
        other => Err(unsupported(place, other, "ByteLevel")),
    }
}

/// Checks the settings of the model and returns `ignore_merges`.
fn options(model: &Place<'_>) -> Result<bool> {
    match kind(model)? {
        "BPE" => {}
        other => return Err(unsupported(model, other, "BPE")),
    }
    let dropout = model.get("dropout");
    if !dropout.is_null() && dropout.value.as_f64() != Some(0.0) {
        return Err(dropout.error("is set, so that ids would be random; null is needed"));
    }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let affix = model.get(name);
        if !affix.is_null() && !affix.text()?.is_empty() {
            return Err(affix.error(format!("is {:?}, which is not supported", affix.text()?)));
        }
    }
    let fallback = model.get("byte_fallback");
    if fallback.flag(false)? {
        return Err(fallback.error("is true, which byte-level tokenizers do not need"));
    }
    model.get("ignore_merges").flag(false)
}

fn added_token(place: &Place<'_>) -> Result<Added> {
    if !place.value.is_object() {
        return Err(place.not("an object"));
    }
    token(place, place.get("id").id()?)
}

/// The path of an entry of `added_tokens_decoder`.
fn configured_path(id: i32) -> String {
    format!("tokenizer_config.json: added_tokens_decoder.{id}")
}

/// Reads the settings of an added token, which has the given id.
pub(super) fn token(place: &Place<'_>, id: i32) -> Result<Added> {
    let special = place.get("special").flag(false)?;
    Ok(Added {
        id,
        content: place.get("content").text()?.into(),
        special,
        normalized: place.get("normalized").flag(!special)?,
        single_word: place.get("single_word").flag(false)?,
        lstrip: place.get("lstrip").flag(false)?,
        rstrip: place.get("rstrip").flag(false)?,
    })
}

/// The tokens of another file that this file lacks.
fn more_tokens(added: &[Added], more: Vec<Added>) -> Result<Vec<Added>> {
    let mut new = Vec::new();
    for token in more {
        let known = added.iter().find(|known| known.id == token.id || known.content == token.content);
        match known {
            Some(known) if known.id == token.id && known.content == token.content => {}
            Some(known) => {
                let problem = format!(
                    "gives {:?} the id {}, but {FILE} gives {:?} the id {}",
                    token.content, token.id, known.content, known.id
                );
                return Err(Error::invalid(configured_path(token.id), problem));
            }
            None => new.push(token),
        }
    }
    Ok(new)
}

fn vocabulary(place: &Place<'_>, added: &[Added]) -> Result<Vocabulary> {
    let entries = place.value.as_object().ok_or_else(|| place.not("an object"))?;
    let mut tokens = Vec::with_capacity(entries.len());
    for (text, id) in entries {
        let entry = Place { value: id, path: format!("{FILE}: model.vocab[{text:?}]") };
        let id = entry.id()?;
        match alphabet::bytes(text) {
            Some(bytes) => tokens.push((bytes, id)),
            // Text in other characters cannot come from merges: it is reachable as an added token alone.
            None if added.iter().any(|token| token.id == id && token.content == *text) => {}
            None => {
                return Err(
                    entry.error("has characters that do not stand for bytes in a byte-level vocabulary")
                );
            }
        }
    }
    let vocabulary =
        Vocabulary::new(tokens, |bytes| format!("{FILE}: model.vocab[{:?}]", alphabet::letters(bytes)))?;
    vocabulary.check_bytes(place.path())?;
    Ok(vocabulary)
}

fn merges(place: &Place<'_>, vocabulary: &Vocabulary) -> Result<Vec<(u32, u32)>> {
    let items = place.value.as_array().ok_or_else(|| place.not("a list"))?;
    let path = |i: usize| format!("{}[{i}]", place.path());
    let mut merges = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let pair = match item {
            Value::String(joined) => joined.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) => match &pair[..] {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        let entry = Place { value: item, path: path(i) };
        let (left, right) = pair.ok_or_else(|| entry.not("a text \"a b\" or a pair [\"a\", \"b\"]"))?;
        let position = |text: &str| {
            let position = alphabet::bytes(text).and_then(|bytes| vocabulary.position(&bytes));
            position.ok_or_else(|| entry.error(format!("{text:?} is not in the vocabulary")))
        };
        merges.push((position(left)?, position(right)?));
    }
    check_merges(&merges, vocabulary, path)?;
    Ok(merges)
}
