//! A text in which some layers of escapes are decoded, with the position of each byte in the original text.

use std::ops::Range;

/// A decoded text, with the origin of each byte in the original text.
pub(super) struct View<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
    /// The range of each byte in the original text. `None` if this text is the original.
    origins: Option<Vec<(u32, u32)>>,
}

impl<'a> View<'a> {
    /// Views a text without decoding.
    pub(super) fn of(text: &'a str) -> Self {
        View { bytes: text.as_bytes().into(), origins: None }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Converts a range of this text into a range of the original text.
    pub(super) fn origin(&self, range: Range<usize>) -> Range<usize> {
        match &self.origins {
            None => range,
            Some(origins) => origins[range.start].0 as usize..origins[range.end - 1].1 as usize,
        }
    }

    /// Decodes one layer of JSON, URL and HTML escapes. `None` if the text contains no escape.
    pub(super) fn decoded(&self) -> Option<View<'static>> {
        let bytes = self.bytes();
        if u32::try_from(bytes.len()).is_err() || !bytes.iter().any(|it| matches!(it, b'\\' | b'%' | b'&')) {
            return None;
        }
        let mut decoded = Vec::with_capacity(bytes.len());
        let mut origins = Vec::with_capacity(bytes.len());
        let mut at = 0;
        let mut any = false;
        while at < bytes.len() {
            let escape = escape(&bytes[at..]);
            any |= escape.is_some();
            let (c, length) = escape.unwrap_or((None, 1));
            let origin = self.origin(at..at + length);
            let mut buffer = [0; 4];
            let out = match c {
                Some(c) => c.encode_utf8(&mut buffer).as_bytes(),
                None => &bytes[at..at + 1],
            };
            decoded.extend_from_slice(out);
            // The length fits into 32 bits, as checked above.
            origins.extend(out.iter().map(|_| (origin.start as u32, origin.end as u32)));
            at += length;
        }
        any.then(|| View { bytes: decoded.into(), origins: Some(origins) })
    }
}

/// Decodes an escape at the beginning of the text. Returns its character and its length in bytes.
fn escape(text: &[u8]) -> Option<(Option<char>, usize)> {
    let hex = |digits: Option<&[u8]>| {
        let digits = std::str::from_utf8(digits?).ok()?;
        let is_hex = digits.bytes().all(|it| it.is_ascii_hexdigit());
        if is_hex { u32::from_str_radix(digits, 16).ok() } else { None }
    };
    // Half of a surrogate pair becomes U+FFFD, and each byte of a non-ASCII character (`%C3%A4`) becomes a character of
    // its own. Both are wrong but harmless: a secret that a header can carry is ASCII.
    let char = |code: u32| Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
    match text {
        [b'\\', b'u', ..] => Some((char(hex(text.get(2..6))?), 6)),
        [b'\\', b'x', ..] => Some((char(hex(text.get(2..4))?), 4)),
        [b'\\', c @ (b'"' | b'\\' | b'/' | b'\''), ..] => Some((Some(char::from(*c)), 2)),
        [b'%', ..] => Some((char(hex(text.get(1..3))?), 3)),
        [b'&', rest @ ..] => {
            let end = rest.iter().take(8).position(|it| *it == b';')?;
            let code = match &rest[..end] {
                b"amp" => u32::from(b'&'),
                b"lt" => u32::from(b'<'),
                b"gt" => u32::from(b'>'),
                b"quot" => u32::from(b'"'),
                b"apos" => u32::from(b'\''),
                [b'#', b'x' | b'X', digits @ ..] if !digits.is_empty() => hex(Some(digits))?,
                [b'#', digits @ ..] => std::str::from_utf8(digits).ok()?.parse().ok()?,
                _ => return None,
            };
            Some((char(code), end + 2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Option<String> {
        View::of(text).decoded().map(|it| String::from_utf8_lossy(it.bytes()).into_owned())
    }

    #[test]
    fn escapes_are_decoded_and_other_text_stays() {
        for (text, read) in [
            (r"\u0074ml\/x", "tml/x"),
            ("%74ml%2Dx", "tml-x"),
            ("&#116;ml&#x2d;x&amp;", "tml-x&"),
            (r#"\"a\\"#, r#""a\"#),
            ("größe %41", "größe A"),
        ] {
            assert_eq!(decoded(text).as_deref(), Some(read));
        }
        for text in ["", "plain", "100 %", r"C:\dir", r"\u12", "a & b", "&unknown;", "%zz"] {
            assert_eq!(decoded(text), None, "{text}");
        }
        let view = View::of(r"a\u0062c").decoded().expect("an escape");
        assert_eq!((view.origin(0..1), view.origin(1..2), view.origin(1..3)), (0..1, 1..7, 1..8));
    }
}
