//! The functions that a graph may call, by the names under which torch.fx knows them.

use super::Fault;
use super::args::{Args, Value, tensor};
use super::tape::{Binary, Tape, Unary};
use super::tensor::{Kind, Tensor};
use super::{reduce, shape};

/// What a function does.
pub(super) type Call = fn(&mut Tape, Args) -> Result<Value, Fault>;

/// Where functions live, the longest first.
const HOMES: [&str; 8] = [
    "torch.nn.functional.",
    "torch._C._nn.",
    "torch.functional.",
    "torch.special.",
    "torch.Tensor.",
    "torch.",
    "operator.",
    "math.",
];

/// The function of a qualified name.
pub(super) fn function(target: &str) -> Option<Call> {
    // What Python has built in is called without its home.
    if target == "getattr" || target == "builtins.getattr" {
        return Some(attribute);
    }
    let home = HOMES.iter().find(|it| target.starts_with(**it))?;
    let name = &target[home.len()..];
    match *home {
        "operator." => operator(name),
        "math." => mathematics(name),
        _ => pointwise(name).or_else(|| of_tensors(name)),
    }
}

/// The method of a name.
pub(super) fn method(name: &str) -> Option<Call> {
    let own: Option<Call> = match name {
        "float" => Some(|t, a| cast(t, a, Kind::Float)),
        "double" => Some(|t, a| cast(t, a, Kind::Float)),
        "int" => Some(|t, a| cast(t, a, Kind::Int)),
        "long" => Some(|t, a| cast(t, a, Kind::Int)),
        "bool" => Some(|t, a| cast(t, a, Kind::Bool)),
        "to" => Some(to),
        "type_as" => Some(type_as),
        "size" => Some(size),
        "dim" | "ndimension" => Some(|t, a| whole(t, a, |it| it.shape.len())),
        "numel" | "nelement" => Some(|t, a| whole(t, a, |it| it.data.len())),
        "view" => Some(shape::reshape),
        "expand" => Some(|t, a| shape::expand(t, a, false)),
        "expand_as" => Some(|t, a| shape::expand(t, a, true)),
        _ => None,
    };
    own.or_else(|| pointwise(name)).or_else(|| of_tensors(name))
}

fn operator(name: &str) -> Option<Call> {
    Some(match name {
        "add" | "iadd" => |t, a| arithmetic(t, a, Binary::Add),
        "sub" | "isub" => |t, a| arithmetic(t, a, Binary::Sub),
        "mul" | "imul" => |t, a| arithmetic(t, a, Binary::Mul),
        "truediv" | "itruediv" => |t, a| arithmetic(t, a, Binary::Div),
        "pow" | "ipow" => |t, a| arithmetic(t, a, Binary::Pow),
        "neg" | "pos" | "abs" | "gt" | "lt" | "ge" | "le" | "eq" | "ne" => {
            return match name {
                "pos" => Some(|t, a| unary(t, a, None)),
                other => pointwise(other),
            };
        }
        "and_" => |t, a| logic(t, a, Logic::And),
        "or_" => |t, a| logic(t, a, Logic::Or),
        "xor" => |t, a| logic(t, a, Logic::Xor),
        "invert" | "inv" | "not_" => not,
        "getitem" => shape::getitem,
        _ => return None,
    })
}

/// Functions of numbers of Python: they take no tensors.
fn mathematics(name: &str) -> Option<Call> {
    Some(match name {
        "exp" => |_, a| number(a, f64::exp),
        "expm1" => |_, a| number(a, f64::exp_m1),
        "log" => |_, a| number(a, f64::ln),
        "log1p" => |_, a| number(a, f64::ln_1p),
        "log2" => |_, a| number(a, f64::log2),
        "log10" => |_, a| number(a, f64::log10),
        "sqrt" => |_, a| number(a, f64::sqrt),
        "fabs" => |_, a| number(a, f64::abs),
        "tanh" => |_, a| number(a, f64::tanh),
        "sin" => |_, a| number(a, f64::sin),
        "cos" => |_, a| number(a, f64::cos),
        _ => return None,
    })
}

