//! The steps of a loss that C code builds: nodes that refer to each other by number.
//!
//! A [`LossGraph`] records the operations of a Rust function, which gets all inputs at its start. So the steps are
//! stored, and [`Steps::build`] performs them in such a function. For mistakes to be found where they are made, each
//! step is also performed on its own when it is added, on inputs with the dimensions of its operands.

use super::border::{Fault, Result};
use super::code;
use crate::loss::MAX_NODES;
use crate::types::{LossGraph, LossMask, LossTensor, LossTrace};

/// A loss that is being built.
#[derive(Clone)]
pub(super) struct Steps {
    name: String,
    /// Name and number of dimensions; `logprobs` first.
    inputs: Vec<(String, usize)>,
    nodes: Vec<Node>,
    metrics: Vec<(String, usize)>,
    result: Option<usize>,
}

#[derive(Clone)]
struct Node {
    op: Op,
    operands: Vec<usize>,
    kind: Kind,
}

/// Properties of a node's value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Number(f64),
    /// With its number of dimensions.
    Tensor(usize),
    Mask(usize),
}

/// A node's value while a graph records.
#[derive(Clone, Copy)]
enum Value<'g> {
    Number(f64),
    Tensor(LossTensor<'g>),
    Mask(LossMask<'g>),
}

/// An operation, without its operands.
#[derive(Clone)]
pub(super) enum Op {
    /// The input with this index.
    Input(usize),
    Number(f64),
    Unary(&'static str, Unary),
    Binary(&'static str, Binary),
    Select,
    Clamp(Option<f64>, Option<f64>),
    Along(&'static str, Along, i64),
    Slice(i64, i64),
}

type TensorFn = for<'g> fn(LossTensor<'g>) -> LossTensor<'g>;
type Along = for<'g> fn(LossTensor<'g>, i64) -> LossTensor<'g>;

#[derive(Clone, Copy)]
pub(super) enum Unary {
    Tensor(TensorFn),
    /// Of a tensor or a mask.
    Float,
    /// Of a mask.
    Not,
}

const UNARY: [(&str, Unary); 20] = [
    ("abs", Unary::Tensor(|a| a.abs())),
    ("detach", Unary::Tensor(|a| a.detach())),
    ("exp", Unary::Tensor(|a| a.exp())),
    ("expm1", Unary::Tensor(|a| a.expm1())),
    ("float", Unary::Float),
    ("log", Unary::Tensor(|a| a.log())),
    ("log1p", Unary::Tensor(|a| a.log1p())),
    ("log_sigmoid", Unary::Tensor(|a| a.log_sigmoid())),
    ("max", Unary::Tensor(|a| a.max())),
    ("mean", Unary::Tensor(|a| a.mean())),
    ("min", Unary::Tensor(|a| a.min())),
    ("neg", Unary::Tensor(|a| -a)),
    ("not", Unary::Not),
    ("relu", Unary::Tensor(|a| a.relu())),
    ("sigmoid", Unary::Tensor(|a| a.sigmoid())),
    ("softplus", Unary::Tensor(|a| a.softplus())),
    ("sqrt", Unary::Tensor(|a| a.sqrt())),
    ("square", Unary::Tensor(|a| a.square())),
    ("sum", Unary::Tensor(|a| a.sum())),
    ("tanh", Unary::Tensor(|a| a.tanh())),
];

#[derive(Clone, Copy)]
pub(super) enum Binary {
    Add,
    And,
    Div,
    Eq,
    Ge,
    Gt,
    Le,
    Lt,
    Maximum,
    Minimum,
    Mul,
    Ne,
    Or,
    Pow,
    Sub,
}

const BINARY: [(&str, Binary); 15] = [
    ("add", Binary::Add),
    ("and", Binary::And),
    ("div", Binary::Div),
    ("eq", Binary::Eq),
    ("ge", Binary::Ge),
    ("gt", Binary::Gt),
    ("le", Binary::Le),
    ("lt", Binary::Lt),
    ("maximum", Binary::Maximum),
    ("minimum", Binary::Minimum),
    ("mul", Binary::Mul),
    ("ne", Binary::Ne),
    ("or", Binary::Or),
    ("pow", Binary::Pow),
    ("sub", Binary::Sub),
];

const ALONG: [(&str, Along); 9] = [
    ("column", |a, dim| a.column(dim)),
    ("cumsum", |a, dim| a.cumsum(dim)),
    ("get", |a, dim| a.get(dim)),
    ("log_softmax", |a, dim| a.log_softmax(dim)),
    ("logsumexp", |a, dim| a.logsumexp(dim)),
    ("mean", |a, dim| a.mean_dim(dim)),
    ("softmax", |a, dim| a.softmax(dim)),
    ("sum", |a, dim| a.sum_dim(dim)),
    ("unsqueeze", |a, dim| a.unsqueeze(dim)),
];

fn find<T: Copy>(table: &[(&'static str, T)], kind: &str, name: &str) -> Result<(&'static str, T)> {
    table.iter().find(|(known, _)| *known == name).copied().ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
        Fault::name(kind, name, &known)
    })
}

impl Op {
    pub(super) fn unary(name: &str) -> Result<Self> {
        find(&UNARY, "operation of one node", name).map(|(name, unary)| Op::Unary(name, unary))
    }

    pub(super) fn binary(name: &str) -> Result<Self> {
        find(&BINARY, "operation of two nodes", name).map(|(name, binary)| Op::Binary(name, binary))
    }

    pub(super) fn along(name: &str, dim: i64) -> Result<Self> {
        find(&ALONG, "operation along a dimension", name).map(|(name, along)| Op::Along(name, along, dim))
    }

    /// An infinite bound does not limit.
    pub(super) fn clamp(min: f64, max: f64) -> Result<Self> {
        if min.is_nan() || max.is_nan() {
            return Err(Fault::invalid("clamp", format!("the bounds {min} and {max} must be numbers")));
        }
        let bound = |bound: f64, none: f64| Some(bound).filter(|bound| *bound != none);
        Ok(Op::Clamp(bound(min, f64::NEG_INFINITY), bound(max, f64::INFINITY)))
    }

    fn name(&self) -> &'static str {
        match self {
            Op::Input(_) => "input",
            Op::Number(_) => "number",
            Op::Unary(name, _) | Op::Binary(name, _) | Op::Along(name, ..) => name,
            Op::Select => "select",
            Op::Clamp(..) => "clamp",
            Op::Slice(..) => "slice",
        }
    }

    /// Performs the operation; `None` if it does not take operands of these kinds.
    fn apply<'g>(&self, operands: &[Value<'g>]) -> Option<Value<'g>> {
        let tensor = match (self, operands) {
            (Op::Number(number), []) => return Some(Value::Number(*number)),
            (Op::Unary(_, Unary::Tensor(function)), [Value::Tensor(a)]) => function(*a),
            (Op::Unary(_, Unary::Float), [Value::Tensor(a)]) => a.float(),
            (Op::Unary(_, Unary::Float), [Value::Mask(a)]) => a.float(),
            (Op::Unary(_, Unary::Not), [Value::Mask(a)]) => return Some(Value::Mask(!*a)),
            (Op::Binary(_, binary), [a, b]) => return binary.apply(*a, *b),
            (Op::Select, [Value::Mask(mask), yes, no]) => match (*yes, *no) {
                (Value::Tensor(yes), Value::Tensor(no)) => mask.where_else(yes, no),
                (Value::Tensor(yes), Value::Number(no)) => mask.where_else(yes, no),
                (Value::Number(yes), Value::Tensor(no)) => mask.where_else(yes, no),
                (Value::Number(yes), Value::Number(no)) => mask.where_else(yes, no),
                _ => return None,
            },
            (Op::Clamp(min, max), [Value::Tensor(a)]) => a.clamp(*min, *max),
            (Op::Along(_, along, dim), [Value::Tensor(a)]) => along(*a, *dim),
            (Op::Slice(start, end), [Value::Tensor(a)]) => a.slice(*start..*end),
            _ => return None,
        };
        Some(Value::Tensor(tensor))
    }
}

