//! The tensors on which a loss function runs while it is traced, and their operations. Each operation appends a node to
//! the [`LossTrace`].

use std::collections::BTreeMap;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Range, Sub};

use super::trace::TensorInfo;
use super::{Arg, LossTrace, NodeOp};
use crate::error::Error;

/// A tensor of a loss during its trace. It has a number of dimensions, but no values. The operations have the semantics
/// of the PyTorch functions with the same names. Tensors of different shapes are broadcast as in PyTorch: shapes are
/// aligned at their last dimension.
///
/// # Example: a clipped policy gradient
/// ```
/// use tinkex::types::LossGraph;
///
/// let inputs = [("logprobs", 1), ("old_logprobs", 1), ("advantages", 1)];
/// let graph = LossGraph::trace("my_ppo", &inputs, |trace| {
///     let ratio = (trace.logprobs() - trace.input("old_logprobs")).exp();
///     let advantages = trace.input("advantages");
///     let clipped = ratio.clamp(Some(0.8), Some(1.2)) * advantages;
///     trace.metric("custom/clipped:mean", (ratio.gt(1.2) | ratio.lt(0.8)).float().mean());
///     -(ratio * advantages).minimum(clipped).sum()
/// })?;
/// assert_eq!(graph.inputs().len(), 3);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "only the returned tensor and metrics are part of the loss"]
pub struct LossTensor<'g> {
    trace: &'g LossTrace,
    index: usize,
}

/// A condition on each element of a tensor.
#[derive(Clone, Copy, Debug)]
#[must_use = "a condition has an effect only through `where_else` or `float`"]
pub struct LossMask<'g>(LossTensor<'g>);

/// An operand of an operation: a [`LossTensor`] or a number (`f64`).
pub trait LossOperand<'g>: sealed::Operand<'g> {}

mod sealed {
    use super::{Arg, LossTrace, TensorInfo};

    pub trait Operand<'g>: Copy {
        /// Returns the operand as an argument of a node, and its properties.
        #[allow(private_interfaces, reason = "the trait is not reachable from outside")]
        fn read(self, trace: &'g LossTrace) -> (Arg, TensorInfo);
    }
}

impl<'g> sealed::Operand<'g> for LossTensor<'g> {
    #[allow(private_interfaces, reason = "the trait is not reachable from outside")]
    fn read(self, trace: &'g LossTrace) -> (Arg, TensorInfo) {
        trace.read(self)
    }
}

impl<'g> sealed::Operand<'g> for f64 {
    #[allow(private_interfaces, reason = "the trait is not reachable from outside")]
    fn read(self, _trace: &'g LossTrace) -> (Arg, TensorInfo) {
        (Arg::Float(self), TensorInfo { rank: 0, differentiable: false })
    }
}

impl<'g> LossOperand<'g> for LossTensor<'g> {}
impl LossOperand<'_> for f64 {}

/// Defines methods that apply a function to each element.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $target:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(self) -> Self {
            self.function($target, Vec::new())
        }
    )*};
}

/// Defines methods that compare element by element.
macro_rules! compare {
    ($($(#[$doc:meta])* $name:ident = $target:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(self, other: impl LossOperand<'g>) -> LossMask<'g> {
            LossMask(self.binary($target, other))
        }
    )*};
}

impl<'g> LossTensor<'g> {
    pub(super) fn new(trace: &'g LossTrace, index: usize) -> Self {
        LossTensor { trace, index }
    }

    pub(super) fn parts(self) -> (&'g LossTrace, usize) {
        (self.trace, self.index)
    }

    /// Number of dimensions.
    pub(crate) fn rank(self) -> usize {
        self.trace.read(self).1.rank
    }

    unary! {
        /// e to the power of each element.
        exp = "torch.exp";
        /// e to the power of each element, minus 1, accurate near 0.
        expm1 = "torch.expm1";
        /// Natural logarithm of each element.
        log = "torch.log";
        /// Natural logarithm of 1 plus each element, accurate near 0.
        log1p = "torch.log1p";
        /// Square root of each element.
        sqrt = "torch.sqrt";
        /// Square of each element.
        square = "torch.square";
        /// Absolute value of each element.
        abs = "torch.abs";
        /// Logistic function of each element.
        sigmoid = "torch.sigmoid";
        /// Hyperbolic tangent of each element.
        tanh = "torch.tanh";
        /// The larger of each element and 0.
        relu = "torch.relu";
    }

    compare! {
        /// True where the elements are greater.
        gt = "operator.gt";
        /// True where the elements are greater or equal.
        ge = "operator.ge";
        /// True where the elements are less.
        lt = "operator.lt";
        /// True where the elements are less or equal.
        le = "operator.le";
        /// True where the elements are equal.
        eq = "operator.eq";
        /// True where the elements differ.
        ne = "operator.ne";
    }

    /// Logarithm of the logistic function of each element, without overflow.
    pub fn log_sigmoid(self) -> Self {
        // Built from simpler operations, which every server with custom losses supports.
        self.clamp(None, Some(0.0)) - (-self.abs()).exp().log1p()
    }