/// Functions of each number of a tensor, or of each pair, which are methods too.
fn pointwise(name: &str) -> Option<Call> {
    Some(match name {
        "exp" => |t, a| unary(t, a, Some(Unary::Exp)),
        "expm1" => |t, a| unary(t, a, Some(Unary::Expm1)),
        "log" => |t, a| unary(t, a, Some(Unary::Log)),
        "log1p" => |t, a| unary(t, a, Some(Unary::Log1p)),
        "log2" => |t, a| unary(t, a, Some(Unary::Log2)),
        "log10" => |t, a| unary(t, a, Some(Unary::Log10)),
        "sqrt" => |t, a| unary(t, a, Some(Unary::Sqrt)),
        "rsqrt" => |t, a| unary(t, a, Some(Unary::Rsqrt)),
        "reciprocal" => |t, a| unary(t, a, Some(Unary::Reciprocal)),
        "abs" | "absolute" => |t, a| unary(t, a, Some(Unary::Abs)),
        "neg" | "negative" => |t, a| unary(t, a, Some(Unary::Neg)),
        "square" => |t, a| unary(t, a, Some(Unary::Square)),
        "sigmoid" | "expit" => |t, a| unary(t, a, Some(Unary::Sigmoid)),
        "logsigmoid" | "log_sigmoid" => |t, a| unary(t, a, Some(Unary::LogSigmoid)),
        "tanh" => |t, a| unary(t, a, Some(Unary::Tanh)),
        "relu" => relu,
        "sin" => |t, a| unary(t, a, Some(Unary::Sin)),
        "cos" => |t, a| unary(t, a, Some(Unary::Cos)),
        "sign" | "sgn" => |t, a| unary(t, a, Some(Unary::Sign)),
        "floor" => |t, a| unary(t, a, Some(Unary::Floor)),
        "ceil" => |t, a| unary(t, a, Some(Unary::Ceil)),
        "round" => |t, a| unary(t, a, Some(Unary::Round)),
        "clone" | "contiguous" => |t, a| unary(t, a, None),
        "detach" => detach,
        "softplus" => softplus,
        "add" => |t, a| arithmetic(t, a, Binary::Add),
        "sub" | "subtract" => |t, a| arithmetic(t, a, Binary::Sub),
        "rsub" => reversed,
        "mul" | "multiply" => |t, a| arithmetic(t, a, Binary::Mul),
        "div" | "divide" | "true_divide" => |t, a| arithmetic(t, a, Binary::Div),
        "pow" => |t, a| arithmetic(t, a, Binary::Pow),
        "maximum" | "fmax" => |t, a| arithmetic(t, a, Binary::Max),
        "minimum" | "fmin" => |t, a| arithmetic(t, a, Binary::Min),
        "gt" | "greater" => |t, a| compare(t, a, |x, y| y < x),
        "lt" | "less" => |t, a| compare(t, a, |x, y| x < y),
        "ge" | "greater_equal" => |t, a| compare(t, a, |x, y| y <= x),
        "le" | "less_equal" => |t, a| compare(t, a, |x, y| x <= y),
        "eq" => |t, a| compare(t, a, |x, y| x == y),
        "ne" | "not_equal" => |t, a| compare(t, a, |x, y| x != y),
        "isnan" => |t, a| test(t, a, f64::is_nan),
        "isinf" => |t, a| test(t, a, f64::is_infinite),
        "isfinite" => |t, a| test(t, a, f64::is_finite),
        "logical_not" => |t, a| test(t, a, |it| it == 0.0),
        "logical_and" => |t, a| compare(t, a, |x, y| x != 0.0 && y != 0.0),
        "logical_or" => |t, a| compare(t, a, |x, y| x != 0.0 || y != 0.0),
        "logical_xor" => |t, a| compare(t, a, |x, y| (x != 0.0) != (y != 0.0)),
        "bitwise_and" | "__and__" => |t, a| logic(t, a, Logic::And),
        "bitwise_or" | "__or__" => |t, a| logic(t, a, Logic::Or),
        "bitwise_xor" | "__xor__" => |t, a| logic(t, a, Logic::Xor),
        "bitwise_not" => not,
        "clamp" | "clip" => |t, a| clamp(t, a, ["min", "max"]),
        "clamp_min" => |t, a| clamp(t, a, ["min", "-"]),
        "clamp_max" => |t, a| clamp(t, a, ["-", "max"]),
        "where" => choose,
        "masked_fill" => masked_fill,
        _ => return None,
    })
}

