//! Sums, means, extremes and what is made of them.

use super::Fault;
use super::args::{Args, Value};
use super::reverse::starts;
use super::tape::{Binary, Source, Tape, Unary};
use super::tensor::{Kind, Tensor, axis, matrix};

/// How a tensor is reduced: the shape that is left, and for each number of the input the place where it goes.
struct Plan {
    shape: Vec<usize>,
    places: Vec<u32>,
    /// How many numbers go to each place.
    each: usize,
}

fn plan(shape: &[usize], dims: Option<&[i64]>, keep: bool) -> Result<Plan, Fault> {
    let rank = shape.len();
    let mut gone = vec![dims.is_none_or(|it| it.is_empty()); rank.max(1)];
    for dim in dims.unwrap_or_default() {
        gone[axis(*dim, rank)?] = true;
    }
    let left = shape.iter().zip(&gone).filter(|it| keep || !it.1);
    let left = left.map(|(size, gone)| if *gone { 1 } else { *size }).collect();
    let (rows, cols) = matrix(shape);
    let (no_rows, no_cols) = match rank {
        2 => (gone[0], gone[1]),
        _ => (true, gone[0] || rank == 0),
    };
    let width = if no_cols { 1 } else { cols };
    let place = |r: usize, c: usize| {
        let (r, c) = (if no_rows { 0 } else { r }, if no_cols { 0 } else { c });
        (r * width + c) as u32
    };
    let places = (0..rows).flat_map(|r| (0..cols).map(move |c| place(r, c))).collect();
    let each = if no_rows { rows } else { 1 } * if no_cols { cols } else { 1 };
    Ok(Plan { shape: left, places, each })
}

fn sum_over(tape: &mut Tape, x: usize, plan: Plan) -> Result<usize, Fault> {
    let input = tape.get(x);
    let mut sum = Tensor::filled(input.kind.max(Kind::Int), plan.shape, 0.0);
    for (value, place) in input.data.iter().zip(&plan.places) {
        sum.data[*place as usize] += value;
    }
    tape.push(sum, Source::Sum(x, plan.places))
}

fn shape(tape: &Tape, x: usize) -> Vec<usize> {
    tape.get(x).shape.clone()
}

fn floats(tape: &Tape, x: usize) -> Result<(), Fault> {
    match tape.get(x).kind {
        Kind::Float => Ok(()),
        _ => Err(Fault::data("only a tensor of fractions has this; make it one with .float()")),
    }
}

pub(super) fn sum(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let mut x = args.input(tape)?;
    let (dims, keep) = (args.ints("dim")?, args.flag("keepdim")?);
    if let Some(kind) = args.dtype()? {
        x = tape.cast(x, kind)?;
    }
    args.end()?;
    let plan = plan(&shape(tape, x), dims.as_deref(), keep)?;
    sum_over(tape, x, plan).map(Value::Tensor)
}

pub(super) fn mean(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let mut x = args.input(tape)?;
    let (dims, keep) = (args.ints("dim")?, args.flag("keepdim")?);
    if let Some(kind) = args.dtype()? {
        x = tape.cast(x, kind)?;
    }
    args.end()?;
    mean_of(tape, x, dims.as_deref(), keep).map(Value::Tensor)
}

fn mean_of(tape: &mut Tape, x: usize, dims: Option<&[i64]>, keep: bool) -> Result<usize, Fault> {
    floats(tape, x)?;
    let plan = plan(&shape(tape, x), dims, keep)?;
    let n = tape.constant(Tensor::scalar(Kind::Float, plan.each as f64))?;
    let sum = sum_over(tape, x, plan)?;
    tape.binary(Binary::Div, sum, n)
}

