//! Losses that were created in a session.

use std::sync::Arc;

use super::{LossGraph, LossInput};
use crate::error::Result;
use crate::loss::{Loss, LossFn};
use crate::types::Datum;

/// A [`LossGraph`] that was created in a session by
/// [`ServiceClient::create_custom_loss`](crate::ServiceClient::create_custom_loss). Every client of that session can
/// train with it, as with any other [`LossFn`]; clients of another session cannot. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LossHandle {
    graph: Arc<LossGraph>,
    session_id: Arc<str>,
    loss_id: Option<Arc<str>>,
}

impl LossHandle {
    pub(crate) fn new(graph: Arc<LossGraph>, session_id: Arc<str>, loss_id: Option<Arc<str>>) -> Self {
        LossHandle { graph, session_id, loss_id }
    }

    /// Name for display.
    pub fn name(&self) -> &str {
        self.graph.name()
    }

    /// Inputs of the loss, `logprobs` first.
    pub fn inputs(&self) -> &[LossInput] {
        self.graph.inputs()
    }

    /// Id of the session.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// The server's id of the loss. `None` if the server does not run custom losses. The client then computes the loss
    /// between a forward and a backward pass, as
    /// [`forward_backward_custom`](crate::TrainingClient::forward_backward_custom) does.
    pub fn loss_id(&self) -> Option<&str> {
        self.loss_id.as_deref()
    }

    pub(crate) fn graph(&self) -> &Arc<LossGraph> {
        &self.graph
    }

    /// Removes the inputs that the loss does not read, because servers may refuse a datum with additional inputs.
    pub(crate) fn keep_inputs(&self, datum: &mut Datum) {
        let others = &self.inputs()[1..];
        let is_read = |name: &str| name == "target_tokens" || others.iter().any(|input| input.name == name);
        datum.loss_fn_inputs.retain(|name, _| is_read(name));
    }

    pub(crate) fn check(&self, datum: &Datum, path: &str) -> Result<()> {
        self.graph.check(datum, path)
    }
}

/// Handles are equal if they refer to the same loss of the same session.
impl PartialEq for LossHandle {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.graph, &other.graph) || self.graph.is_same_loss(&other.graph))
            && (&self.session_id, &self.loss_id) == (&other.session_id, &other.loss_id)
    }
}

impl Eq for LossHandle {}

impl From<LossHandle> for Loss {
    fn from(handle: LossHandle) -> Self {
        LossFn::Traced(handle).into()
    }
}

impl From<&LossHandle> for Loss {
    fn from(handle: &LossHandle) -> Self {
        handle.clone().into()
    }
}
