//! The tensors of a loss that is being traced, and what can be done with them.

use std::collections::BTreeMap;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Range, Sub};

use super::trace::Known;
use super::{Arg, LossTrace, NodeOp};
use crate::error::Error;

/// A tensor in a loss that is being traced: it has a number of dimensions, but no values yet. Of each operation the
/// meaning is that of PyTorch's. Tensors of different shapes are broadcast, from the last dimension backwards.
///
/// # Example: a clipped policy gradient
/// ```
/// use tinkex::types::LossGraph;
///
/// let inputs = [("logprobs", 1), ("old_logprobs", 1), ("advantages", 1)];
/// let graph = LossGraph::trace("my_ppo", &inputs, |it| {
///     let ratio = (it.logprobs() - it.input("old_logprobs")).exp();
///     let advantages = it.input("advantages");
///     let clipped = ratio.clamp(Some(0.8), Some(1.2)) * advantages;
///     it.metric("custom/clipped:mean", (ratio.gt(1.2) | ratio.lt(0.8)).float().mean());
///     -(ratio * advantages).minimum(clipped).sum()
/// })?;
/// assert_eq!(graph.inputs().len(), 3);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LossTensor<'g> {
    trace: &'g LossTrace,
    index: usize,
}

/// Where a condition holds, element by element.
#[derive(Clone, Copy, Debug)]
pub struct LossMask<'g>(LossTensor<'g>);

/// What an operation takes besides its tensor: another [`LossTensor`], or a number.
pub trait LossOperand<'g>: sealed::Operand<'g> {}

mod sealed {
    use super::{Arg, Known, LossTrace};

    pub trait Operand<'g>: Copy {
        /// How it is referred to, and what is known of it.
        #[allow(private_interfaces, reason = "nobody outside can name the trait")]
        fn read(self, trace: &'g LossTrace) -> (Arg, Known);
    }
}

impl<'g> sealed::Operand<'g> for LossTensor<'g> {
    #[allow(private_interfaces, reason = "nobody outside can name the trait")]
    fn read(self, trace: &'g LossTrace) -> (Arg, Known) {
        trace.read(self)
    }
}

impl<'g> sealed::Operand<'g> for f64 {
    #[allow(private_interfaces, reason = "nobody outside can name the trait")]
    fn read(self, _trace: &'g LossTrace) -> (Arg, Known) {
        (Arg::Float(self), Known { rank: 0, differentiable: false })
    }
}

impl<'g> LossOperand<'g> for LossTensor<'g> {}
impl LossOperand<'_> for f64 {}

/// Operations on each element.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $target:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(self) -> Self {
            self.function($target, Vec::new())
        }
    )*};
}

