//! The clients: handles that submit, and the actors that own their state.

mod admin;
mod asking;
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

/// A client's actor, and the token from which its operations descend.
struct Client<M: Send + 'static> {
    mailbox: Handle<M>,
    cancel: CancelToken,
}

impl<M: Send + 'static> Client<M> {
    /// Starts an actor and tells the session of it, which will stop it at its own end.
    fn start<A: Actor<Msg = M>>(session: &Session, kind: &str, actor: A) -> Result<Hold<M>> {
        // Whoever submits more than it holds waits until the actor has taken one: submitting is then as fast as the
        // server accepts.
        let mailbox = Handle::spawn(thread_name(kind), session.config.threads.mailbox, actor)?;
        let client = Arc::new(Client { mailbox, cancel: session.cancel.child() });
        session.adopt(client.clone());
        Ok(Hold(client))
    }

    /// Ends this client and nothing else.
    fn close(&self, session: &Session) {
        // It is the parent's to close.
        if session.is_foreign() {
            return;
        }
        self.stop();
        self.join(Instant::now() + session.closing());
    }
}

/// What a client's handles share. When the last of them is gone, what is queued is still submitted, then the thread ends.
struct Hold<M: Send + 'static>(Arc<Client<M>>);

impl<M: Send + 'static> Deref for Hold<M> {
    type Target = Client<M>;

    fn deref(&self) -> &Client<M> {
        &self.0
    }
}

impl<M: Send + 'static> Drop for Hold<M> {
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

/// A name for a client's thread, within the 15 bytes that Linux shows.
fn thread_name(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("tk-{kind}-{}", COUNT.fetch_add(1, Ordering::Relaxed) % 10_000)
}

/// What a server answers to a submission: most promise a result, some send it, or why there is none, at once.
enum Submitted {
    Promised(UntypedFuture),
    Done(Result<ResultBody>),
}

impl Submitted {
    /// Reads the answer to a request of a type, such as `OptimStep`.
    ///
    /// # Errors
    /// What is neither a promise nor a result: nobody knows what the server did.
    fn read(answer: Answer, request_type: &str) -> Result<Self> {
        if answer.is_protobuf() {
            return Ok(Submitted::Done(Ok(ResultBody::Protobuf(answer.body))));
        }
        let value = json::parse(&answer.body)?;
        if value.get("request_id").is_some() {
            return Ok(Submitted::Promised(json::response_value(value)?));
        }
        match FutureReply::classify(value) {
            FutureReply::Done(it) if json::is_result(request_type, &it) => {
                Ok(Submitted::Done(Ok(ResultBody::Json(it))))
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

/// A path in the server's answer that we do not understand is the server's fault, not the caller's.
fn from_server<T>(path: Result<T>) -> Result<T> {
    path.map_err(|it| Error::decode(format!("the server's answer: {}", it.message())))
}
