//! What was computed, in order, so that it can be walked backwards.

use super::Fault;
use super::tensor::{Kind, Tensor, Walk, broadcast, check_rank, count, matrix};

/// All numbers of one evaluation together, so that a loss over all pairs of a long datum cannot fill the memory.
const MOST_NUMBERS: usize = 1 << 24;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unary {
    Exp,
    Expm1,
    Log,
    Log1p,
    Log2,
    Log10,
    Sqrt,
    Rsqrt,
    Reciprocal,
    Abs,
    Neg,
    Square,
    Sigmoid,
    LogSigmoid,
    Softplus,
    Tanh,
    Relu,
    Sin,
    Cos,
    Sign,
    Floor,
    Ceil,
    Round,
}

impl Unary {
    pub(super) fn value(self, x: f64) -> f64 {
        match self {
            Unary::Exp => x.exp(),
            Unary::Expm1 => x.exp_m1(),
            Unary::Log => x.ln(),
            Unary::Log1p => x.ln_1p(),
            Unary::Log2 => x.log2(),
            Unary::Log10 => x.log10(),
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Abs => x.abs(),
            Unary::Neg => -x,
            Unary::Square => x * x,
            Unary::Sigmoid => sigmoid(x),
            Unary::LogSigmoid => -softplus(-x),
            Unary::Softplus => softplus(x),
            Unary::Tanh => x.tanh(),
            // Written so that NaN stays.
            Unary::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Sign => sign(x),
            Unary::Floor => x.floor(),
            Unary::Ceil => x.ceil(),
            Unary::Round => x.round_ties_even(),
        }
    }

    /// The derivative at `x`, where the value is `y`.
    pub(super) fn slope(self, x: f64, y: f64) -> f64 {
        match self {
            Unary::Exp => y,
            Unary::Expm1 => y + 1.0,
            Unary::Log => 1.0 / x,
            Unary::Log1p => 1.0 / (1.0 + x),
            Unary::Log2 => std::f64::consts::LOG2_E / x,
            Unary::Log10 => std::f64::consts::LOG10_E / x,
            Unary::Sqrt => 0.5 / y,
            Unary::Rsqrt => -0.5 * y / x,
            Unary::Reciprocal => -y * y,
            Unary::Abs => sign(x),
            Unary::Neg => -1.0,
            Unary::Square => 2.0 * x,
            Unary::Sigmoid => y * (1.0 - y),
            Unary::LogSigmoid => sigmoid(-x),
            Unary::Softplus => sigmoid(x),
            Unary::Tanh => 1.0 - y * y,
            Unary::Relu => f64::from(u8::from(0.0 < x)),
            Unary::Sin => x.cos(),
            Unary::Cos => -x.sin(),
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round => 0.0,
        }
    }

