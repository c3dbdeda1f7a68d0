//! The functions and methods of PyTorch that a loss may call. [`read`] parses a node into a [`Call`] and its operands.

use std::collections::BTreeMap;

use super::node::Problem;
use super::{Arg, Node, NodeOp};

/// An operation of a loss.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Unary(Unary),
    Binary(Binary),
    Clamp {
        min: Option<f64>,
        max: Option<f64>,
    },
    Where,
    Reduce {
        how: Reduce,
        dims: Dims,
        keep: bool,
    },
    Along {
        how: Along,
        dim: i64,
    },
    Item(Vec<Index>),
    Unsqueeze(i64),
    Squeeze(Option<i64>),
    /// Number of values.
    Numel,
    /// An array with the shape of the operand, in which each value is this number.
    Fill(f64),
    Detach,
    /// A conversion of the type or a copy in memory. Does nothing here, because all arrays are `f64`.
    Identity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Abs,
    Exp,
    Expm1,
    Invert,
    Log,
    Log1p,
    LogSigmoid,
    Neg,
    Reciprocal,
    Relu,
    Rsqrt,
    Sigmoid,
    Sign,
    Softplus,
    Sqrt,
    Square,
    Tanh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Minimum,
    Maximum,
    Gt,
    Ge,
    Lt,
    Le,
    Eq,
    Ne,
    And,
    Or,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    LogSumExp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    Softmax,
    LogSoftmax,
    CumSum,
}

/// Dimensions along which a reduction combines the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dims {
    All,
    Listed(Vec<i64>),
}

/// One part of an index expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    At(i64),
    Range {
        start: Option<i64>,
        stop: Option<i64>,
        step: i64,
    },
    /// A new dimension of size 1.
    NewDim,
    /// All dimensions that the other parts of the expression do not use.
    Ellipsis,
}

impl Call {
    /// Returns true if gradients flow through the operation.
    pub(super) fn has_gradient(&self) -> bool {
        use Binary::*;
        !matches!(
            self,
            Call::Detach
                | Call::Numel
                | Call::Fill(_)
                | Call::Unary(Unary::Invert | Unary::Sign)
                | Call::Binary(Gt | Ge | Lt | Le | Eq | Ne | And | Or)
        )
    }
}

/// Parses the operation of a node and its operands.
pub(super) fn read(node: &Node) -> Result<(Call, Vec<Arg>), Problem> {
    let name = match node.op {
        NodeOp::CallMethod => node.target.as_str(),
        _ => {
            let modules = ["torch.nn.functional.", "torch.special.", "torch._C._nn.", "torch.", "operator."];
            let bare = modules.iter().find_map(|module| node.target.strip_prefix(module));
            bare.ok_or("is not a function of torch or operator")?
        }
    };
    let mut args = Args { args: node.args.iter(), kwargs: node.kwargs.clone() };
    let first = args.next("input").ok_or("needs a tensor")?;
    let call = match named(name) {
        // With a second tensor, `min` and `max` are `minimum` and `maximum`: they compare element by element.
        Some(Call::Reduce { how: Reduce::Min, .. }) if args.has_tensor() => Call::Binary(Binary::Minimum),
        Some(Call::Reduce { how: Reduce::Max, .. }) if args.has_tensor() => Call::Binary(Binary::Maximum),
        Some(call) => call,
        None => return Err("is not supported here".into()),
    };
    let mut operands = vec![first];
    let call = match call {
        Call::Binary(binary) => {
            let second = args.next("other").or_else(|| args.next("exponent"));
            operands.push(second.ok_or("needs a second operand")?);
            Call::Binary(binary)
        }
        Call::Where => {
            // The method is `yes.where(condition, no)`; the function is `torch.where(condition, yes, no)`.
            let second = args.next("condition").or_else(|| args.next("other")).ok_or("needs two values")?;
            let third = args.next("other").ok_or("needs two values")?;
            operands.extend([second, third]);
            if node.op == NodeOp::CallMethod {
                operands.swap(0, 1);
            }
            Call::Where
        }
        Call::Clamp { .. } if name == "clamp_min" => {
            Call::Clamp { min: Some(number(args.next("min"))?.ok_or("needs min")?), max: None }
        }
        Call::Clamp { .. } if name == "clamp_max" => {
            Call::Clamp { min: None, max: Some(number(args.next("max"))?.ok_or("needs max")?) }
        }
        Call::Clamp { .. } => {
            let (min, max) = (number(args.next("min"))?, number(args.next("max"))?);
            if min.or(max).is_none() {
                return Err("needs min or max".into());
            }
            Call::Clamp { min, max }
        }
        Call::Reduce { how, .. } => {
            let dims = dims(args.next("dim"))?;
            if how == Reduce::LogSumExp && dims == Dims::All {
                return Err("needs a dimension".into());
            }
            // With a dimension, `max` and `min` of PyTorch also return indices, which is not supported here. `amax` and
            // `amin` return only values.
            if dims != Dims::All && matches!(name, "max" | "min") {
                return Err("takes no dimension here; use amax or amin".into());
            }
            let keep = matches!(args.next("keepdim"), Some(Arg::Bool(true)));
            args.skip("dtype");
            Call::Reduce { how, dims, keep }
        }
        Call::Along { how, .. } => {
            let dim = integer(args.next("dim"))?.ok_or("needs a dimension")?;
            args.skip("dtype");
            args.skip("_stacklevel");
            Call::Along { how, dim }
        }
        Call::Item(_) => Call::Item(indices(args.next("index").ok_or("needs an index")?)?),
        Call::Unsqueeze(_) => Call::Unsqueeze(integer(args.next("dim"))?.ok_or("needs a dimension")?),
        Call::Squeeze(_) => Call::Squeeze(integer(args.next("dim"))?),
        Call::Identity => {
            args.skip_all();
            Call::Identity
        }
        Call::Fill(_) if name == "full_like" => {
            let value = number(args.next("fill_value"))?.ok_or("needs a value")?;
            args.skip_all();
            Call::Fill(value)
        }
        Call::Fill(value) => {
            args.skip_all();
            Call::Fill(value)
        }
        other => other,
    };
    args.finish()?;
    Ok((call, operands))
}

