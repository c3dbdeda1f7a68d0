//! Creation of custom losses (PROTOCOL §9.6). A pool thread uploads the graph of the loss to the server. Each loss is
//! created once per session: if several callers create the same loss at the same time, one uploads it and the others
//! wait for its result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::create::Creation;
use crate::error::Result;
use crate::http::endpoint;
use crate::session::{Job, Session, Ticket, lacks_endpoint};
use crate::sync::Mutex;
use crate::types::{LossGraph, LossHandle};
use crate::wire::json;

/// A request to create a custom loss.
pub(super) struct CustomLoss {
    pub(super) graph: Arc<LossGraph>,
    pub(super) ticket: Ticket<LossHandle>,
}

/// Creates a loss. If the server computes custom losses, a pool thread uploads the graph. Otherwise the handle is
/// returned without a request, and the client will compute the loss.
pub(super) fn custom_loss(
    session: &Arc<Session>,
    losses: &Arc<CustomLosses>,
    session_id: Arc<str>,
    job: CustomLoss,
) {
    let CustomLoss { graph, ticket } = job;
    if !session.known_flags().config.custom_loss_server_side {
        return ticket.answer(Ok(LossHandle::new(graph, session_id, None)));
    }
    let (losses, owner, session) = (losses.clone(), session, session.clone());
    // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
    let _ = owner.pool[Job::Wait].spawn(move || {
        if let Some((creating, ticket)) = losses.get_or_claim(&graph, ticket) {
            create(&session, &losses, &session_id, &graph, creating, ticket);
        }
    });
}

/// Creates the loss for the caller of `ticket`. After a failure, answers that caller with the error and tries again for
/// the next waiting caller.
fn create(
    session: &Session,
    losses: &CustomLosses,
    session_id: &Arc<str>,
    graph: &Arc<LossGraph>,
    mut creating: Creating<'_>,
    mut ticket: Ticket<LossHandle>,
) {
    loop {
        match upload(session, losses, session_id, graph, &ticket) {
            Ok(handle) => {
                creating.created(&handle);
                return ticket.answer(Ok(handle));
            }
            Err(error) => ticket.answer(Err(error)),
        }
        match creating.next() {
            Some(next) => ticket = next,
            None => return,
        }
    }
}

fn upload(
    session: &Session,
    losses: &CustomLosses,
    session_id: &Arc<str>,
    graph: &Arc<LossGraph>,
    ticket: &Ticket<LossHandle>,
) -> Result<LossHandle> {
    let seq_id = losses.next_seq_id();
    let request = json::CreateCustomLossRequest::new(session_id, seq_id, graph);
    // Other callers may wait for the same loss: only the end of the session cancels the request.
    let creation = Creation { session, session_id, ticket, cancel: &session.cancel };
    let loss_id = match creation.submit(&endpoint::CREATE_CUSTOM_LOSS, &request, "CreateCustomLoss") {
        Ok(accepted) => {
            let made: json::CreateCustomLossResponse = creation.result(&accepted)?;
            Some(made.loss_id.into())
        }
        // The server lacks the endpoint although its flag announces the endpoint: the client will compute the loss.
        Err(error) if lacks_endpoint(&error) => {
            log::info!(target: "tinkex", "the server does not run custom losses: {} is computed by the client", graph.name());
            None
        }
        Err(error) => return Err(error),
    };
    Ok(LossHandle::new(graph.clone(), session_id.clone(), loss_id))
}

/// The custom losses of a session. Each is created once, for all callers (PROTOCOL §9.6).
#[derive(Default)]
pub(crate) struct CustomLosses {
    known: Mutex<Vec<Known>>,
    seq_id: AtomicU64,
}

struct Known {
    graph: Arc<LossGraph>,
    state: State,
}

enum State {
    /// One caller creates the loss; these tickets wait.
    Creating(Vec<Ticket<LossHandle>>),
    Created(LossHandle),
}

/// The right of one caller to create a loss, while other callers wait. If the claim is dropped before it has ended, the
/// entry of the loss is removed and the waiting tickets are answered with an error.
pub(crate) struct Creating<'a> {
    losses: &'a CustomLosses,
    graph: Arc<LossGraph>,
    /// True after the claim has ended. An entry with the same graph then belongs to another claim.
    is_over: bool,
}

impl CustomLosses {
    /// Takes the sequence id of the next loss. An id is never used twice, even if the creation fails (PROTOCOL §2.2).
    pub(crate) fn next_seq_id(&self) -> u64 {
        self.seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// If the loss exists, answers the ticket. If another caller is creating the loss, queues the ticket until the
    /// result is known. Otherwise returns the ticket with a claim: the caller must create the loss.
    pub(crate) fn get_or_claim(
        &self,
        graph: &Arc<LossGraph>,
        ticket: Ticket<LossHandle>,
    ) -> Option<(Creating<'_>, Ticket<LossHandle>)> {
        let handle = {
            let mut known = self.known.lock();
            match known.iter_mut().find(|known| known.graph.is_same_loss(graph)) {
                Some(Known { state: State::Creating(waiting), .. }) => {
                    waiting.push(ticket);
                    return None;
                }
                Some(Known { state: State::Created(handle), .. }) => handle.clone(),
                None => {
                    known.push(Known { graph: graph.clone(), state: State::Creating(Vec::new()) });
                    return Some((Creating { losses: self, graph: graph.clone(), is_over: false }, ticket));
                }
            }
        };
        ticket.answer(Ok(handle));
        None
    }

    fn position(known: &[Known], graph: &Arc<LossGraph>) -> Option<usize> {
        known.iter().position(|known| Arc::ptr_eq(&known.graph, graph))
    }
}

impl Creating<'_> {
    /// Ends the claim with the created loss, and answers all waiting tickets with it.
    pub(crate) fn created(mut self, handle: &LossHandle) {
        self.is_over = true;
        let waiting = {
            let mut known = self.losses.known.lock();
            let Some(i) = CustomLosses::position(&known, &self.graph) else { return };
            match std::mem::replace(&mut known[i].state, State::Created(handle.clone())) {
                State::Creating(waiting) => waiting,
                State::Created(_) => Vec::new(),
            }
        };
        waiting.into_iter().for_each(|ticket| ticket.answer(Ok(handle.clone())));
    }

    /// After a failed creation, takes the next waiting ticket. If no ticket waits, removes the entry of the loss
    /// without releasing the lock in between, so that a later caller gets a new claim.
    pub(crate) fn next(&mut self) -> Option<Ticket<LossHandle>> {
        loop {
            let ticket = {
                let mut known = self.losses.known.lock();
                let i = CustomLosses::position(&known, &self.graph)?;
                match &mut known[i].state {
                    State::Creating(waiting) if !waiting.is_empty() => waiting.remove(0),
                    _ => {
                        self.is_over = true;
                        // Safe under the lock: the entry has no tickets. Dropping a ticket would answer its caller
                        // under the lock.
                        known.swap_remove(i);
                        return None;
                    }
                }
            };
            if !ticket.is_given_up() {
                return Some(ticket);
            }
        }
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Drop the tickets outside the lock: dropping a ticket answers its caller.
        let unfinished = {
            let mut known = self.losses.known.lock();
            match CustomLosses::position(&known, &self.graph) {
                Some(i) if matches!(known[i].state, State::Creating(_)) => Some(known.swap_remove(i)),
                _ => None,
            }
        };
        drop(unfinished);
    }
}
