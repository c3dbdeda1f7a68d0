//! JSON lines as Python's `json` module reads and writes them: numbers may be `NaN`, `Infinity` and `-Infinity`, and
//! separators are followed by a space.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::{Map, Value};

/// Marks a number that is not finite in a parsed object: the string of this character and Python's name of the number.
const MARK: char = '\u{0}';

const NAMES: [(&str, f64); 3] =
    [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

/// Parses a line that is an object. Numbers that are not finite become strings, which [`non_finite`] recognises.
pub(super) fn parse(line: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(&strict(line)).map_err(|error| error.to_string())
}

/// The number that a string of a parsed object stands for, if it stands for one.
pub(super) fn non_finite(text: &str) -> Option<f64> {
    let name = text.strip_prefix(MARK)?;
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// Replaces numbers that are not finite, outside of strings, by marked strings.
fn strict(line: &str) -> Cow<'_, str> {
    if !line.contains("NaN") && !line.contains("Infinity") {
        return line.into();
    }
    let mut out = String::with_capacity(line.len() + 16);
    let (mut rest, mut in_string) = (line, false);
    while let Some(char) = rest.chars().next() {
        let name = NAMES.iter().map(|(name, _)| *name).find(|name| !in_string && rest.starts_with(name));
        let n_bytes = match (name, char) {
            (Some(name), _) => {
                // Infallible: the target is a `String`.
                let _ = write!(out, "\"\\u0000{name}\"");
                name.len()
            }
            (None, '\\') if in_string => rest.chars().take(2).map(char::len_utf8).sum(),
            (None, _) => char.len_utf8(),
        };
        if name.is_none() {
            out.push_str(&rest[..n_bytes]);
            in_string ^= char == '"';
        }
        rest = &rest[n_bytes..];
    }
    out.into()
}

/// Writes an object with its members in the given order.
pub(super) fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a Value)>) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in members.into_iter().enumerate() {
        if 0 < i {
            out.push_str(", ");
        }
        write_text(&mut out, name);
        out.push_str(": ");
        write_value(&mut out, value);
    }
    out.push('}');
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => match non_finite(text) {
            Some(_) => out.push_str(&text[MARK.len_utf8()..]),
            None => write_text(out, text),
        },
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if 0 < i {
                    out.push_str(", ");
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => out.push_str(&object(members.iter().map(|(name, it)| (name.as_str(), it)))),
        // Writing `null`, a bool or a number cannot fail.
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_text(out: &mut String, text: &str) {
    // The `Display` of a JSON string escapes quotes, backslashes and control characters, so it has no line break.
    out.push_str(&Value::from(text).to_string());
}

/// A number as a JSON value; one that is not finite as a marked string.
pub(super) fn number(value: f64) -> Value {
    let name = if value.is_nan() {
        "NaN"
    } else if value == f64::INFINITY {
        "Infinity"
    } else if value == f64::NEG_INFINITY {
        "-Infinity"
    } else {
        return value.into();
    };
    format!("{MARK}{name}").into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_python_with_nan_and_infinity_is_read_and_written_the_same() {
        let line =
            r#"{"a": NaN, "b": [-Infinity, Infinity, 1.5], "c": "NaN \" Infinity \\", "d": {"e": null}}"#;
        let parsed = parse(line).unwrap();
        assert!(non_finite(parsed["a"].as_str().unwrap()).unwrap().is_nan());
        assert_eq!(non_finite(parsed["b"][0].as_str().unwrap()), Some(f64::NEG_INFINITY));
        assert_eq!(non_finite(parsed["c"].as_str().unwrap()), None);
        assert_eq!(object(parsed.iter().map(|(name, value)| (name.as_str(), value))), line);
    }

    #[test]
    fn broken_lines_are_refused_also_with_nan_in_them() {
        for line in ["", "{", "[]", "{\"a\": NaN", "{\"a\": NaNs}", "{\"NaN", "{\"a\": \"NaN\\", "{NaN: 1}"] {
            // `{NaN: 1}` is read as a member whose name is a marked string, which does no harm.
            assert!(parse(line).is_err() || line == "{NaN: 1}", "{line}");
        }
    }

    #[test]
    fn every_float_survives_the_way_through_a_line() {
        proptest::proptest!(|(bits: u64)| {
            let value = f64::from_bits(bits);
            let line = object([("x", &number(value))]);
            let parsed = parse(&line).unwrap();
            let back = match &parsed["x"] {
                Value::String(text) => non_finite(text).unwrap(),
                other => other.as_f64().unwrap(),
            };
            assert!(back == value || (back.is_nan() && value.is_nan()), "{line}");
        });
    }
}
