//! Damages JSON: values become extreme or change their type, members vanish, come twice or get other names.

use fastrand::Rng;
use serde_json::Value;

/// JSON that can have what [`Value`] cannot: a key twice, and text that is not JSON.
#[derive(Clone)]
enum Node {
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Values at the borders of types, and text that is not JSON.
const EXTREMES: &[&str] = &[
    "null",
    "true",
    "0",
    "-0",
    "-0.0",
    "-1",
    "1",
    "0.1",
    "1e400",
    "-1e400",
    "1e-400",
    "1e308",
    "3.5e38",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "1000000000000000000000000",
    r#""""#,
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\u0000""#,
    r#""NaN""#,
    r#""Infinity""#,
    r#""0""#,
    r#""../../../etc/passwd""#,
    r#""a/b""#,
    r#"".""#,
    r#""..""#,
    r#""%2e%2e""#,
    r#""tinker://x:train:0/weights/a""#,
    r#""tinker://""#,
    r#""tinkex/nano""#,
    r#""🦀é""#,
    "[]",
    "{}",
    "[[]]",
    "[null]",
    r#"{"":null}"#,
    r#"{"type":"x"}"#,
    "[1e400]",
    "[-1]",
    "NaN",
    "Infinity",
    "-",
    "\"",
    "[",
    "}",
    ",",
    "//",
    "'a'",
    "\u{feff}1",
];

fn extreme(rng: &mut Rng) -> String {
    match rng.u8(..40) {
        0 => format!("\"{}\"", "x".repeat(rng.usize(..5000))),
        1 => format!("\"{}\"", "é🦀\\n".repeat(rng.usize(..500))),
        2 => {
            let depth = rng.usize(1..300);
            "[".repeat(depth) + &"]".repeat(depth)
        }
        3 => "[".repeat(rng.usize(1..100_000)),
        4 => {
            let depth = rng.usize(1..300);
            r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth)
        }
        5 => format!("[1{}]", ",1".repeat(rng.usize(..2000))),
        6 => rng.i64(..).to_string(),
        7 => rng.u64(..).to_string(),
        8 => f64::from_bits(rng.u64(..)).to_string(),
        _ => EXTREMES[rng.usize(..EXTREMES.len())].into(),
    }
}

impl Node {
    fn new(value: &Value) -> Node {
        match value {
            Value::Array(all) => Node::List(all.iter().map(Node::new).collect()),
            Value::Object(all) => {
                Node::Object(all.iter().map(|it| (it.0.clone(), Node::new(it.1))).collect())
            }
            other => Node::Text(other.to_string()),
        }
    }

    /// Number of nodes below this one, with this one.
    fn count(&self) -> usize {
        1 + match self {
            Node::Text(_) => 0,
            Node::List(all) => all.iter().map(Node::count).sum(),
            Node::Object(all) => all.iter().map(|it| it.1.count()).sum(),
        }
    }

    /// The node with this number, counted from the root.
    fn at(&mut self, mut number: usize) -> &mut Node {
        if number == 0 {
            return self;
        }
        number -= 1;
        let below: Vec<&mut Node> = match self {
            Node::Text(_) => Vec::new(),
            Node::List(all) => all.iter_mut().collect(),
            Node::Object(all) => all.iter_mut().map(|it| &mut it.1).collect(),
        };
        for node in below {
            let count = node.count();
            if number < count {
                return node.at(number);
            }
            number -= count;
        }
        unreachable!("the number of a node is below their count")
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Text(text) => out.push_str(text),
            Node::List(all) => {
                out.push('[');
                for (i, node) in all.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    node.write(out);
                }
                out.push(']');
            }
            Node::Object(all) => {
                out.push('{');
                for (i, (key, node)) in all.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    out.push_str(&Value::from(key.as_str()).to_string());
                    out.push(':');
                    node.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Damages a value in one or two places, and writes it.
pub(super) fn damage(rng: &mut Rng, value: &Value) -> Vec<u8> {
    let mut root = Node::new(value);
    for _ in 0..rng.usize(1..=2) {
        let count = root.count();
        let other = root.at(rng.usize(..count)).clone();
        let changed = root.at(rng.usize(..count));
        let new = Node::Text(extreme(rng));
        match (changed, rng.u8(..8)) {
            (changed, 0) => *changed = other,
            (Node::List(all), 1 | 2) if !all.is_empty() => {
                all.remove(rng.usize(..all.len()));
            }
            (Node::List(all), 3 | 4) => {
                let times = rng.usize(..20);
                *all = std::iter::repeat_n(all.clone(), times).flatten().take(2000).collect();
            }
            (Node::List(all), 5) => all.push(new),
            (Node::Object(all), 1 | 2) if !all.is_empty() => {
                all.remove(rng.usize(..all.len()));
            }
            (Node::Object(all), 3 | 4) if !all.is_empty() => {
                let key = all[rng.usize(..all.len())].0.clone();
                all.push((key, new));
            }
            (Node::Object(all), 5) if !all.is_empty() => {
                let i = rng.usize(..all.len());
                all[i].0 = ["", "type", "é", "seq_id", "\0"][rng.usize(..5)].into();
            }
            (Node::Object(all), 6) => all.push(("unknown".into(), new)),
            (changed, _) => *changed = new,
        }
    }
    let mut text = String::new();
    root.write(&mut text);
    text.into_bytes()
}
