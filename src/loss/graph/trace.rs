//! Records the operations of a loss function while it runs.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Arg, LossInput, LossTensor, Node, NodeOp};
use crate::error::{Error, Result};

/// Argument of the function that [`LossGraph::trace`](super::LossGraph::trace) runs. Provides the input tensors and
/// records the operations and metrics.
#[derive(Debug)]
pub struct LossTrace {
    inputs: Vec<LossInput>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    /// Properties of the result of each node.
    infos: Vec<TensorInfo>,
    metrics: BTreeMap<String, Arg>,
    /// The first error. Stored here until `finish`, because operators such as `+` cannot return an error.
    error: Option<Error>,
}

/// Properties of a tensor that do not depend on values.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorInfo {
    pub(super) rank: usize,
    /// The tensor depends on `logprobs` in a way that has a gradient.
    pub(super) differentiable: bool,
}

impl LossTrace {
    pub(super) fn new(inputs: &[LossInput]) -> Self {
        let node = |input: &LossInput| Node {
            op: NodeOp::Placeholder,
            name: input.name.clone(),
            target: input.name.clone(),
            args: Vec::new(),
            kwargs: BTreeMap::new(),
        };
        let info = |(i, input): (usize, &LossInput)| TensorInfo { rank: input.rank, differentiable: i == 0 };
        let state = State {
            nodes: inputs.iter().map(node).collect(),
            infos: inputs.iter().enumerate().map(info).collect(),
            ..State::default()
        };
        LossTrace { inputs: inputs.to_vec(), state: RefCell::new(state) }
    }

    /// Log-probabilities of the datum's `target_tokens` under the model, in the shape of `target_tokens`. The gradient
    /// of the loss is taken with respect to this input only.
    pub fn logprobs(&self) -> LossTensor<'_> {
        LossTensor::new(self, 0)
    }

    /// The input with this name, which is a key of the datum's `loss_fn_inputs`. If the name is missing in
    /// `input_ranks`, [`LossGraph::trace`](super::LossGraph::trace) fails.
    pub fn input(&self, name: &str) -> LossTensor<'_> {
        let index = self.inputs.iter().position(|input| input.name == name).unwrap_or_else(|| {
            self.set_error(Error::invalid("input_ranks", format!("lacks {name}, which the loss reads")));
            0
        });
        LossTensor::new(self, index)
    }

    /// Reports a number as a metric. The name is `custom/<name>:sum` or `custom/<name>:mean`; the ending says how the
    /// values of all data are combined. `<name>` has 1 to 64 characters of a-z, 0-9, `_`, `.`, `/` and `-`.
    pub fn metric(&self, name: &str, value: LossTensor<'_>) {
        let path = || format!("metrics[{name:?}]");
        if !is_metric(name) {
            let problem =
                "must be custom/<name>:sum or custom/<name>:mean, the name of a-z, 0-9, _, ., / and -";
            return self.set_error(Error::invalid(path(), problem));
        }
        let (arg, info) = self.read(value);
        if info.rank != 0 {
            let problem = format!("has {} dimensions; a metric must be one number", info.rank);
            return self.set_error(Error::invalid(path(), problem));
        }
        if self.state.borrow_mut().metrics.insert(name.into(), arg).is_some() {
            self.set_error(Error::invalid(path(), "is reported twice"));
        }
    }

    /// Stores an error for `finish`. An earlier error has priority.
    pub(in crate::loss) fn set_error(&self, error: Error) {
        self.state.borrow_mut().error.get_or_insert(error);
    }

    /// The first error so far.
    #[cfg(feature = "ffi")]
    pub(crate) fn error(&self) -> Option<Error> {
        self.state.borrow().error.clone()
    }

    /// Makes the argument with which a later node refers to `tensor`. Returns it with the properties of the tensor.
    pub(super) fn read(&self, tensor: LossTensor<'_>) -> (Arg, TensorInfo) {
        let (trace, index) = tensor.parts();
        // A tensor of another trace is an error, which `finish` returns. Until then, use the first input instead.
        let index = if std::ptr::eq(trace, self) {
            index
        } else {
            self.set_error(Error::invalid("loss", "mixes the tensors of two traces"));
            0
        };
        let state = self.state.borrow();
        (Arg::Ref(state.nodes[index].name.clone()), state.infos[index])
    }

    /// Appends a node and returns its index.
    pub(super) fn record(
        &self,
        op: NodeOp,
        target: &str,
        args: Vec<Arg>,
        kwargs: BTreeMap<String, Arg>,
        info: TensorInfo,
    ) -> usize {
        let mut state = self.state.borrow_mut();
        let index = state.nodes.len();
        // Servers use node names as Python identifiers. The number makes sure that a name is not a Python keyword.
        let base = target.rsplit('.').next().unwrap_or(target).trim_matches('_');
        let mut n = index;
        let name = loop {
            let name = format!("{base}_{n}");
            if state.nodes.iter().all(|node| node.name != name) {
                break name;
            }
            n += 1;
        };
        state.nodes.push(Node { op, name, target: target.into(), args, kwargs });
        state.infos.push(info);
        index
    }

    /// Appends the output node and returns all nodes, or the first error of the trace.
    pub(super) fn finish(&self, loss: LossTensor<'_>) -> Result<Vec<Node>> {
        let (arg, info) = self.read(loss);
        let State { mut nodes, metrics, error, .. } = self.state.take();
        if let Some(error) = error {
            return Err(error);
        }
        if info.rank != 0 {
            let problem = format!("has {} dimensions; a loss must be one number, such as a sum", info.rank);
            return Err(Error::invalid("loss", problem));
        }
        if !info.differentiable {
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

/// Returns true if this is a valid name of a metric.
pub(super) fn is_metric(name: &str) -> bool {
    let Some((name, "sum" | "mean")) = name.strip_prefix("custom/").and_then(|it| it.rsplit_once(':')) else {
        return false;
    };
    let allowed = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_./-".contains(char);
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}
