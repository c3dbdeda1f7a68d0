//! Keeps texts of messages apart from what a template writes, so that no message can write a marker.
//!
//! A template makes one text of everything, and the markers in it become tokens. So the texts of messages are rewritten
//! before: a *guard*, which is a character that occurs nowhere else, is put into them, and is removed before the text
//! becomes tokens. A marker with a guard within is ordinary text. There are two ways:
//! - *broken*: a guard stands in each marker that a text contains. Otherwise the text is as it was, and so is whatever a
//!   template does with it.
//! - *guarded*: a guard stands before and after each character that is not white space. Then no marker comes from the
//!   text, not even together with what stands beside it, or after a part of the text was removed. But a template that
//!   looks into the text may do something else.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Puts guards into texts and removes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard<'a> {
    pub(super) tokenizer: &'a dyn Tokenizer,
    pub(super) letter: char,
}

/// A text that a template wrote, with guards.
#[derive(Clone, Debug)]
pub(super) struct Written<'a> {
    guard: Guard<'a>,
    text: String,
    /// The texts of messages are guarded, not only broken.
    is_guarded: bool,
}

impl<'a> Guard<'a> {
    /// A guard that does not occur in a text.
    pub(super) fn new(tokenizer: &'a dyn Tokenizer, text: &str) -> Result<Self> {
        let mut private = ('\u{e000}'..='\u{f8ff}').chain('\u{f0000}'..='\u{ffffd}');
        match private.find(|letter| !text.contains(*letter)) {
            Some(letter) => Ok(Guard { tokenizer, letter }),
            None => Err(Error::invalid("messages", "contain all characters for private use")),
        }
    }

    /// The text with a guard in each marker.
    ///
    /// # Errors
    /// A marker that cannot be broken.
    pub(super) fn broken(self, text: &str) -> std::result::Result<String, String> {
        let mut text = text.to_owned();
        loop {
            let ids = self.tokenizer.encode(&text).map_err(|error| error.to_string())?;
            let found = self.markers(&ids);
            let mut found =
                found.iter().map(|(_, marker)| marker).filter(|marker| !marker.trim().is_empty()).peekable();
            if found.peek().is_none() {
                return Ok(text);
            }
            let (mut out, mut rest) = (String::with_capacity(text.len() + 8), text.as_str());
            for marker in found {
                let at = rest.find(marker.as_str()).filter(|_| marker.chars().nth(1).is_some());
                let Some(at) = at else {
                    return Err(format!(
                        "contains the marker {marker:?}, which cannot be written as ordinary text"
                    ));
                };
                let inside = at + marker.chars().next().map_or(0, char::len_utf8);
                out += &rest[..inside];
                out.push(self.letter);
                out += &rest[inside..at + marker.len()];
                rest = &rest[at + marker.len()..];
            }
            text = out + rest;
        }
    }

    /// The text with a guard before and after each character that is not white space.
    pub(super) fn guarded(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() * 4);
        for letter in text.chars() {
            if letter.is_whitespace() {
                out.push(letter);
                continue;
            }
            if !out.ends_with(self.letter) {
                out.push(self.letter);
            }
            out.push(letter);
            out.push(self.letter);
        }
        out
    }

    /// The text without guards.
    pub(super) fn plain(self, text: &str) -> String {
        text.replace(self.letter, "")
    }

    /// The markers among tokens, with their texts.
    fn markers(self, ids: &[i32]) -> Vec<(i32, String)> {
        let marker = |id: &i32| {
            let text = String::from_utf8(self.tokenizer.token_bytes(*id)?).ok()?;
            let is_marker = self.tokenizer.token_id(&text) == Some(*id)
                && self.tokenizer.encode_ordinary(&text).is_ok_and(|ordinary| !ordinary.contains(id));
            is_marker.then_some((*id, text))
        };
        ids.iter().filter_map(marker).collect()
    }
}

impl<'a> Written<'a> {
    pub(super) fn new(guard: Guard<'a>, text: String, is_guarded: bool) -> Self {
        Written { guard, text, is_guarded }
    }

    pub(super) fn plain(&self) -> String {
        self.guard.plain(&self.text)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The place in the text with guards of a place in the one without.
    pub(super) fn place(&self, plain: usize) -> usize {
        let mut seen = 0;
        for (at, letter) in self.text.char_indices() {
            if plain <= seen {
                return at;
            }
            if letter != self.guard.letter {
                seen += letter.len_utf8();
            }
        }
        self.text.len()
    }

    /// The part between two places in the text without guards.
    pub(super) fn part(&self, plain: std::ops::Range<usize>) -> Written<'a> {
        let text = self.text[self.place(plain.start)..self.place(plain.end)].to_owned();
        Written { text, ..*self }
    }

    /// The markers that the template wrote, with their texts.
    pub(super) fn markers(&self) -> Result<Vec<(i32, String)>> {
        let ids = if self.is_guarded {
            self.guard.tokenizer.encode(&self.without_guarded())?
        } else {
            self.guard.tokenizer.encode(&self.text)?
        };
        Ok(self.guard.markers(&ids))
    }

    /// Encodes the text. Only markers that the template wrote become tokens of their own.
    pub(super) fn encode(&self) -> Result<Vec<i32>> {
        let tokenizer = self.guard.tokenizer;
        let ids = tokenizer.encode(&self.plain())?;
        if !self.text.contains(self.guard.letter) {
            return Ok(ids);
        }
        let markers = self.markers()?;
        if self.guard.markers(&ids) == markers {
            return Ok(ids);
        }
        let (mut ids, mut rest) = (Vec::new(), self.text.as_str());
        for (id, marker) in markers {
            let Some(at) = rest.find(&marker) else {
                let problem =
                    format!("contain a text in which the marker {marker:?} of the template is not found");
                return Err(Error::invalid("messages", problem));
            };
            ids.extend(tokenizer.encode_ordinary(&self.guard.plain(&rest[..at]))?);
            ids.push(id);
            rest = &rest[at + marker.len()..];
        }
        ids.extend(tokenizer.encode_ordinary(&self.guard.plain(rest))?);
        Ok(ids)
    }

    /// The text without the characters between guards, which are no part of a marker. It is much shorter.
    fn without_guarded(&self) -> String {
        let guard = self.guard.letter;
        let mut out = String::with_capacity(self.text.len() / 2);
        let mut letters = self.text.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter != guard || !out.ends_with(guard) {
                out.push(letter);
            }
            if letter == guard {
                let next = letters.peek().copied();
                let mut ahead = letters.clone();
                if next.is_some_and(|next| next != guard) && ahead.nth(1) == Some(guard) {
                    letters.next();
                }
            }
        }
        out
    }
}
