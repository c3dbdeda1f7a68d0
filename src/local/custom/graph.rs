//! From the nodes of a request to a program, with every refusal naming the node.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::args::Value;
use super::calls::{self, Call};
use super::tensor::Kind;
use super::{Input, Output, Program};

/// The largest graph.
const MOST_NODES: usize = 4096;
const MOST_INPUTS: usize = 16;
/// How deep lists may lie in lists.
const DEEPEST: usize = 16;

/// One node: what is called with what.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) call: Call,
    pub(super) args: Vec<Arg>,
    pub(super) kwargs: Vec<(String, Arg)>,
}

/// An argument as it is written.
#[derive(Debug)]
pub(super) enum Arg {
    /// What the value of this number is: first the inputs, then the nodes.
    Ref(usize),
    Value(Value),
    Many(Vec<Arg>),
    Dict(Vec<(String, Arg)>),
    Slice(Box<[Arg; 3]>),
}

/// Reads the inputs: their names and their numbers of dimensions.
pub(super) fn inputs(inputs: &[Json]) -> Result<Vec<Input>, String> {
    if !(1..=MOST_INPUTS).contains(&inputs.len()) {
        return Err(format!("inputs: must be 1 to {MOST_INPUTS}, are {}", inputs.len()));
    }
    let mut all: Vec<Input> = Vec::new();
    for (i, it) in inputs.iter().enumerate() {
        let name = it["name"].as_str().unwrap_or_default();
        if !is_input_name(name) {
            return Err(format!(
                "inputs[{i}].name: {name:?} must begin with a-z or _ and go on with a-z, 0-9 and _, 64 at most"
            ));
        }
        let first = name == "logprobs";
        if (i == 0) != first {
            return Err(format!("inputs[{i}].name: {name:?}; logprobs must be the first input and no other"));
        }
        if all.iter().any(|it| it.name == name) {
            return Err(format!("inputs[{i}].name: {name:?} is there twice"));
        }
        let rank = it["rank"].as_u64().filter(|it| (u64::from(first)..=2).contains(it));
        let Some(rank) = rank else {
            let least = u8::from(first);
            return Err(format!("inputs[{i}].rank: {} must be in {least}..=2", it["rank"]));
        };
        all.push(Input { name: name.into(), rank: rank as usize });
    }
    Ok(all)
}

fn is_input_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|it| it == b'_' || it.is_ascii_lowercase());
    first && name.len() <= 64 && bytes.all(|it| it == b'_' || it.is_ascii_lowercase() || it.is_ascii_digit())
}

/// `custom/` and a name, with how it is combined over data.
fn is_metric(key: &str) -> bool {
    let name =
        key.strip_prefix("custom/").and_then(|it| it.strip_suffix(":sum").or(it.strip_suffix(":mean")));
    name.is_some_and(|it| {
        let good = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"_./-".contains(&it);
        (1..=64).contains(&it.len()) && it.bytes().all(good)
    })
}

/// Reads a graph.
pub(super) fn read(name: &str, inputs: Vec<Input>, graph: &Json) -> Result<Program, String> {
    if graph["format"] != 1 {
        return Err(format!("graph.format: {} is not known here; this engine reads 1", graph["format"]));
    }
    let Some(nodes) = graph["nodes"].as_array() else { return Err("graph.nodes: must be a list".into()) };
    if MOST_NODES < nodes.len() {
        return Err(format!("graph.nodes: {} nodes are too many; {MOST_NODES} are allowed", nodes.len()));
    }
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut made: Vec<Node> = Vec::new();
    let mut output = None;
    for (i, node) in nodes.iter().enumerate() {
        let text = |field: &str| node[field].as_str().unwrap_or_default();
        let (op, own, target) = (text("op"), text("name"), text("target"));
        let at = |problem: String| format!("graph.nodes[{i}] ({own}): {problem}");
        if own.is_empty() || known.contains_key(own) {
            return Err(at("its name must be there and be its own".into()));
        }
        if output.is_some() {
            return Err(at("nothing may follow the output".into()));
        }
        let args = node["args"].as_array().map(Vec::as_slice).unwrap_or_default();
        let empty = Map::new();
        let kwargs = node["kwargs"].as_object().unwrap_or(&empty);
        let number = known.len();
        match op {
            "placeholder" => {
                if !made.is_empty() || inputs.get(number).is_none_or(|it| it.name != target) {
                    let names: Vec<&str> = inputs.iter().map(|it| it.name.as_str()).collect();
                    let names = names.join(", ");
                    return Err(at(format!("the graph must begin with the inputs in their order: {names}")));
                }
            }
            "call_function" | "call_method" => {
                let call = match op {
                    "call_function" => calls::function(target),
                    _ => calls::method(target),
                };
                let call = call.ok_or_else(|| at(refused(op, target)))?;
                if number < inputs.len() {
                    return Err(at(format!("the input {} has no placeholder", inputs[number].name)));
                }
                let read = |it: &Json| arg(it, &known, 0).map_err(&at);
                let args = args.iter().map(read).collect::<Result<_, _>>()?;
                let kwargs = kwargs.iter().map(|(key, it)| Ok((key.clone(), read(it)?)));
                let kwargs = kwargs.collect::<Result<_, String>>()?;
                made.push(Node { name: own.into(), target: target.into(), call, args, kwargs });
            }
            "output" => {
                if number < inputs.len() {
                    return Err(at(format!("the input {} has no placeholder", inputs[number].name)));
                }
                let [one] = args else { return Err(at("it must have one argument".into())) };
                output = Some(read_output(arg(one, &known, 0).map_err(&at)?).map_err(at)?);
            }
            "get_attr" => return Err(at("a loss may not bring tensors of its own; make them inputs".into())),
            "call_module" => return Err(at("modules are not offered; use functions of torch".into())),
            other => return Err(at(format!("the op {other:?} is not known"))),
        }
        known.insert(own, number);
    }
    let output = output.ok_or("graph.nodes: there is no output")?;
    Ok(Program { name: name.into(), inputs, nodes: made, output })
}

