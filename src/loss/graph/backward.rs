//! Backpropagation through single operations: computes the gradients of the loss with respect to the operands from the
//! gradient with respect to the result.

use super::array::Array;
use super::call::{Along, Binary, Call, Index, Reduce, Unary};
use super::forward::{broadcast_all, dimension, positions, reduce, reduced_dims, sigmoid};
use super::node::Problem;

type Result<T> = std::result::Result<T, Problem>;

/// Gradients of the loss with respect to each operand of a call. `y` is the result of the call, `g` the gradient of the
/// loss with respect to `y`.
pub(super) fn gradients(call: &Call, operands: &[&Array], y: &Array, g: &Array) -> Result<Vec<Array>> {
    let x = operands[0];
    Ok(match call {
        Call::Unary(unary) => {
            let values = x.values.iter().zip(&y.values).zip(&g.values);
            let values = values.map(|((x, y), g)| times(*g, slope(*unary, *x, *y))).collect();
            vec![Array { shape: x.shape.clone(), values }]
        }
        Call::Binary(binary) => {
            let [a, b] = broadcast_all(operands)?;
            let (mut by_a, mut by_b) = (g.clone(), g.clone());
            for (i, g) in g.values.iter().enumerate() {
                let (of_a, of_b) = slopes(*binary, a.values[i], b.values[i], y.values[i]);
                by_a.values[i] = times(*g, of_a);
                by_b.values[i] = times(*g, of_b);
            }
            vec![by_a.sum_to_shape(&operands[0].shape), by_b.sum_to_shape(&operands[1].shape)]
        }
        Call::Clamp { min, max } => {
            let inside = |x: f64| min.is_none_or(|min| min <= x) && max.is_none_or(|max| x <= max);
            vec![x.zip(g, |x, g| if inside(x) { g } else { 0.0 })]
        }
        Call::Where => {
            let [mask, _, _] = broadcast_all::<3>(operands)?;
            let yes = mask.zip(g, |m, g| if m != 0.0 { g } else { 0.0 });
            let no = mask.zip(g, |m, g| if m != 0.0 { 0.0 } else { g });
            let zeros = Array::filled(&operands[0].shape, 0.0);
            vec![zeros, yes.sum_to_shape(&operands[1].shape), no.sum_to_shape(&operands[2].shape)]
        }
        Call::Reduce { how, dims, .. } => {
            let dims = reduced_dims(x, dims)?;
            // The operand, followed by the result after the reduction of each dimension.
            let mut partial = vec![x.clone()];
            for dim in &dims {
                partial.push(reduce(&partial[partial.len() - 1], *how, *dim)?);
            }
            let last = partial[partial.len() - 1].shape.clone();
            let mut g = g.clone().reshaped(last);
            for (i, dim) in dims.iter().enumerate().rev() {
                g = reduce_gradient(&partial[i], &partial[i + 1], &g, *how, *dim);
            }
            vec![g]
        }
        Call::Along { how, dim } => vec![along_gradient(y, g, *how, dimension(*dim, x.shape.len())?)],
        Call::Item(indices) => vec![item_gradient(x, indices, g)?],
        Call::Unsqueeze(_) | Call::Squeeze(_) | Call::Identity => vec![g.clone().reshaped(x.shape.clone())],
        Call::Numel | Call::Fill(_) | Call::Detach => vec![Array::filled(&x.shape, 0.0)],
    })
}

/// Multiplies a gradient by a slope. A gradient of 0 stays 0 even if the slope is infinite or NaN.
fn times(g: f64, slope: f64) -> f64 {
    if g == 0.0 { 0.0 } else { g * slope }
}