impl Binary {
    fn apply<'g>(self, a: Value<'g>, b: Value<'g>) -> Option<Value<'g>> {
        /// The operations that take a number in place of the second tensor.
        macro_rules! second_operand {
            ($a:ident, $b:ident) => {
                match self {
                    Binary::Add => Value::Tensor($a + $b),
                    Binary::Sub => Value::Tensor($a - $b),
                    Binary::Mul => Value::Tensor($a * $b),
                    Binary::Div => Value::Tensor($a / $b),
                    Binary::Pow => Value::Tensor($a.pow($b)),
                    Binary::Gt => Value::Mask($a.gt($b)),
                    Binary::Ge => Value::Mask($a.ge($b)),
                    Binary::Lt => Value::Mask($a.lt($b)),
                    Binary::Le => Value::Mask($a.le($b)),
                    Binary::Eq => Value::Mask($a.eq($b)),
                    Binary::Ne => Value::Mask($a.ne($b)),
                    _ => return None,
                }
            };
        }
        Some(match (a, b) {
            (Value::Mask(a), Value::Mask(b)) => match self {
                Binary::And => Value::Mask(a & b),
                Binary::Or => Value::Mask(a | b),
                _ => return None,
            },
            (Value::Tensor(a), Value::Tensor(b)) => match self {
                Binary::Minimum => Value::Tensor(a.minimum(b)),
                Binary::Maximum => Value::Tensor(a.maximum(b)),
                _ => second_operand!(a, b),
            },
            (Value::Tensor(a), Value::Number(b)) => second_operand!(a, b),
            (Value::Number(a), Value::Tensor(b)) => match self {
                Binary::Add => Value::Tensor(a + b),
                Binary::Sub => Value::Tensor(a - b),
                Binary::Mul => Value::Tensor(a * b),
                Binary::Div => Value::Tensor(a / b),
                // The tensor comes first in a comparison.
                Binary::Gt => Value::Mask(b.lt(a)),
                Binary::Ge => Value::Mask(b.le(a)),
                Binary::Lt => Value::Mask(b.gt(a)),
                Binary::Le => Value::Mask(b.ge(a)),
                Binary::Eq => Value::Mask(b.eq(a)),
                Binary::Ne => Value::Mask(b.ne(a)),
                _ => return None,
            },
            _ => return None,
        })
    }
}