/// The operation of a name; its arguments have default values until `read` parses them.
fn named(name: &str) -> Option<Call> {
    let reduce = |how| Call::Reduce { how, dims: Dims::All, keep: false };
    let along = |how| Call::Along { how, dim: 0 };
    Some(match name {
        "abs" | "absolute" => Call::Unary(Unary::Abs),
        "exp" => Call::Unary(Unary::Exp),
        "expm1" => Call::Unary(Unary::Expm1),
        "invert" | "inv" | "logical_not" | "bitwise_not" => Call::Unary(Unary::Invert),
        "log" => Call::Unary(Unary::Log),
        "log1p" => Call::Unary(Unary::Log1p),
        "logsigmoid" | "log_sigmoid" => Call::Unary(Unary::LogSigmoid),
        "neg" | "negative" => Call::Unary(Unary::Neg),
        "reciprocal" => Call::Unary(Unary::Reciprocal),
        "relu" => Call::Unary(Unary::Relu),
        "rsqrt" => Call::Unary(Unary::Rsqrt),
        "sigmoid" | "expit" => Call::Unary(Unary::Sigmoid),
        "sign" => Call::Unary(Unary::Sign),
        "softplus" => Call::Unary(Unary::Softplus),
        "sqrt" => Call::Unary(Unary::Sqrt),
        "square" => Call::Unary(Unary::Square),
        "tanh" => Call::Unary(Unary::Tanh),
        "add" | "iadd" => Call::Binary(Binary::Add),
        "sub" | "isub" | "subtract" => Call::Binary(Binary::Sub),
        "mul" | "imul" | "multiply" => Call::Binary(Binary::Mul),
        "truediv" | "itruediv" | "div" | "divide" | "true_divide" => Call::Binary(Binary::Div),
        "pow" | "ipow" => Call::Binary(Binary::Pow),
        "minimum" => Call::Binary(Binary::Minimum),
        "maximum" => Call::Binary(Binary::Maximum),
        "gt" | "greater" => Call::Binary(Binary::Gt),
        "ge" | "greater_equal" => Call::Binary(Binary::Ge),
        "lt" | "less" => Call::Binary(Binary::Lt),
        "le" | "less_equal" => Call::Binary(Binary::Le),
        "eq" => Call::Binary(Binary::Eq),
        "ne" | "not_equal" => Call::Binary(Binary::Ne),
        "and_" | "logical_and" | "bitwise_and" => Call::Binary(Binary::And),
        "or_" | "logical_or" | "bitwise_or" => Call::Binary(Binary::Or),
        "clamp" | "clip" | "clamp_min" | "clamp_max" => Call::Clamp { min: None, max: None },
        "where" => Call::Where,
        "sum" => reduce(Reduce::Sum),
        "mean" => reduce(Reduce::Mean),
        "max" | "amax" => reduce(Reduce::Max),
        "min" | "amin" => reduce(Reduce::Min),
        "logsumexp" => reduce(Reduce::LogSumExp),
        "softmax" => along(Along::Softmax),
        "log_softmax" => along(Along::LogSoftmax),
        "cumsum" => along(Along::CumSum),
        "getitem" => Call::Item(Vec::new()),
        "unsqueeze" => Call::Unsqueeze(0),
        "squeeze" => Call::Squeeze(None),
        "numel" => Call::Numel,
        "zeros_like" => Call::Fill(0.0),
        "ones_like" => Call::Fill(1.0),
        "full_like" => Call::Fill(0.0),
        "detach" => Call::Detach,
        "float" | "double" | "to" | "type" | "clone" | "contiguous" => Call::Identity,
        _ => return None,
    })
}