/// Everything else, which are methods too.
fn of_tensors(name: &str) -> Option<Call> {
    Some(match name {
        "sum" => reduce::sum,
        "mean" => reduce::mean,
        "std" => |t, a| reduce::spread(t, a, true),
        "var" => |t, a| reduce::spread(t, a, false),
        "max" => |t, a| reduce::extreme(t, a, true),
        "min" => |t, a| reduce::extreme(t, a, false),
        "amax" => |t, a| reduce::amax(t, a, true),
        "amin" => |t, a| reduce::amax(t, a, false),
        "argmax" => |t, a| reduce::arg(t, a, true),
        "argmin" => |t, a| reduce::arg(t, a, false),
        "cumsum" => reduce::cumsum,
        "logsumexp" => reduce::logsumexp,
        "softmax" => |t, a| reduce::softmax(t, a, false),
        "log_softmax" => |t, a| reduce::softmax(t, a, true),
        "zeros_like" => |t, a| like(t, a, Some(0.0)),
        "ones_like" => |t, a| like(t, a, Some(1.0)),
        "full_like" => |t, a| like(t, a, None),
        "reshape" => shape::reshape,
        "flatten" | "ravel" => shape::flatten,
        "unsqueeze" => shape::unsqueeze,
        "squeeze" => shape::squeeze,
        "transpose" | "swapaxes" | "t" => shape::transpose,
        "broadcast_to" => |t, a| shape::expand(t, a, false),
        "flip" => shape::flip,
        "gather" => shape::gather,
        "cat" | "concat" => |t, a| shape::join(t, a, false),
        "stack" => |t, a| shape::join(t, a, true),
        "numel" => |t, a| whole(t, a, |it| it.data.len()),
        _ => return None,
    })
}

fn unary(tape: &mut Tape, mut args: Args, of: Option<Unary>) -> Result<Value, Fault> {
    let value = args.need("input")?;
    args.named("memory_format");
    args.end()?;
    match (value, of) {
        (it, None) => Ok(it),
        // The sign of a whole number of Python is not a matter for tensors.
        (Value::Int(it), Some(Unary::Neg)) => Ok(Value::Int(it.saturating_neg())),
        (Value::Int(it), Some(Unary::Abs)) => Ok(Value::Int(it.saturating_abs())),
        (Value::Float(it), Some(of)) => Ok(Value::Float(of.value(it))),
        (it, Some(of)) => {
            let x = tensor(tape, it, "input")?;
            tape.unary(of, x).map(Value::Tensor)
        }
    }
}

fn relu(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    if args.flag("inplace")? {
        return Err(Fault::always("inplace is not offered here"));
    }
    args.end()?;
    tape.unary(Unary::Relu, x).map(Value::Tensor)
}

fn softplus(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let (beta, threshold) = (args.number("beta")?, args.number("threshold")?);
    args.end()?;
    // Beyond the threshold the function is replaced by its argument, which it differs from by less than 2e-9.
    if beta.is_some_and(|it| it != 1.0) || threshold.is_some_and(|it| it < 20.0) {
        return Err(Fault::always("softplus is offered with a beta of 1 and a threshold of 20 only"));
    }
    tape.unary(Unary::Softplus, x).map(Value::Tensor)
}

fn detach(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    args.end()?;
    tape.detach(x).map(Value::Tensor)
}

fn arithmetic(tape: &mut Tape, mut args: Args, of: Binary) -> Result<Value, Fault> {
    let (a, b) = (args.next("input").or_else(|| args.named("self")), args.next("other"));
    let b = b.or_else(|| args.named("exponent"));
    let (Some(a), Some(mut b)) = (a, b) else { return Err(Fault::always("two operands are needed")) };
    if let Some(it) = args.named("alpha") {
        b = pair(tape, b, it, Binary::Mul)?;
    }
    if args.named("rounding_mode").is_some() {
        return Err(Fault::always("rounding_mode is not offered here"));
    }
    args.end()?;
    pair(tape, a, b, of)
}

/// `b - a`.
fn reversed(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let (a, b) = (args.need("input")?, args.need("other")?);
    args.end()?;
    pair(tape, b, a, Binary::Sub)
}

