//! JSON as values of the template engine and back, written as Python writes it.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use crate::chat::json::{Json, Style, number};

/// How deep values may be nested.
const MAX_DEPTH: usize = 200;

/// A value of the engine. A number that no value can hold is an error, with its text.
pub(super) fn value(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(text) => of_number(text).ok_or_else(|| text.clone())?,
        Json::Text(text) => Value::from(text.as_str()),
        Json::List(items) => Value::from(items.iter().map(value).collect::<Result<Vec<Value>, String>>()?),
        Json::Object(fields) => {
            let mut pairs = Vec::with_capacity(fields.len());
            for (key, field) in fields {
                pairs.push((key.as_str(), value(field)?));
            }
            Value::from_pairs(pairs)
        }
    })
}

fn of_number(text: &str) -> Option<Value> {
    let signed = text.parse::<i128>().ok().map(Value::from);
    let whole = || text.parse::<u128>().ok().map(Value::from);
    let float = || text.contains(['.', 'e']).then(|| text.parse::<f64>().ok().map(Value::from));
    let float = || float().flatten().filter(|_| !text.contains("Infinity"));
    signed.or_else(whole).or_else(float)
}

/// The JSON of a value.
fn json(value: &Value, depth: usize) -> Result<Json, Error> {
    let cannot =
        |problem: String| Error::new(ErrorKind::InvalidOperation, format!("tojson cannot write {problem}"));
    if MAX_DEPTH < depth {
        return Err(cannot(format!("values that are nested deeper than {MAX_DEPTH}")));
    }
    Ok(match value.kind() {
        ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number => Json::Number(text_of_number(value)),
        ValueKind::String => Json::text(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.checked().map(|item| json(&item?, depth + 1));
            Json::List(items.collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut fields = Vec::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let name = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                    // Python writes keys of these kinds as texts.
                    ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                        json(&key, depth)?.write(Style::TEMPLATE)
                    }
                    other => return Err(cannot(format!("a key of the kind {other}"))),
                };
                fields.push((name, json(&value.get_item(&key)?, depth + 1)?));
            }
            Json::Object(fields)
        }
        other => return Err(cannot(format!("a value of the kind {other}"))),
    })
}

/// A number as Python writes it.
pub(super) fn text_of_number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => "NaN".into(),
        Ok(float) if float.is_infinite() => if float < 0.0 { "-Infinity" } else { "Infinity" }.into(),
        Ok(float) => number(&format!("{float:?}")),
        Err(_) => value.to_string(),
    }
}

/// Layout of JSON on several lines, or on one.
#[derive(Debug)]
struct Layout {
    /// What each level begins with; `None` is everything on one line.
    indent: Option<String>,
    comma: String,
    colon: String,
    style: Style,
}

/// The filter `tojson` of chat templates, which is Python's `json.dumps`: nothing is escaped for HTML.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let ensure_ascii = ensure_ascii.or(kwargs.get("ensure_ascii")?);
    let indent = indent.or(kwargs.get("indent")?).filter(|indent| !indent.is_none());
    let separators: Option<Value> = kwargs.get("separators")?;
    let sorted: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let indent = match indent {
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
        None => None,
    };
    let (comma, colon) = match separators.filter(|separators| !separators.is_none()) {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ascii = ensure_ascii.unwrap_or(false);
    let style = Style { ascii, sorted: sorted.unwrap_or(false), ..Style::TEMPLATE };
    let layout = Layout { indent, comma, colon, style };
    let mut out = String::new();
    write(&json(value, 0)?, &layout, 0, &mut out);
    Ok(out)
}

fn write(json: &Json, layout: &Layout, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &layout.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    match json {
        Json::List(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { &layout.comma });
                line(depth + 1, out);
                write(item, layout, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        Json::Object(fields) if !fields.is_empty() => {
            let mut fields: Vec<&(String, Json)> = fields.iter().collect();
            if layout.style.sorted {
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            out.push('{');
            for (i, (key, field)) in fields.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { &layout.comma });
                line(depth + 1, out);
                out.push_str(&Json::text(key).write(layout.style));
                out.push_str(&layout.colon);
                write(field, layout, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        scalar => out.push_str(&scalar.write(layout.style)),
    }
}
