//! Examples as text, to be looked at.

use tinkex::chat::Example;
use tinkex::tokenizer::Tokenizer;
use tinkex::types::{Chunk, ModelInput};

use crate::printable;

/// An example as text. Trained tokens are green and underlined, or stand between `[[` and `]]`.
pub(super) fn show(tokenizer: Option<&dyn Tokenizer>, example: &Example, color: bool) -> String {
    let [open, close] = if color { ["\x1b[32;4m", "\x1b[0m"] } else { ["[[", "]]"] };
    let mut text = String::new();
    let mut weights = example.weights();
    for chunk in &example.tokens().chunks {
        let Chunk::EncodedText { tokens } = chunk else {
            let n = ModelInput::default().with_chunk(chunk.clone()).len().unwrap_or(0);
            weights = &weights[n.min(weights.len())..];
            text += "[image]";
            continue;
        };
        let (these, rest) = weights.split_at(tokens.len().min(weights.len()));
        weights = rest;
        let mut tokens = tokens.as_slice();
        for run in these.chunk_by(|a, b| (*a == 0.0) == (*b == 0.0)) {
            let (ids, rest) = tokens.split_at(run.len());
            tokens = rest;
            let shown = printable::text(&decoded(tokenizer, ids));
            if run[0] == 0.0 {
                text += &shown;
            } else {
                text += &format!("{open}{shown}{close}");
            }
        }
    }
    text
}

fn decoded(tokenizer: Option<&dyn Tokenizer>, ids: &[i32]) -> String {
    match tokenizer {
        Some(tokenizer) => tokenizer.decode(ids),
        None => ids.iter().map(|id| format!("{id} ")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkex::tokenizer::ByteTokenizer;

    #[test]
    fn trained_tokens_are_marked_and_control_characters_are_written_out() -> tinkex::Result<()> {
        let ids = ByteTokenizer.encode("a\x1b[2Jbc");
        let weights = ids.iter().enumerate().map(|(i, _)| if i < 5 { 0.0 } else { 1.0 }).collect();
        let example = Example::new(ModelInput::from_ints(ids), weights)?;
        let tokenizer: &dyn Tokenizer = &ByteTokenizer;
        assert_eq!(show(Some(tokenizer), &example, false), "a\\u{1b}[2J[[bc]]");
        assert_eq!(show(Some(tokenizer), &example, true), "a\\u{1b}[2J\x1b[32;4mbc\x1b[0m");
        assert_eq!(show(None, &example, false), "97 27 91 50 74 [[98 99 ]]");
        assert_eq!(printable::text("\u{202e}x\r\n"), "\\u{202e}x\\u{d}\n");
        Ok(())
    }
}