impl Kind {
    fn of(value: Value<'_>) -> Self {
        match value {
            Value::Number(number) => Kind::Number(number),
            Value::Tensor(tensor) => Kind::Tensor(tensor.rank()),
            Value::Mask(mask) => Kind::Mask(mask.float().rank()),
        }
    }

    fn rank(self) -> usize {
        match self {
            Kind::Number(_) => 0,
            Kind::Tensor(rank) | Kind::Mask(rank) => rank,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Kind::Number(_) => "a number",
            Kind::Tensor(_) => "a tensor",
            Kind::Mask(_) => "a condition",
        }
    }
}

/// Runs code on values of these kinds, and returns its result or the first mistake that the trace finds.
fn attempt<R>(
    kinds: &[Kind],
    run: impl for<'g> FnOnce(&'g LossTrace, &[Value<'g>]) -> Result<R>,
) -> Result<R> {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let inputs = NAMES.into_iter().zip(kinds.iter().map(|kind| kind.rank()));
    let inputs: Vec<_> = std::iter::once(("logprobs", 1)).chain(inputs).collect();
    let mut outcome = None;
    let traced = LossGraph::trace("attempt", &inputs, |trace| {
        let value = |(kind, name): (&Kind, &str)| match *kind {
            Kind::Number(number) => Value::Number(number),
            Kind::Tensor(_) => Value::Tensor(trace.input(name)),
            Kind::Mask(_) => Value::Mask(trace.input(name).ne(0.0)),
        };
        let values: Vec<_> = kinds.iter().zip(NAMES).map(value).collect();
        let made = run(trace, &values);
        outcome = Some(made.and_then(|made| match trace.error() {
            Some(error) => Err(error.into()),
            None => Ok(made),
        }));
        trace.logprobs().sum()
    });
    match (outcome, traced) {
        (Some(outcome), _) => outcome,
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) => unreachable!("the trace runs its function once"),
    }
}

/// Names the node of a mistake.
fn at_node(fault: Fault, op: &Op, id: usize) -> Fault {
    match fault {
        Fault::Sdk(error) => {
            let problem = error.violation().map_or(error.message().into(), |it| it.problem.clone());
            Fault::invalid(format!("nodes[{id}]"), format!("`{}` (node {id}): {problem}", op.name()))
        }
        misuse => misuse.at(format!("nodes[{id}]")),
    }
}

impl Steps {
    /// The node of the input `logprobs`.
    pub(super) const LOGPROBS: i32 = 0;

    pub(super) fn new(name: &str, logprobs_dims: i32) -> Result<Self> {
        let rank = super::border::unsigned(logprobs_dims.into(), "logprobs_dims")?;
        let mut steps = Steps {
            name: name.into(),
            inputs: Vec::new(),
            nodes: Vec::new(),
            metrics: Vec::new(),
            result: None,
        };
        steps.input("logprobs", rank)?;
        Ok(steps)
    }