/// Arguments of a node that are not parsed yet.
struct Args<'a> {
    args: std::slice::Iter<'a, Arg>,
    kwargs: BTreeMap<String, Arg>,
}

impl Args<'_> {
    /// Takes the next positional argument; if none is left, the keyword argument `name`.
    fn next(&mut self, name: &str) -> Option<Arg> {
        self.args.next().cloned().or_else(|| self.kwargs.remove(name)).filter(|arg| *arg != Arg::None)
    }

    /// Returns true if the next argument is a tensor.
    fn has_tensor(&self) -> bool {
        let keyword = || self.kwargs.get("other");
        matches!(self.args.as_slice().first().or_else(keyword), Some(Arg::Ref(_)))
    }

    fn skip(&mut self, name: &str) {
        self.kwargs.remove(name);
    }

    fn skip_all(&mut self) {
        self.args = [].iter();
        self.kwargs.clear();
    }

    /// Refuses arguments that were not parsed.
    fn finish(mut self) -> Result<(), Problem> {
        if self.args.any(|arg| *arg != Arg::None) {
            return Err("has more arguments than are supported here".into());
        }
        match self.kwargs.keys().next() {
            Some(name) => Err(format!("the argument {name:?} is not supported here")),
            None => Ok(()),
        }
    }
}

fn number(arg: Option<Arg>) -> Result<Option<f64>, Problem> {
    match arg {
        None => Ok(None),
        Some(Arg::Int(it)) => Ok(Some(it as f64)),
        Some(Arg::Float(it)) => Ok(Some(it)),
        Some(_) => Err("supports only numbers as options here, not tensors".into()),
    }
}

fn integer(arg: Option<Arg>) -> Result<Option<i64>, Problem> {
    match arg {
        None => Ok(None),
        Some(Arg::Int(it)) => Ok(Some(it)),
        Some(_) => Err("needs an integer".into()),
    }
}

fn dims(arg: Option<Arg>) -> Result<Dims, Problem> {
    match arg {
        Some(Arg::List(args) | Arg::Tuple(args)) => {
            let dim = |arg: Arg| integer(Some(arg))?.ok_or_else(|| "needs integers".to_string());
            Ok(Dims::Listed(args.into_iter().map(dim).collect::<Result<_, _>>()?))
        }
        other => Ok(integer(other)?.map_or(Dims::All, |dim| Dims::Listed(vec![dim]))),
    }
}

fn indices(arg: Arg) -> Result<Vec<Index>, Problem> {
    let index = |arg: Arg| match arg {
        Arg::Int(index) => Ok(Index::At(index)),
        Arg::None => Ok(Index::NewDim),
        Arg::Ellipsis => Ok(Index::Ellipsis),
        Arg::Slice(parts) => {
            let [start, stop, step] = *parts;
            let part = |arg: Arg| integer(Some(arg).filter(|arg| *arg != Arg::None));
            let step = part(step)?.unwrap_or(1);
            if step < 1 {
                return Err("a slice needs a positive step".to_string());
            }
            Ok(Index::Range { start: part(start)?, stop: part(stop)?, step })
        }
        _ => Err("supports only integers and slices as indices".into()),
    };
    match arg {
        Arg::Tuple(args) => args.into_iter().map(index).collect(),
        arg => Ok(vec![index(arg)?]),
    }
}
