//! Nodes of a traced loss and their JSON encoding (PROTOCOL §9.6). A node has the fields of a node of torch.fx, the
//! tracer of PyTorch, with which the official Python SDK traces losses.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Reason why a node cannot be computed.
pub(super) type Problem = String;

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeOp {
    /// An input.
    Placeholder,
    /// A tensor from outside of the loss function. Not allowed.
    GetAttr,
    /// A call of a function; `target` is its qualified name, such as `torch.exp`.
    CallFunction,
    /// A call of a method of the first argument; `target` is the name of the method.
    CallMethod,
    /// A call of a module (a layer of a network). Not allowed.
    CallModule,
    /// The result of the loss: its value and its metrics.
    Output,
}

/// One node of the graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) op: NodeOp,
    /// Name that later nodes refer to; unique in the graph.
    pub(crate) name: String,
    /// Name of the function or method, or of the input.
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) args: Vec<Arg>,
    #[serde(default)]
    pub(crate) kwargs: BTreeMap<String, Arg>,
}

/// An argument of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// The result of the node of this name.
    Ref(String),
    List(Vec<Arg>),
    Tuple(Vec<Arg>),
    Dict(BTreeMap<String, Arg>),
    Slice(Box<[Arg; 3]>),
    Ellipsis,
    /// A constant of PyTorch: its kind (`dtype`, `device`, `layout` or `memory_format`) and its name.
    Constant(&'static str, String),
    /// An argument of an unknown kind, as received. It has no value, so a call that reads it is refused.
    Unknown(Value),
}

/// Kinds of constants.
const CONSTANTS: [&str; 4] = ["dtype", "device", "layout", "memory_format"];

impl Arg {
    fn to_value(&self) -> Value {
        let all = |args: &[Arg]| Value::Array(args.iter().map(Arg::to_value).collect());
        match self {
            Arg::None => Value::Null,
            Arg::Bool(it) => json!(it),
            Arg::Int(it) => json!(it),
            Arg::Float(it) if it.is_nan() => json!({"float": "nan"}),
            Arg::Float(it) if it.is_infinite() => json!({"float": if *it < 0.0 { "-inf" } else { "inf" }}),
            Arg::Float(it) => json!(it),
            Arg::Text(it) => json!(it),
            Arg::Ref(it) => json!({"ref": it}),
            Arg::List(it) => all(it),
            Arg::Tuple(it) => json!({"tuple": all(it)}),
            Arg::Dict(it) => {
                json!({"dict": it.iter().map(|(k, v)| (k.clone(), v.to_value())).collect::<Map<_, _>>()})
            }
            Arg::Slice(it) => json!({"slice": all(&it[..])}),
            Arg::Ellipsis => json!({"ellipsis": true}),
            Arg::Constant(kind, name) => json!({*kind: name}),
            Arg::Unknown(it) => it.clone(),
        }
    }

    fn from_value(value: Value) -> Self {
        let all = |values: Vec<Value>| values.into_iter().map(Arg::from_value).collect::<Vec<_>>();
        match value {
            Value::Null => Arg::None,
            Value::Bool(it) => Arg::Bool(it),
            Value::Number(it) => match (it.as_i64(), it.as_f64()) {
                (Some(it), _) => Arg::Int(it),
                (None, Some(it)) => Arg::Float(it),
                (None, None) => Arg::Unknown(Value::Number(it)),
            },
            Value::String(it) => Arg::Text(it),
            Value::Array(it) => Arg::List(all(it)),
            Value::Object(it) if it.len() == 1 => {
                let known = it.iter().next().and_then(|(kind, value)| Arg::of_kind(kind, value));
                known.unwrap_or(Arg::Unknown(Value::Object(it)))
            }
            other @ Value::Object(_) => Arg::Unknown(other),
        }
    }

    /// Parses an argument that is written as an object with one key, its kind.
    fn of_kind(kind: &str, value: &Value) -> Option<Self> {
        let all = |values: &[Value]| values.iter().cloned().map(Arg::from_value).collect::<Vec<_>>();
        Some(match (kind, value) {
            ("ref", Value::String(it)) => Arg::Ref(it.clone()),
            ("tuple", Value::Array(it)) => Arg::Tuple(all(it)),
            ("dict", Value::Object(it)) => Arg::Dict(
                it.iter().map(|(key, value)| (key.clone(), Arg::from_value(value.clone()))).collect(),
            ),
            ("slice", Value::Array(it)) => Arg::Slice(Box::new(all(it).try_into().ok()?)),
            ("ellipsis", Value::Bool(true)) => Arg::Ellipsis,
            ("float", Value::String(it)) => match it.as_str() {
                "inf" => Arg::Float(f64::INFINITY),
                "-inf" => Arg::Float(f64::NEG_INFINITY),
                "nan" => Arg::Float(f64::NAN),
                _ => return None,
            },
            (kind, Value::String(it)) => {
                let kind = CONSTANTS.into_iter().find(|known| *known == kind)?;
                Arg::Constant(kind, it.clone())
            }
            _ => return None,
        })
    }
}

impl Serialize for Arg {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Arg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Arg::from_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_argument_keeps_its_json() {
        for text in [
            "null",
            "true",
            "-3",
            "0.5",
            "2.0",
            r#""mean""#,
            r#"{"ref":"mul"}"#,
            r#"[1,{"ref":"x"}]"#,
            r#"{"tuple":[1,[2]]}"#,
            r#"{"dict":{"custom/nll:sum":{"ref":"neg"}}}"#,
            r#"{"slice":[null,3,null]}"#,
            r#"{"ellipsis":true}"#,
            r#"{"float":"inf"}"#,
            r#"{"float":"-inf"}"#,
            r#"{"float":"nan"}"#,
            r#"{"dtype":"float32"}"#,
            r#"{"device":"cpu"}"#,
            r#"{"layout":"strided"}"#,
            r#"{"memory_format":"contiguous_format"}"#,
        ] {
            let arg: Arg = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&arg).expect(text), text);
        }
    }

    #[test]
    fn an_unknown_argument_keeps_its_json() {
        for text in [
            r#"{}"#,
            r#"{"ref":"a","tuple":[]}"#,
            r#"{"slice":[1]}"#,
            r#"{"float":"1"}"#,
            r#"{"code":"x"}"#,
            r#"{"ref":1}"#,
        ] {
            let arg: Arg = serde_json::from_str(text).expect(text);
            assert!(matches!(arg, Arg::Unknown(_)), "{arg:?}");
            assert_eq!(serde_json::to_string(&arg).expect(text), text);
        }
    }
}
