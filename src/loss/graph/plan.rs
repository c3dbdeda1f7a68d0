//! Converts the nodes of a graph to a [`Plan`], a list of operations that can be computed, and refuses invalid nodes.

use std::collections::{BTreeMap, HashMap};

use super::call::{self, Call};
use super::node::Problem;
use super::{Arg, LossInput, Node, NodeOp};
use crate::error::{Error, Result};

type Checked<T> = std::result::Result<T, Problem>;

/// An operation. Operands are indices of earlier operations.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Op {
    Input(usize),
    Number(f64),
    Call(Call, Vec<usize>),
}

/// A graph as a list of operations in the order of their computation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) ops: Vec<Op>,
    /// For each operation, the name of its node.
    pub(super) names: Vec<String>,
    /// For each operation, true if its result depends on the log-probabilities in a way that has a gradient.
    pub(super) differentiable: Vec<bool>,
    /// Index of the operation whose result is the loss.
    pub(super) loss: usize,
    /// For each metric, its name and the index of the operation whose result is its value.
    pub(super) metrics: Vec<(String, usize)>,
}

/// Largest number of nodes of a graph. A hand-written loss has far fewer.
pub(crate) const MAX_NODES: usize = 10_000;

impl Plan {
    /// Checks the nodes of a graph and converts them to operations.
    ///
    /// # Errors
    /// A node that is not supported, or that refers to a name that no earlier node has. The error contains the index of
    /// the node.
    pub(super) fn new(inputs: &[LossInput], nodes: &[Node]) -> Result<Self> {
        if MAX_NODES < nodes.len() {
            return Err(Error::invalid("graph.nodes", format!("has more than {MAX_NODES} nodes")));
        }
        let mut planner = Planner {
            ops: Vec::new(),
            names: Vec::new(),
            differentiable: Vec::new(),
            index_of: HashMap::new(),
        };
        for (i, node) in nodes.iter().enumerate() {
            let refused = |problem| {
                Error::invalid(
                    format!("graph.nodes[{i}]"),
                    format!("{} ({}): {problem}", node.name, node.target),
                )
            };
            if node.op == NodeOp::Output {
                if i + 1 != nodes.len() {
                    return Err(refused("is not the last node".into()));
                }
                let (loss, metrics) = planner.output(node).map_err(refused)?;
                let Planner { ops, names, differentiable, .. } = planner;
                return Ok(Plan { ops, names, differentiable, loss, metrics });
            }
            let index = planner.add(inputs, node).map_err(refused)?;
            planner.names.resize(planner.ops.len(), node.name.clone());
            if planner.index_of.insert(node.name.clone(), index).is_some() {
                return Err(refused("the name is used twice".into()));
            }
        }
        Err(Error::invalid("graph.nodes", "has no output"))
    }
}

struct Planner {
    ops: Vec<Op>,
    names: Vec<String>,
    differentiable: Vec<bool>,
    /// Maps the name of each node to the index of the operation that computes its result.
    index_of: HashMap<String, usize>,
}

impl Planner {
    /// Appends an operation and returns its index.
    fn push(&mut self, op: Op, differentiable: bool) -> usize {
        self.ops.push(op);
        self.differentiable.push(differentiable);
        self.ops.len() - 1
    }

    /// Appends the operations of a node, which must not be the output node. Returns the index of the operation that
    /// computes its result.
    fn add(&mut self, inputs: &[LossInput], node: &Node) -> Checked<usize> {
        match node.op {
            NodeOp::Placeholder => {
                let i = inputs.iter().position(|input| input.name == node.target);
                let i = i.ok_or("is not an input of the loss")?;
                if self.ops.contains(&Op::Input(i)) {
                    return Err("is used twice".into());
                }
                Ok(self.push(Op::Input(i), i == 0))
            }
            NodeOp::CallFunction | NodeOp::CallMethod => self.call(node),
            NodeOp::GetAttr => Err("captures a tensor, which a loss must not".into()),
            NodeOp::CallModule => Err("calls a module, which a loss must not".into()),
            // Cannot occur: `Plan::new` handles output nodes.
            NodeOp::Output => Err("is an output".into()),
        }
    }

    fn call(&mut self, node: &Node) -> Checked<usize> {
        let (call, operands) = call::read(node)?;
        let operands = operands.iter().map(|arg| self.operand(arg)).collect::<Checked<Vec<_>>>()?;
        let differentiable =
            call.has_gradient() && operands.iter().any(|operand| self.differentiable[*operand]);
        Ok(self.push(Op::Call(call, operands), differentiable))
    }

    fn operand(&mut self, arg: &Arg) -> Checked<usize> {
        let number = match arg {
            Arg::Ref(name) => {
                let index = self.index_of.get(name).copied();
                return index.ok_or_else(|| format!("{name:?} is not the name of an earlier node"));
            }
            Arg::Int(it) => *it as f64,
            Arg::Float(it) => *it,
            Arg::Bool(it) => f64::from(u8::from(*it)),
            _ => return Err("takes only tensors and numbers".into()),
        };
        Ok(self.push(Op::Number(number), false))
    }

    fn output(&mut self, node: &Node) -> Checked<(usize, Vec<(String, usize)>)> {
        const FORM: &str = "must be the loss and its metrics";
        let [Arg::Tuple(pair) | Arg::List(pair)] = &node.args[..] else { return Err(FORM.into()) };
        let [loss @ Arg::Ref(_), Arg::Dict(metrics)] = &pair[..] else { return Err(FORM.into()) };
        let loss = self.operand(loss)?;
        if !self.differentiable[loss] {
            return Err("the loss does not depend on logprobs".into());
        }
        let metrics = self.metrics(metrics)?;
        Ok((loss, metrics))
    }

    fn metrics(&mut self, metrics: &BTreeMap<String, Arg>) -> Checked<Vec<(String, usize)>> {
        let metric = |(name, arg): (&String, &Arg)| match arg {
            _ if !super::trace::is_metric(name) => {
                Err(format!("metric {name:?} must be custom/<name>:sum or custom/<name>:mean"))
            }
            Arg::Ref(_) => Ok((name.clone(), self.operand(arg)?)),
            _ => Err(format!("metric {name:?} must be a tensor")),
        };
        metrics.iter().map(metric).collect()
    }
}
