//! The gradients of a loss: how much each operand of a call moves the loss, when it is known how much the result does.

use super::array::Array;
use super::call::{Along, Binary, Call, Index, Reduce, Unary};
use super::forward::{dimension, meet, places, reduce, reduced_dims, sigmoid};
use super::plan::Problem;

type Result<T> = std::result::Result<T, Problem>;

/// The gradient by each operand of a call, of its result `y` whose gradient is `g`.
pub(super) fn gradients(call: &Call, operands: &[&Array], y: &Array, g: &Array) -> Result<Vec<Array>> {
    let x = operands[0];
    Ok(match call {
        Call::Unary(it) => {
            let values = x.values.iter().zip(&y.values).zip(&g.values);
            let values = values.map(|((x, y), g)| times(*g, slope(*it, *x, *y))).collect();
            vec![Array { shape: x.shape.clone(), values }]
        }
        Call::Binary(it) => {
            let [a, b] = meet(operands)?;
            let (mut by_a, mut by_b) = (g.clone(), g.clone());
            for (i, g) in g.values.iter().enumerate() {
                let (of_a, of_b) = slopes(*it, a.values[i], b.values[i], y.values[i]);
                by_a.values[i] = times(*g, of_a);
                by_b.values[i] = times(*g, of_b);
            }
            vec![by_a.gathered(&operands[0].shape), by_b.gathered(&operands[1].shape)]
        }
        Call::Clamp { min, max } => {
            let inside = |x: f64| min.is_none_or(|it| it <= x) && max.is_none_or(|it| x <= it);
            vec![x.zip(g, |x, g| if inside(x) { g } else { 0.0 })]
        }
        Call::Where => {
            let [mask, _, _] = meet::<3>(operands)?;
            let yes = mask.zip(g, |m, g| if m != 0.0 { g } else { 0.0 });
            let no = mask.zip(g, |m, g| if m != 0.0 { 0.0 } else { g });
            let none = Array::filled(&operands[0].shape, 0.0);
            vec![none, yes.gathered(&operands[1].shape), no.gathered(&operands[2].shape)]
        }
        Call::Reduce { how, dims, .. } => {
            let dims = reduced_dims(x, dims)?;
            // The shapes in between, from the operand to the result.
            let mut steps = vec![x.clone()];
            for dim in &dims {
                steps.push(reduce(&steps[steps.len() - 1], *how, *dim)?);
            }
            let last = steps[steps.len() - 1].shape.clone();
            let mut g = g.clone().reshaped(last);
            for (i, dim) in dims.iter().enumerate().rev() {
                g = unreduce(&steps[i], &steps[i + 1], &g, *how, *dim);
            }
            vec![g]
        }
        Call::Along { how, dim } => vec![along(y, g, *how, dimension(*dim, x.shape.len())?)],
        Call::Item(indices) => vec![spread(x, indices, g)?],
        Call::Unsqueeze(_) | Call::Squeeze(_) | Call::Same => vec![g.clone().reshaped(x.shape.clone())],
        Call::Count | Call::Fill(_) | Call::Detach => vec![Array::filled(&x.shape, 0.0)],
    })
}

/// Where nothing flows back, a slope that is no number does not matter.
fn times(g: f64, slope: f64) -> f64 {
    if g == 0.0 { 0.0 } else { g * slope }
}

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

fn slopes(how: Binary, a: f64, b: f64, y: f64) -> (f64, f64) {
    // Of two equal ones each gets half.
    let chosen = |of_a: bool| match a == b {
        true => (0.5, 0.5),
        false => (f64::from(u8::from(of_a)), f64::from(u8::from(!of_a))),
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

/// The gradient of what was reduced along one dimension.
fn unreduce(x: &Array, y: &Array, g: &Array, how: Reduce, dim: usize) -> Array {
    let axis = x.axis(dim);
    let mut gradient = Array::filled(&x.shape, 0.0);
    let mut i = 0;
    axis.lines(|line| {
        let (g, y) = (g.values[i], y.values[i]);
        i += 1;
        let places: Vec<usize> = line.collect();
        // Of several largest each gets the same share.
        let equal = places.iter().filter(|it| x.values[**it] == y).count();
        for place in places {
            let slope = match how {
                Reduce::Sum => 1.0,
                Reduce::Mean => 1.0 / axis.n as f64,
                Reduce::Max | Reduce::Min if x.values[place] == y => 1.0 / equal as f64,
                Reduce::Max | Reduce::Min => 0.0,
                Reduce::LogSumExp => (x.values[place] - y).exp(),
            };
            gradient.values[place] = times(g, slope);
        }
    });
    gradient
}

fn along(y: &Array, g: &Array, how: Along, dim: usize) -> Array {
    let mut gradient = g.clone();
    y.axis(dim).lines(|line| {
        let places: Vec<usize> = line.collect();
        let total: f64 = match how {
            Along::Softmax => places.iter().map(|it| g.values[*it] * y.values[*it]).sum(),
            Along::LogSoftmax | Along::CumSum => places.iter().map(|it| g.values[*it]).sum(),
        };
        let mut before = 0.0;
        for place in places {
            let g = g.values[place];
            gradient.values[place] = match how {
                Along::Softmax => y.values[place] * (g - total),
                Along::LogSoftmax => g - y.values[place].exp() * total,
                // It moves its own sum and those behind.
                Along::CumSum => total - before,
            };
            before += g;
        }
    });
    gradient
}

fn spread(x: &Array, indices: &[Index], g: &Array) -> Result<Array> {
    let mut gradient = Array::filled(&x.shape, 0.0);
    let (places, _) = places(&x.shape, indices)?;
    for (place, g) in places.into_iter().zip(&g.values) {
        gradient.values[place] += g;
    }
    Ok(gradient)
}
