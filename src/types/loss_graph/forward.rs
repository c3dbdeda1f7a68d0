//! The values of a loss.

use super::array::{Array, common};
use super::call::{Along, Binary, Call, Dims, Index, Reduce, Unary};
use super::plan::Problem;

type Result<T> = std::result::Result<T, Problem>;

/// How many values a call gives at most.
pub(super) fn size(call: &Call, operands: &[&Array]) -> Result<usize> {
    match call {
        Call::Binary(_) | Call::Where => {
            let shapes: Vec<&[usize]> = operands.iter().map(|it| &it.shape[..]).collect();
            Ok(common(&shapes)?.iter().product())
        }
        _ => Ok(operands[0].values.len().max(1)),
    }
}

/// What a call gives for its operands.
pub(super) fn value(call: &Call, operands: &[&Array]) -> Result<Array> {
    let x = operands[0];
    Ok(match call {
        Call::Unary(it) => x.map(|x| unary(*it, x)),
        Call::Binary(it) => {
            let [a, b] = meet(operands)?;
            a.zip(&b, |a, b| binary(*it, a, b))
        }
        Call::Clamp { min, max } => x.map(|x| clamp(x, *min, *max)),
        Call::Where => {
            let [mask, yes, no] = meet(operands)?;
            let values = mask.values.iter().zip(yes.values.iter().zip(&no.values));
            let values = values.map(|(m, (yes, no))| if *m != 0.0 { *yes } else { *no }).collect();
            Array { shape: mask.shape, values }
        }
        Call::Reduce { how, dims, keep } => {
            let kept = reduced_dims(x, dims)?;
            let y = kept.iter().try_fold(x.clone(), |y, dim| reduce(&y, *how, *dim))?;
            y.reshaped(reduced_shape(x, &kept, *keep))
        }
        Call::Along { how, dim } => along(x, *how, dimension(*dim, x.shape.len())?),
        Call::Item(indices) => {
            let (places, shape) = places(&x.shape, indices)?;
            Array { shape, values: places.into_iter().map(|it| x.values[it]).collect() }
        }
        Call::Unsqueeze(dim) => {
            let mut shape = x.shape.clone();
            shape.insert(dimension(*dim, x.shape.len() + 1)?, 1);
            x.clone().reshaped(shape)
        }
        Call::Squeeze(dim) => {
            let dim = dim.map(|it| dimension(it, x.shape.len())).transpose()?;
            let stays = |(i, size): &(usize, &usize)| **size != 1 || dim.is_some_and(|it| it != *i);
            let shape = x.shape.iter().enumerate().filter(stays).map(|it| *it.1).collect();
            x.clone().reshaped(shape)
        }
        Call::Count => Array::number(x.values.len() as f64),
        Call::Fill(value) => Array::filled(&x.shape, *value),
        Call::Detach | Call::Same => x.clone(),
    })
}

/// The operands in their common shape.
pub(super) fn meet<const N: usize>(operands: &[&Array]) -> Result<[Array; N]> {
    let shapes: Vec<&[usize]> = operands.iter().map(|it| &it.shape[..]).collect();
    let shape = common(&shapes)?;
    let all: Vec<Array> = operands.iter().map(|it| it.broadcast(&shape)).collect();
    all.try_into().map_err(|_| "has another number of operands".to_string())
}

