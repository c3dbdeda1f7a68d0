//! Losses as graphs of tensor operations (PROTOCOL §9.6).
//!
//! A graph is made in one of two ways: [`LossGraph::trace`] records the operations of a Rust function (`trace`,
//! `tensor`), or the engine reads the nodes that a client sent (`node`). In both cases `plan` checks the nodes and
//! converts them to a list of operations; `call` parses each call of a function. `evaluate` computes the loss of a
//! datum with `forward` (values), `backward` (gradients) and `array` (the arrays of both). `handle` has [`LossHandle`],
//! which refers to a graph that was created in a session.

mod array;
mod backward;
mod call;
mod evaluate;
mod forward;
mod handle;
mod node;
mod plan;
mod tensor;
mod trace;

#[cfg(feature = "ffi")]
pub(crate) use plan::MAX_NODES;
use plan::Plan;

use crate::error::{Error, Result};

#[cfg(feature = "local")]
pub(crate) use array::Array as LossArray;
pub use handle::LossHandle;
pub(crate) use node::{Arg, Node, NodeOp};
pub use tensor::{LossMask, LossOperand, LossTensor};
pub use trace::LossTrace;

use crate::types::Datum;

/// The loss of one datum as a graph of tensor operations (PROTOCOL §9.6). Its nodes have the fields of the nodes of
/// torch.fx, the tracer of PyTorch, with which the official Python SDK traces losses.
/// [`ServiceClient::create_custom_loss`](crate::ServiceClient::create_custom_loss) sends the graph to servers that run
/// custom losses.
///
/// # Example: the negative log-likelihood, with a metric
/// ```
/// use tinkex::types::LossGraph;
///
/// let graph = LossGraph::trace("neg_ll", &[("logprobs", 1), ("weights", 1)], |trace| {
///     let loss = -(trace.logprobs() * trace.input("weights")).sum();
///     trace.metric("custom/neg_ll:sum", loss);
///     loss
/// })?;
/// assert_eq!(graph.name(), "neg_ll");
/// assert_eq!(graph.inputs()[1].name, "weights");
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LossGraph {
    name: String,
    inputs: Vec<LossInput>,
    nodes: Vec<Node>,
    plan: Plan,
}

/// An input of a [`LossGraph`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LossInput {
    /// `logprobs`, or a key of `loss_fn_inputs`.
    pub name: String,
    /// Number of dimensions in every datum: 0 for a number, 1 for the shape `[T]`, 2 for `[T, K]`, with `T` positions
    /// and `K` values for each.
    pub rank: usize,
}

/// Largest number of inputs of a loss, including `logprobs`.
const MAX_INPUTS: usize = 16;

