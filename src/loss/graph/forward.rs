//! Computes the result of single operations.

use super::array::{Array, broadcast_shape};
use super::call::{Along, Binary, Call, Dims, Index, Reduce, Unary};
use super::node::Problem;

type Result<T> = std::result::Result<T, Problem>;

/// Upper bound of the number of values in the result of a call, known before the result is computed.
pub(super) fn size(call: &Call, operands: &[&Array]) -> Result<usize> {
    match call {
        Call::Binary(_) | Call::Where => {
            let shapes: Vec<&[usize]> = operands.iter().map(|operand| &operand.shape[..]).collect();
            Ok(broadcast_shape(&shapes)?.iter().product())
        }
        _ => Ok(operands[0].values.len().max(1)),
    }
}

/// Computes the result of a call.
pub(super) fn value(call: &Call, operands: &[&Array]) -> Result<Array> {
    let x = operands[0];
    Ok(match call {
        Call::Unary(op) => x.map(|x| unary(*op, x)),
        Call::Binary(op) => {
            let [a, b] = broadcast_all(operands)?;
            a.zip(&b, |a, b| binary(*op, a, b))
        }
        Call::Clamp { min, max } => x.map(|x| clamp(x, *min, *max)),
        Call::Where => {
            let [mask, yes, no] = broadcast_all(operands)?;
            let values = mask.values.iter().zip(yes.values.iter().zip(&no.values));
            let values = values.map(|(m, (yes, no))| if *m != 0.0 { *yes } else { *no }).collect();
            Array { shape: mask.shape, values }
        }
        Call::Reduce { how, dims, keep } => {
            let dims = reduced_dims(x, dims)?;
            let y = dims.iter().try_fold(x.clone(), |y, dim| reduce(&y, *how, *dim))?;
            y.reshaped(reduced_shape(x, &dims, *keep))
        }
        Call::Along { how, dim } => along(x, *how, dimension(*dim, x.shape.len())?),
        Call::Item(indices) => {
            let (positions, shape) = positions(&x.shape, indices)?;
            Array { shape, values: positions.into_iter().map(|position| x.values[position]).collect() }
        }
        Call::Unsqueeze(dim) => {
            let mut shape = x.shape.clone();
            shape.insert(dimension(*dim, x.shape.len() + 1)?, 1);
            x.clone().reshaped(shape)
        }
        Call::Squeeze(dim) => {
            let dim = dim.map(|dim| dimension(dim, x.shape.len())).transpose()?;
            let stays = |(i, size): &(usize, &usize)| **size != 1 || dim.is_some_and(|dim| dim != *i);
            let shape = x.shape.iter().enumerate().filter(stays).map(|(_, size)| *size).collect();
            x.clone().reshaped(shape)
        }
        Call::Numel => Array::number(x.values.len() as f64),
        Call::Fill(value) => Array::filled(&x.shape, *value),
        Call::Detach | Call::Identity => x.clone(),
    })
}

