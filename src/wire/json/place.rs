//! Names the field at which reading a JSON body failed: the parser tells a line and a column only.

/// A level of nesting at some place of a text.
enum Level {
    /// An object, with the field whose value is being read. `None` before the name of a field.
    Object(Option<String>),
    /// An array, with the number of the item.
    Array(usize),
}

/// The path of the field at a line and a column, counted from 1, such as `adam_params.eps` or `prompt.chunks[2]`. Empty
/// for the body itself.
pub(super) fn path(text: &[u8], line: usize, column: usize) -> String {
    let before: usize =
        text.split_inclusive(|it| *it == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let text = &text[..text.len().min(before.saturating_add(column))];
    let mut levels = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' => levels.push(Level::Object(None)),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => drop(levels.pop()),
            b',' => match levels.last_mut() {
                Some(Level::Object(field)) => *field = None,
                Some(Level::Array(n)) => *n += 1,
                None => {}
            },
            b'"' => {
                let start = at;
                while text.get(at).is_some_and(|it| *it != b'"') {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                let name = text.get(start..at).map(String::from_utf8_lossy);
                if let (Some(Level::Object(field @ None)), Some(name)) = (levels.last_mut(), name) {
                    *field = Some(name.into_owned());
                }
                at += 1;
            }
            _ => {}
        }
    }
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object(None) => {}
            Level::Object(Some(name)) if path.is_empty() => path = name,
            Level::Object(Some(name)) => path = format!("{path}.{name}"),
            Level::Array(n) => path = format!("{path}[{n}]"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Body {
        a: u8,
        inner: Option<Box<Body>>,
        #[serde(default)]
        items: Vec<Option<Body>>,
    }

    #[test]
    fn the_field_of_a_wrong_type_is_named_by_its_path() {
        for (text, expected) in [
            (r#"{"a": "x"}"#, "a"),
            (r#"{"b": {"a": [1, "}"]}, "a": {}}"#, "a"),
            (r#"{"a": 1, "inner": {"a": true, "items": []}}"#, "inner.a"),
            (r#"{"a": 1, "inner": {"items": []}}"#, "inner"),
            ("{\"a\": 1,\n\n \"items\": [{\"a\": 2}, null,\n {\"a\": -1}]}", "items[2].a"),
            (r#"{"a": 1, "items": {}}"#, "items"),
            (r#"{"\"a": "{", "a": 256}"#, "a"),
            ("[]", ""),
            ("", ""),
            ("\"", ""),
        ] {
            let error = serde_json::from_str::<Body>(text).map(|body| format!("{body:?}"));
            let Err(error) = error else { panic!("{text} is read") };
            assert_eq!(path(text.as_bytes(), error.line(), error.column()), expected, "{text}: {error}");
        }
    }
}