fn pair(tape: &mut Tape, a: Value, b: Value, of: Binary) -> Result<Value, Fault> {
    match (&a, &b) {
        // Numbers of Python stay such: sizes, say.
        (Value::Int(x), Value::Int(y)) => {
            let whole = match of {
                Binary::Add => x.checked_add(*y),
                Binary::Sub => x.checked_sub(*y),
                Binary::Mul => x.checked_mul(*y),
                Binary::Max => Some(*x.max(y)),
                Binary::Min => Some(*x.min(y)),
                Binary::Div | Binary::Pow => None,
            };
            Ok(whole.map_or_else(|| Value::Float(of.value(*x as f64, *y as f64)), Value::Int))
        }
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            let [x, y] = [&a, &b].map(|it| it.number().unwrap_or(f64::NAN));
            Ok(Value::Float(of.value(x, y)))
        }
        _ => {
            let (a, b) = (tensor(tape, a, "an operand")?, tensor(tape, b, "an operand")?);
            tape.binary(of, a, b).map(Value::Tensor)
        }
    }
}

fn compare(tape: &mut Tape, mut args: Args, holds: fn(f64, f64) -> bool) -> Result<Value, Fault> {
    let (a, b) = (args.need("input")?, args.need("other")?);
    args.end()?;
    if let (Some(a), Some(b)) = (a.number(), b.number()) {
        return Ok(Value::Bool(holds(a, b)));
    }
    let (a, b) = (tensor(tape, a, "an operand")?, tensor(tape, b, "an operand")?);
    let value = tape.pairs(a, b, Kind::Bool, |x, y| f64::from(u8::from(holds(x, y))))?;
    tape.constant(value).map(Value::Tensor)
}

fn test(tape: &mut Tape, mut args: Args, holds: fn(f64) -> bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    args.end()?;
    let it = tape.get(x);
    let data = it.data.iter().map(|it| f64::from(u8::from(holds(*it)))).collect();
    let value = Tensor::new(Kind::Bool, it.shape.clone(), data);
    tape.constant(value).map(Value::Tensor)
}

/// What is done to bits.
#[derive(Clone, Copy)]
enum Logic {
    And,
    Or,
    Xor,
}

fn logic(tape: &mut Tape, mut args: Args, of: Logic) -> Result<Value, Fault> {
    let (a, b) = (args.tensor(tape, "input")?, args.tensor(tape, "other")?);
    args.end()?;
    let kind = tape.get(a).kind.max(tape.get(b).kind);
    if kind == Kind::Float {
        return Err(Fault::data("only masks and whole numbers have bits; compare fractions first"));
    }
    let value = tape.pairs(a, b, kind, |x, y| {
        let (x, y) = (x as i64, y as i64);
        let bits = match of {
            Logic::And => x & y,
            Logic::Or => x | y,
            Logic::Xor => x ^ y,
        };
        bits as f64
    })?;
    tape.constant(value).map(Value::Tensor)
}

fn not(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    args.end()?;
    let it = tape.get(x);
    let of = |value: &f64| match it.kind {
        Kind::Bool => 1.0 - value,
        _ => !(*value as i64) as f64,
    };
    if it.kind == Kind::Float {
        return Err(Fault::data("only masks and whole numbers have bits; compare fractions first"));
    }
    let value = Tensor::new(it.kind, it.shape.clone(), it.data.iter().map(of).collect());
    tape.constant(value).map(Value::Tensor)
}

fn clamp(tape: &mut Tape, mut args: Args, [low, high]: [&str; 2]) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let mut bound = |name: &str| if name == "-" { None } else { args.next(name) };
    let bounds = [bound(low), bound(high)];
    args.end()?;
    let of = |it: &Option<Value>| it.as_ref().map(Value::number);
    match (of(&bounds[0]), of(&bounds[1])) {
        (None, None) => Err(Fault::always("clamp needs a bound")),
        // Bounds that are numbers keep the slope of what stands on them.
        (None | Some(Some(_)), None | Some(Some(_))) => {
            let [low, high] = bounds.map(|it| it.and_then(|it| it.number()));
            tape.clamp(x, low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY)).map(Value::Tensor)
        }
        _ => {
            let [low, high] = bounds;
            let mut x = x;
            for (bound, of) in [(low, Binary::Max), (high, Binary::Min)] {
                if let Some(it) = bound {
                    let bound = tensor(tape, it, "a bound")?;
                    x = tape.binary(of, x, bound)?;
                }
            }
            Ok(Value::Tensor(x))
        }
    }
}