    /// `log(1 + e^x)` of each element, without overflow.
    pub fn softplus(self) -> Self {
        -(-self).log_sigmoid()
    }

    /// Each element to the power of the corresponding element of `exponent`.
    pub fn pow(self, exponent: impl LossOperand<'g>) -> Self {
        self.binary("torch.pow", exponent)
    }

    /// At each position, the smaller of the two elements.
    pub fn minimum(self, other: LossTensor<'g>) -> Self {
        self.binary("torch.minimum", other)
    }

    /// At each position, the larger of the two elements.
    pub fn maximum(self, other: LossTensor<'g>) -> Self {
        self.binary("torch.maximum", other)
    }

    /// Each element, limited to `min` and `max`. At least one of the two is required.
    pub fn clamp(self, min: Option<f64>, max: Option<f64>) -> Self {
        if min.or(max).is_none() {
            self.trace.set_error(Error::invalid("clamp", "needs min or max"));
        }
        let bounds = [("min", min), ("max", max)];
        let bounds = bounds.into_iter().filter_map(|(name, bound)| Some((name.into(), Arg::Float(bound?))));
        let (arg, info) = self.trace.read(self);
        self.record(NodeOp::CallFunction, "torch.clamp", vec![arg], bounds.collect(), info)
    }

    /// Sum of all elements: one number.
    pub fn sum(self) -> Self {
        self.reduce("sum")
    }

    /// Mean of all elements: one number.
    pub fn mean(self) -> Self {
        self.reduce("mean")
    }

    /// Largest element: one number.
    pub fn max(self) -> Self {
        self.reduce("max")
    }

    /// Smallest element: one number.
    pub fn min(self) -> Self {
        self.reduce("min")
    }

    /// Sums along a dimension and removes it. A negative dimension counts from the end.
    pub fn sum_dim(self, dim: i64) -> Self {
        self.along(NodeOp::CallMethod, "sum", dim, true)
    }

    /// Averages along a dimension and removes it.
    pub fn mean_dim(self, dim: i64) -> Self {
        self.along(NodeOp::CallMethod, "mean", dim, true)
    }

    /// Logarithm of the sum of the exponentials along a dimension, which is removed.
    pub fn logsumexp(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.logsumexp", dim, true)
    }

    /// Softmax along a dimension.
    pub fn softmax(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.softmax", dim, false)
    }

    /// Logarithm of the softmax along a dimension.
    pub fn log_softmax(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.log_softmax", dim, false)
    }

    /// Cumulative sums along a dimension.
    pub fn cumsum(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.cumsum", dim, false)
    }

    /// The element at an index of the first dimension, which is removed; for a tensor of shape `[T, K]`, a row. A
    /// negative index counts from the end.
    pub fn get(self, index: i64) -> Self {
        self.item(Arg::Int(index), 1, 1)
    }

    /// The elements in a range of indices of the first dimension; for a tensor of shape `[T, K]`, rows.
    pub fn slice(self, range: Range<i64>) -> Self {
        let slice = [Arg::Int(range.start), Arg::Int(range.end), Arg::None];
        self.item(Arg::Slice(Box::new(slice)), 1, 0)
    }

    /// A column of a tensor of two dimensions.
    pub fn column(self, index: i64) -> Self {
        let all = Arg::Slice(Box::new([Arg::None, Arg::None, Arg::None]));
        self.item(Arg::Tuple(vec![all, Arg::Int(index)]), 2, 1)
    }

    /// Inserts a dimension of size 1. For example, `unsqueeze(1)` changes the shape `[T]` to `[T, 1]`, which broadcasts
    /// with `[T, K]`.
    pub fn unsqueeze(self, dim: i64) -> Self {
        let (arg, info) = self.trace.read(self);
        let rank = info.rank + 1;
        if 2 < rank || !(-(rank as i64)..rank as i64).contains(&dim) {
            let problem = format!("cannot add dimension {dim} to a tensor of {} dimensions", info.rank);
            self.trace.set_error(Error::invalid("unsqueeze", problem));
        }
        let args = vec![arg, Arg::Int(dim)];
        self.record(NodeOp::CallMethod, "unsqueeze", args, BTreeMap::new(), TensorInfo { rank, ..info })
    }

    /// The same values; no gradient flows back through them.
    pub fn detach(self) -> Self {
        let (arg, info) = self.trace.read(self);
        let info = TensorInfo { differentiable: false, ..info };
        self.record(NodeOp::CallMethod, "detach", vec![arg], BTreeMap::new(), info)
    }

    /// Converts integers to floating-point numbers, which most operations need.
    pub fn float(self) -> Self {
        let (arg, info) = self.trace.read(self);
        self.record(NodeOp::CallMethod, "float", vec![arg], BTreeMap::new(), info)
    }

    fn record(
        self,
        op: NodeOp,
        target: &str,
        args: Vec<Arg>,
        kwargs: BTreeMap<String, Arg>,
        info: TensorInfo,
    ) -> Self {
        LossTensor { trace: self.trace, index: self.trace.record(op, target, args, kwargs, info) }
    }

