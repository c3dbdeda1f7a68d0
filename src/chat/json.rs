//! JSON whose keys keep their order, written as the templates of models write it.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value. Keys keep their order; a number keeps its text unless Python writes it in another way.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// How JSON is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Between items.
    pub(super) comma: &'static str,
    /// Between key and value.
    pub(super) colon: &'static str,
    /// Characters outside ASCII are escaped.
    pub(super) ascii: bool,
    /// Keys are sorted.
    pub(super) sorted: bool,
}

impl Style {
    /// As the filter `tojson` of the templates writes.
    pub(super) const TEMPLATE: Style = Style { comma: ", ", colon: ": ", ascii: false, sorted: false };
    /// As Python's `json.dumps` writes.
    pub(super) const PYTHON: Style = Style { ascii: true, ..Style::TEMPLATE };
}

impl Json {
    /// Reads JSON. Of equal keys the last one counts, in the place of the first, as in Python.
    ///
    /// # Errors
    /// What is not valid, in words.
    pub(super) fn read(text: &str) -> Result<Json, String> {
        if MAX_DEPTH < depth(text) {
            return Err(format!("lists and objects are nested more than {MAX_DEPTH} deep"));
        }
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
        value(raw.get()).map_err(|error| error.to_string())
    }

    pub(super) fn text(text: impl Into<String>) -> Json {
        Json::Text(text.into())
    }

    pub(super) fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
        Json::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// A field of an object.
    pub(super) fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(fields) => fields.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Json]> {
        match self {
            Json::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn as_object(&self) -> Option<&[(String, Json)]> {
        match self {
            Json::Object(fields) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn write(&self, style: Style) -> String {
        let mut out = String::new();
        self.write_to(style, &mut out);
        out
    }

    fn write_to(&self, style: Style, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Number(text) => out.push_str(text),
            Json::Text(text) => quote(text, style.ascii, out),
            Json::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { style.comma });
                    item.write_to(style, out);
                }
                out.push(']');
            }
            Json::Object(fields) => {
                let mut fields: Vec<&(String, Json)> = fields.iter().collect();
                if style.sorted {
                    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                out.push('{');
                for (i, (key, value)) in fields.into_iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { style.comma });
                    quote(key, style.ascii, out);
                    out.push_str(style.colon);
                    value.write_to(style, out);
                }
                out.push('}');
            }
        }
    }
}

fn quote(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // Python escapes the control characters, and with `ascii` also U+007F and everything above.
            '\0'..' ' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            ' '..='~' => out.push(letter),
            _ if ascii => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
}

/// The values of a JSON text are read, written and dropped by recursion, and a model may write anything.
const MAX_DEPTH: usize = 128;

/// How deep lists and objects are nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn value(raw: &str) -> serde_json::Result<Json> {
    Ok(match raw.as_bytes().first() {
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(raw)?;
            let mut fields: Vec<(String, Json)> = Vec::with_capacity(pairs.len());
            for (key, raw) in pairs {
                let value = value(raw.get())?;
                match fields.iter_mut().find(|(name, _)| *name == key) {
                    Some(field) => field.1 = value,
                    None => fields.push((key, value)),
                }
            }
            Json::Object(fields)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw)?;
            Json::List(items.into_iter().map(|item| value(item.get())).collect::<serde_json::Result<_>>()?)
        }
        Some(b'"') => Json::Text(serde_json::from_str(raw)?),
        Some(b't' | b'f') => Json::Bool(serde_json::from_str(raw)?),
        Some(b'n') => Json::Null,
        _ => Json::Number(number(raw)),
    })
}

/// A number as Python writes it: whole numbers as they are, others in the shortest form that is read back equal, with an
/// exponent below 1e-4 and from 1e16 on.
pub(super) fn number(raw: &str) -> String {
    if !raw.contains(['.', 'e', 'E']) {
        return if raw == "-0" { "0".into() } else { raw.to_owned() };
    }
    let Ok(number) = raw.parse::<f64>() else { return raw.to_owned() };
    let size = number.abs();
    if number.is_infinite() {
        return if number < 0.0 { "-Infinity".into() } else { "Infinity".into() };
    }
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let Some((digits, exponent)) = text.split_once('e') else { return text };
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = format!("{number}");
    if text.contains('.') { text } else { text + ".0" }
}

/// Pairs of an object, in their order, duplicates included.
pub(crate) struct Pairs<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_python_and_the_templates_write_it() {
        for (text, template, python) in [
            (r#"{"b":1,"a":[true,null,{}]}"#, r#"{"b": 1, "a": [true, null, {}]}"#, None),
            (r#"{"k":1,"k":2}"#, r#"{"k": 2}"#, None),
            (
                r#""é\u0001\u007f\n😀\/""#,
                "\"é\\u0001\u{7f}\\n😀/\"",
                Some("\"\\u00e9\\u0001\\u007f\\n\\ud83d\\ude00/\""),
            ),
            ("1.0", "1.0", None),
            ("1e5", "100000.0", None),
            ("1.5E300", "1.5e+300", None),
            ("0.00001", "1e-05", None),
            ("1e16", "1e+16", None),
            ("-0", "0", None),
            ("-0.0", "-0.0", None),
            ("123456789012345678901234567890", "123456789012345678901234567890", None),
        ] {
            let json = Json::read(text).unwrap();
            assert_eq!(json.write(Style::TEMPLATE), template, "{text}");
            assert_eq!(json.write(Style::PYTHON), python.unwrap_or(template), "{text}");
        }
        let compact = Style { comma: ",", colon: ":", ascii: true, sorted: true };
        assert_eq!(
            Json::read(r#"{"b": 1, "a": {"d": 2, "c": 3}}"#).unwrap().write(compact),
            r#"{"a":{"c":3,"d":2},"b":1}"#
        );
    }

    #[test]
    fn json_that_is_nested_too_deep_is_refused_and_brackets_in_texts_do_not_count() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::read(&nested(MAX_DEPTH)).is_ok());
        for n in [MAX_DEPTH + 1, 1_000_000] {
            assert!(Json::read(&nested(n)).unwrap_err().contains("128 deep"));
        }
        let text = format!(r#""\"{}""#, "[{".repeat(200));
        assert_eq!(Json::read(&text).unwrap().as_text().map(str::len), Some(401));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{\"a\":}", "nul", "\"\\ud800\"", "[1,]", "NaN"] {
            assert!(Json::read(text).is_err(), "{text:?}");
        }
    }
}
