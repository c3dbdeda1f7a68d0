//! The steps of a traced loss, in the form in which torch.fx records them and servers read them (PROTOCOL §9.6).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeOp {
    /// An input.
    Placeholder,
    /// A tensor from outside of the loss; nobody allows it.
    GetAttr,
    /// A function, by its qualified name.
    CallFunction,
    /// A method of the first argument.
    CallMethod,
    /// A module; nobody allows it.
    CallModule,
    /// What the loss returns.
    Output,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) op: NodeOp,
    /// Unique in its graph: later steps refer to this one by it.
    pub(crate) name: String,
    /// What is called, or the name of the input.
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) args: Vec<Arg>,
    #[serde(default)]
    pub(crate) kwargs: BTreeMap<String, Arg>,
}

/// An argument of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    Nothing,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// The result of an earlier step.
    Ref(String),
    List(Vec<Arg>),
    Tuple(Vec<Arg>),
    Dict(BTreeMap<String, Arg>),
    Slice(Box<[Arg; 3]>),
    Ellipsis,
    /// A constant of torch by its kind (`dtype`, `device`, `layout`, `memory_format`) and name.
    Constant(&'static str, String),
    /// None that this version knows.
    Unknown(Value),
}

/// The kinds of constants.
const CONSTANTS: [&str; 4] = ["dtype", "device", "layout", "memory_format"];

impl Arg {
    fn to_value(&self) -> Value {
        let all = |it: &[Arg]| Value::Array(it.iter().map(Arg::to_value).collect());
        match self {
            Arg::Nothing => Value::Null,
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

    /// What is not understood is kept, and refused by whoever has to compute it.
    fn from_value(value: Value) -> Self {
        let all = |it: Vec<Value>| it.into_iter().map(Arg::from_value).collect::<Vec<_>>();
        match value {
            Value::Null => Arg::Nothing,
            Value::Bool(it) => Arg::Bool(it),
            Value::Number(it) => match (it.as_i64(), it.as_f64()) {
                (Some(it), _) => Arg::Int(it),
                (None, Some(it)) => Arg::Float(it),
                (None, None) => Arg::Unknown(Value::Number(it)),
            },
            Value::String(it) => Arg::Text(it),
            Value::Array(it) => Arg::List(all(it)),
            Value::Object(it) if it.len() == 1 => {
                let known = it.iter().next().and_then(|(kind, it)| Arg::of_kind(kind, it));
                known.unwrap_or(Arg::Unknown(Value::Object(it)))
            }
            other @ Value::Object(_) => Arg::Unknown(other),
        }
    }

    /// What is written as an object of one key.
    fn of_kind(kind: &str, value: &Value) -> Option<Self> {
        let all = |it: &[Value]| it.iter().cloned().map(Arg::from_value).collect::<Vec<_>>();
        Some(match (kind, value) {
            ("ref", Value::String(it)) => Arg::Ref(it.clone()),
            ("tuple", Value::Array(it)) => Arg::Tuple(all(it)),
            ("dict", Value::Object(it)) => {
                Arg::Dict(it.iter().map(|(key, it)| (key.clone(), Arg::from_value(it.clone()))).collect())
            }
            ("slice", Value::Array(it)) => Arg::Slice(Box::new(all(it).try_into().ok()?)),
            ("ellipsis", Value::Bool(true)) => Arg::Ellipsis,
            ("float", Value::String(it)) => match it.as_str() {
                "inf" => Arg::Float(f64::INFINITY),
                "-inf" => Arg::Float(f64::NEG_INFINITY),
                "nan" => Arg::Float(f64::NAN),
                _ => return None,
            },
            (kind, Value::String(it)) => {
                let kind = CONSTANTS.into_iter().find(|it| *it == kind)?;
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
    fn every_kind_of_argument_is_written_and_read_as_the_protocol_says() {
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
    fn what_is_no_argument_is_kept_as_it_is() {
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