impl LossGraph {
    /// Records the operations of a function on its inputs. The function runs once, during this call, on tensors without
    /// values. So it cannot branch on values with `if`; operations such as [`LossMask::where_else`] choose between
    /// values.
    ///
    /// `input_ranks` lists the inputs with their numbers of dimensions. The first input is `logprobs`, the
    /// log-probabilities of the datum's `target_tokens`, with the number of dimensions of `target_tokens` (1 or 2). The
    /// others are the keys of `loss_fn_inputs` that the loss reads (0, 1 or 2 dimensions). The loss of a batch is the
    /// sum of the losses of its data.
    ///
    /// # Errors
    /// A name or a rank that the protocol does not allow, an input missing in `input_ranks`, a dimension that a tensor
    /// does not have, an invalid name of a metric, a loss that is not a single number or does not depend on `logprobs`.
    ///
    /// # Panics
    /// Passes on a panic of the function, which runs on the caller's thread.
    pub fn trace<F>(name: impl Into<String>, input_ranks: &[(&str, usize)], loss: F) -> Result<Self>
    where
        F: for<'g> FnOnce(&'g LossTrace) -> LossTensor<'g>,
    {
        let name = name.into();
        if name.is_empty() {
            return Err(Error::invalid("name", "is empty"));
        }
        let inputs = inputs(input_ranks)?;
        let trace = LossTrace::new(&inputs);
        let result = loss(&trace);
        let nodes = trace.finish(result)?;
        LossGraph::new(name, inputs, nodes)
    }

    /// Makes a graph from the nodes of a request, after checking them.
    #[cfg_attr(not(feature = "local"), allow(dead_code, reason = "only the engine receives graphs"))]
    pub(crate) fn read(name: &str, input_ranks: &[(&str, usize)], nodes: Vec<Node>) -> Result<Self> {
        LossGraph::new(name.into(), inputs(input_ranks)?, nodes)
    }

    fn new(name: String, inputs: Vec<LossInput>, nodes: Vec<Node>) -> Result<Self> {
        let plan = Plan::new(&inputs, &nodes)?;
        Ok(LossGraph { name, inputs, nodes, plan })
    }

    /// Name for display.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Inputs in order, `logprobs` first.
    pub fn inputs(&self) -> &[LossInput] {
        &self.inputs
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Estimated size in bytes of the values of all operations, for `n_logprobs` log-probabilities: one `f64` for each
    /// operation and log-probability.
    pub(crate) fn work(&self, n_logprobs: usize) -> usize {
        n_logprobs.saturating_mul(self.nodes.len()).saturating_mul(size_of::<f64>())
    }

    /// Returns true if both graphs have the same inputs and nodes. The names of the losses may differ.
    pub(crate) fn is_same_loss(&self, other: &LossGraph) -> bool {
        (&self.inputs, &self.nodes) == (&other.inputs, &other.nodes)
    }

    /// Refuses a datum that lacks an input or has an input of another number of dimensions.
    pub(crate) fn check(&self, datum: &Datum, path: &str) -> Result<()> {
        for (i, input) in self.inputs.iter().enumerate() {
            // The first input, `logprobs`, is not in the datum: the model computes it, in the shape of the targets.
            let key = if i == 0 { "target_tokens" } else { &input.name };
            let path = || format!("{path}.loss_fn_inputs[{key:?}]");
            let Some(tensor) = datum.loss_fn_inputs.get(key) else {
                return Err(Error::invalid(path(), format!("is missing; the loss {} needs it", self.name)));
            };
            let rank = tensor.shape().len();
            if rank != input.rank {
                let problem = format!(
                    "has {rank} dimensions, but the loss {} takes {} with {}",
                    self.name, input.name, input.rank
                );
                return Err(Error::invalid(path(), problem));
            }
        }
        Ok(())
    }
}

fn inputs(ranks: &[(&str, usize)]) -> Result<Vec<LossInput>> {
    let refused = |i: usize, problem: String| Err(Error::invalid(format!("input_ranks[{i}]"), problem));
    if ranks.first().map(|input| input.0) != Some("logprobs") {
        return refused(0, "must be logprobs, the first input of every loss".into());
    }
    if MAX_INPUTS < ranks.len() {
        return Err(Error::invalid("input_ranks", format!("has more than {MAX_INPUTS} inputs")));
    }
    for (i, (name, rank)) in ranks.iter().enumerate() {
        if !is_name(name) {
            let problem = format!(
                "{name:?} must have 1 to 64 characters of a-z, 0-9 and _, and not start with a digit"
            );
            return refused(i, problem);
        }
        if ranks[..i].iter().any(|input| input.0 == *name) {
            return refused(i, format!("{name} is listed twice"));
        }
        if 2 < *rank || (i == 0 && *rank == 0) {
            let allowed = if i == 0 { "1 or 2" } else { "0, 1 or 2" };
            return refused(i, format!("{name} cannot have {rank} dimensions, only {allowed}"));
        }
    }
    Ok(ranks.iter().map(|(name, rank)| LossInput { name: (*name).into(), rank: *rank }).collect())
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|char: char| char.is_ascii_lowercase() || char == '_')
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

#[cfg(test)]
mod tests;
