//! Answers of a model, cut at the markers of its format.

use super::family::Ends;
use crate::error::{Error, Result};

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Termination {
    /// With the stop sequence of the format, once.
    StopSequence,
    /// With the end of the sequence instead. Base models do that.
    Eos,
    /// Not at all, such as an answer that was cut at its largest number of tokens.
    Malformed,
}

impl Termination {
    /// Returns true if the answer is whole.
    pub fn is_clean(self) -> bool {
        self != Termination::Malformed
    }
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Marker(&'static str),
    Text(String),
}

/// The tokens of an answer as texts and markers.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) spans: Vec<Span>,
    /// True if the last token was the tokenizer's end of a sequence; it is not among the spans unless it is a marker of
    /// the format.
    pub(super) ended_with_eos: bool,
}

impl Answer {
    /// Cuts the answer at the markers that end it. Returns what comes before the first of them.
    ///
    /// # Errors
    /// `InvalidInput` if one of them comes twice: the sampling did not stop there.
    pub(super) fn until(mut self, ends: Ends) -> Result<(Vec<Span>, Termination)> {
        let Ends::Markers(markers) = ends else { return Ok((self.spans, Termination::Malformed)) };
        for marker in markers {
            let count = self.spans.iter().filter(|span| **span == Span::Marker(marker)).count();
            if 1 < count {
                let problem = format!(
                    "the stop token {marker} comes {count} times; sample with the stop sequences of the renderer"
                );
                return Err(Error::invalid("response", problem));
            }
        }
        let end = self.spans.iter().position(|span| matches!(span, Span::Marker(it) if markers.contains(it)));
        match end {
            Some(end) => {
                self.spans.truncate(end);
                Ok((self.spans, Termination::StopSequence))
            }
            None => Ok((self.spans, Termination::Malformed)),
        }
    }
}

/// The text of spans, markers included.
pub(super) fn text_of(spans: &[Span]) -> String {
    let texts = spans.iter().map(|span| match span {
        Span::Marker(marker) => marker,
        Span::Text(text) => text.as_str(),
    });
    texts.collect()
}

/// The place of a marker at or after `from`.
pub(super) fn find(spans: &[Span], marker: &str, from: usize) -> Option<usize> {
    let found = spans.iter().skip(from).position(|span| matches!(span, Span::Marker(it) if *it == marker));
    found.map(|i| from + i)
}
