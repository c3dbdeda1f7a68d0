//! Searches texts for secrets, in plain text and in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Number of bytes of a *window*: the shortest part of a secret that is searched in errors. Shorter parts often occur
/// in ordinary words.
pub(super) const WINDOW: usize = 8;
/// Secrets with fewer bytes are not searched at all.
pub(super) const SHORTEST: usize = 4;

/// The forms of a set of secrets. Each secret has four forms: one in plain text and three in base64. Base64 encodes
/// groups of three bytes. Within a longer text, the base64 of a secret therefore depends on the number of bytes before
/// it, modulo 3.
#[derive(Clone, Debug, Default)]
pub(super) struct Forms {
    /// The forms, normalised by [`folded`].
    all: Vec<Box<[u8]>>,
    /// The first window of each form with the index of the form in `all`, sorted.
    first: Vec<(u64, usize)>,
    /// All windows of all forms, sorted.
    windows: Vec<u64>,
    /// Secrets that are shorter than a window. They are found only as separate words.
    words: Vec<Box<[u8]>>,
    /// A Bloom filter of the windows with one hash.
    filter: Vec<u64>,
}

impl Forms {
    pub(super) fn of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms = Forms::default();
        for secret in secrets {
            forms.take(secret);
        }
        forms.order();
        forms
    }

    /// Adds a secret.
    pub(super) fn add(&mut self, secret: &str) {
        self.take(secret);
        self.order();
    }

    fn take(&mut self, secret: &str) {
        if secret.len() < WINDOW {
            self.words.push(secret.as_bytes().into());
        }
        for form in [secret.to_string()].into_iter().chain((0..3).map(|it| within_base64(secret, it))) {
            let form: Box<[u8]> = form.bytes().map(folded).collect();
            if form.len() < WINDOW {
                continue;
            }
            let number = self.all.len();
            for (i, piece) in form.windows(WINDOW).enumerate() {
                let window = piece.iter().fold(0, |window, byte| window << 8 | u64::from(*byte));
                if i == 0 {
                    self.first.push((window, number));
                }
                // Leave out windows with white space, except the first one, by which whole forms are found. In "Bearer
                // x" only "x" is secret.
                if i == 0 || !piece.iter().any(u8::is_ascii_whitespace) {
                    self.windows.push(window);
                }
            }
            self.all.push(form);
        }
    }

    fn order(&mut self) {
        self.windows.sort_unstable();
        self.windows.dedup();
        self.first.sort_unstable();
        let bits = (16 * self.windows.len()).next_power_of_two().max(64);
        self.filter = vec![0; bits / 64];
        for window in &self.windows {
            let bit = place(*window, bits);
            self.filter[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Reports each range of a text that contains a whole form. With `any_part`, also reports each window of a form
    /// (unless it contains white space) and each short secret.
    pub(super) fn find(&self, text: &[u8], any_part: bool, mut found: impl FnMut(std::ops::Range<usize>)) {
        if any_part {
            self.words.iter().for_each(|word| find_word(text, word, &mut found));
        }
        let bits = 64 * self.filter.len();
        if bits == 0 {
            return;
        }
        let mut window = 0;
        for (i, byte) in text.iter().enumerate() {
            window = window << 8 | u64::from(folded(*byte));
            let Some(start) = (i + 1).checked_sub(WINDOW) else { continue };
            let bit = place(window, bits);
            if self.filter[bit / 64] & 1 << (bit % 64) == 0 || self.windows.binary_search(&window).is_err() {
                continue;
            }
            let has_space = any_part && text[start..=i].iter().any(u8::is_ascii_whitespace);
            if any_part && !has_space {
                found(start..i + 1);
            }
            let from = self.first.partition_point(|(first, _)| *first < window);
            for (_, number) in self.first[from..].iter().take_while(|(first, _)| *first == window) {
                let form = &self.all[*number];
                let here = text.get(start..start + form.len());
                if here.is_some_and(|bytes| bytes.iter().zip(form).all(|(a, b)| folded(*a) == *b)) {
                    found(start..start + form.len());
                }
            }
        }
    }
}

/// Reports each occurrence of a separate word: one that is not next to a letter, a digit, `-`, `_` or a non-ASCII
/// character.
fn find_word(text: &[u8], word: &[u8], found: &mut impl FnMut(std::ops::Range<usize>)) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || !byte.is_ascii();
    for (start, piece) in text.windows(word.len()).enumerate() {
        let end = start + word.len();
        let is_alone =
            !text[..start].last().is_some_and(is_part) && !text[end..].first().is_some_and(is_part);
        if piece == word && is_alone {
            found(start..end);
        }
    }
}

/// The bit of a window in the filter.
fn place(window: u64, bits: usize) -> usize {
    let hash = window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    hash as usize & (bits - 1)
}

/// Normalises a byte for comparison: turns letters into lower case, and `-` and `_` of URL-safe base64 into `+` and `/`
/// of standard base64.
fn folded(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other.to_ascii_lowercase(),
    }
}

/// Returns the part of the base64 of a longer text that depends on `secret` alone, if `before` bytes (modulo 3) precede
/// the secret.
fn within_base64(secret: &str, before: usize) -> String {
    let padded = [&b"\0\0"[..before], secret.as_bytes()].concat();
    let encoded = STANDARD.encode(&padded);
    // Each character encodes 6 bits.
    let (from, to) = ((8 * before).div_ceil(6), 8 * padded.len() / 6);
    encoded.get(from..to).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base64_of_a_part_is_found_in_that_of_the_whole_at_each_alignment() {
        let secret = "tml-0123456789abcdef";
        for before in ["", "x", "xy", "xyz", "user:"] {
            for after in ["", "!", "!!", "!!!"] {
                let whole = STANDARD.encode(format!("{before}{secret}{after}"));
                let part = within_base64(secret, before.len() % 3);
                assert!(part.len() >= 24 && whole.contains(&part), "{part} in {whole}");
            }
        }
    }
}
