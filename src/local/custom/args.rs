//! What a function of a graph is called with.

use std::collections::BTreeMap;

use super::Fault;
use super::tape::Tape;
use super::tensor::{Kind, Tensor};

/// A value in the course of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A tensor of the tape.
    Tensor(usize),
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    None,
    /// A list or a tuple: the two differ in nothing here.
    Many(Vec<Value>),
    Dict(Vec<(String, Value)>),
    /// Its start, end and step.
    Slice(Box<[Value; 3]>),
    Ellipsis,
    Dtype(Kind),
    /// A device or a way to lie in memory, of which there is one.
    Place,
}

impl Value {
    /// For people.
    fn noun(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Bool(_) => "a truth value",
            Value::Text(_) => "a text",
            Value::None => "None",
            Value::Many(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Slice(_) => "a slice",
            Value::Ellipsis => "...",
            Value::Dtype(_) => "a dtype",
            Value::Place => "a place in memory",
        }
    }

    /// A number of Python.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Value::Int(it) => Some(*it as f64),
            Value::Float(it) => Some(*it),
            Value::Bool(it) => Some(f64::from(u8::from(*it))),
            _ => None,
        }
    }
}

/// The arguments of one call, taken in the order of the function's parameters.
#[derive(Debug)]
pub(super) struct Args {
    given: std::vec::IntoIter<Value>,
    named: BTreeMap<String, Value>,
}

impl Args {
    pub(super) fn new(given: Vec<Value>, named: BTreeMap<String, Value>) -> Self {
        Args { given: given.into_iter(), named }
    }

    /// The next argument, by its place or its name. `None` counts as absent.
    pub(super) fn next(&mut self, name: &str) -> Option<Value> {
        let value = self.given.next().or_else(|| self.named.remove(name));
        value.filter(|it| *it != Value::None)
    }

    /// An argument that has no place.
    pub(super) fn named(&mut self, name: &str) -> Option<Value> {
        self.named.remove(name).filter(|it| *it != Value::None)
    }

    /// Everything that is left of those with a place.
    pub(super) fn rest(&mut self) -> Vec<Value> {
        self.given.by_ref().collect()
    }

    pub(super) fn need(&mut self, name: &str) -> Result<Value, Fault> {
        self.next(name).ok_or_else(|| Fault::always(format!("the argument {name} is missing")))
    }

    /// The tensor that a function or a method is about.
    pub(super) fn input(&mut self, tape: &mut Tape) -> Result<usize, Fault> {
        let value = match self.given.next() {
            Some(it) => Some(it),
            None => self.named.remove("input").or_else(|| self.named.remove("self")),
        };
        tensor(tape, value.ok_or_else(|| Fault::always("the tensor is missing"))?, "input")
    }

    pub(super) fn tensor(&mut self, tape: &mut Tape, name: &str) -> Result<usize, Fault> {
        let value = self.need(name)?;
        tensor(tape, value, name)
    }

    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>, Fault> {
        self.next(name).map(|it| int(&it, name)).transpose()
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, Fault> {
        let read = |it: Value| match it.number() {
            Some(it) => Ok(it),
            None => Err(Fault::always(format!("{name} must be a number, not {}", it.noun()))),
        };
        self.next(name).map(read).transpose()
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.next(name) {
            None => Ok(false),
            Some(Value::Bool(it)) => Ok(it),
            Some(it) => Err(Fault::always(format!("{name} must be True or False, not {}", it.noun()))),
        }
    }

    /// One number or several.
    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, Fault> {
        match self.next(name) {
            None => Ok(None),
            Some(Value::Many(it)) => it.iter().map(|it| int(it, name)).collect::<Result<_, _>>().map(Some),
            Some(it) => Ok(Some(vec![int(&it, name)?])),
        }
    }

    /// The kind of number that is asked for by name. Places in memory are taken note of and ignored.
    pub(super) fn dtype(&mut self) -> Result<Option<Kind>, Fault> {
        for name in
            ["device", "layout", "memory_format", "requires_grad", "pin_memory", "non_blocking", "copy"]
        {
            self.named.remove(name);
        }
        match self.named("dtype") {
            None => Ok(None),
            Some(Value::Dtype(it)) => Ok(Some(it)),
            Some(it) => Err(Fault::always(format!("dtype must be a dtype, not {}", it.noun()))),
        }
    }

    /// Refuses what no parameter took.
    pub(super) fn end(mut self) -> Result<(), Fault> {
        if let Some(name) = self.named.keys().next() {
            return Err(Fault::always(format!("the argument {name} is not offered here")));
        }
        match self.given.next() {
            None => Ok(()),
            Some(it) => Err(Fault::always(format!("there is an argument too many: {}", it.noun()))),
        }
    }
}

pub(super) fn int(value: &Value, name: &str) -> Result<i64, Fault> {
    match value {
        Value::Int(it) => Ok(*it),
        it => Err(Fault::always(format!("{name} must be a whole number, not {}", it.noun()))),
    }
}

/// A tensor, or a number as a tensor.
pub(super) fn tensor(tape: &mut Tape, value: Value, name: &str) -> Result<usize, Fault> {
    let (kind, number) = match value {
        Value::Tensor(id) => return Ok(id),
        Value::Int(it) => (Kind::Int, it as f64),
        Value::Float(it) => (Kind::Float, it),
        Value::Bool(it) => (Kind::Bool, f64::from(u8::from(it))),
        it => return Err(Fault::always(format!("{name} must be a tensor or a number, not {}", it.noun()))),
    };
    tape.constant(Tensor::scalar(kind, number))
}
