//! The tokenizer of the embedded engine's own model.

/// Bytes as tokens: id 0 to 255 is the byte of that value in UTF-8, [`EOS`](Bytes::EOS) ends a sequence.
///
/// It is the tokenizer of `tinkex/nano`, needs no file and knows every text.
///
/// # Example: a text there and back
/// ```
/// use tinkex::tokenizer::Bytes;
///
/// let ids = Bytes.encode("hé");
/// assert_eq!(ids, [104, 195, 169]);
/// assert_eq!(Bytes.decode(&ids), "hé");
/// assert_eq!(Bytes.decode(&[104, 105, Bytes::EOS]), "hi");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes;

impl Bytes {
    /// The id that ends a sequence.
    pub const EOS: i32 = 256;

    /// The ids of a text: one for each of its bytes, and no end of sequence.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        text.bytes().map(i32::from).collect()
    }

    /// The text of ids. Ids that are no bytes, such as the end of a sequence, are skipped; bytes that are no UTF-8
    /// become U+FFFD.
    pub fn decode(&self, ids: &[i32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|it| u8::try_from(*it).ok()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_bytes_are_skipped_and_broken_text_is_marked() {
        assert_eq!(Bytes.decode(&[72, 256, -1, 511, 105]), "Hi");
        assert_eq!(Bytes.decode(&[195, 40]), "\u{fffd}(");
        assert_eq!(Bytes.decode(&[]), "");
    }
}
