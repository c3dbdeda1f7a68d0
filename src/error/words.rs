//! Text that others wrote, made fit to be shown: in one line, without what steers a terminal, and not too long.

use std::borrow::Cow;

/// The longest text of a server that is shown, in characters.
const LONGEST: usize = 1000;
/// The longest message of an error, in characters.
const LONGEST_MESSAGE: usize = 4000;
/// The longest title of a page that is shown.
const LONGEST_TITLE: usize = 100;

/// What a server says, as it may be shown: in messages, logs, events and reasons. Line breaks become spaces, sequences that
/// steer a terminal are taken out, other control characters are replaced, a page of HTML is named by its title, and what is
/// too long is cut.
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

/// The beginning of a body that is not what it should be.
pub(crate) fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 120;
    let head = &body[..body.len().min(16 * SHOWN)];
    let text = String::from_utf8_lossy(head);
    match presentable(&text) {
        text if text.is_empty() => "nothing".into(),
        text if is_page(&String::from_utf8_lossy(head)) => text,
        text => format!("{:?}", cut(&text, SHOWN)),
    }
}

/// A message of an error, whoever wrote parts of it.
pub(super) fn message(text: String) -> String {
    let end = text.char_indices().nth(LONGEST_MESSAGE).map(|it| it.0);
    match (one_line(&text), end) {
        (Cow::Borrowed(_), None) => text,
        (line, _) => cut(&line, LONGEST_MESSAGE).into_owned(),
    }
}

/// The text in one line, without what steers a terminal.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unfit) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' | '\u{9b}' => skip_sequence(c, &mut rest),
            // However many of them there are, and those around them.
            _ if breaks(c) => {
                if !line.ends_with(' ') {
                    line.push(' ');
                }
                let trimmed = rest.as_str().trim_start_matches(|it| it == ' ' || breaks(it));
                rest = trimmed.chars();
            }
            _ if is_unfit(c) => line.push('\u{fffd}'),
            c => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// Begins a new line, or may in some terminal.
fn breaks(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Steers a terminal, begins a line, or turns the direction of what is written.
fn is_unfit(c: char) -> bool {
    c.is_control() || breaks(c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Leaves out the rest of a sequence that began with ESC or CSI. A sequence that does not end is no reason to lose the rest
/// of the text.
fn skip_sequence(first: char, rest: &mut std::str::Chars<'_>) {
    let mut ahead = rest.clone();
    let kind = if first == '\u{1b}' { ahead.next() } else { Some('[') };
    match kind {
        Some('[') => {
            let body = ahead.as_str().trim_start_matches(|it| matches!(it, ' '..='?'));
            ahead = body.chars();
            if ahead.next().is_some_and(|it| matches!(it, '@'..='~')) {
                *rest = ahead;
            }
        }
        // A command to the operating system, and its like, up to BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let text = ahead.as_str();
            if let Some(end) = text.find(['\u{7}', '\u{1b}']) {
                *rest = text[end..].trim_start_matches('\u{7}').trim_start_matches("\u{1b}\\").chars();
            }
        }
        _ => {}
    }
}

/// At most so many characters.
fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    match text.char_indices().nth(longest) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The text is a page for people.
pub(crate) fn is_page(text: &str) -> bool {
    let head = text.trim_start_matches('\u{feff}').trim_start().as_bytes();
    let begins =
        |with: &str| head.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with.as_bytes()));
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
    fn what_steers_a_terminal_is_taken_out_and_lines_are_joined() {
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
    fn a_page_is_named_by_its_title_and_a_long_text_is_cut() {
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
        assert_eq!(excerpt(b""), "nothing");
        assert_eq!(excerpt(b"\x1b[1mhello\xff"), "\"hello\u{fffd}\"");
        assert_eq!(excerpt(b"<html><title>Login</title>"), r#"an HTML page, "Login""#);
        assert!(excerpt(&[b'x'; 1 << 20]).len() < 140);
    }
}
