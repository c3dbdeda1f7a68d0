//! Messages that create a custom loss, which the server then evaluates (PROTOCOL §9.6).

use serde::{Deserialize, Serialize};

use crate::loss::Node;
use crate::types::{LossGraph, LossInput};

use super::fields::id;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_custom_loss")]
pub(crate) struct CreateCustomLossRequest {
    pub(crate) session_id: String,
    pub(crate) custom_loss_seq_id: u64,
    pub(crate) name: String,
    /// The first input is `logprobs`.
    pub(crate) inputs: Vec<CustomLossInput>,
    pub(crate) graph: CustomLossGraph,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CustomLossInput {
    pub(crate) name: String,
    pub(crate) rank: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CustomLossGraph {
    /// Version of the encoding: 1.
    pub(crate) format: u32,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_custom_loss")]
pub(crate) struct CreateCustomLossResponse {
    #[serde(deserialize_with = "id")]
    pub(crate) loss_id: String,
}

impl CreateCustomLossRequest {
    pub(crate) fn new(session_id: &str, custom_loss_seq_id: u64, graph: &LossGraph) -> Self {
        let input = |input: &LossInput| CustomLossInput { name: input.name.clone(), rank: input.rank };
        CreateCustomLossRequest {
            session_id: session_id.into(),
            custom_loss_seq_id,
            name: graph.name().into(),
            inputs: graph.inputs().iter().map(input).collect(),
            graph: CustomLossGraph { format: 1, nodes: graph.nodes().to_vec() },
        }
    }
}