/// The variance, or with `root` the standard deviation.
pub(super) fn spread(tape: &mut Tape, mut args: Args, root: bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    // The parameter after the tensor is a dimension, or the old way to say whether the sample is corrected for.
    let (dims, mut unbiased) = match args.next("dim") {
        Some(Value::Bool(it)) => (None, it),
        Some(Value::Int(it)) => (Some(vec![it]), true),
        Some(Value::Many(it)) => {
            (Some(it.iter().map(|it| super::args::int(it, "dim")).collect::<Result<Vec<_>, _>>()?), true)
        }
        _ => (None, true),
    };
    if let Some(it) = args.named("unbiased") {
        unbiased = it == Value::Bool(true);
    }
    let correction = match args.named("correction") {
        Some(it) => it.number().ok_or_else(|| Fault::always("correction must be a number"))?,
        None => f64::from(u8::from(unbiased)),
    };
    let keep = args.flag("keepdim")?;
    args.end()?;
    let mean = mean_of(tape, x, dims.as_deref(), true)?;
    // Without dimensions to keep, the mean of everything is a scalar all the same.
    let gap = tape.binary(Binary::Sub, x, mean)?;
    let squared = tape.unary(Unary::Square, gap)?;
    let plan = plan(&shape(tape, x), dims.as_deref(), keep)?;
    let n = tape.constant(Tensor::scalar(Kind::Float, (plan.each as f64 - correction).max(0.0)))?;
    let sum = sum_over(tape, squared, plan)?;
    let variance = tape.binary(Binary::Div, sum, n)?;
    Ok(Value::Tensor(if root { tape.unary(Unary::Sqrt, variance)? } else { variance }))
}

/// The places of the largest numbers (or the smallest), for each place of the result.
fn winners(input: &Tensor, plan: &Plan, largest: bool) -> Result<Vec<Vec<u32>>, Fault> {
    if plan.each == 0 {
        return Err(Fault::data("nothing has no largest or smallest number"));
    }
    let mut winners: Vec<Vec<u32>> = vec![Vec::new(); super::tensor::count(&plan.shape)];
    for (i, place) in plan.places.iter().enumerate() {
        let (own, value) = (&mut winners[*place as usize], input.data[i]);
        let best = own.first().map(|it| input.data[*it as usize]);
        match best {
            Some(best) if best.is_nan() => {}
            Some(best) if best == value => own.push(i as u32),
            Some(best) if (if largest { value < best } else { best < value }) => {}
            _ => *own = vec![i as u32],
        }
    }
    Ok(winners)
}

/// `max` and `min`: of everything, along a dimension with the places, or of two tensors.
pub(super) fn extreme(tape: &mut Tape, mut args: Args, largest: bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let other = args.named("other");
    let dim = match other.or_else(|| args.next("dim")) {
        None => None,
        Some(Value::Int(it)) => Some(it),
        Some(Value::Tensor(it)) => {
            args.end()?;
            let of = if largest { Binary::Max } else { Binary::Min };
            return tape.binary(of, x, it).map(Value::Tensor);
        }
        Some(_) => return Err(Fault::always("dim must be one whole number")),
    };
    let keep = args.flag("keepdim")?;
    args.end()?;
    let Some(dim) = dim else { return shared(tape, x, None, keep, largest).map(Value::Tensor) };
    let (plan, rank) = (plan(&shape(tape, x), Some(&[dim]), keep)?, tape.get(x).shape.len());
    let first: Vec<u32> = winners(tape.get(x), &plan, largest)?.iter().map(|it| it[0]).collect();
    let along = coordinates(&shape(tape, x), axis(dim, rank)?, &first);
    let values = tape.gather(x, plan.shape.clone(), first)?;
    let indices = tape.constant(Tensor::new(Kind::Int, plan.shape, along))?;
    Ok(Value::Many(vec![Value::Tensor(values), Value::Tensor(indices)]))
}

/// `amax` and `amin`, which share their slope among equals.
pub(super) fn amax(tape: &mut Tape, mut args: Args, largest: bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let (dims, keep) = (args.ints("dim")?, args.flag("keepdim")?);
    args.end()?;
    shared(tape, x, dims.as_deref(), keep, largest).map(Value::Tensor)
}

fn shared(
    tape: &mut Tape,
    x: usize,
    dims: Option<&[i64]>,
    keep: bool,
    largest: bool,
) -> Result<usize, Fault> {
    let plan = plan(&shape(tape, x), dims, keep)?;
    let input = tape.get(x);
    let winners = winners(input, &plan, largest)?;
    let data = winners.iter().map(|it| input.data[it[0] as usize]).collect();
    let value = Tensor::new(input.kind, plan.shape, data);
    tape.push(value, Source::Shared(x, winners))
}