    /// Adds an input, or returns the node of one that there is.
    pub(super) fn input(&mut self, name: &str, rank: usize) -> Result<i32> {
        if let Some(i) = self.inputs.iter().position(|input| input.0 == name) {
            if self.inputs[i].1 != rank {
                let text = format!(
                    "the input {name:?} was added with {} dimensions, now with {rank}",
                    self.inputs[i].1
                );
                return Err(Fault::invalid(format!("inputs[{name:?}]"), text));
            }
            let node = self.nodes.iter().position(|node| matches!(node.op, Op::Input(input) if input == i));
            return Ok(number(node.unwrap_or_default()));
        }
        let mut inputs = self.inputs();
        inputs.push((name, rank));
        LossGraph::trace(&*self.name, &inputs, |trace| trace.logprobs().sum())?;
        self.inputs.push((name.into(), rank));
        let op = Op::Input(self.inputs.len() - 1);
        Ok(self.push(Node { op, operands: Vec::new(), kind: Kind::Tensor(rank) }))
    }

    fn inputs(&self) -> Vec<(&str, usize)> {
        self.inputs.iter().map(|(name, rank)| (name.as_str(), *rank)).collect()
    }

    fn push(&mut self, node: Node) -> i32 {
        self.nodes.push(node);
        number(self.nodes.len() - 1)
    }

    /// Adds a node. The operands come with the names of their arguments.
    pub(super) fn add(&mut self, op: Op, operands: &[(&str, i32)]) -> Result<i32> {
        let id = self.nodes.len();
        if MAX_NODES <= id {
            return Err(Fault::invalid("nodes", format!("a graph has at most {MAX_NODES} nodes")));
        }
        let operand = |(name, node): &(&str, i32)| self.node(*node, name, || format!("nodes[{id}].{name}"));
        let operands: Vec<usize> = operands.iter().map(operand).collect::<Result<_>>()?;
        let kinds: Vec<Kind> = operands.iter().map(|operand| self.nodes[*operand].kind).collect();
        let kind = attempt(&kinds, |_, values| match op.apply(values) {
            Some(value) => Ok(Kind::of(value)),
            None => Err(wrong_kinds(&op, id, &kinds)),
        });
        let kind = kind.map_err(|fault| at_node(fault, &op, id))?;
        Ok(self.push(Node { op, operands, kind }))
    }

    /// The index of a node; `name` is the argument.
    fn node(&self, node: i32, name: &str, path: impl FnOnce() -> String) -> Result<usize> {
        let index = usize::try_from(node).ok().filter(|index| *index < self.nodes.len());
        index.ok_or_else(|| {
            let text = format!("`{name}` is {node}, but the graph has {} nodes", self.nodes.len());
            Fault::new(code::RANGE, text).at(path())
        })
    }

    pub(super) fn metric(&mut self, name: &str, node: i32) -> Result<()> {
        let path = || format!("metrics[{name:?}]");
        let index = self.node(node, "node", path)?;
        if self.metrics.iter().any(|metric| metric.0 == name) {
            return Err(
                Fault::new(code::ALREADY, format!("the metric {name:?} is reported twice")).at(path())
            );
        }
        let kind = self.nodes[index].kind;
        attempt(&[kind], |trace, values| match values {
            [Value::Tensor(tensor)] => {
                trace.metric(name, *tensor);
                Ok(())
            }
            _ => {
                let text =
                    format!("the metric {name:?} must be a tensor without dimensions, not {}", kind.noun());
                Err(Fault::new(code::KIND, text).at(path()))
            }
        })?;
        self.metrics.push((name.into(), index));
        Ok(())
    }

    pub(super) fn result(&mut self, node: i32) -> Result<()> {
        let index = self.node(node, "node", || "result".into())?;
        if self.result.is_some() {
            return Err(Fault::new(code::ALREADY, "the result of the graph is set twice").at("result"));
        }
        let text = match self.nodes[index].kind {
            Kind::Tensor(0) => {
                self.result = Some(index);
                return Ok(());
            }
            Kind::Tensor(rank) => {
                format!(
                    "the result is a tensor of {rank} dimensions; a loss must be one number, such as a sum"
                )
            }
            other => format!("the result is {}; a loss must be computed from logprobs", other.noun()),
        };
        Err(Fault::new(code::KIND, text).at("result"))
    }

