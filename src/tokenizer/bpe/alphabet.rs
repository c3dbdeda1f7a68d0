//! The alphabet in which files of byte-level tokenizers write bytes: one visible character for each byte.

/// The character of a byte. Visible characters of Latin-1 stand for themselves, all others for characters from U+0100 on.
pub(super) fn letter(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // The hidden bytes are numbered in their order: 0 to 0x20, 0x7f to 0xa0, 0xad.
        0..=0x20 => hidden(u32::from(byte)),
        0x7f..=0xa0 => hidden(0x21 + u32::from(byte) - 0x7f),
        0xad => hidden(0x43),
    }
}

fn hidden(number: u32) -> char {
    char::from_u32(0x100 + number).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte of a character, or `None` if it stands for none.
fn byte(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes that a text in this alphabet stands for, or `None` if it has other characters.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte).collect()
}

/// Writes bytes in this alphabet.
pub(super) fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| letter(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_a_letter_of_its_own_and_it_is_the_known_one() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(bytes(&letters(&all)), Some(all));
        assert_eq!(letters(b" a\n\t\x7f\xa0\xad\xff!"), "ĠaĊĉġłŃÿ!");
        assert_eq!(bytes("a b"), None);
        assert_eq!(bytes("｜"), None);
    }
}
