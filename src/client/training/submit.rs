//! How a training client's requests reach the server in order.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::client::Submitted;
use crate::error::{Category, Error, ErrorKind, Result};
use crate::http::{Body, Call, Endpoint, Lane, Room};
use crate::policy::turn::{Fate, Settled, Turns, fate};
use crate::session::{Job, Promise, Session, Ticket};
use crate::wire::json::ResultBody;

/// Writes a request's JSON body for a model and a sequence id.
pub(super) type WriteBody = Box<dyn FnOnce(&str, u64) -> Result<Vec<u8>> + Send>;

/// A request of one part, with its result.
pub(super) struct Ask<T: Send + 'static> {
    pub(super) ticket: Ticket<T>,
    pub(super) endpoint: &'static Endpoint,
    pub(super) request_type: &'static str,
    pub(super) body: WriteBody,
    /// Reads the JSON result.
    pub(super) read: fn(&ResultBody) -> Result<T>,
    /// What is saved under a name, if anything is.
    pub(super) named: Option<Named<T>>,
}

/// Something that is saved under a name that may be used once.
pub(super) struct Named<T> {
    pub(super) name: String,
    /// The result that the model's id and the name make certain.
    pub(super) result: fn(&str, &str) -> Result<T>,
}

/// The state of a training client's actor: whose turn it is, and whether the order still holds.
pub(super) struct Sequencer {
    pub(super) session: Arc<Session>,
    pub(super) model_id: String,
    pub(super) turns: Turns,
    /// Why no later request may be sent.
    broken: Option<Broken>,
    /// Ids are reserved whose fate is not settled yet. Found set at the start of a turn, it means that a panic cut the
    /// last one short.
    unsettled: bool,
    /// What was saved already: the endpoint and the name.
    saved: HashSet<(&'static str, String)>,
}

/// Why a client's order is lost.
struct Broken {
    message: &'static str,
    cause: Error,
}

const UNKNOWN_FATE: &str = "an earlier request of this client may or may not have arrived, so the order of training is \
                            lost; make a new client from the last checkpoint";
const NO_GRADIENTS: &str = "a custom loss of this client failed between its forward and its backward pass, so what was \
                            submitted behind it would run without its gradients; make a new client from the last \
                            checkpoint";

impl Sequencer {
    pub(super) fn new(session: Arc<Session>, model_id: String, first_seq_id: u32) -> Self {
        Sequencer {
            session,
            model_id,
            turns: Turns::starting_at(first_seq_id),
            broken: None,
            unsettled: false,
            saved: HashSet::new(),
        }
    }

    /// Begins a turn of `n` requests. An operation that was given up while it was queued takes no turn at all.
    pub(super) fn begin<T: Send + 'static>(&mut self, ticket: &Ticket<T>, n: usize) -> Result<Range<u32>> {
        if ticket.is_given_up() {
            return Err(Error::cancelled());
        }
        if self.unsettled && self.broken.is_none() {
            let cause = Error::closed("the client's thread panicked while it sent a request");
            self.broken = Some(Broken { message: UNKNOWN_FATE, cause });
        }
        if let Some(Broken { message, cause }) = &self.broken {
            return Err(Error::new(ErrorKind::Poisoned, *message).caused_by(cause.clone()));
        }
        let range = self.turns.reserve(n).ok_or_else(|| {
            Error::new(ErrorKind::Poisoned, "the client used up all sequence ids of the protocol")
        })?;
        self.unsettled = true;
        ticket.progress.submitting();
        Ok(range)
    }

    /// Ends a turn whose requests had these fates; `cause` says why not all of them were accepted.
    pub(super) fn settle(&mut self, range: Range<u32>, fates: &[Fate], cause: Option<&Error>) {
        self.unsettled = false;
        if self.turns.settle(range, fates) == Settled::Broken {
            self.broken = cause.cloned().map(|cause| Broken { message: UNKNOWN_FATE, cause });
        }
    }

    /// Ends the turn of a custom loss; without fates of its backward parts there are no gradients.
    pub(super) fn settle_custom(
        &mut self,
        range: Range<u32>,
        forward: &[Fate],
        backward: Option<&[Fate]>,
        cause: Option<&Error>,
    ) {
        self.unsettled = false;
        if self.turns.settle_custom(range, forward, backward) == Settled::Broken {
            let lost = forward.iter().chain(backward.into_iter().flatten()).any(|it| *it == Fate::Unknown);
            let message = if lost { UNKNOWN_FATE } else { NO_GRADIENTS };
            self.broken = cause.cloned().map(|cause| Broken { message, cause });
        }
    }