fn choose(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let first = args.next("condition").or_else(|| args.named("input"));
    let (second, third) = (args.next("self").or_else(|| args.named("input")), args.next("other"));
    args.end()?;
    let (Some(condition), Some(a), Some(b)) = (first, second, third) else {
        return Err(Fault::always("where needs a condition and two values"));
    };
    let condition = tensor(tape, condition, "condition")?;
    let (a, b) = (tensor(tape, a, "input")?, tensor(tape, b, "other")?);
    tape.choose(condition, a, b).map(Value::Tensor)
}

fn masked_fill(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let (x, mask) = (args.input(tape)?, args.tensor(tape, "mask")?);
    let value = args.tensor(tape, "value")?;
    args.end()?;
    tape.choose(mask, value, x).map(Value::Tensor)
}

fn like(tape: &mut Tape, mut args: Args, value: Option<f64>) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let value = match value {
        Some(it) => it,
        None => args.number("fill_value")?.ok_or_else(|| Fault::always("fill_value is missing"))?,
    };
    let kind = args.dtype()?.unwrap_or(tape.get(x).kind);
    args.end()?;
    let filled = Tensor::filled(kind, tape.get(x).shape.clone(), value);
    tape.constant(filled).map(Value::Tensor)
}

fn cast(tape: &mut Tape, mut args: Args, kind: Kind) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    args.dtype()?;
    args.end()?;
    tape.cast(x, kind).map(Value::Tensor)
}

fn to(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let mut x = args.input(tape)?;
    let named = args.dtype()?;
    let mut kinds: Vec<Kind> = named.into_iter().collect();
    for it in args.rest() {
        match it {
            Value::Dtype(kind) => kinds.push(kind),
            Value::Tensor(other) => kinds.push(tape.get(other).kind),
            // Where to, and whether to wait for it.
            _ => {}
        }
    }
    args.named("other");
    args.end()?;
    for kind in kinds {
        x = tape.cast(x, kind)?;
    }
    Ok(Value::Tensor(x))
}

fn type_as(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let (x, other) = (args.input(tape)?, args.tensor(tape, "other")?);
    args.end()?;
    let kind = tape.get(other).kind;
    tape.cast(x, kind).map(Value::Tensor)
}

fn size(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dim = args.int("dim")?;
    args.end()?;
    let shape = &tape.get(x).shape;
    let sizes: Vec<Value> = shape.iter().map(|it| Value::Int(*it as i64)).collect();
    match dim {
        None => Ok(Value::Many(sizes)),
        Some(dim) => {
            let at = super::tensor::axis(dim, shape.len())?;
            sizes.into_iter().nth(at).ok_or_else(|| Fault::always("a scalar has no sizes"))
        }
    }
}

fn whole(tape: &mut Tape, mut args: Args, of: fn(&Tensor) -> usize) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    args.end()?;
    Ok(Value::Int(of(tape.get(x)) as i64))
}

fn number(mut args: Args, of: fn(f64) -> f64) -> Result<Value, Fault> {
    let value = args.number("x")?.ok_or_else(|| Fault::always("the number is missing"))?;
    args.end()?;
    Ok(Value::Float(of(value)))
}

/// `getattr(x, name)`, as which torch.fx notes `x.name`.
fn attribute(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let (of, name) = (args.need("input")?, args.need("name")?);
    args.end()?;
    let Value::Text(name) = name else { return Err(Fault::always("an attribute is known by its name")) };
    let unknown = || Fault::always(format!("the attribute {name} is not offered here"));
    match (of, name.as_str()) {
        (Value::Many(all), "values") => all.into_iter().next().ok_or_else(unknown),
        (Value::Many(all), "indices") => all.into_iter().nth(1).ok_or_else(unknown),
        (Value::Tensor(x), "dtype") => Ok(Value::Dtype(tape.get(x).kind)),
        (Value::Tensor(_), "device" | "layout") => Ok(Value::Place),
        (it @ Value::Tensor(_), "shape") => size(tape, Args::new(vec![it], Default::default())),
        (it @ Value::Tensor(_), "ndim") => {
            whole(tape, Args::new(vec![it], Default::default()), |it| it.shape.len())
        }
        (it @ Value::Tensor(_), "T") => shape::transpose(tape, Args::new(vec![it], Default::default())),
        _ => Err(unknown()),
    }
}
