//! Incremental decoding.

use super::Tokenizer;

/// Decodes ids one after the other, and never splits a character: the bytes of an unfinished character wait for the next
/// token.
///
/// # Example: a character of two tokens
/// ```
/// use tinkex::tokenizer::{ByteTokenizer, TokenStream};
///
/// let mut stream = TokenStream::new(&ByteTokenizer);
/// assert_eq!(stream.push(0xc3), "");
/// assert_eq!(stream.push(0xa9), "é");
/// assert_eq!(stream.finish(), "");
/// ```
#[derive(Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a dyn Tokenizer,
    /// Bytes of a character that is not complete yet.
    held: Vec<u8>,
}

impl<'a> TokenStream<'a> {
    /// Starts with an empty text.
    pub fn new(tokenizer: &'a dyn Tokenizer) -> Self {
        TokenStream { tokenizer, held: Vec::new() }
    }

    /// Adds a token and returns the text that is complete now; it may be empty. Unknown ids are skipped; bytes that can
    /// never become a character are returned as U+FFFD at once.
    pub fn push(&mut self, id: i32) -> String {
        self.held.extend(self.tokenizer.token_bytes(id).unwrap_or_default());
        // An error without a length means that the bytes end within a character.
        let mut complete = 0;
        loop {
            match std::str::from_utf8(&self.held[complete..]) {
                Ok(text) => complete += text.len(),
                Err(error) => match error.error_len() {
                    Some(len) => {
                        complete += error.valid_up_to() + len;
                        continue;
                    }
                    None => complete += error.valid_up_to(),
                },
            }
            break;
        }
        let rest = self.held.split_off(complete);
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held = rest;
        text
    }

    /// Ends the text: an unfinished character is returned as U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use crate::tokenizer::{ByteTokenizer, TokenStream};

    fn pieces(bytes: &[u8]) -> Vec<String> {
        let mut stream = TokenStream::new(&ByteTokenizer);
        let mut pieces: Vec<String> = bytes.iter().map(|byte| stream.push(i32::from(*byte))).collect();
        pieces.push(stream.finish());
        pieces
    }

    #[test]
    fn the_pieces_of_a_stream_are_the_decoded_text() {
        for bytes in ["añ中🙂\r\n".as_bytes(), b"a\xf0\x9f\x99", b"\xff\xc3(\x80", b"\xf0\x9fab", b""] {
            let ids: Vec<i32> = bytes.iter().map(|byte| i32::from(*byte)).collect();
            assert_eq!(pieces(bytes).concat(), ByteTokenizer.decode(&ids), "{bytes:?}");
        }
    }

    #[test]
    fn a_character_appears_with_its_last_byte_and_a_wrong_byte_at_once() {
        assert_eq!(pieces("🙂!".as_bytes()), ["", "", "", "🙂", "!", ""]);
        assert_eq!(pieces(b"\xff\xe4"), ["\u{fffd}", "", "\u{fffd}"]);
    }
}
