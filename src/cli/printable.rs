//! Names, paths and texts of users, files and servers, for a terminal: control characters in them could move its cursor,
//! change its colors, or make a text look like another one.

/// The text with its lines and tabs; other control characters are written as in Rust.
pub(crate) fn text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for it in text.chars() {
        if is_control(it) && !matches!(it, '\n' | '\t') {
            shown.extend(it.escape_unicode());
        } else {
            shown.push(it);
        }
    }
    shown
}

/// The text in one line, with spaces in place of control characters.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|it| if is_control(it) { ' ' } else { it }).collect()
}

/// True of characters that control a terminal or the direction of a text.
pub(crate) fn is_control(it: char) -> bool {
    it.is_control() || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_controls_the_terminal() {
        for (given, as_text, as_line) in [
            ("runs/süß 日本", "runs/süß 日本", "runs/süß 日本"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb", "a [2Jb"),
            ("a\nb\tc\r", "a\nb\tc\\u{d}", "a b c "),
            ("a\u{202e}b\u{9b}", "a\\u{202e}b\\u{9b}", "a b "),
        ] {
            assert_eq!((text(given).as_str(), line(given).as_str()), (as_text, as_line));
        }
    }
}