    /// Performs the steps.
    ///
    /// # Errors
    /// No result, or one that does not depend on the log-probabilities.
    pub(super) fn build(&self) -> Result<LossGraph> {
        let result = self.result.ok_or_else(|| {
            Fault::invalid("result", "the graph has no result: name its node with tinkex_graph_result")
        })?;
        let mut fault = None;
        let graph = LossGraph::trace(&*self.name, &self.inputs(), |trace| {
            self.perform(trace, result).unwrap_or_else(|reason| {
                fault = Some(reason);
                trace.logprobs()
            })
        });
        match fault {
            Some(fault) => Err(fault),
            None => Ok(graph?),
        }
    }

    fn perform<'g>(&self, trace: &'g LossTrace, result: usize) -> Result<LossTensor<'g>> {
        let mut values = Vec::with_capacity(self.nodes.len());
        for (id, node) in self.nodes.iter().enumerate() {
            let operands: Vec<Value<'g>> = node.operands.iter().map(|operand| values[*operand]).collect();
            let value = match node.op {
                Op::Input(0) => Some(Value::Tensor(trace.logprobs())),
                Op::Input(i) => Some(Value::Tensor(trace.input(&self.inputs[i].0))),
                _ => node.op.apply(&operands),
            };
            let kinds = || node.operands.iter().map(|operand| self.nodes[*operand].kind).collect::<Vec<_>>();
            values.push(value.ok_or_else(|| wrong_kinds(&node.op, id, &kinds()))?);
        }
        let tensor = |index: usize| match values[index] {
            Value::Tensor(tensor) => Ok(tensor),
            _ => Err(Fault::new(code::KIND, format!("node {index} must be a tensor"))),
        };
        for (name, index) in &self.metrics {
            trace.metric(name, tensor(*index)?);
        }
        tensor(result)
    }
}

fn wrong_kinds(op: &Op, id: usize, kinds: &[Kind]) -> Fault {
    let nouns: Vec<&str> = kinds.iter().map(|kind| kind.noun()).collect();
    let hint = match op {
        Op::Binary(_, Binary::Minimum | Binary::Maximum) => "; limit a tensor by a number with `clamp`",
        _ if kinds.iter().any(|kind| matches!(kind, Kind::Mask(_))) => {
            "; `float` makes a tensor of a condition"
        }
        _ => "",
    };
    let text = format!("`{}` (node {id}) does not take {}{hint}", op.name(), nouns.join(", "));
    Fault::new(code::KIND, text)
}

