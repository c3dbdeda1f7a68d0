//! Counts the outcomes of the operations, and checks that an injected fault, a close or a cancellation explains each
//! error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tinkex::{Category, Error, ErrorKind};

use super::chaos::Fault;
use super::server::Books;

/// One operation and the facts that may explain its failure.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) op: u32,
    pub(super) verb: &'static str,
    /// One flag for each client that the operation uses, set before that client is closed.
    pub(super) closed: Vec<Arc<AtomicBool>>,
    pub(super) cancelled: bool,
    /// True if the service that runs the operation has `Service::gives_up_pauses`: a long pause of the queue ends the
    /// operation.
    pub(super) gives_up_pauses: bool,
    /// Flag of the training client that runs the operation. Set when an operation of this client fails with `Poisoned`.
    pub(super) lost: Arc<AtomicBool>,
    pub(super) books: Books,
}

/// The outcomes of many operations.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) succeeded: BTreeMap<&'static str, u64>,
    pub(super) failed: BTreeMap<String, u64>,
    /// Operations whose `Pending` or channel was dropped, so that the outcome is unknown.
    pub(super) dropped: u64,
    pub(super) violations: Vec<String>,
}

impl Tally {
    /// Counts an outcome. `wrong` returns a text if the result is not that of this operation.
    pub(super) fn answered<T>(
        &mut self,
        question: &Question,
        result: Result<T, Error>,
        wrong: impl FnOnce(&T) -> Option<String>,
    ) {
        match result {
            Ok(it) => {
                *self.succeeded.entry(question.verb).or_default() += 1;
                if let Some(what) = wrong(&it) {
                    self.violation(question, &format!("got the answer of another question: {what}"));
                }
            }
            Err(error) => {
                if *error.kind() == ErrorKind::Poisoned {
                    question.lost.store(true, Ordering::SeqCst);
                }
                *self.failed.entry(name(&error)).or_default() += 1;
                if !question.explains(&error) {
                    let injected = question.books.injected(question.op, error.url());
                    self.violation(question, &format!("failed without a cause: {error:?}, of {injected:?}"));
                }
            }
        }
    }

    pub(super) fn violation(&mut self, question: &Question, what: &str) {
        self.violations.push(format!("{} {}: {what}", question.verb, question.op));
    }

    /// Number of all operations that ended or were dropped.
    pub(super) fn total(&self) -> u64 {
        self.succeeded.values().sum::<u64>() + self.failed.values().sum::<u64>() + self.dropped
    }

    pub(super) fn add(&mut self, other: Tally) {
        for (verb, n) in other.succeeded {
            *self.succeeded.entry(verb).or_default() += n;
        }
        for (kind, n) in other.failed {
            *self.failed.entry(kind).or_default() += n;
        }
        self.dropped += other.dropped;
        self.violations.extend(other.violations);
    }
}

fn name(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Connection { .. } => "connection".into(),
        ErrorKind::Stuck { .. } => "stuck".into(),
        ErrorKind::Panicked { .. } => "panicked".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

impl Question {
    fn is_closed(&self) -> bool {
        self.closed.iter().any(|it| it.load(Ordering::SeqCst))
    }

    /// True if a fault, a close, a cancellation or a pause of this operation explains the error.
    fn explains(&self, error: &Error) -> bool {
        let injected = self.books.injected(self.op, error.url());
        let any = |is: &dyn Fn(&Fault) -> bool| injected.iter().any(is);
        let status = |code: u16| any(&|it| matches!(it, Fault::Status { code: its, .. } if *its == code));
        match error.kind() {
            ErrorKind::Closed => self.is_closed(),
            ErrorKind::Cancelled => self.cancelled,
            // Stalls, resets and restarts of the server cause these errors. They may have been injected into requests
            // of other operations, so accept every such error.
            ErrorKind::Timeout(_) | ErrorKind::Connection { .. } => true,
            ErrorKind::Decode => any(&|it| matches!(it, Fault::Nonsense { .. } | Fault::Garbage { .. })),
            ErrorKind::NotFound => status(404),
            // After a 404 the service remembers that the server lacks the endpoint; later calls fail without a request.
            ErrorKind::Incompatible => self.verb == "get_server_capabilities",
            ErrorKind::Conflict => status(409),
            ErrorKind::PromiseExpired => status(410),
            ErrorKind::RateLimited => status(429),
            ErrorKind::Status { code } => status(*code),
            ErrorKind::RequestFailed { category } => {
                let said = match category {
                    Category::User => "user",
                    Category::Server => "server",
                    _ => "unknown",
                };
                any(&|it| *it == Fault::Failed(said)) || (said == "user" && status(400))
            }
            ErrorKind::Paused => self.gives_up_pauses && self.books.was_paused(self.op),
            // The cause is the failure of an earlier operation of the client. That failure is checked as the outcome of
            // the earlier operation.
            ErrorKind::Poisoned => error.cause().is_some_and(|it| !it.is_panic()),
            _ => false,
        }
    }
}
