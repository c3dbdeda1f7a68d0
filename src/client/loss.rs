//! Making a custom loss: what a service's actor hands to the pool (PROTOCOL §9.6).

use std::sync::Arc;

use super::create::Maker;
use crate::error::Result;
use crate::http::endpoint;
use crate::session::{Creating, Session, Ticket, is_not_offered};
use crate::types::{LossGraph, LossHandle};
use crate::wire::json;

/// A loss to be made.
pub(super) struct CustomLoss {
    pub(super) graph: Arc<LossGraph>,
    pub(super) ticket: Ticket<LossHandle>,
}

/// Makes a loss, on a thread of the pool if the server is to run it.
pub(super) fn custom_loss(session: &Arc<Session>, session_id: Arc<str>, job: CustomLoss) {
    let CustomLoss { graph, ticket } = job;
    if !session.known_flags().config.custom_loss_server_side {
        return ticket.answer(Ok(LossHandle::new(graph, session_id, None)));
    }
    let (pool, session) = (session.waiters.clone(), session.clone());
    // A pool that is closed drops the job, and with it the ticket, which then answers by itself.
    let _answered_by_its_ticket = pool.spawn(move || {
        if let Some((creating, ticket)) = session.custom_losses.ask(&graph, ticket) {
            create(&session, &session_id, &graph, creating, ticket);
        }
    });
}

/// Creates the loss for the first who asked, or if that fails for the next.
fn create(
    session: &Session,
    session_id: &Arc<str>,
    graph: &Arc<LossGraph>,
    mut creating: Creating<'_>,
    mut ticket: Ticket<LossHandle>,
) {
    loop {
        match upload(session, session_id, graph, &ticket) {
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
    session_id: &Arc<str>,
    graph: &Arc<LossGraph>,
    ticket: &Ticket<LossHandle>,
) -> Result<LossHandle> {
    let seq_id = session.custom_losses.next_seq_id();
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
