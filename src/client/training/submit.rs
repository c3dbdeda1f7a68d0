//! Sends the requests of a training client in order.
//!
//! The server runs the requests of a model in the order of their sequence ids, and waits for a missing id. One
//! operation is one *turn*: it reserves the ids of its requests, sends the requests, and records the *fate* of each:
//! accepted, refused, not sent, or unknown. An unknown fate may leave a gap in the ids. The order is then lost: the
//! client is poisoned and sends no further request (PROTOCOL §8.2).

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

/// Encodes the JSON body of a request for a model id and a sequence id.
pub(super) type WriteBody = Box<dyn FnOnce(&str, u64) -> Result<Vec<u8>> + Send>;

/// An operation of one request.
pub(super) struct SingleRequest<T: Send + 'static> {
    pub(super) ticket: Ticket<T>,
    pub(super) endpoint: &'static Endpoint,
    pub(super) request_type: &'static str,
    pub(super) body: WriteBody,
    /// Decodes the result.
    pub(super) read: fn(&ResultBody) -> Result<T>,
    /// Set if the request saves something under a name.
    pub(super) named: Option<Named<T>>,
}

/// A save under a name that can be used once.
pub(super) struct Named<T> {
    pub(super) name: String,
    /// Makes the result from the model id and the name, if the answer of the server was lost.
    pub(super) result: fn(&str, &str) -> Result<T>,
}

/// State of a training client's actor: the sequence ids and, if the order is lost, the reason.
pub(super) struct Sequencer {
    pub(super) session: Arc<Session>,
    pub(super) model_id: String,
    pub(super) turns: Turns,
    /// Set if the order is lost. No request may be sent then.
    broken: Option<Broken>,
    /// True during a turn: set by `begin`, reset by `settle`. If it is already true when a turn begins, a panic
    /// interrupted the previous turn.
    unsettled: bool,
    /// Endpoint and name of each successful save.
    saved: HashSet<(&'static str, String)>,
}

/// Reason why a client's order is lost.
struct Broken {
    message: &'static str,
    cause: Error,
}

const UNKNOWN_FATE: &str = "an earlier request of this client may or may not have arrived, so the order of training is \
                            lost; make a new client from the last checkpoint";
const NO_GRADIENTS: &str = "a custom loss of this client failed between its forward and its backward pass, so that later \
                            operations would run without its gradients; make a new client from the last checkpoint";

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

