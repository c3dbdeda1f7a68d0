//! The checked description of a byte-level BPE tokenizer, from whichever file it was read.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};

/// Steps from a text to ids. Everything in it has been checked, so that the same text gets the same ids everywhere.
#[derive(Debug)]
pub(super) struct Plan {
    /// The text is normalized to NFC first.
    pub(super) nfc: bool,
    /// Regular expressions that split the text one after the other; matches and the text between them stand alone.
    pub(super) patterns: Vec<String>,
    pub(super) vocabulary: Vocabulary,
    /// Pairs of positions in the vocabulary, the pair that merges first in front.
    pub(super) merges: Vec<(u32, u32)>,
    /// A piece of text that is a token becomes this token without merging.
    pub(super) ignore_merges: bool,
    pub(super) added: Vec<Added>,
}

/// A token that stands for a text as a whole: a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) id: i32,
    pub(super) content: String,
    pub(super) special: bool,
    pub(super) normalized: bool,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
}

impl Added {
    /// A special marker that is found anywhere in the text as it is.
    pub(super) fn special(content: impl Into<String>, id: i32) -> Self {
        Added {
            id,
            content: content.into(),
            special: true,
            normalized: false,
            single_word: false,
            lstrip: false,
            rstrip: false,
        }
    }
}

/// Tokens in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    tokens: Vec<(Vec<u8>, i32)>,
    positions: HashMap<Vec<u8>, u32>,
}

impl Vocabulary {
    /// Sorts the tokens. `name` writes the path of a token for an error.
    pub(super) fn new(mut tokens: Vec<(Vec<u8>, i32)>, name: impl Fn(&[u8]) -> String) -> Result<Self> {
        tokens.sort_by_key(|(_, id)| *id);
        for pair in tokens.windows(2) {
            if pair[0].1 == pair[1].1 {
                let other = name(&pair[0].0);
                // Both stand in the same file, which the path of the error names.
                let other = other.split_once(": ").map_or(other.as_str(), |(_, other)| other);
                let problem = format!("has the id {}, which {other} has, too", pair[1].1);
                return Err(Error::invalid(name(&pair[1].0), problem));
            }
        }
        let mut positions = HashMap::with_capacity(tokens.len());
        for (position, (bytes, id)) in tokens.iter().enumerate() {
            if bytes.is_empty() {
                return Err(Error::invalid(name(bytes), format!("the token {id} is empty")));
            }
            // Fits: ids are different and at most `i32::MAX`.
            if positions.insert(bytes.clone(), position as u32).is_some() {
                return Err(Error::invalid(name(bytes), "occurs twice"));
            }
        }
        Ok(Vocabulary { tokens, positions })
    }

    pub(super) fn tokens(&self) -> &[(Vec<u8>, i32)] {
        &self.tokens
    }

    pub(super) fn position(&self, bytes: &[u8]) -> Option<u32> {
        self.positions.get(bytes).copied()
    }

    pub(super) fn id(&self, bytes: &[u8]) -> Option<i32> {
        self.position(bytes).map(|position| self.tokens[position as usize].1)
    }

    /// Checks that any text can be encoded. `path` is that of the vocabulary.
    pub(super) fn check_bytes(&self, path: &str) -> Result<()> {
        let missing = (0..=u8::MAX).find(|byte| self.position(&[*byte]).is_none());
        let Some(byte) = missing else { return Ok(()) };
        Err(Error::invalid(
            path,
            format!("lacks a token for the byte {byte:#04x}, so that some texts have no ids"),
        ))
    }
}

