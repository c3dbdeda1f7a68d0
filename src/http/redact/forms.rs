//! The forms in which secrets are looked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What is shorter is no secret that anybody could keep, and too likely to be a part of ordinary words.
pub(super) const WINDOW: usize = 8;

/// The forms of some secrets: each as it is, and as it stands in base64 at each of the three places that it may have there,
/// alone or within something longer.
#[derive(Clone, Debug, Default)]
pub(super) struct Forms {
    /// In the writing of [`folded`].
    all: Vec<Box<[u8]>>,
    /// The first window of each, and its number.
    first: Vec<(u64, usize)>,
    /// All windows, sorted.
    windows: Vec<u64>,
    /// One bit for each value of a hash, set if a window has it.
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

    /// One more secret.
    pub(super) fn add(&mut self, secret: &str) {
        self.take(secret);
        self.order();
    }

    fn take(&mut self, secret: &str) {
        for form in [secret.to_string()].into_iter().chain((0..3).map(|it| within_base64(secret, it))) {
            let form: Box<[u8]> = form.bytes().map(folded).collect();
            if form.len() < WINDOW {
                continue;
            }
            let number = self.all.len();
            for (i, piece) in form.windows(WINDOW).enumerate() {
                let window = piece.iter().fold(0, |it, byte| it << 8 | u64::from(*byte));
                if i == 0 {
                    self.first.push((window, number));
                }
                // White space is seldom a part of what is secret, but stands before it: "Bearer x".
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

    /// Tells where a text holds a form, or, if any part of one counts, a window of one.
    pub(super) fn find(&self, text: &[u8], any_part: bool, mut found: impl FnMut(std::ops::Range<usize>)) {
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
            let from = self.first.partition_point(|it| it.0 < window);
            for (_, number) in self.first[from..].iter().take_while(|it| it.0 == window) {
                let form = &self.all[*number];
                let here = text.get(start..start + form.len());
                if here.is_some_and(|it| it.iter().zip(form).all(|(a, b)| folded(*a) == *b)) {
                    found(start..start + form.len());
                }
            }
        }
    }
}

/// Which bit stands for a window.
fn place(window: u64, bits: usize) -> usize {
    let hash = window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    hash as usize & (bits - 1)
}

/// A byte as it is compared: in lower case, and in the one of the two alphabets of base64.
fn folded(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other.to_ascii_lowercase(),
    }
}

/// What of the base64 of a longer text depends on this part of it alone, if so many bytes stand before it, modulo 3.
fn within_base64(secret: &str, before: usize) -> String {
    let padded = [&b"\0\0"[..before], secret.as_bytes()].concat();
    let encoded = STANDARD.encode(&padded);
    // Each character stands for 6 bits.
    let (from, to) = ((8 * before).div_ceil(6), 8 * padded.len() / 6);
    encoded.get(from..to).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base64_of_a_part_is_found_in_that_of_the_whole_wherever_it_stands() {
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
