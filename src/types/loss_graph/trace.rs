//! Where the operations of a loss are recorded.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Arg, LossInput, LossTensor, Node, NodeOp};
use crate::error::{Error, Result};

/// The inputs of a loss that is being traced, and its metrics. See [`LossGraph::trace`](super::LossGraph::trace).
#[derive(Debug)]
pub struct LossTrace {
    inputs: Vec<LossInput>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    /// What is known of the result of each node.
    known: Vec<Known>,
    metrics: BTreeMap<String, Arg>,
    /// The first thing that is wrong. Operators have no other way to say it.
    problem: Option<Error>,
}

/// What is known of a tensor before it has values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) rank: usize,
    /// It depends on `logprobs`, and not only behind a `detach`.
    pub(super) differentiable: bool,
}

impl LossTrace {
    pub(super) fn new(inputs: &[LossInput]) -> Self {
        let node = |it: &LossInput| Node {
            op: NodeOp::Placeholder,
            name: it.name.clone(),
            target: it.name.clone(),
            args: Vec::new(),
            kwargs: BTreeMap::new(),
        };
        let known = |(i, it): (usize, &LossInput)| Known { rank: it.rank, differentiable: i == 0 };
        let state = State {
            nodes: inputs.iter().map(node).collect(),
            known: inputs.iter().enumerate().map(known).collect(),
            ..State::default()
        };
        LossTrace { inputs: inputs.to_vec(), state: RefCell::new(state) }
    }

    /// The log-probabilities of the datum's `target_tokens` under the model, in their shape. Gradients flow through them alone.
    pub fn logprobs(&self) -> LossTensor<'_> {
        LossTensor::new(self, 0)
    }

    /// An input by its name: that key of the datum's `loss_fn_inputs`. One that `input_ranks` does not name is an error of the
    /// trace.
    pub fn input(&self, name: &str) -> LossTensor<'_> {
        let index = self.inputs.iter().position(|it| it.name == name).unwrap_or_else(|| {
            self.wrong(Error::invalid("input_ranks", format!("does not name {name}, which the loss reads")));
            0
        });
        LossTensor::new(self, index)
    }

    /// Reports a number besides the loss. The name is `custom/`, up to 64 of a-z, 0-9, `_`, `.`, `/` and `-`, and the way in which the
    /// values of all data are combined: `:sum` or `:mean`.
    pub fn metric(&self, name: &str, value: LossTensor<'_>) {
        let place = || format!("metrics[{name:?}]");
        if !is_metric(name) {
            let problem =
                "must be custom/<name>:sum or custom/<name>:mean, the name of a-z, 0-9, _, ., / and -";
            return self.wrong(Error::invalid(place(), problem));
        }
        let (arg, known) = self.read(value);
        if known.rank != 0 {
            let problem = format!("has {} dimensions; a metric is one number", known.rank);
            return self.wrong(Error::invalid(place(), problem));
        }
        if self.state.borrow_mut().metrics.insert(name.into(), arg).is_some() {
            self.wrong(Error::invalid(place(), "stands twice"));
        }
    }

    /// Remembers that something is wrong, unless something was before.
    pub(super) fn wrong(&self, error: Error) {
        self.state.borrow_mut().problem.get_or_insert(error);
    }

    /// How a tensor is referred to, and what is known of it.
    pub(super) fn read(&self, tensor: LossTensor<'_>) -> (Arg, Known) {
        let (trace, index) = tensor.parts();
        // A tensor of another trace has no meaning here; any of this one stands for it until the trace is refused.
        let index = if std::ptr::eq(trace, self) {
            index
        } else {
            self.wrong(Error::invalid("loss", "mixes the tensors of two traces"));
            0
        };
        let state = self.state.borrow();
        (Arg::Ref(state.nodes[index].name.clone()), state.known[index])
    }

    /// Records a step, and returns its place.
    pub(super) fn record(
        &self,
        op: NodeOp,
        target: &str,
        args: Vec<Arg>,
        kwargs: BTreeMap<String, Arg>,
        known: Known,
    ) -> usize {
        let mut state = self.state.borrow_mut();
        let index = state.nodes.len();
        // With a number a name is no word of Python, which servers write the graph in.
        let base = target.rsplit('.').next().unwrap_or(target).trim_matches('_');
        let mut n = index;
        let name = loop {
            let name = format!("{base}_{n}");
            if state.nodes.iter().all(|it| it.name != name) {
                break name;
            }
            n += 1;
        };
        state.nodes.push(Node { op, name, target: target.into(), args, kwargs });
        state.known.push(known);
        index
    }

    /// The finished graph, if nothing was wrong.
    pub(super) fn finish(&self, loss: LossTensor<'_>) -> Result<Vec<Node>> {
        let (arg, known) = self.read(loss);
        let State { mut nodes, metrics, problem, .. } = self.state.take();
        if let Some(problem) = problem {
            return Err(problem);
        }
        if known.rank != 0 {
            let problem = format!("has {} dimensions; a loss is one number, such as a sum", known.rank);
            return Err(Error::invalid("loss", problem));
        }
        if !known.differentiable {
            return Err(Error::invalid("loss", "does not depend on logprobs, so it has no gradient"));
        }
        nodes.push(Node {
            op: NodeOp::Output,
            name: "output".into(),
            target: "output".into(),
            args: vec![Arg::Tuple(vec![arg, Arg::Dict(metrics)])],
            kwargs: BTreeMap::new(),
        });
        Ok(nodes)
    }
}

/// A name that metrics may have.
pub(super) fn is_metric(name: &str) -> bool {
    let Some((name, "sum" | "mean")) = name.strip_prefix("custom/").and_then(|it| it.rsplit_once(':')) else {
        return false;
    };
    let allowed = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "_./-".contains(it);
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}
