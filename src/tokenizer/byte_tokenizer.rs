//! The tokenizer of the embedded engine's own model.

use super::Tokenizer;
use crate::error::Result;

/// A tokenizer with one token for each byte of the UTF-8 text: ids 0 to 255 are the bytes, [`EOS`](ByteTokenizer::EOS)
/// ends a sequence.
///
/// It is the tokenizer of `tinkex/nano`, needs no file and encodes any text.
///
/// # Example: encode and decode a text
/// ```
/// use tinkex::tokenizer::ByteTokenizer;
///
/// let ids = ByteTokenizer.encode("hé");
/// assert_eq!(ids, [104, 195, 169]);
/// assert_eq!(ByteTokenizer.decode(&ids), "hé");
/// assert_eq!(ByteTokenizer.decode(&[104, 105, ByteTokenizer::EOS]), "hi");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteTokenizer;

impl ByteTokenizer {
    /// Id of the end of a sequence.
    pub const EOS: i32 = 256;

    /// Encodes a text: one id for each byte, without an end of sequence.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        text.bytes().map(i32::from).collect()
    }

    /// Decodes ids. Ids outside of 0 to 255, such as the end of a sequence, are skipped; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[i32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Tokenizer for ByteTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<i32>> {
        Ok(ByteTokenizer::encode(self, text))
    }

    /// As [`encode`](Self::encode): no text is that of a marker.
    fn encode_ordinary(&self, text: &str) -> Result<Vec<i32>> {
        Ok(ByteTokenizer::encode(self, text))
    }

    fn token_bytes(&self, id: i32) -> Option<Vec<u8>> {
        u8::try_from(id).ok().map(|byte| vec![byte])
    }

    fn token_id(&self, _token: &str) -> Option<i32> {
        None
    }

    fn bos_id(&self) -> Option<i32> {
        None
    }

    fn eos_id(&self) -> Option<i32> {
        Some(Self::EOS)
    }

    fn is_special(&self, id: i32) -> bool {
        id == Self::EOS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_of_a_byte_are_skipped_and_invalid_utf8_is_replaced() {
        assert_eq!(ByteTokenizer.decode(&[72, 256, -1, 511, 105]), "Hi");
        assert_eq!(ByteTokenizer.decode(&[195, 40]), "\u{fffd}(");
        assert_eq!(ByteTokenizer.decode(&[]), "");
    }
}
