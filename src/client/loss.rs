//! Making a custom loss: what a service's actor hands to the pool (PROTOCOL §9.6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::create::Maker;
use crate::error::Result;
use crate::http::endpoint;
use crate::session::{Job, Session, Ticket, is_not_offered};
use crate::sync::Mutex;
use crate::types::{LossGraph, LossHandle};
use crate::wire::json;

/// A loss to be made.
pub(super) struct CustomLoss {
    pub(super) graph: Arc<LossGraph>,
    pub(super) ticket: Ticket<LossHandle>,
}

/// Makes a loss, on a thread of the pool if the server is to run it.
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
    let (losses, pool_of, session) = (losses.clone(), session, session.clone());
    // If the pool is closed, the ticket in the dropped job answers.
    let _ = pool_of.pool[Job::Wait].spawn(move || {
        if let Some((creating, ticket)) = losses.ask(&graph, ticket) {
            create(&session, &losses, &session_id, &graph, creating, ticket);
        }
    });
}

/// Creates the loss for the first who asked, or if that fails for the next.
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
    // Others may wait for the same loss, and the server would not create it twice: the one who asked first cannot end it.
    let maker = Maker { session, session_id, ticket, cancel: &session.cancel };
    let loss_id = match maker.submit(&endpoint::CREATE_CUSTOM_LOSS, &request, "CreateCustomLoss") {
        Ok(accepted) => {
            let made: json::CreateCustomLossResponse = maker.result(&accepted)?;
            Some(made.loss_id.into())
        }
        // The flag promised too much. The loss can still be computed here.
        Err(error) if is_not_offered(&error) => {
            log::info!(target: "tinkex", "the server runs no custom losses; {} is computed here", graph.name());
            None
        }
        Err(error) => return Err(error),
    };
    Ok(LossHandle::new(graph.clone(), session_id.clone(), loss_id))
}

/// The custom losses of a session: each is created once (PROTOCOL §9.6), however many callers want it.
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
    /// Somebody is creating it; these wait.
    Creating(Vec<Ticket<LossHandle>>),
    Created(LossHandle),
}

/// The right to create a loss. Given up without an end, those who wait are told by their tickets.
pub(crate) struct Creating<'a> {
    losses: &'a CustomLosses,
    graph: Arc<LossGraph>,
    /// The right was used or given back; what stands under the graph now is somebody else's.
    is_over: bool,
}

impl CustomLosses {
    /// The number of the next loss of the session. Used up even if its creation fails (PROTOCOL §2.2).
    pub(crate) fn next_seq_id(&self) -> u64 {
        self.seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Answers at once if the loss exists, or later if somebody is creating it. Whoever gets the ticket back must create it.
    pub(crate) fn ask(
        &self,
        graph: &Arc<LossGraph>,
        ticket: Ticket<LossHandle>,
    ) -> Option<(Creating<'_>, Ticket<LossHandle>)> {
        let handle = {
            let mut known = self.known.lock();
            match known.iter_mut().find(|it| it.graph.is_same_loss(graph)) {
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
        known.iter().position(|it| Arc::ptr_eq(&it.graph, graph))
    }
}

impl Creating<'_> {
    /// The loss exists: whoever waited gets it, and so does everybody who asks later.
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
        waiting.into_iter().for_each(|it| it.answer(Ok(handle.clone())));
    }

    /// Somebody who still waits, and may have more luck. `None` if nobody does: then the right is given back in the same
    /// moment, and whoever asks next begins anew.
    pub(crate) fn next(&mut self) -> Option<Ticket<LossHandle>> {
        loop {
            let ticket = {
                let mut known = self.losses.known.lock();
                let i = CustomLosses::position(&known, &self.graph)?;
                match &mut known[i].state {
                    State::Creating(waiting) if !waiting.is_empty() => waiting.remove(0),
                    _ => {
                        self.is_over = true;
                        // Nobody waits for it, so that no ticket is dropped under the lock.
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
        // Tickets answer when they are dropped, which must not happen under the lock.
        let _unfinished = {
            let mut known = self.losses.known.lock();
            match CustomLosses::position(&known, &self.graph) {
                Some(i) if matches!(known[i].state, State::Creating(_)) => Some(known.swap_remove(i)),
                _ => None,
            }
        };
    }
}