fn refused(op: &str, target: &str) -> String {
    match (op, target) {
        ("call_method", "backward") => "backward is the server's business: return the loss".into(),
        ("call_method", "item" | "numpy" | "tolist") => {
            format!("{target}() leaves the graph; keep every value, metrics included, a tensor")
        }
        ("call_method", _) => format!("the method {target:?} is not offered here"),
        _ => format!("the function {target:?} is not offered here"),
    }
}

fn read_output(output: Arg) -> Result<Output, String> {
    const FORM: &str = "the output must be the loss and a dict of metrics";
    let Arg::Many(parts) = output else { return Err(FORM.into()) };
    let Ok([loss, metrics]) = <[Arg; 2]>::try_from(parts) else { return Err(FORM.into()) };
    let (Arg::Ref(loss), Arg::Dict(metrics)) = (loss, metrics) else { return Err(FORM.into()) };
    let metric = |(key, it): (String, Arg)| match it {
        _ if !is_metric(&key) => {
            Err(format!("the metric {key:?} must be called custom/<name>:sum or custom/<name>:mean"))
        }
        Arg::Ref(it) => Ok((key, it)),
        _ => Err(format!("the metric {key:?} must be a tensor")),
    };
    Ok(Output { loss, metrics: metrics.into_iter().map(metric).collect::<Result<_, _>>()? })
}

fn arg(json: &Json, known: &HashMap<&str, usize>, depth: usize) -> Result<Arg, String> {
    if DEEPEST < depth {
        return Err("an argument is nested too deep".into());
    }
    let read = |it: &Json| arg(it, known, depth + 1);
    let list = |it: &Vec<Json>| it.iter().map(read).collect::<Result<Vec<_>, _>>();
    Ok(match json {
        Json::Null => Arg::Value(Value::None),
        Json::Bool(it) => Arg::Value(Value::Bool(*it)),
        Json::String(it) => Arg::Value(Value::Text(it.clone())),
        Json::Number(it) => Arg::Value(match it.as_i64() {
            Some(it) => Value::Int(it),
            None => Value::Float(it.as_f64().unwrap_or(f64::NAN)),
        }),
        Json::Array(it) => Arg::Many(list(it)?),
        Json::Object(it) => {
            let (Some((key, value)), 1) = (it.iter().next(), it.len()) else {
                return Err("an argument that is an object has one field".into());
            };
            let unreadable = || format!("the argument {{{key:?}: {value}}} cannot be read");
            match (key.as_str(), value) {
                ("ref", Json::String(name)) => match known.get(name.as_str()) {
                    Some(it) => Arg::Ref(*it),
                    None => return Err(format!("{name:?} is used before it is there")),
                },
                ("tuple", Json::Array(it)) => Arg::Many(list(it)?),
                ("dict", Json::Object(it)) => {
                    let entry = |(key, it): (&String, &Json)| Ok((key.clone(), read(it)?));
                    Arg::Dict(it.iter().map(entry).collect::<Result<_, String>>()?)
                }
                ("slice", Json::Array(it)) => {
                    let parts: [Arg; 3] = list(it)?.try_into().map_err(|_| unreadable())?;
                    Arg::Slice(Box::new(parts))
                }
                ("ellipsis", _) => Arg::Value(Value::Ellipsis),
                ("float", Json::String(it)) => match it.as_str() {
                    "inf" => Arg::Value(Value::Float(f64::INFINITY)),
                    "-inf" => Arg::Value(Value::Float(f64::NEG_INFINITY)),
                    "nan" => Arg::Value(Value::Float(f64::NAN)),
                    _ => return Err(unreadable()),
                },
                ("dtype", Json::String(it)) => match it.as_str() {
                    "float32" | "float" | "float64" | "double" => Arg::Value(Value::Dtype(Kind::Float)),
                    "int64" | "long" | "int32" | "int" => Arg::Value(Value::Dtype(Kind::Int)),
                    "bool" => Arg::Value(Value::Dtype(Kind::Bool)),
                    other => return Err(format!("the dtype {other:?} is not offered here")),
                },
                ("device" | "layout" | "memory_format", Json::String(_)) => Arg::Value(Value::Place),
                _ => return Err(unreadable()),
            }
        }
    })
}
