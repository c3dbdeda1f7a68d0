//! Methods and filters of texts that do in Python something else than in the template engine.

use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Error, State};
use minijinja_contrib::pycompat;

/// Methods of Python's texts and mappings.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    let (start, end) = match name {
        "strip" => (true, true),
        "lstrip" => (true, false),
        "rstrip" => (false, true),
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let stripped =
                if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            return Ok(Value::from(stripped.unwrap_or(text)));
        }
        "splitlines" => {
            let (keeps_ends,): (Option<bool>,) = from_args(args)?;
            let lines = lines(text).into_iter();
            let lines = lines.map(|(line, end)| match keeps_ends {
                Some(true) => Value::from(line.to_owned() + end),
                _ => Value::from(line),
            });
            return Ok(lines.collect());
        }
        _ => return pycompat::unknown_method_callback(state, value, name, args),
    };
    let (letters,): (Option<&str>,) = from_args(args)?;
    Ok(Value::from(strip(text, letters, start, end)))
}

/// The filter `trim`, for a value of any kind.
pub(super) fn trim(value: &Value, letters: Option<&str>) -> String {
    strip(&value.to_string(), letters, true, true)
}

/// The filter `indent`, which keeps a newline at the end.
pub(super) fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indent = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(1000)),
        },
    };
    let text = value.to_string() + "\n";
    let mut out = String::with_capacity(text.len());
    for (i, (line, _)) in lines(&text).into_iter().enumerate() {
        out.push_str(if i == 0 { "" } else { "\n" });
        let indents = if i == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indents { &indent } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// Removes letters, or what Python takes for white space, at the ends of a text.
fn strip(text: &str, letters: Option<&str>, start: bool, end: bool) -> String {
    let removed = |letter: char| match letters {
        Some(letters) => letters.contains(letter),
        None => letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter),
    };
    let text = if start { text.trim_start_matches(removed) } else { text };
    if end { text.trim_end_matches(removed) } else { text }.to_owned()
}

/// The lines of a text with what ends each of them, as Python sees them.
fn lines(text: &str) -> Vec<(&str, &str)> {
    let ends = |letter: char| {
        matches!(
            letter,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ends) {
        let (line, tail) = rest.split_at(at);
        let end = match tail.chars().next() {
            Some('\r') if tail.starts_with("\r\n") => 2,
            Some(letter) => letter.len_utf8(),
            None => 0,
        };
        lines.push((line, &tail[..end]));
        rest = &tail[end..];
    }
    if !rest.is_empty() {
        lines.push((rest, ""));
    }
    lines
}