    /// Sends a request of one part and leaves the wait for its result to the pool.
    pub(super) fn ask<T: Send + 'static>(&mut self, ask: Ask<T>) {
        let Ask { ticket, endpoint, request_type, body, read, named } = ask;
        let named_alike = move |error: Error| if endpoint.saves_by_name { as_conflict(error) } else { error };
        match self.submit(&ticket, endpoint, request_type, body, named) {
            Err(error) => ticket.answer(Err(named_alike(error))),
            Ok(Taken::Saved(result)) => ticket.answer(result),
            Ok(Taken::Now(Submitted::Done(result), _)) => {
                ticket.answer(result.and_then(|it| read(&it)).map_err(named_alike));
            }
            Ok(Taken::Now(Submitted::Promised(promised), born)) => {
                let session = self.session.clone();
                let roundtrip = born.saturating_duration_since(ticket.progress.submitted());
                let request_id = promised.request_id;
                let promise =
                    Promise { request_id, request_type, protobuf: false, born, roundtrip, room: Room::SMALL };
                // If the pool is closed, the ticket in the dropped job answers.
                let _ = self.session.pool[Job::Wait].spawn(move || {
                    let result = session
                        .retrieve(&promise, &ticket.progress, &ticket.cancel)
                        .and_then(|it| read(&it.body));
                    ticket.answer(result.map_err(named_alike));
                });
            }
        }
    }

    fn submit<T: Send + 'static>(
        &mut self,
        ticket: &Ticket<T>,
        endpoint: &'static Endpoint,
        request_type: &str,
        body: WriteBody,
        named: Option<Named<T>>,
    ) -> Result<Taken<T>> {
        let range = self.begin(ticket, 1)?;
        let seq_id = u64::from(range.start);
        let sent = body(&self.model_id, seq_id).and_then(|body| {
            let call = Call::new(Lane::Train, endpoint, Body::Json(body.into()))
                .of(&ticket.progress)
                .answered_within(Room::SMALL);
            self.session.http.send(&call, &ticket.cancel)
        });
        let born = self.session.clock.now();
        let mut submitted =
            sent.and_then(|it| Submitted::read(it, request_type)).map(|it| Taken::Now(it, born));
        let mut fate = submitted.as_ref().map_or_else(fate, |_| Fate::Accepted);
        if let Some(Named { name, result }) = named {
            let is_new = !self.saved.contains(&(endpoint.name, name.clone()));
            match &submitted {
                // An earlier attempt was taken after all: nobody but this client saves anything of its model.
                Err(error) if fate == Fate::Unknown && says_it_exists(error) && is_new => {
                    log::warn!(target: "tinkex", "{name:?} was saved, though the answer to that was lost: {error}");
                    submitted = Ok(Taken::Saved(result(&self.model_id, &name)));
                    fate = Fate::Accepted;
                }
                // Every attempt was refused for the same reason, also those without an answer.
                Err(error) if fate == Fate::Unknown && says_it_exists(error) => fate = Fate::Refused,
                _ => {}
            }
            if fate == Fate::Accepted {
                self.saved.insert((endpoint.name, name));
            }
        }
        self.settle(range, &[fate], submitted.as_ref().err());
        if let Ok(it) = &submitted {
            ticket.progress.contact(born);
            if let Taken::Now(Submitted::Promised(promised), _) = it {
                ticket.progress.accepted(&promised.request_id);
            }
        }
        let model_id = &self.model_id;
        let placed =
            |it: Error| it.with(|it| (it.seq_id, it.model_id) = (Some(seq_id), Some(model_id.clone())));
        submitted.map_err(placed)
    }
}

/// A request that the server took.
enum Taken<T> {
    /// Now, with this answer.
    Now(Submitted, Instant),
    /// With an earlier attempt, whose answer was lost. What it saved is known all the same.
    Saved(Result<T>),
}

/// A refusal because there is something under the name (PROTOCOL §11).
fn says_it_exists(error: &Error) -> bool {
    error.http_status() == Some(409) && says_exists(error)
}

fn says_exists(error: &Error) -> bool {
    error.message().to_lowercase().contains("already exists")
}

/// The failure of a save as a conflict, if there is something under the name. Servers that find that out when the save has its
/// turn say it as the result, and some with another status.
fn as_conflict(error: Error) -> Error {
    let refused = matches!(
        error.kind(),
        ErrorKind::RequestFailed { category: Category::User | Category::Unknown }
            | ErrorKind::Status { code: 400 | 422 }
    );
    match refused && says_exists(&error) {
        true => {
            let message = error.message().to_string();
            error.renamed(ErrorKind::Conflict, message)
        }
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_a_conflict_however_the_server_says_it() {
        use ErrorKind::*;
        let exists = "tinker://r/weights/x already exists";
        let table = [
            (RequestFailed { category: Category::User }, exists, Conflict),
            (RequestFailed { category: Category::Unknown }, "Checkpoint Already Exists", Conflict),
            (Status { code: 400 }, exists, Conflict),
            (
                RequestFailed { category: Category::Server },
                exists,
                RequestFailed { category: Category::Server },
            ),
            (RequestFailed { category: Category::User }, "bad", RequestFailed { category: Category::User }),
            (Status { code: 503 }, exists, Status { code: 503 }),
            (Conflict, exists, Conflict),
        ];
        for (kind, message, expected) in table {
            let error = as_conflict(Error::new(kind.clone(), message));
            assert_eq!((error.kind(), error.message()), (&expected, message), "{kind:?}");
        }
    }
}