    /// What it makes of a kind of number.
    fn kind(self, of: Kind) -> Kind {
        match self {
            Unary::Abs
            | Unary::Neg
            | Unary::Square
            | Unary::Relu
            | Unary::Sign
            | Unary::Floor
            | Unary::Ceil
            | Unary::Round => of.max(Kind::Int),
            _ => Kind::Float,
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    // Neither form overflows on its side.
    if 0.0 <= x { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Max,
    Min,
}

impl Binary {
    pub(super) fn value(self, a: f64, b: f64) -> f64 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Pow => a.powf(b),
            // Written so that NaN stays, on either side.
            Binary::Max => {
                if b.is_nan() || a < b {
                    b
                } else {
                    a
                }
            }
            Binary::Min => {
                if b.is_nan() || b < a {
                    b
                } else {
                    a
                }
            }
        }
    }

    /// The derivatives by both, where the value is `y`.
    pub(super) fn slopes(self, a: f64, b: f64, y: f64) -> (f64, f64) {
        let share = |first: bool| match a == b {
            true => (0.5, 0.5),
            false => (f64::from(u8::from(first)), f64::from(u8::from(!first))),
        };
        match self {
            Binary::Add => (1.0, 1.0),
            Binary::Sub => (1.0, -1.0),
            Binary::Mul => (b, a),
            Binary::Div => (1.0 / b, -y / b),
            Binary::Pow => (
                if b == 0.0 { 0.0 } else { b * a.powf(b - 1.0) },
                if a == 0.0 && 0.0 <= b { 0.0 } else { y * a.ln() },
            ),
            Binary::Max => share(b < a),
            Binary::Min => share(a < b),
        }
    }
}

/// Where a tensor comes from, as far as derivatives are concerned.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing that could be moved.
    Nothing,
    Unary(Unary, usize),
    Binary(Binary, usize, usize),
    /// The first where the condition holds, otherwise the second.
    Where(usize, usize, usize),
    /// Between two bounds.
    Clamp(usize, f64, f64),
    /// Each number is one of the other tensor.
    Gather(usize, Vec<u32>),
    /// Each number of the other tensor is added to one.
    Sum(usize, Vec<u32>),
    /// Each number is the one that these of the other tensor share.
    Shared(usize, Vec<Vec<u32>>),
    /// Running sums of `len` numbers that are `stride` apart.
    Cumsum {
        of: usize,
        len: usize,
        stride: usize,
    },
    /// One after the other.
    Join(Vec<usize>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Tensor,
    pub(super) source: Source,
    /// It moves when the log-probabilities do.
    pub(super) moves: bool,
}

/// The tensors of one evaluation.
#[derive(Debug, Default)]
pub(super) struct Tape {
    pub(super) entries: Vec<Entry>,
    numbers: usize,
    /// The number of dimensions of something hung on its sizes, so that nothing is certain of other sizes any more.
    pub(super) uncertain: bool,
}

impl Tape {
    /// Notes a tensor; what it comes from says whether it moves.
    pub(super) fn push(&mut self, value: Tensor, source: Source) -> Result<usize, Fault> {
        check_rank(&value.shape)?;
        self.numbers = self.numbers.saturating_add(value.data.len());
        if MOST_NUMBERS < self.numbers {
            return Err(Fault::data(format!(
                "the loss needs more than {MOST_NUMBERS} numbers for one datum"
            )));
        }
        let moves = |it: &usize| self.entries[*it].moves;
        let moves = value.kind == Kind::Float
            && match &source {
                Source::Nothing => false,
                Source::Unary(_, a) | Source::Clamp(a, ..) | Source::Gather(a, _) => moves(a),
                Source::Sum(a, _) | Source::Shared(a, _) | Source::Cumsum { of: a, .. } => moves(a),
                Source::Binary(_, a, b) | Source::Where(_, a, b) => moves(a) || moves(b),
                Source::Join(all) => all.iter().any(moves),
            };
        self.entries.push(Entry { value, source, moves });
        Ok(self.entries.len() - 1)
    }

    /// A tensor that does not move.
    pub(super) fn constant(&mut self, value: Tensor) -> Result<usize, Fault> {
        self.push(value, Source::Nothing)
    }

    /// The log-probabilities.
    pub(super) fn variable(&mut self, value: Tensor) -> Result<usize, Fault> {
        let id = self.push(value, Source::Nothing)?;
        self.entries[id].moves = true;
        Ok(id)
    }

    pub(super) fn get(&self, id: usize) -> &Tensor {
        &self.entries[id].value
    }

    pub(super) fn unary(&mut self, of: Unary, x: usize) -> Result<usize, Fault> {
        let input = self.get(x);
        let data = input.data.iter().map(|it| of.value(*it)).collect();
        let value = Tensor::new(of.kind(input.kind), input.shape.clone(), data);
        self.push(value, Source::Unary(of, x))
    }

    pub(super) fn binary(&mut self, of: Binary, a: usize, b: usize) -> Result<usize, Fault> {
        let kind = self.get(a).kind.max(self.get(b).kind);
        let kind = if of == Binary::Div { Kind::Float } else { kind };
        let mut value = self.pairs(a, b, kind, |x, y| of.value(x, y))?;
        if kind == Kind::Bool {
            value.data.iter_mut().for_each(|it| *it = f64::from(u8::from(*it != 0.0)));
        }
        self.push(value, Source::Binary(of, a, b))
    }

    /// A tensor of what a function makes of every pair of numbers.
    pub(super) fn pairs(
        &self,
        a: usize,
        b: usize,
        kind: Kind,
        of: impl Fn(f64, f64) -> f64,
    ) -> Result<Tensor, Fault> {
        let (a, b) = (self.get(a), self.get(b));
        let shape = broadcast(&a.shape, &b.shape)?;
        self.room(&shape)?;
        let ((rows, cols), wa, wb) = (matrix(&shape), Walk::new(&a.shape), Walk::new(&b.shape));
        let mut data = Vec::with_capacity(rows * cols);
        for r in 0..rows {
            data.extend((0..cols).map(|c| of(a.data[wa.at(r, c)], b.data[wb.at(r, c)])));
        }
        Ok(Tensor::new(kind, shape, data))
    }