/// Checks added tokens against each other and against the vocabulary. `path` writes the path of the i-th.
pub(super) fn check_added(
    added: &[Added],
    vocabulary: &Vocabulary,
    path: impl Fn(usize) -> String,
) -> Result<()> {
    let (mut ids, mut contents) = (HashMap::new(), HashMap::new());
    let taken: HashMap<i32, &[u8]> =
        vocabulary.tokens().iter().map(|(bytes, id)| (*id, bytes.as_slice())).collect();
    for (i, token) in added.iter().enumerate() {
        if token.content.is_empty() {
            return Err(Error::invalid(format!("{}.content", path(i)), "is empty"));
        }
        if let Some(first) = ids.insert(token.id, i) {
            let problem = format!("is {}, the id of {:?} too", token.id, added[first].content);
            return Err(Error::invalid(format!("{}.id", path(i)), problem));
        }
        if let Some(first) = contents.insert(token.content.as_str(), i) {
            let problem = format!("is {:?}, as in {}", token.content, path(first));
            return Err(Error::invalid(format!("{}.content", path(i)), problem));
        }
        match (vocabulary.id(token.content.as_bytes()), taken.get(&token.id)) {
            (Some(id), _) if id != token.id => {
                let problem =
                    format!("is {}, but the vocabulary gives {:?} the id {id}", token.id, token.content);
                return Err(Error::invalid(format!("{}.id", path(i)), problem));
            }
            (None, Some(bytes)) => {
                let other = String::from_utf8_lossy(bytes);
                let problem = format!("is {}, the id of {other:?} in the vocabulary", token.id);
                return Err(Error::invalid(format!("{}.id", path(i)), problem));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks that every pair merges into a token and occurs once. `path` writes the path of the i-th.
pub(super) fn check_merges(
    merges: &[(u32, u32)],
    vocabulary: &Vocabulary,
    path: impl Fn(usize) -> String,
) -> Result<()> {
    let mut seen = HashSet::with_capacity(merges.len());
    let bytes = |position: u32| vocabulary.tokens()[position as usize].0.as_slice();
    for (i, (left, right)) in merges.iter().enumerate() {
        if !seen.insert((*left, *right)) {
            return Err(Error::invalid(path(i), "occurs twice"));
        }
        let merged = [bytes(*left), bytes(*right)].concat();
        if vocabulary.position(&merged).is_none() {
            let merged = String::from_utf8_lossy(&merged);
            return Err(Error::invalid(
                path(i),
                format!("merges into {merged:?}, which is not in the vocabulary"),
            ));
        }
    }
    Ok(())
}

/// The negative look-ahead that tokenizers use: all white space of a run but the last character, if text follows.
const LAST_SPACE: &str = r"\s+(?!\S)";

/// Checks that a pattern means the same in all engines of regular expressions.
///
/// Engines without back-references and look-arounds agree. The one look-ahead that tokenizers use is taken out before.
pub(super) fn check_pattern(pattern: &str, path: &str) -> Result<()> {
    if pattern.is_empty() {
        return Err(Error::invalid(path, "is empty"));
    }
    let plain = pattern.replace(LAST_SPACE, r"\s+");
    let parsed = regex_syntax::parse(&plain).map_err(|error| {
        // The last line says what is wrong; the lines above show where.
        let error = error.to_string();
        let problem = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
        Error::invalid(
            path,
            format!(
                "is not a pattern that can be used: {problem}. The one supported look-around is {LAST_SPACE}"
            ),
        )
    })?;
    let facts = parsed.properties();
    if !facts.look_set().is_empty() {
        return Err(Error::invalid(
            path,
            "contains an anchor, which has different meanings in different engines",
        ));
    }
    if facts.minimum_len() == Some(0) {
        return Err(Error::invalid(path, "matches the empty text"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_known_tokenizers_are_accepted_and_those_with_other_meanings_are_refused() {
        for pattern in [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[\p{Han}]+|[\p{Lu}\p{M}&&[^\p{Han}]]+",
            super::super::json::GPT2_PATTERN,
        ] {
            check_pattern(pattern, "p").unwrap();
        }
        for (pattern, problem) in [
            ("", "is empty"),
            (r"a(?!b)", "look-around"),
            (r"(?<=a)b", "look-around"),
            (r"(a)\1", "backreference"),
            (r"^a", "anchor"),
            (r"\ba", "anchor"),
            (r"a*", "empty text"),
            (r"(", "unclosed group"),
        ] {
            let error = check_pattern(pattern, "p").unwrap_err().to_string();
            assert!(error.starts_with("p: ") && error.contains(problem), "{pattern}: {error}");
        }
    }
}