    /// Begins a turn: reserves the sequence ids of `n` requests. Fails without reserving ids if the operation was
    /// cancelled while it was queued, or if the client is poisoned.
    pub(super) fn begin<T: Send + 'static>(&mut self, ticket: &Ticket<T>, n: usize) -> Result<Range<u32>> {
        // Also an operation that is refused here has left the mailbox.
        ticket.progress.submitting();
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
            Error::new(
                ErrorKind::Poisoned,
                "the client has used all sequence ids of the protocol; make a new client from a checkpoint",
            )
        })?;
        self.unsettled = true;
        Ok(range)
    }

    /// Ends a turn. `fates` has the fate of each request. `result` is the error if not all requests were accepted. If the
    /// order of the client is lost, the returned error is not retryable.
    pub(super) fn settle<T>(&mut self, range: Range<u32>, fates: &[Fate], result: Result<T>) -> Result<T> {
        self.unsettled = false;
        if self.turns.settle(range, fates) == Settled::Broken {
            return self.break_order(UNKNOWN_FATE, result);
        }
        result
    }

    /// As [`settle`](Self::settle), for the turn of a pass with a custom loss. `forward` and `backward` have the fates
    /// of its forward and backward parts; `backward` is `None` if the backward parts were not sent.
    pub(super) fn settle_custom<T>(
        &mut self,
        range: Range<u32>,
        forward: &[Fate],
        backward: Option<&[Fate]>,
        result: Result<T>,
    ) -> Result<T> {
        self.unsettled = false;
        if self.turns.settle_custom(range, forward, backward) == Settled::Broken {
            let lost =
                forward.iter().chain(backward.into_iter().flatten()).any(|fate| *fate == Fate::Unknown);
            return self.break_order(if lost { UNKNOWN_FATE } else { NO_GRADIENTS }, result);
        }
        result
    }

    fn break_order<T>(&mut self, message: &'static str, result: Result<T>) -> Result<T> {
        result.map_err(|cause| {
            self.broken = Some(Broken { message, cause: cause.clone() });
            cause.with(|context| context.poisons = Some(true))
        })
    }

    /// Sends the request of an operation that has only one request. A pool thread waits for the result.
    pub(super) fn submit_request<T: Send + 'static>(&mut self, request: SingleRequest<T>) {
        let SingleRequest { ticket, endpoint, request_type, body, read, named } = request;
        let map_conflict =
            move |error: Error| if endpoint.saves_by_name { as_conflict(error) } else { error };
        match self.send_request(&ticket, endpoint, request_type, body, named) {
            Err(error) => ticket.answer(Err(map_conflict(error))),
            Ok(SendOutcome::SavedEarlier(result)) => ticket.answer(result),
            Ok(SendOutcome::Answered(Submitted::Done(result), _)) => {
                ticket.answer(result.and_then(|body| read(&body)).map_err(map_conflict));
            }
            Ok(SendOutcome::Answered(Submitted::Promised(promised), born)) => {
                let session = self.session.clone();
                let roundtrip = born.saturating_duration_since(ticket.progress.submitted());
                let request_id = promised.request_id;
                let promise =
                    Promise { request_id, request_type, protobuf: false, born, roundtrip, room: Room::SMALL };
                // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
                let _ = self.session.pool[Job::Wait].spawn(move || {
                    let result = session
                        .retrieve(&promise, &ticket.progress, &ticket.cancel)
                        .and_then(|result| read(&result.body));
                    ticket.answer(result.map_err(map_conflict));
                });
            }
        }
    }

    fn send_request<T: Send + 'static>(
        &mut self,
        ticket: &Ticket<T>,
        endpoint: &'static Endpoint,
        request_type: &str,
        body: WriteBody,
        named: Option<Named<T>>,
    ) -> Result<SendOutcome<T>> {
        let range = self.begin(ticket, 1)?;
        let seq_id = u64::from(range.start);
        let sent = body(&self.model_id, seq_id).and_then(|body| {
            let call = Call::new(Lane::Train, endpoint, Body::Json(body.into()))
                .of(&ticket.progress)
                .answered_within(Room::SMALL);
            self.session.http.send(&call, &ticket.cancel)
        });
        let born = self.session.clock.now();
        let mut submitted = sent
            .and_then(|answer| Submitted::read(answer, request_type))
            .map(|it| SendOutcome::Answered(it, born));
        let mut fate = submitted.as_ref().map_or_else(fate, |_| Fate::Accepted);
        if let Some(Named { name, result }) = named {
            let is_new = !self.saved.contains(&(endpoint.name, name.clone()));
            match &submitted {
                // An earlier attempt of this request saved the name, and its answer was lost: this client had not saved
                // the name before, and no other client saves checkpoints of this model.
                Err(error) if fate == Fate::Unknown && says_it_exists(error) && is_new => {
                    log::warn!(target: "tinkex", "{name:?} was saved by an attempt whose answer was lost: {error}");
                    submitted = Ok(SendOutcome::SavedEarlier(result(&self.model_id, &name)));
                    fate = Fate::Accepted;
                }
                // This client had saved the name before this request. The server refused all attempts, also those whose
                // answer was lost.
                Err(error) if fate == Fate::Unknown && says_it_exists(error) => fate = Fate::Refused,
                _ => {}
            }
            if fate == Fate::Accepted {
                self.saved.insert((endpoint.name, name));
            }
        }
        let submitted = self.settle(range, &[fate], submitted);
        if let Ok(it) = &submitted {
            ticket.progress.contact(born);
            if let SendOutcome::Answered(Submitted::Promised(promised), _) = it {
                ticket.progress.accepted(&promised.request_id);
            }
        }
        let model_id = &self.model_id;
        submitted.map_err(|error| {
            error.with(|context| {
                (context.seq_id, context.model_id) = (Some(seq_id), Some(model_id.clone()));
            })
        })
    }
}

/// A request that the server accepted.
enum SendOutcome<T> {
    /// The answer, and the time at which it arrived.
    Answered(Submitted, Instant),
    /// An earlier attempt saved the name and its answer was lost. The result is made from the name.
    SavedEarlier(Result<T>),
}

/// Returns whether the server answered that the name exists already (PROTOCOL §11).
fn says_it_exists(error: &Error) -> bool {
    error.http_status() == Some(409) && says_exists(error)
}

fn says_exists(error: &Error) -> bool {
    error.message().to_lowercase().contains("already exists")
}

/// Turns the failure of a save into a conflict if the name exists already. Some servers report an existing name as a
/// failed result or with a status other than 409.
fn as_conflict(error: Error) -> Error {
    let refused = matches!(
        error.kind(),
        ErrorKind::RequestFailed { category: Category::User | Category::Unknown }
            | ErrorKind::Status { code: 400 | 422 }
    );
    if !refused || !says_exists(&error) {
        return error;
    }
    let message = error.message().to_string();
    error.renamed(ErrorKind::Conflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_exists_is_a_conflict_in_each_form_of_the_servers_answer() {
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