/// `argmax` and `argmin`.
pub(super) fn arg(tape: &mut Tape, mut args: Args, largest: bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let (dim, keep) = (args.int("dim")?, args.flag("keepdim")?);
    args.end()?;
    let plan = plan(&shape(tape, x), dim.map(|it| [it]).as_ref().map(|it| &it[..]), keep)?;
    let first: Vec<u32> = winners(tape.get(x), &plan, largest)?.iter().map(|it| it[0]).collect();
    let places = match dim {
        Some(dim) => coordinates(&shape(tape, x), axis(dim, tape.get(x).shape.len())?, &first),
        None => first.iter().map(|it| f64::from(*it)).collect(),
    };
    tape.constant(Tensor::new(Kind::Int, plan.shape, places)).map(Value::Tensor)
}

/// Where numbers stand along a dimension.
fn coordinates(shape: &[usize], axis: usize, places: &[u32]) -> Vec<f64> {
    let cols = matrix(shape).1.max(1);
    let one = |at: &u32| match (shape.len(), axis) {
        (2, 0) => *at as usize / cols,
        _ => *at as usize % cols,
    };
    places.iter().map(|it| one(it) as f64).collect()
}

/// The length of a dimension and how far its numbers are apart.
pub(super) fn line(shape: &[usize], axis: usize) -> (usize, usize) {
    match (shape, axis) {
        (&[rows, cols], 0) => (rows, cols),
        (&[_, cols], _) => (cols, 1),
        (&[cols], _) => (cols, 1),
        _ => (1, 1),
    }
}

pub(super) fn cumsum(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dim = args.int("dim")?.ok_or_else(|| Fault::always("the argument dim is missing"))?;
    args.end()?;
    let input = tape.get(x);
    let (len, stride) = line(&input.shape, axis(dim, input.shape.len())?);
    let mut value = input.clone();
    value.kind = value.kind.max(Kind::Int);
    for start in starts(value.data.len(), len, stride) {
        let mut total = 0.0;
        for at in (0..len).map(|i| start + i * stride) {
            total += value.data[at];
            value.data[at] = total;
        }
    }
    tape.push(value, Source::Cumsum { of: x, len, stride }).map(Value::Tensor)
}

fn log_sum_exp(tape: &mut Tape, x: usize, dims: Option<&[i64]>, keep: bool) -> Result<usize, Fault> {
    floats(tape, x)?;
    // The largest number is taken out first, lest the exponentials overflow. It is held still: what its slope would add
    // cancels.
    let top = shared(tape, x, dims, true, true)?;
    let mut value = tape.get(top).clone();
    value.data.iter_mut().filter(|it| !it.is_finite()).for_each(|it| *it = 0.0);
    let top = tape.constant(value)?;
    let gap = tape.binary(Binary::Sub, x, top)?;
    let exp = tape.unary(Unary::Exp, gap)?;
    let plan = plan(&shape(tape, x), dims, keep)?;
    let left = plan.shape.clone();
    let sum = sum_over(tape, exp, plan)?;
    let log = tape.unary(Unary::Log, sum)?;
    let top = tape.reshape(top, left)?;
    tape.binary(Binary::Add, log, top)
}

pub(super) fn logsumexp(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let (dims, keep) = (args.ints("dim")?, args.flag("keepdim")?);
    args.end()?;
    log_sum_exp(tape, x, dims.as_deref(), keep).map(Value::Tensor)
}

/// `log_softmax`, or `softmax`.
pub(super) fn softmax(tape: &mut Tape, mut args: Args, logarithm: bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dim = args.int("dim")?.ok_or_else(|| Fault::always("the argument dim is missing"))?;
    // A parameter of one of the three ways to call it, without a meaning here.
    args.named("_stacklevel");
    let x = match args.dtype()? {
        Some(kind) => tape.cast(x, kind)?,
        None => x,
    };
    args.end()?;
    let sum = log_sum_exp(tape, x, Some(&[dim]), true)?;
    let log = tape.binary(Binary::Sub, x, sum)?;
    Ok(Value::Tensor(if logarithm { log } else { tape.unary(Unary::Exp, log)? }))
}