    /// Records a function that keeps the shape.
    fn function(self, target: &str, more: Vec<Arg>) -> Self {
        let (arg, info) = self.trace.read(self);
        let args = std::iter::once(arg).chain(more).collect();
        self.record(NodeOp::CallFunction, target, args, BTreeMap::new(), info)
    }

    fn binary(self, target: &str, other: impl LossOperand<'g>) -> Self {
        self.combine(target, self.trace.read(self), other.read(self.trace))
    }

    /// Records a function of two tensors, in the given order.
    fn combine(self, target: &str, a: (Arg, TensorInfo), b: (Arg, TensorInfo)) -> Self {
        let info = TensorInfo {
            rank: a.1.rank.max(b.1.rank),
            differentiable: a.1.differentiable || b.1.differentiable,
        };
        self.record(NodeOp::CallFunction, target, vec![a.0, b.0], BTreeMap::new(), info)
    }

    fn reduce(self, method: &str) -> Self {
        let (arg, info) = self.trace.read(self);
        self.record(NodeOp::CallMethod, method, vec![arg], BTreeMap::new(), TensorInfo { rank: 0, ..info })
    }

    fn along(self, op: NodeOp, target: &str, dim: i64, reduces: bool) -> Self {
        let (arg, info) = self.trace.read(self);
        let n = info.rank as i64;
        if !(-n..n).contains(&dim) {
            let problem = format!("dimension {dim} is out of range for {n} dimensions");
            self.trace.set_error(Error::invalid(target.trim_start_matches("torch."), problem));
        }
        let rank = info.rank.saturating_sub(usize::from(reduces));
        self.record(op, target, vec![arg, Arg::Int(dim)], BTreeMap::new(), TensorInfo { rank, ..info })
    }

    /// Records an indexing operation that needs at least `min_rank` dimensions and removes `n_removed` of them.
    fn item(self, index: Arg, min_rank: usize, n_removed: usize) -> Self {
        let (arg, info) = self.trace.read(self);
        if info.rank < min_rank {
            let problem = format!("needs {min_rank} dimensions, but the tensor has {}", info.rank);
            self.trace.set_error(Error::invalid("index", problem));
        }
        let info = TensorInfo { rank: info.rank.saturating_sub(n_removed), ..info };
        self.record(NodeOp::CallFunction, "operator.getitem", vec![arg, index], BTreeMap::new(), info)
    }
}

impl<'g> LossMask<'g> {
    /// `yes` where the condition is true, `no` elsewhere: `torch.where`.
    pub fn where_else(self, yes: impl LossOperand<'g>, no: impl LossOperand<'g>) -> LossTensor<'g> {
        let trace = self.0.trace;
        let (mask, mask_info) = trace.read(self.0);
        let (yes, yes_info) = yes.read(trace);
        let (no, no_info) = no.read(trace);
        let info = TensorInfo {
            rank: mask_info.rank.max(yes_info.rank).max(no_info.rank),
            differentiable: yes_info.differentiable || no_info.differentiable,
        };
        let args = vec![mask, yes, no];
        self.0.record(NodeOp::CallFunction, "torch.where", args, BTreeMap::new(), info)
    }

    /// 1 where the condition is true, 0 elsewhere.
    pub fn float(self) -> LossTensor<'g> {
        let tensor = self.0.float();
        // Conditions have no gradient.
        tensor.detach()
    }
}

impl Neg for LossTensor<'_> {
    type Output = Self;

    fn neg(self) -> Self {
        self.function("operator.neg", Vec::new())
    }
}

impl Not for LossMask<'_> {
    type Output = Self;

    fn not(self) -> Self {
        LossMask(self.0.function("operator.invert", Vec::new()))
    }
}

impl<'g> BitAnd for LossMask<'g> {
    type Output = Self;

    fn bitand(self, other: LossMask<'g>) -> Self {
        LossMask(self.0.binary("operator.and_", other.0))
    }
}

impl<'g> BitOr for LossMask<'g> {
    type Output = Self;

    fn bitor(self, other: LossMask<'g>) -> Self {
        LossMask(self.0.binary("operator.or_", other.0))
    }
}

/// Implements operators of two tensors, of a tensor and a number, and of a number and a tensor.
macro_rules! arithmetic {
    ($($operator:ident $method:ident $target:literal;)*) => {$(
        impl<'g, T: LossOperand<'g>> $operator<T> for LossTensor<'g> {
            type Output = LossTensor<'g>;

            fn $method(self, other: T) -> LossTensor<'g> {
                self.binary($target, other)
            }
        }

        impl<'g> $operator<LossTensor<'g>> for f64 {
            type Output = LossTensor<'g>;

            fn $method(self, other: LossTensor<'g>) -> LossTensor<'g> {
                let first = sealed::Operand::read(self, other.trace);
                other.combine($target, first, other.trace.read(other))
            }
        }
    )*};
}

arithmetic! {
    Add add "operator.add";
    Sub sub "operator.sub";
    Mul mul "operator.mul";
    Div div "operator.truediv";
}
