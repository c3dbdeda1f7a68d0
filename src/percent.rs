//! Percent encoding in URLs.

/// Decodes percent encoding. `None` if the encoding is malformed or the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (*first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                tail
            }
            (b'%', _) => return None,
            (byte, tail) => {
                bytes.push(byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok()
}