/// Derivative of `y` = `how(x)`.
fn slope(how: Unary, x: f64, y: f64) -> f64 {
    match how {
        Unary::Abs if x == 0.0 => 0.0,
        Unary::Abs => x.signum(),
        Unary::Exp => y,
        Unary::Expm1 => y + 1.0,
        Unary::Log => x.recip(),
        Unary::Log1p => (1.0 + x).recip(),
        Unary::LogSigmoid => sigmoid(-x),
        Unary::Neg => -1.0,
        Unary::Reciprocal => -y * y,
        Unary::Relu => f64::from(u8::from(0.0 < x)),
        Unary::Rsqrt => -0.5 * y / x,
        Unary::Sigmoid => y * (1.0 - y),
        Unary::Softplus => sigmoid(x),
        Unary::Sqrt => 0.5 / y,
        Unary::Square => 2.0 * x,
        Unary::Tanh => 1.0 - y * y,
        Unary::Invert | Unary::Sign => 0.0,
    }
}

/// Partial derivatives of `y` = `how(a, b)`.
fn slopes(how: Binary, a: f64, b: f64, y: f64) -> (f64, f64) {
    // If both operands are equal, each gets half of the gradient, as in PyTorch.
    let chosen = |a_is_chosen: bool| {
        if a == b {
            (0.5, 0.5)
        } else {
            (f64::from(u8::from(a_is_chosen)), f64::from(u8::from(!a_is_chosen)))
        }
    };
    match how {
        Binary::Add => (1.0, 1.0),
        Binary::Sub => (1.0, -1.0),
        Binary::Mul => (b, a),
        Binary::Div => (b.recip(), -y / b),
        Binary::Pow => {
            let of_a = if b == 0.0 { 0.0 } else { b * a.powf(b - 1.0) };
            let of_b = if a == 0.0 && 0.0 <= b { 0.0 } else { y * a.ln() };
            (of_a, of_b)
        }
        Binary::Minimum => chosen(a < b),
        Binary::Maximum => chosen(b < a),
        _ => (0.0, 0.0),
    }
}

/// Gradient of a reduction along one dimension.
fn reduce_gradient(x: &Array, y: &Array, g: &Array, how: Reduce, dim: usize) -> Array {
    let axis = x.axis(dim);
    let mut gradient = Array::filled(&x.shape, 0.0);
    let mut i = 0;
    axis.lines(|line| {
        let (g, y) = (g.values[i], y.values[i]);
        i += 1;
        let indices: Vec<usize> = line.collect();
        // If several values are the maximum or minimum, each gets an equal part of the gradient, as in PyTorch.
        let n_equal = indices.iter().filter(|index| x.values[**index] == y).count();
        for index in indices {
            let slope = match how {
                Reduce::Sum => 1.0,
                Reduce::Mean => 1.0 / axis.n as f64,
                Reduce::Max | Reduce::Min if x.values[index] == y => 1.0 / n_equal as f64,
                Reduce::Max | Reduce::Min => 0.0,
                Reduce::LogSumExp => (x.values[index] - y).exp(),
            };
            gradient.values[index] = times(g, slope);
        }
    });
    gradient
}

/// Gradient of an operation along one dimension that keeps the shape.
fn along_gradient(y: &Array, g: &Array, how: Along, dim: usize) -> Array {
    let mut gradient = g.clone();
    y.axis(dim).lines(|line| {
        let indices: Vec<usize> = line.collect();
        let total: f64 = match how {
            Along::Softmax => indices.iter().map(|index| g.values[*index] * y.values[*index]).sum(),
            Along::LogSoftmax | Along::CumSum => indices.iter().map(|index| g.values[*index]).sum(),
        };
        let mut before = 0.0;
        for index in indices {
            let g = g.values[index];
            gradient.values[index] = match how {
                Along::Softmax => y.values[index] * (g - total),
                Along::LogSoftmax => g - y.values[index].exp() * total,
                // An element is part of its own cumulative sum and of all later sums.
                Along::CumSum => total - before,
            };
            before += g;
        }
    });
    gradient
}

/// Gradient of indexing.
fn item_gradient(x: &Array, indices: &[Index], g: &Array) -> Result<Array> {
    let mut gradient = Array::filled(&x.shape, 0.0);
    let (positions, _) = positions(&x.shape, indices)?;
    for (position, g) in positions.into_iter().zip(&g.values) {
        gradient.values[position] += g;
    }
    Ok(gradient)
}