    /// Refuses a shape that is too large before it is filled.
    pub(super) fn room(&self, shape: &[usize]) -> Result<(), Fault> {
        check_rank(shape)?;
        let numbers = shape.iter().fold(1usize, |a, b| a.saturating_mul(*b));
        match self.numbers.saturating_add(numbers) <= MOST_NUMBERS {
            true => Ok(()),
            false => {
                Err(Fault::data(format!("the loss needs more than {MOST_NUMBERS} numbers for one datum")))
            }
        }
    }

    pub(super) fn choose(&mut self, condition: usize, a: usize, b: usize) -> Result<usize, Fault> {
        let shape = broadcast(&self.get(a).shape, &self.get(b).shape)?;
        let shape = broadcast(&shape, &self.get(condition).shape)?;
        let [condition, a, b] =
            [self.spread(condition, &shape)?, self.spread(a, &shape)?, self.spread(b, &shape)?];
        let (holds, x, y) = (self.get(condition), self.get(a), self.get(b));
        let of = |i: usize| if holds.data[i] != 0.0 { x.data[i] } else { y.data[i] };
        let value = Tensor::new(x.kind.max(y.kind), shape.clone(), (0..count(&shape)).map(of).collect());
        self.push(value, Source::Where(condition, a, b))
    }

    pub(super) fn clamp(&mut self, x: usize, low: f64, high: f64) -> Result<usize, Fault> {
        let input = self.get(x);
        // As elsewhere the upper bound wins where the bounds cross; NaN stays.
        let of = |it: &f64| Binary::Min.value(Binary::Max.value(*it, low), high);
        let value = Tensor::new(input.kind, input.shape.clone(), input.data.iter().map(of).collect());
        self.push(value, Source::Clamp(x, low, high))
    }

    /// A tensor of numbers of another one.
    pub(super) fn gather(&mut self, x: usize, shape: Vec<usize>, index: Vec<u32>) -> Result<usize, Fault> {
        let input = self.get(x);
        let data = index.iter().map(|it| input.data[*it as usize]).collect();
        let value = Tensor::new(input.kind, shape, data);
        self.push(value, Source::Gather(x, index))
    }

    /// A tensor spread over a shape that it fits into.
    pub(super) fn spread(&mut self, x: usize, shape: &[usize]) -> Result<usize, Fault> {
        let own = self.get(x).shape.clone();
        if own == shape {
            return Ok(x);
        }
        if broadcast(&own, shape)? != shape {
            return Err(Fault::data(format!("the shape {own:?} does not fit into {shape:?}")));
        }
        self.room(shape)?;
        let ((rows, cols), walk) = (matrix(shape), Walk::new(&own));
        let index = (0..rows).flat_map(|r| (0..cols).map(move |c| walk.at(r, c) as u32)).collect();
        self.gather(x, shape.to_vec(), index)
    }

    /// The same numbers in another shape.
    pub(super) fn reshape(&mut self, x: usize, shape: Vec<usize>) -> Result<usize, Fault> {
        let n = self.get(x).data.len();
        if count(&shape) != n {
            return Err(Fault::data(format!("{n} numbers do not fill the shape {shape:?}")));
        }
        self.gather(x, shape, (0..n as u32).collect())
    }

    /// The same numbers, held still.
    pub(super) fn detach(&mut self, x: usize) -> Result<usize, Fault> {
        let value = self.get(x).clone();
        self.constant(value)
    }

    /// The same numbers of another kind.
    pub(super) fn cast(&mut self, x: usize, kind: Kind) -> Result<usize, Fault> {
        let input = self.get(x);
        if input.kind == kind {
            return Ok(x);
        }
        let of = |it: &f64| match kind {
            Kind::Float => *it,
            Kind::Int => it.trunc(),
            Kind::Bool => f64::from(u8::from(*it != 0.0)),
        };
        let value = Tensor::new(kind, input.shape.clone(), input.data.iter().map(of).collect());
        // Only numbers that are no fractions come from another kind, and those do not move.
        self.constant(value)
    }
}