fn unary(how: Unary, x: f64) -> f64 {
    match how {
        Unary::Abs => x.abs(),
        Unary::Exp => x.exp(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Invert => f64::from(u8::from(x == 0.0)),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::LogSigmoid => -softplus(-x),
        Unary::Neg => -x,
        Unary::Reciprocal => x.recip(),
        Unary::Relu => clamp(x, Some(0.0), None),
        Unary::Rsqrt => x.sqrt().recip(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Sign if x == 0.0 => 0.0,
        Unary::Sign => x.signum(),
        Unary::Softplus => softplus(x),
        Unary::Sqrt => x.sqrt(),
        Unary::Square => x * x,
        Unary::Tanh => x.tanh(),
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    // The exponential of a positive number would overflow.
    match x < 0.0 {
        true => x.exp() / (1.0 + x.exp()),
        false => 1.0 / (1.0 + (-x).exp()),
    }
}

fn softplus(x: f64) -> f64 {
    (-x.abs()).exp().ln_1p() + if x < 0.0 { 0.0 } else { x }
}

/// What is no number stays none.
fn clamp(x: f64, min: Option<f64>, max: Option<f64>) -> f64 {
    let x = min.filter(|it| x < *it).unwrap_or(x);
    max.filter(|it| *it < x).unwrap_or(x)
}

fn binary(how: Binary, a: f64, b: f64) -> f64 {
    let truth = |it: bool| f64::from(u8::from(it));
    match how {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Minimum if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Minimum => a.min(b),
        Binary::Maximum if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Maximum => a.max(b),
        Binary::Gt => truth(b < a),
        Binary::Ge => truth(b <= a),
        Binary::Lt => truth(a < b),
        Binary::Le => truth(a <= b),
        Binary::Eq => truth(a == b),
        Binary::Ne => truth(a != b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
    }
}

/// A dimension counted from the front.
pub(super) fn dimension(dim: i64, rank: usize) -> Result<usize> {
    let from_front = if dim < 0 { dim + rank as i64 } else { dim };
    let inside = usize::try_from(from_front).ok().filter(|it| *it < rank);
    inside.ok_or_else(|| format!("dimension {dim} is none of {rank}"))
}

/// The dimensions that disappear, in rising order.
pub(super) fn reduced_dims(x: &Array, dims: &Dims) -> Result<Vec<usize>> {
    let rank = x.shape.len();
    let mut dims: Vec<usize> = match dims {
        Dims::All => (0..rank).collect(),
        Dims::These(all) => all.iter().map(|it| dimension(*it, rank)).collect::<Result<_>>()?,
    };
    dims.sort_unstable();
    if dims.windows(2).any(|it| it[0] == it[1]) {
        return Err("names a dimension twice".into());
    }
    Ok(dims)
}

fn reduced_shape(x: &Array, dims: &[usize], keep: bool) -> Vec<usize> {
    let one = |(i, size): (usize, &usize)| match (dims.contains(&i), keep) {
        (false, _) => Some(*size),
        (true, true) => Some(1),
        (true, false) => None,
    };
    x.shape.iter().enumerate().filter_map(one).collect()
}

/// Along one dimension, of which size 1 is left.
pub(super) fn reduce(x: &Array, how: Reduce, dim: usize) -> Result<Array> {
    let axis = x.axis(dim);
    if axis.n == 0 && matches!(how, Reduce::Max | Reduce::Min) {
        return Err("has no values to choose from".into());
    }
    let mut values = Vec::with_capacity(axis.outer * axis.inner);
    axis.lines(|line| {
        let line = line.map(|i| x.values[i]);
        values.push(match how {
            Reduce::Sum => line.sum(),
            Reduce::Mean => line.sum::<f64>() / axis.n as f64,
            Reduce::Max => line.fold(f64::NEG_INFINITY, |a, b| binary(Binary::Maximum, a, b)),
            Reduce::Min => line.fold(f64::INFINITY, |a, b| binary(Binary::Minimum, a, b)),
            Reduce::LogSumExp => logsumexp(&line.collect::<Vec<_>>()),
        });
    });
    let mut shape = x.shape.clone();
    shape[dim] = 1;
    Ok(Array { shape, values })
}

fn logsumexp(line: &[f64]) -> f64 {
    let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return max;
    }
    max + line.iter().map(|it| (it - max).exp()).sum::<f64>().ln()
}

fn along(x: &Array, how: Along, dim: usize) -> Array {
    let mut y = x.clone();
    x.axis(dim).lines(|line| {
        let places: Vec<usize> = line.collect();
        let values: Vec<f64> = places.iter().map(|it| x.values[*it]).collect();
        let whole = logsumexp(&values);
        let mut sum = 0.0;
        for (place, value) in places.into_iter().zip(values) {
            sum += value;
            y.values[place] = match how {
                Along::Softmax => (value - whole).exp(),
                Along::LogSoftmax => value - whole,
                Along::CumSum => sum,
            };
        }
    });
    y
}

/// Where the values of a part stand, and the part's shape.
pub(super) fn places(shape: &[usize], indices: &[Index]) -> Result<(Vec<usize>, Vec<usize>)> {
    let named = indices.iter().filter(|it| matches!(it, Index::At(_) | Index::Range { .. })).count();
    let left = shape.len().checked_sub(named).ok_or("has more indices than dimensions")?;
    if 1 < indices.iter().filter(|it| **it == Index::Ellipsis).count() {
        return Err("has two ellipses".into());
    }
    let whole = Index::Range { start: None, stop: None, step: 1 };
    let mut full: Vec<Index> = Vec::new();
    for index in indices {
        match index {
            Index::Ellipsis => full.extend(std::iter::repeat_n(whole, left)),
            it => full.push(*it),
        }
    }
    if !indices.contains(&Index::Ellipsis) {
        full.extend(std::iter::repeat_n(whole, left));
    }
    let (mut places, mut part, mut dim) = (vec![0], Vec::new(), 0);
    for index in full {
        let steps: Vec<usize> = match index {
            Index::New => {
                part.push(1);
                continue;
            }
            Index::At(it) => vec![
                dimension(it, shape[dim])
                    .map_err(|_| format!("index {it} is outside of a dimension of size {}", shape[dim]))?,
            ],
            Index::Range { start, stop, step } => {
                let n = shape[dim] as i64;
                let bound = |it: i64| (if it < 0 { it + n } else { it }).clamp(0, n);
                let (start, stop) = (bound(start.unwrap_or(0)), bound(stop.unwrap_or(n)));
                let step = usize::try_from(step).unwrap_or(1);
                let steps: Vec<usize> =
                    (start as usize..(stop as usize).max(start as usize)).step_by(step).collect();
                part.push(steps.len());
                steps
            }
            // Written out above.
            Index::Ellipsis => continue,
        };
        let size = shape[dim];
        places = places.iter().flat_map(|at| steps.iter().map(move |it| at * size + it)).collect();
        dim += 1;
    }
    Ok((places, part))
}
