//! The clients of the crate.
//!
//! A service, training or sampling client is a cheap handle. It puts messages into the mailbox of an actor: a thread
//! that owns the client's state. All actors of one service client belong to one session. REST and admin clients have no
//! actor; their calls run on the caller's thread (`blocking_call`).
//!
//! Words in these modules: a *ticket* belongs to one operation and answers its caller with the result; dropping an
//! unanswered ticket answers with an error. A *promise* is the server's answer to an accepted request, with the id for
//! polling the result. The *flags* are settings that the server sends to each client. The *pool* has the session's
//! worker threads, in one class for each kind of job (`Job`).

mod admin;
mod blocking_call;
mod builder;
mod create;
mod loss;
mod rest;
mod sampling;
mod service;
mod training;

pub use admin::AdminClient;
pub use builder::ServiceClientBuilder;
pub use create::SamplingSource;
pub use rest::{FoundSessions, Listing, RestClient};
pub use sampling::{SamplerHandle, SamplingClient};
pub use service::ServiceClient;
pub use training::{TrainStep, TrainingClient};

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::error::{Category, Error, ErrorKind, Result};
use crate::http::Answer;
use crate::session::{Child, ClientStatus, Session};
use crate::sync::CancelToken;
use crate::sync::actor::{Actor, Handle};
use crate::sync::process::leak;
use crate::wire::json::{self, FutureReply, ResultBody, UntypedFuture};

/// Mailbox of a client's actor, and the token that cancels all operations of the client.
struct Client<M: Send + 'static> {
    kind: Kind,
    mailbox: Handle<M>,
    cancel: CancelToken,
}

impl<M: Send + 'static> Client<M> {
    /// Starts an actor and registers it with the session. The end of the session stops the actor.
    fn start<A: Actor<Msg = M>>(session: &Session, kind: Kind, actor: A) -> Result<ClientOwner<M>> {
        let mailbox = Handle::spawn(kind.thread_name(), session.config.threads.mailbox, actor)?;
        let client = Arc::new(Client { kind, mailbox, cancel: session.cancel.child() });
        session.add_child(client.clone());
        Ok(ClientOwner(client))
    }

    /// Puts a message into the mailbox. While the mailbox is full, waits until `deadline` at most.
    fn send(&self, session: &Session, msg: M, deadline: Option<Instant>) -> Result<()> {
        self.mailbox.send(msg, deadline).map_err(|error| self.refusal(session, error))
    }

    /// Puts a message into the mailbox, or fails if the mailbox is full.
    fn try_send(&self, session: &Session, msg: M) -> Result<()> {
        self.mailbox.try_send(msg).map_err(|error| self.refusal(session, error))
    }

    /// Replaces the error of a closed mailbox by one that names the closed session or client.
    fn refusal(&self, session: &Session, error: Error) -> Error {
        if !error.is_closed() || error.is_panic() {
            return error;
        }
        session.check_open().err().unwrap_or_else(|| self.kind.closed())
    }

    /// Ends this client. The session and its other clients continue.
    fn close(&self, session: &Session) {
        // Do nothing in a forked child process: the client's thread runs in the parent process.
        if session.is_forked_child() {
            return;
        }
        self.stop();
        self.join(Instant::now() + session.close_limit());
    }
}

/// Owner of a client, shared by all its handles. After the last handle is dropped, the actor handles the messages that
/// are still in its mailbox, and then ends.
struct ClientOwner<M: Send + 'static>(Arc<Client<M>>);

impl<M: Send + 'static> Deref for ClientOwner<M> {
    type Target = Client<M>;

    fn deref(&self) -> &Client<M> {
        &self.0
    }
}

impl<M: Send + 'static> Drop for ClientOwner<M> {
    fn drop(&mut self) {
        if self.0.mailbox.is_foreign() {
            return leak(&self.0);
        }
        self.0.mailbox.finish();
    }
}

impl<M: Send + 'static> Child for Client<M> {
    fn stop(&self) {
        self.cancel.cancel();
        self.mailbox.stop();
    }

    fn join(&self, deadline: Instant) {
        self.mailbox.join(deadline);
    }

    fn has_ended(&self) -> bool {
        !self.mailbox.is_alive()
    }

    fn status(&self) -> ClientStatus {
        ClientStatus { name: self.mailbox.name().into(), queued: self.mailbox.n_queued() }
    }
}

/// The kind of a client with an actor.
#[derive(Clone, Copy)]
enum Kind {
    Service,
    Training,
    Sampling,
}

impl Kind {
    /// Makes a thread name within the 15 bytes that Linux shows.
    fn thread_name(self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let kind = match self {
            Kind::Service => "serv",
            Kind::Training => "train",
            Kind::Sampling => "samp",
        };
        format!("tk-{kind}-{}", COUNT.fetch_add(1, Ordering::Relaxed) % 10_000)
    }

    /// Error for a call to a closed client of this kind.
    fn closed(self) -> Error {
        Error::closed(match self {
            Kind::Service => "the service client is closed; build a new one",
            Kind::Training => "the training client is closed; create a new one with the service client",
            Kind::Sampling => "the sampling client is closed; create a new one with the service client",
        })
    }
}

/// Answer to a submitted request: usually a promise, otherwise the result or an error itself.
enum Submitted {
    Promised(UntypedFuture),
    Done(Result<ResultBody>),
}

impl Submitted {
    /// Reads the answer to a request. `request_type` is the protocol's name of the request, such as `OptimStep`.
    ///
    /// # Errors
    /// The answer is neither a promise nor a result. It is then unknown if the server will run the request.
    fn read(answer: Answer, request_type: &str) -> Result<Self> {
        if answer.is_protobuf() {
            return Ok(Submitted::Done(Ok(ResultBody::Protobuf(answer.body))));
        }
        let value = json::parse(&answer.body)?;
        if value.get("request_id").is_some() {
            return Ok(Submitted::Promised(json::response_value(value)?));
        }
        match FutureReply::classify(value) {
            FutureReply::Done(result) if json::is_result(request_type, &result) => {
                Ok(Submitted::Done(Ok(ResultBody::Json(result))))
            }
            FutureReply::Failed { message, category } => {
                let category = Category::parse(&category);
                Ok(Submitted::Done(Err(Error::new(ErrorKind::RequestFailed { category }, message))))
            }
            _ => Err(Error::decode(format!(
                "the server answered {request_type} with neither the id of a request nor a result"
            ))),
        }
    }
}

/// Converts the error of a malformed path into a decoding error: the path comes from the server's answer, so the caller
/// is not at fault.
fn from_server<T>(path: Result<T>) -> Result<T> {
    path.map_err(|error| Error::decode(format!("the server's answer has a bad path: {}", error.message())))
}
