//! The custom losses of a session: each is created once (PROTOCOL §9.6), however many ask for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::Ticket;
use crate::sync::Mutex;
use crate::types::{LossGraph, LossHandle};

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
