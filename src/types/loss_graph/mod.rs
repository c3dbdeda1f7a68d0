//! A loss that is written once, as a graph of tensor operations.

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

use plan::Plan;

use crate::error::{Error, Result};

#[cfg(feature = "local")]
pub(crate) use array::Array as LossArray;
pub use handle::LossHandle;
pub(crate) use node::{Arg, Node, NodeOp};
pub use tensor::{LossMask, LossOperand, LossTensor};
pub use trace::LossTrace;

use super::Datum;

/// A loss of one datum as a graph of tensor operations (PROTOCOL §9.6): what the official SDK traces with torch.fx. It can be
/// sent to a server that runs it, [`ServiceClient::create_custom_loss`](crate::ServiceClient::create_custom_loss).
///
/// # Example: the negative log-likelihood, with a metric
/// ```
/// use tinkex::types::LossGraph;
///
/// let graph = LossGraph::trace("neg_ll", &[("logprobs", 1), ("weights", 1)], |it| {
///     let loss = -(it.logprobs() * it.input("weights")).sum();
///     it.metric("custom/neg_ll:sum", loss);
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
pub struct LossInput {
    /// `logprobs`, or a key of `loss_fn_inputs`.
    pub name: String,
    /// How many dimensions it has in every datum: 0 is a number, 1 is `[T]`, 2 is `[T, K]`.
    pub rank: usize,
}

/// How many inputs a loss may have, `logprobs` included.
const MAX_INPUTS: usize = 16;

impl LossGraph {
    /// Records what a function does with its inputs. The function runs once, now, on tensors that have no values yet; whatever
    /// depends on values must be said by operations such as [`LossMask::where_else`].
    ///
    /// `input_ranks` names the inputs with their numbers of dimensions: first `logprobs`, the log-probabilities of the datum's
    /// `target_tokens` (1 or 2, as those have), then the keys of `loss_fn_inputs` that the loss reads (0, 1 or 2). The
    /// losses of all data are added up.
    ///
    /// # Errors
    /// A name or a rank that the protocol does not allow, an input that is not named, a dimension that a tensor does not
    /// have, a metric with a wrong name, a loss that is not a single number or does not depend on `logprobs`.
    ///
    /// # Panics
    /// If the function panics: it runs on this thread, and its panic goes on to the caller.
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

    /// A graph that was traced elsewhere.
    #[cfg_attr(not(feature = "local"), allow(dead_code, reason = "only a server is sent any"))]
    pub(crate) fn read(name: &str, input_ranks: &[(&str, usize)], nodes: Vec<Node>) -> Result<Self> {
        LossGraph::new(name.into(), inputs(input_ranks)?, nodes)
    }

    fn new(name: String, inputs: Vec<LossInput>, nodes: Vec<Node>) -> Result<Self> {
        let plan = Plan::new(&inputs, &nodes)?;
        Ok(LossGraph { name, inputs, nodes, plan })
    }

    /// The name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inputs in their order, `logprobs` first.
    pub fn inputs(&self) -> &[LossInput] {
        &self.inputs
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many bytes the computation for so many log-probabilities makes, about.
    pub(crate) fn work(&self, n_logprobs: usize) -> usize {
        n_logprobs.saturating_mul(self.nodes.len()).saturating_mul(size_of::<f64>())
    }

    /// The same computation, whatever its name.
    pub(crate) fn is_same_loss(&self, other: &LossGraph) -> bool {
        (&self.inputs, &self.nodes) == (&other.inputs, &other.nodes)
    }

    /// Refuses a datum that lacks an input, or has it with another number of dimensions.
    pub(crate) fn check(&self, datum: &Datum, path: &str) -> Result<()> {
        for (i, input) in self.inputs.iter().enumerate() {
            // The log-probabilities are those of the targets.
            let key = if i == 0 { "target_tokens" } else { &input.name };
            let place = || format!("{path}.loss_fn_inputs[{key:?}]");
            let Some(tensor) = datum.loss_fn_inputs.get(key) else {
                return Err(Error::invalid(place(), format!("is missing; the loss {} needs it", self.name)));
            };
            let rank = tensor.shape().len();
            if rank != input.rank {
                let problem = format!(
                    "has {rank} dimensions, but the loss {} takes {} with {}",
                    self.name, input.name, input.rank
                );
                return Err(Error::invalid(place(), problem));
            }
        }
        Ok(())
    }
}

fn inputs(ranks: &[(&str, usize)]) -> Result<Vec<LossInput>> {
    let refused = |i: usize, problem: String| Err(Error::invalid(format!("input_ranks[{i}]"), problem));
    if ranks.first().map(|it| it.0) != Some("logprobs") {
        return refused(0, "must be logprobs, which every loss reads".into());
    }
    if MAX_INPUTS < ranks.len() {
        return Err(Error::invalid("input_ranks", format!("has more than {MAX_INPUTS} inputs")));
    }
    for (i, (name, rank)) in ranks.iter().enumerate() {
        if !is_name(name) {
            let problem = format!("{name:?} must be 1 to 64 of a-z, 0-9 and _, not a digit first");
            return refused(i, problem);
        }
        if ranks[..i].iter().any(|it| it.0 == *name) {
            return refused(i, format!("{name} stands twice"));
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
        && name.starts_with(|it: char| it.is_ascii_lowercase() || it == '_')
        && name.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_')
}

#[cfg(test)]
mod tests;
