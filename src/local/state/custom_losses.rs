//! Custom losses: the graphs that the clients of a session created.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use crate::types::{LossFn, LossGraph};
use crate::wire::json::{CreateCustomLossRequest, UntypedFuture};

use super::super::futures::Outcome;
use super::super::job::Counted;
use super::super::limits::check_name;
use super::super::reply::{Reply, refuse};
use super::super::request_order::{RecentRequests, Seen};
use super::{State, future};

/// Maximum number of custom losses of a session.
const MAX_LOSSES: usize = 256;

/// Limit of the bytes of all custom losses of an engine, in the form in which they are sent.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The custom losses of a session.
pub(super) struct CustomLosses {
    requests: RecentRequests,
    all: Vec<Loss>,
}

struct Loss {
    id: String,
    graph: Arc<LossGraph>,
    /// Counts the bytes of the loss until the session ends.
    _bytes: Counted,
}

impl CustomLosses {
    pub(super) fn new() -> Self {
        CustomLosses { requests: RecentRequests::new(MAX_LOSSES), all: Vec::new() }
    }
}

impl State {
    /// Creates a custom loss. The result is ready when this returns, because the work is quick.
    ///
    /// Two losses may have the same name, because a loss is identified by its id. A loss with the same computation as
    /// an existing one is refused with status 409.
    pub(in crate::local) fn create_custom_loss(
        &self,
        request: CreateCustomLossRequest,
        fingerprint: u64,
    ) -> Reply<UntypedFuture> {
        let (id, number) = (&request.session_id, request.custom_loss_seq_id);
        match self.inner.lock().session(id)?.losses.requests.seen(number, fingerprint) {
            Seen::Never => {}
            Seen::Same(request_id) => return Ok(future(&request_id, None)),
            Seen::Different => {
                return refuse(409, format!("custom_loss_seq_id {number} was used for another loss"));
            }
        }
        // Read outside the lock, because reading a large graph takes a while.
        let graph = match read(&request) {
            Ok(it) => Arc::new(it),
            Err(problem) => return refuse(422, format!("the custom loss {:?}: {problem}", request.name)),
        };
        let bytes = serde_json::to_vec(&request).map_or(0, |it| it.len());
        let mut inner = self.inner.lock();
        let losses = &mut inner.session(id)?.losses;
        if let Some(it) = losses.all.iter().find(|it| it.graph.is_same_loss(&graph)) {
            let known = &it.id;
            return refuse(409, format!("the same loss already exists in this session: use {known}"));
        }
        if MAX_LOSSES <= losses.all.len() {
            return refuse(400, format!("a session may create at most {MAX_LOSSES} custom losses"));
        }
        if MAX_BYTES < self.loss_bytes.load(Ordering::Relaxed) + bytes {
            return refuse(
                429,
                format!(
                    "the custom losses of all sessions have {MAX_BYTES} bytes, the limit; finish a session first"
                ),
            );
        }
        let loss_id = format!("{id}:loss:{}", losses.all.len());
        let ticket = self.futures.create(None, None);
        losses.requests.insert(number, fingerprint, &ticket.id);
        let bytes = Counted::count(bytes, &self.loss_bytes);
        losses.all.push(Loss { id: loss_id.clone(), graph, _bytes: bytes });
        let made = json!({"loss_id": loss_id, "type": "create_custom_loss"});
        self.futures.finish(&ticket.id, Outcome::Json(made.to_string().into()));
        Ok(future(&ticket.id, None))
    }

    /// The graph of the custom loss that a pass names; `None` if the pass uses a built-in loss. The loss must have been
    /// created in the session of the model.
    pub(in crate::local) fn custom_loss(
        &self,
        model_id: &str,
        loss: &LossFn,
    ) -> Result<Option<Arc<LossGraph>>, String> {
        let LossFn::Custom { loss_id } = loss else { return Ok(None) };
        let inner = self.inner.lock();
        let session = inner.models.get(model_id).and_then(|it| inner.sessions.get(&it.session_id));
        let found = session.and_then(|session| session.losses.all.iter().find(|loss| loss.id == *loss_id));
        match found {
            Some(it) => Ok(Some(it.graph.clone())),
            None => Err(format!(
                "loss_fn_config: {loss_id:?} is not a custom loss of the session of model {model_id}"
            )),
        }
    }
}

fn read(request: &CreateCustomLossRequest) -> Result<LossGraph, String> {
    check_name("name", Some(&request.name))?;
    if request.graph.format != 1 {
        return Err(format!("graph.format: {} is not supported, only 1", request.graph.format));
    }
    let ranks: Vec<(&str, usize)> = request.inputs.iter().map(|it| (it.name.as_str(), it.rank)).collect();
    LossGraph::read(&request.name, &ranks, request.graph.nodes.clone()).map_err(|it| it.to_string())
}
