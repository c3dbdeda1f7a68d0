//! Makes text from outside, such as a server's error message, safe to show: one line, no terminal control sequences,
//! bounded length.

use std::borrow::Cow;

/// Limit in characters of a text of the server; longer text is cut.
const LONGEST: usize = 1000;
/// Limit in characters of the message of an error; a longer message is cut.
const LONGEST_MESSAGE: usize = 4000;
/// Limit in characters of the title of an HTML page; a longer title is cut.
const LONGEST_TITLE: usize = 100;

/// Makes text of a server safe to show, for example in error messages and logs: replaces line breaks by spaces and
/// other control characters by U+FFFD, removes terminal control sequences, shows only the title of an HTML page, and
/// cuts long text.
pub(crate) fn presentable(text: &str) -> String {
    let text = text.trim();
    if is_page(text) {
        return match title(text) {
            Some(title) => format!("an HTML page, {:?}", cut(&one_line(&title), LONGEST_TITLE)),
            None => "an HTML page".into(),
        };
    }
    cut(one_line(text).trim(), LONGEST).into_owned()
}

/// Quotes the beginning of a body that is not in the expected format.
pub(crate) fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 120;
    let head = &body[..body.len().min(16 * SHOWN)];
    let text = String::from_utf8_lossy(head);
    match presentable(&text) {
        text if text.is_empty() => "an empty body".into(),
        text if is_page(&String::from_utf8_lossy(head)) => text,
        text => format!("{:?}", cut(&text, SHOWN)),
    }
}

/// Makes the message of an error safe to show.
pub(super) fn message(text: String) -> String {
    let end = text.char_indices().nth(LONGEST_MESSAGE).map(|(end, _)| end);
    match (one_line(&text), end) {
        (Cow::Borrowed(_), None) => text,
        (line, _) => cut(&line, LONGEST_MESSAGE).into_owned(),
    }
}

/// Joins the lines of a text, removes terminal control sequences and replaces other control characters by U+FFFD.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unfit) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' | '\u{9b}' => skip_sequence(c, &mut rest),
            // Replace a run of line breaks and the spaces around it by one space.
            _ if breaks(c) => {
                if !line.ends_with(' ') {
                    line.push(' ');
                }
                let trimmed = rest.as_str().trim_start_matches(|c| c == ' ' || breaks(c));
                rest = trimmed.chars();
            }
            _ if is_unfit(c) => line.push('\u{fffd}'),
            c => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// Tabs, line breaks, and other characters that move to a new line in some terminals.
fn breaks(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Control characters, line breaks, and characters that change the direction of writing.
fn is_unfit(c: char) -> bool {
    c.is_control() || breaks(c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Skips the rest of a terminal control sequence that began with ESC or CSI. Skips nothing if the sequence has no end,
/// so that the rest of the text is not lost.
fn skip_sequence(first: char, rest: &mut std::str::Chars<'_>) {
    let mut ahead = rest.clone();
    let kind = if first == '\u{1b}' { ahead.next() } else { Some('[') };
    match kind {
        Some('[') => {
            let body = ahead.as_str().trim_start_matches(|c| matches!(c, ' '..='?'));
            ahead = body.chars();
            if ahead.next().is_some_and(|c| matches!(c, '@'..='~')) {
                *rest = ahead;
            }
        }
        // Sequences that contain text, such as a window title. They end with BEL or with ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let text = ahead.as_str();
            if let Some(end) = text.find(['\u{7}', '\u{1b}']) {
                *rest = text[end..].trim_start_matches('\u{7}').trim_start_matches("\u{1b}\\").chars();
            }
        }
        _ => {}
    }
}

/// Cuts a text after `longest` characters.
fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    match text.char_indices().nth(longest) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Tells whether the text is an HTML page.
pub(crate) fn is_page(text: &str) -> bool {
    let head = text.trim_start_matches('\u{feff}').trim_start().as_bytes();
    let begins =
        |tag: &str| head.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    ["<!doctype html", "<html", "<head", "<body", "<title"].into_iter().any(begins)
}

fn title(page: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let begin = lower.find("<title")?;
    let begin = begin + lower[begin..].find('>')? + 1;
    let end = begin + lower[begin..].find("</title")?;
    let title = page[begin..end].trim();
    (!title.is_empty()).then(|| title.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_are_removed_and_lines_are_joined() {
        for (text, shown) in [
            ("plain", "plain"),
            ("  a\r\nb\n\n c\td ", "a b c d"),
            ("\u{1b}[31mred\u{1b}[0m and \u{1b}]0;title\u{7}more", "red and more"),
            ("\u{1b}]8;;http://evil\u{1b}\\link", "link"),
            ("\u{9b}2Jgone", "gone"),
            ("a\u{1b}", "a"),
            ("a\u{1b}[", "a["),
            ("bell\u{7} null\u{0}", "bell\u{fffd} null\u{fffd}"),
            ("a\u{202e}b\u{2028}c\u{85}d", "a\u{fffd}b c d"),
            ("größer 日本", "größer 日本"),
        ] {
            assert_eq!(presentable(text), shown);
        }
    }

    #[test]
    fn a_page_is_shown_by_its_title_and_a_long_text_is_cut() {
        let page = "\n<!DOCTYPE html>\n<html><head><title>502 Bad\r\nGateway</title></head><body>…</body>";
        assert_eq!(presentable(page), r#"an HTML page, "502 Bad Gateway""#);
        assert_eq!(presentable("<html><body>x"), "an HTML page");
        let long = presentable(&"é".repeat(5000));
        assert!(long.ends_with('…') && long.chars().count() == LONGEST + 1);
        assert_eq!(message("x".repeat(LONGEST_MESSAGE)).len(), LONGEST_MESSAGE);
        assert!(message("x".repeat(1 << 20)).len() < LONGEST_MESSAGE + 8);
    }

    #[test]
    fn an_excerpt_is_short_and_quoted() {
        assert_eq!(excerpt(b""), "an empty body");
        assert_eq!(excerpt(b"\x1b[1mhello\xff"), "\"hello\u{fffd}\"");
        assert_eq!(excerpt(b"<html><title>Login</title>"), r#"an HTML page, "Login""#);
        assert!(excerpt(&[b'x'; 1 << 20]).len() < 140);
    }
}
