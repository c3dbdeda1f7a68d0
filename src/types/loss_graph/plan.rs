//! The steps of a graph as operations that can be computed.

use std::collections::{BTreeMap, HashMap};

use super::call::{self, Call};
use super::{Arg, LossInput, Node, NodeOp};
use crate::error::{Error, Result};

/// What is wrong with a step.
pub(super) type Problem = String;

type Checked<T> = std::result::Result<T, Problem>;

/// An operation, of values that were computed before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Op {
    Input(usize),
    Number(f64),
    Call(Call, Vec<usize>),
}

/// A graph that can be computed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) ops: Vec<Op>,
    /// For each the step that needs it.
    pub(super) names: Vec<String>,
    /// Which of them depend on the log-probabilities in a way that has a gradient.
    pub(super) differentiable: Vec<bool>,
    pub(super) loss: usize,
    pub(super) metrics: Vec<(String, usize)>,
}

/// More steps than any loss has that a person wrote.
const MAX_STEPS: usize = 10_000;

impl Plan {
    /// # Errors
    /// A step that is not known or that refers to none before it, with its place.
    pub(super) fn new(inputs: &[LossInput], nodes: &[Node]) -> Result<Self> {
        if MAX_STEPS < nodes.len() {
            return Err(Error::invalid("graph.nodes", format!("has more than {MAX_STEPS} steps")));
        }
        let mut planner =
            Planner { ops: Vec::new(), names: Vec::new(), differentiable: Vec::new(), named: HashMap::new() };
        for (i, node) in nodes.iter().enumerate() {
            let refused = |problem| {
                Error::invalid(
                    format!("graph.nodes[{i}]"),
                    format!("{} ({}): {problem}", node.name, node.target),
                )
            };
            if node.op == NodeOp::Output {
                if i + 1 != nodes.len() {
                    return Err(refused("steps follow the output".into()));
                }
                let (loss, metrics) = planner.output(node).map_err(refused)?;
                let Planner { ops, names, differentiable, .. } = planner;
                return Ok(Plan { ops, names, differentiable, loss, metrics });
            }
            let place = planner.step(inputs, node).map_err(refused)?;
            planner.names.resize(planner.ops.len(), node.name.clone());
            if planner.named.insert(node.name.clone(), place).is_some() {
                return Err(refused("the name stands twice".into()));
            }
        }
        Err(Error::invalid("graph.nodes", "has no output"))
    }
}

struct Planner {
    ops: Vec<Op>,
    names: Vec<String>,
    differentiable: Vec<bool>,
    named: HashMap<String, usize>,
}

impl Planner {
    fn push(&mut self, op: Op, differentiable: bool) -> usize {
        self.ops.push(op);
        self.differentiable.push(differentiable);
        self.ops.len() - 1
    }

    fn step(&mut self, inputs: &[LossInput], node: &Node) -> Checked<usize> {
        match node.op {
            NodeOp::Placeholder => {
                let i = inputs.iter().position(|it| it.name == node.target);
                let i = i.ok_or("is no input of the loss")?;
                if self.ops.contains(&Op::Input(i)) {
                    return Err("stands twice".into());
                }
                Ok(self.push(Op::Input(i), i == 0))
            }
            NodeOp::CallFunction | NodeOp::CallMethod => self.call(node),
            NodeOp::GetAttr => Err("captures a tensor, which a loss must not".into()),
            NodeOp::CallModule => Err("calls a module, which a loss must not".into()),
            // The caller has dealt with it.
            NodeOp::Output => Err("is an output".into()),
        }
    }

    fn call(&mut self, node: &Node) -> Checked<usize> {
        let (call, operands) = call::read(node)?;
        let operands = operands.iter().map(|it| self.operand(it)).collect::<Checked<Vec<_>>>()?;
        let flows = call.has_gradient() && operands.iter().any(|it| self.differentiable[*it]);
        Ok(self.push(Op::Call(call, operands), flows))
    }

    fn operand(&mut self, arg: &Arg) -> Checked<usize> {
        let number = match arg {
            Arg::Ref(name) => {
                let known = self.named.get(name).copied();
                return known.ok_or_else(|| format!("{name:?} is no step before this one"));
            }
            Arg::Int(it) => *it as f64,
            Arg::Float(it) => *it,
            Arg::Bool(it) => f64::from(u8::from(*it)),
            _ => return Err("takes tensors and numbers".into()),
        };
        Ok(self.push(Op::Number(number), false))
    }

    fn output(&mut self, node: &Node) -> Checked<(usize, Vec<(String, usize)>)> {
        const SHAPE: &str = "must be the loss and its metrics";
        let [Arg::Tuple(pair) | Arg::List(pair)] = &node.args[..] else { return Err(SHAPE.into()) };
        let [loss @ Arg::Ref(_), Arg::Dict(metrics)] = &pair[..] else { return Err(SHAPE.into()) };
        let loss = self.operand(loss)?;
        if !self.differentiable[loss] {
            return Err("the loss does not depend on logprobs".into());
        }
        let metrics = self.metrics(metrics)?;
        Ok((loss, metrics))
    }

    fn metrics(&mut self, metrics: &BTreeMap<String, Arg>) -> Checked<Vec<(String, usize)>> {
        let one = |(name, arg): (&String, &Arg)| match arg {
            _ if !super::trace::is_metric(name) => {
                Err(format!("metric {name:?} must be custom/<name>:sum or custom/<name>:mean"))
            }
            Arg::Ref(_) => Ok((name.clone(), self.operand(arg)?)),
            _ => Err(format!("metric {name:?} must be a tensor")),
        };
        metrics.iter().map(one).collect()
    }
}