/// Comparisons.
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

    unary! {
        /// e to the power of each element.
        exp = "torch.exp";
        /// e to the power of each element, less 1, exact near 0.
        expm1 = "torch.expm1";
        /// The natural logarithm of each element.
        log = "torch.log";
        /// The natural logarithm of 1 plus each element, exact near 0.
        log1p = "torch.log1p";
        /// The square root of each element.
        sqrt = "torch.sqrt";
        /// The square of each element.
        square = "torch.square";
        /// The absolute value of each element.
        abs = "torch.abs";
        /// The logistic function of each element.
        sigmoid = "torch.sigmoid";
        /// The hyperbolic tangent of each element.
        tanh = "torch.tanh";
        /// Each element, or 0 if that is larger.
        relu = "torch.relu";
    }

    compare! {
        /// Where the elements are greater.
        gt = "operator.gt";
        /// Where the elements are greater or equal.
        ge = "operator.ge";
        /// Where the elements are less.
        lt = "operator.lt";
        /// Where the elements are less or equal.
        le = "operator.le";
        /// Where the elements are equal.
        eq = "operator.eq";
        /// Where the elements differ.
        ne = "operator.ne";
    }

    /// The logarithm of the logistic function of each element, without overflow.
    pub fn log_sigmoid(self) -> Self {
        // Of operations that every server has.
        self.clamp(None, Some(0.0)) - (-self.abs()).exp().log1p()
    }

    /// `log(1 + e^x)` of each element, without overflow.
    pub fn softplus(self) -> Self {
        -(-self).log_sigmoid()
    }

    /// Each element to the power of another.
    pub fn pow(self, exponent: impl LossOperand<'g>) -> Self {
        self.binary("torch.pow", exponent)
    }

    /// The smaller of each two elements.
    pub fn minimum(self, other: LossTensor<'g>) -> Self {
        self.binary("torch.minimum", other)
    }

    /// The larger of each two elements.
    pub fn maximum(self, other: LossTensor<'g>) -> Self {
        self.binary("torch.maximum", other)
    }

    /// Each element, but no less than `min` and no more than `max`. At least one of the two is needed.
    pub fn clamp(self, min: Option<f64>, max: Option<f64>) -> Self {
        if min.or(max).is_none() {
            self.trace.wrong(Error::invalid("clamp", "needs min or max"));
        }
        let bounds = [("min", min), ("max", max)];
        let bounds = bounds.into_iter().filter_map(|(name, it)| Some((name.into(), Arg::Float(it?))));
        let (arg, known) = self.trace.read(self);
        self.record(NodeOp::CallFunction, "torch.clamp", vec![arg], bounds.collect(), known)
    }

    /// The sum of all elements: one number.
    pub fn sum(self) -> Self {
        self.reduce("sum")
    }

    /// The mean of all elements: one number.
    pub fn mean(self) -> Self {
        self.reduce("mean")
    }

    /// The largest element: one number.
    pub fn max(self) -> Self {
        self.reduce("max")
    }

    /// The smallest element: one number.
    pub fn min(self) -> Self {
        self.reduce("min")
    }

    /// The sums along a dimension, which disappears. A negative one counts from the end.
    pub fn sum_dim(self, dim: i64) -> Self {
        self.along(NodeOp::CallMethod, "sum", dim, true)
    }

    /// The means along a dimension, which disappears.
    pub fn mean_dim(self, dim: i64) -> Self {
        self.along(NodeOp::CallMethod, "mean", dim, true)
    }

    /// The logarithms of the sums of the exponentials along a dimension, which disappears.
    pub fn logsumexp(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.logsumexp", dim, true)
    }

    /// The softmax along a dimension.
    pub fn softmax(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.softmax", dim, false)
    }

    /// The logarithm of the softmax along a dimension.
    pub fn log_softmax(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.log_softmax", dim, false)
    }

    /// The sums of each element and those before it along a dimension.
    pub fn cumsum(self, dim: i64) -> Self {
        self.along(NodeOp::CallFunction, "torch.cumsum", dim, false)
    }

    /// The element, or of `[T, K]` the row, at an index of the first dimension, which disappears.
    pub fn get(self, index: i64) -> Self {
        self.item(Arg::Int(index), 1, 1)
    }

    /// The elements, or of `[T, K]` the rows, of a range of indices.
    pub fn slice(self, range: Range<i64>) -> Self {
        let slice = [Arg::Int(range.start), Arg::Int(range.end), Arg::Nothing];
        self.item(Arg::Slice(Box::new(slice)), 1, 0)
    }

    /// A column of a tensor of two dimensions.
    pub fn column(self, index: i64) -> Self {
        let all = Arg::Slice(Box::new([Arg::Nothing, Arg::Nothing, Arg::Nothing]));
        self.item(Arg::Tuple(vec![all, Arg::Int(index)]), 2, 1)
    }

    /// The same elements with one more dimension of size 1: `unsqueeze(1)` makes `[T]` a `[T, 1]`, which fits `[T, K]`.
    pub fn unsqueeze(self, dim: i64) -> Self {
        let (arg, known) = self.trace.read(self);
        let rank = known.rank + 1;
        if 2 < rank || !(-(rank as i64)..rank as i64).contains(&dim) {
            let problem = format!("cannot add dimension {dim} to a tensor of {} dimensions", known.rank);
            self.trace.wrong(Error::invalid("unsqueeze", problem));
        }
        let args = vec![arg, Arg::Int(dim)];
        self.record(NodeOp::CallMethod, "unsqueeze", args, BTreeMap::new(), Known { rank, ..known })
    }

    /// The same values, through which no gradient flows.
    pub fn detach(self) -> Self {
        let (arg, known) = self.trace.read(self);
        let known = Known { differentiable: false, ..known };
        self.record(NodeOp::CallMethod, "detach", vec![arg], BTreeMap::new(), known)
    }

    /// The same values as floating-point numbers: what inputs of integers need before most operations.
    pub fn float(self) -> Self {
        let (arg, known) = self.trace.read(self);
        self.record(NodeOp::CallMethod, "float", vec![arg], BTreeMap::new(), known)
    }

    fn record(
        self,
        op: NodeOp,
        target: &str,
        args: Vec<Arg>,
        kwargs: BTreeMap<String, Arg>,
        known: Known,
    ) -> Self {
        LossTensor { trace: self.trace, index: self.trace.record(op, target, args, kwargs, known) }
    }

    /// A function that keeps the shape.
    fn function(self, target: &str, more: Vec<Arg>) -> Self {
        let (arg, known) = self.trace.read(self);
        let args = std::iter::once(arg).chain(more).collect();
        self.record(NodeOp::CallFunction, target, args, BTreeMap::new(), known)
    }

    fn binary(self, target: &str, other: impl LossOperand<'g>) -> Self {
        self.combine(target, self.trace.read(self), other.read(self.trace))
    }

    /// A function of two tensors, in the order in which they are given.
    fn combine(self, target: &str, (a, of_a): (Arg, Known), (b, of_b): (Arg, Known)) -> Self {
        let known = Known {
            rank: of_a.rank.max(of_b.rank),
            differentiable: of_a.differentiable || of_b.differentiable,
        };
        self.record(NodeOp::CallFunction, target, vec![a, b], BTreeMap::new(), known)
    }

    fn reduce(self, method: &str) -> Self {
        let (arg, known) = self.trace.read(self);
        self.record(NodeOp::CallMethod, method, vec![arg], BTreeMap::new(), Known { rank: 0, ..known })
    }

    fn along(self, op: NodeOp, target: &str, dim: i64, reduces: bool) -> Self {
        let (arg, known) = self.trace.read(self);
        let n = known.rank as i64;
        if !(-n..n).contains(&dim) {
            let problem = format!("has no dimension {dim}, only {n}");
            self.trace.wrong(Error::invalid(target.trim_start_matches("torch."), problem));
        }
        let rank = known.rank.saturating_sub(usize::from(reduces));
        self.record(op, target, vec![arg, Arg::Int(dim)], BTreeMap::new(), Known { rank, ..known })
    }

    /// A part by its index, of a tensor that has at least so many dimensions.
    fn item(self, index: Arg, needs: usize, loses: usize) -> Self {
        let (arg, known) = self.trace.read(self);
        if known.rank < needs {
            let problem = format!("needs {needs} dimensions, but there are {}", known.rank);
            self.trace.wrong(Error::invalid("index", problem));
        }
        let rank = known.rank.saturating_sub(loses);
        let known = Known { rank, ..known };
        self.record(NodeOp::CallFunction, "operator.getitem", vec![arg, index], BTreeMap::new(), known)
    }
}

impl<'g> LossMask<'g> {
    /// `yes` where the condition holds, `no` elsewhere: `torch.where`.
    pub fn where_else(self, yes: impl LossOperand<'g>, no: impl LossOperand<'g>) -> LossTensor<'g> {
        let trace = self.0.trace;
        let ((mask, of_mask), (yes, of_yes), (no, of_no)) =
            (trace.read(self.0), yes.read(trace), no.read(trace));
        let known = Known {
            rank: of_mask.rank.max(of_yes.rank).max(of_no.rank),
            differentiable: of_yes.differentiable || of_no.differentiable,
        };
        let args = vec![mask, yes, no];
        self.0.record(NodeOp::CallFunction, "torch.where", args, BTreeMap::new(), known)
    }

    /// 1 where the condition holds, 0 elsewhere.
    pub fn float(self) -> LossTensor<'g> {
        let tensor = self.0.float();
        // No gradient flows through a condition, whatever it compares.
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

/// Arithmetic of two tensors, of a tensor and a number, and of a number and a tensor.
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