/// The number of a node in C.
fn number(index: usize) -> i32 {
    // A graph of so many nodes is refused when it is built.
    i32::try_from(index).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn unary(steps: &mut Steps, op: &str, a: i32) -> i32 {
        steps.add(Op::unary(op).unwrap(), &[("a", a)]).unwrap()
    }

    fn binary(steps: &mut Steps, op: &str, a: i32, b: i32) -> i32 {
        steps.add(Op::binary(op).unwrap(), &[("a", a), ("b", b)]).unwrap()
    }

    #[test]
    fn the_steps_make_the_graph_that_a_traced_function_makes() {
        let mut steps = Steps::new("my_ppo", 1).unwrap();
        let ratio = {
            let old = steps.input("old_logprobs", 1).unwrap();
            let difference = binary(&mut steps, "sub", 0, old);
            unary(&mut steps, "exp", difference)
        };
        let clipped = steps.add(Op::clamp(0.8, f64::INFINITY).unwrap(), &[("a", ratio)]).unwrap();
        let [low, high] = [0.8, 1.2].map(|bound| steps.add(Op::Number(bound), &[]).unwrap());
        // An input may be added after operations, and asked for again.
        let advantages = steps.input("advantages", 1).unwrap();
        assert_eq!(steps.input("advantages", 1).unwrap(), advantages);
        let above = binary(&mut steps, "lt", high, ratio);
        let below = binary(&mut steps, "lt", ratio, low);
        let either = binary(&mut steps, "or", above, below);
        let share = unary(&mut steps, "float", either);
        let share = unary(&mut steps, "mean", share);
        steps.metric("custom/clipped:mean", share).unwrap();
        let chosen = steps.add(Op::Select, &[("mask", either), ("yes", clipped), ("no", high)]).unwrap();
        let product = binary(&mut steps, "mul", chosen, advantages);
        let row = steps.add(Op::along("unsqueeze", 1).unwrap(), &[("a", product)]).unwrap();
        let row = steps.add(Op::Slice(0, 2), &[("a", row)]).unwrap();
        let sum = unary(&mut steps, "sum", row);
        let loss = unary(&mut steps, "neg", sum);
        steps.result(loss).unwrap();

        let inputs = [("logprobs", 1), ("old_logprobs", 1), ("advantages", 1)];
        let expected = LossGraph::trace("my_ppo", &inputs, |trace| {
            let ratio = (trace.logprobs() - trace.input("old_logprobs")).exp();
            let clipped = ratio.clamp(Some(0.8), None);
            let (above, below) = (ratio.gt(1.2), ratio.lt(0.8));
            let either = above | below;
            trace.metric("custom/clipped:mean", either.float().mean());
            let product = either.where_else(clipped, 1.2) * trace.input("advantages");
            -product.unsqueeze(1).slice(0..2).sum()
        });
        assert_eq!(steps.build().unwrap(), expected.unwrap());
    }

    #[test]
    fn every_named_operation_can_be_performed() {
        for (name, operation) in UNARY {
            let mut steps = Steps::new("g", 2).unwrap();
            let mask = binary(&mut steps, "gt", 0, 0);
            let operand = if matches!(operation, Unary::Not) { mask } else { 0 };
            unary(&mut steps, name, operand);
        }
        for (name, operation) in BINARY {
            let mut steps = Steps::new("g", 2).unwrap();
            let mask = binary(&mut steps, "gt", 0, 0);
            let operand = if matches!(operation, Binary::And | Binary::Or) { mask } else { 0 };
            binary(&mut steps, name, operand, operand);
        }
        for (name, _) in ALONG {
            let mut steps = Steps::new("g", if name == "unsqueeze" { 1 } else { 2 }).unwrap();
            steps.add(Op::along(name, 1).unwrap(), &[("a", 0)]).unwrap();
        }
    }

    #[test]
    fn mistakes_are_found_where_they_are_made() {
        let mut steps = Steps::new("g", 1).unwrap();
        let number = steps.add(Op::Number(2.0), &[]).unwrap();
        let mask = binary(&mut steps, "gt", 0, number);
        /// The operation, its operands, and the code and path of the mistake.
        type Row<'a> = (Op, &'a [(&'a str, i32)], code::Code, &'a str);
        let table: [Row; 8] = [
            (Op::unary("exp").unwrap(), &[("a", 7)], code::RANGE, "nodes[3].a"),
            (Op::unary("exp").unwrap(), &[("a", -1)], code::RANGE, "nodes[3].a"),
            (Op::unary("exp").unwrap(), &[("a", mask)], code::KIND, "nodes[3]"),
            (Op::binary("minimum").unwrap(), &[("a", 0), ("b", number)], code::KIND, "nodes[3]"),
            (Op::binary("and").unwrap(), &[("a", 0), ("b", mask)], code::KIND, "nodes[3]"),
            (Op::along("sum", 1).unwrap(), &[("a", 0)], code::INVALID_INPUT, "nodes[3]"),
            (Op::along("column", 0).unwrap(), &[("a", 0)], code::INVALID_INPUT, "nodes[3]"),
            (
                Op::clamp(f64::NEG_INFINITY, f64::INFINITY).unwrap(),
                &[("a", 0)],
                code::INVALID_INPUT,
                "nodes[3]",
            ),
        ];
        for (op, operands, code, path) in table {
            let name = op.name();
            let fault = steps.add(op, operands).unwrap_err();
            assert_eq!(fault.code(), code, "{name} {operands:?}");
            assert!(matches!(fault, Fault::Misuse { path: Some(found), .. } if found == path), "{name}");
        }
        assert!(Op::unary("cos").is_err_and(|fault| fault.code() == code::NAME));
        assert!(Op::clamp(f64::NAN, 1.0).is_err());
        assert!(steps.input("Advantages", 1).is_err());
        assert!(steps.input("logprobs", 2).is_err());
        assert_eq!(steps.metric("custom/x:sum", number).unwrap_err().code(), code::KIND);
        assert_eq!(steps.metric("custom/x:sum", 0).unwrap_err().code(), code::INVALID_INPUT);
        assert_eq!(steps.result(0).unwrap_err().code(), code::KIND);
        assert!(steps.build().is_err());
        assert!(Steps::new("", 1).is_err() && Steps::new("g", 0).is_err() && Steps::new("g", -1).is_err());
    }
}
