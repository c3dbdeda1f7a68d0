//! Creation of custom losses, each once in a session, on threads of the pool (PROTOCOL §9.6).

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

/// Creates a loss: on a thread of the pool if the server runs custom losses, else at once.
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
    // If the pool is closed, the ticket in the dropped job answers.
    let _ = owner.pool[Job::Wait].spawn(move || {
        if let Some((creating, ticket)) = losses.get_or_claim(&graph, ticket) {
            create(&session, &losses, &session_id, &graph, creating, ticket);
        }
    });
}

/// Creates the loss for the first caller, and after a failure for the next one that waits.
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
        // Contrary to its flag the server lacks the endpoint: compute the loss here.
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

/// Claim to create a loss. Dropping it unfinished removes the loss, and answers the waiting tickets with an error.
pub(crate) struct Creating<'a> {
    losses: &'a CustomLosses,
    graph: Arc<LossGraph>,
    /// The claim has ended, so that an entry with the same graph belongs to another claim.
    is_over: bool,
}

impl CustomLosses {
    /// Takes the sequence id of the next loss. It is used up even if the creation fails (PROTOCOL §2.2).
    pub(crate) fn next_seq_id(&self) -> u64 {
        self.seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Answers the ticket at once if the loss exists, or later if another caller creates it. Otherwise returns the
    /// claim to create it, with the ticket.
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

    /// Takes the next ticket that waits, after the creation failed. If none waits, removes the loss in the same
    /// critical section, so that a later caller gets a new claim.
    pub(crate) fn next(&mut self) -> Option<Ticket<LossHandle>> {
        loop {
            let ticket = {
                let mut known = self.losses.known.lock();
                let i = CustomLosses::position(&known, &self.graph)?;
                match &mut known[i].state {
                    State::Creating(waiting) if !waiting.is_empty() => waiting.remove(0),
                    _ => {
                        self.is_over = true;
                        // The entry has no tickets that could be dropped under the lock.
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
        // Drop the tickets outside the lock: they answer.
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