/// Broadcasts the operands to a common shape.
pub(super) fn broadcast_all<const N: usize>(operands: &[&Array]) -> Result<[Array; N]> {
    let shapes: Vec<&[usize]> = operands.iter().map(|operand| &operand.shape[..]).collect();
    let shape = broadcast_shape(&shapes)?;
    let all: Vec<Array> = operands.iter().map(|operand| operand.broadcast(&shape)).collect();
    all.try_into().map_err(|_| format!("needs {N} operands").to_string())
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
    // Two formulas, because the exponential of a large positive number would overflow.
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

fn softplus(x: f64) -> f64 {
    (-x.abs()).exp().ln_1p() + if x < 0.0 { 0.0 } else { x }
}

/// Limits a number to a range. NaN stays NaN.
fn clamp(x: f64, min: Option<f64>, max: Option<f64>) -> f64 {
    let x = min.filter(|min| x < *min).unwrap_or(x);
    max.filter(|max| *max < x).unwrap_or(x)
}

fn binary(how: Binary, a: f64, b: f64) -> f64 {
    let truth = |condition: bool| f64::from(u8::from(condition));
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

/// Converts a dimension to an index from the front. A negative dimension counts from the end.
pub(super) fn dimension(dim: i64, rank: usize) -> Result<usize> {
    let from_front = if dim < 0 { dim + rank as i64 } else { dim };
    let inside = usize::try_from(from_front).ok().filter(|dim| *dim < rank);
    inside.ok_or_else(|| format!("dimension {dim} is out of range for {rank} dimensions"))
}

/// Dimensions along which a reduction combines the values, in ascending order.
pub(super) fn reduced_dims(x: &Array, dims: &Dims) -> Result<Vec<usize>> {
    let rank = x.shape.len();
    let mut dims: Vec<usize> = match dims {
        Dims::All => (0..rank).collect(),
        Dims::Listed(dims) => dims.iter().map(|dim| dimension(*dim, rank)).collect::<Result<_>>()?,
    };
    dims.sort_unstable();
    if dims.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("lists a dimension twice".into());
    }
    Ok(dims)
}

fn reduced_shape(x: &Array, dims: &[usize], keep: bool) -> Vec<usize> {
    let size_after = |(i, size): (usize, &usize)| match (dims.contains(&i), keep) {
        (false, _) => Some(*size),
        (true, true) => Some(1),
        (true, false) => None,
    };
    x.shape.iter().enumerate().filter_map(size_after).collect()
}

/// Reduces one dimension to size 1.
pub(super) fn reduce(x: &Array, how: Reduce, dim: usize) -> Result<Array> {
    let axis = x.axis(dim);
    if axis.n == 0 && matches!(how, Reduce::Max | Reduce::Min) {
        return Err("cannot take the maximum or minimum of 0 values".into());
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
    max + line.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

fn along(x: &Array, how: Along, dim: usize) -> Array {
    let mut y = x.clone();
    x.axis(dim).lines(|line| {
        let indices: Vec<usize> = line.collect();
        let values: Vec<f64> = indices.iter().map(|index| x.values[*index]).collect();
        let log_total = logsumexp(&values);
        let mut sum = 0.0;
        for (index, value) in indices.into_iter().zip(values) {
            sum += value;
            y.values[index] = match how {
                Along::Softmax => (value - log_total).exp(),
                Along::LogSoftmax => value - log_total,
                Along::CumSum => sum,
            };
        }
    });
    y
}

/// Returns the positions of the values that an index expression selects, and the shape of the selection.
pub(super) fn positions(shape: &[usize], indices: &[Index]) -> Result<(Vec<usize>, Vec<usize>)> {
    let n_used = indices.iter().filter(|index| matches!(index, Index::At(_) | Index::Range { .. })).count();
    let n_left = shape.len().checked_sub(n_used).ok_or("has more indices than dimensions")?;
    if 1 < indices.iter().filter(|index| **index == Index::Ellipsis).count() {
        return Err("has two ellipses".into());
    }
    let whole = Index::Range { start: None, stop: None, step: 1 };
    let mut full: Vec<Index> = Vec::new();
    for index in indices {
        match index {
            Index::Ellipsis => full.extend(std::iter::repeat_n(whole, n_left)),
            index => full.push(*index),
        }
    }
    if !indices.contains(&Index::Ellipsis) {
        full.extend(std::iter::repeat_n(whole, n_left));
    }
    let (mut positions, mut result_shape, mut dim) = (vec![0], Vec::new(), 0);
    for index in full {
        let coordinates: Vec<usize> = match index {
            Index::NewDim => {
                result_shape.push(1);
                continue;
            }
            Index::At(index) => {
                let out_of_range =
                    |_| format!("index {index} is out of range for a dimension of size {}", shape[dim]);
                vec![dimension(index, shape[dim]).map_err(out_of_range)?]
            }
            Index::Range { start, stop, step } => {
                let n = shape[dim] as i64;
                let bound = |index: i64| (if index < 0 { index + n } else { index }).clamp(0, n);
                let (start, stop) = (bound(start.unwrap_or(0)), bound(stop.unwrap_or(n)));
                let step = usize::try_from(step).unwrap_or(1);
                let range: Vec<usize> =
                    (start as usize..(stop as usize).max(start as usize)).step_by(step).collect();
                result_shape.push(range.len());
                range
            }
            // Cannot occur: `full` has ranges instead.
            Index::Ellipsis => continue,
        };
        let size = shape[dim];
        let children = |position: &usize| {
            let first = position * size;
            coordinates.iter().map(move |coordinate| first + coordinate)
        };
        positions = positions.iter().flat_map(children).collect();
        dim += 1;
    }
    Ok((positions, result_shape))
}
