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

use serde_json::Value;

use crate::error::Result;
use crate::http::Answer;
use crate::session::{Child, Session};
use crate::sync::CancelToken;
use crate::sync::actor::{Actor, Handle};
use crate::wire::json::{self, UntypedFuture};

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
}

/// A name for a client's thread, within the 15 bytes that Linux shows.
fn thread_name(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("tk-{kind}-{}", COUNT.fetch_add(1, Ordering::Relaxed) % 10_000)
}

/// What a server answers to a submission: most promise a result, some send it at once.
enum Submitted {
    Promised(UntypedFuture),
    Done(Answer),
}

impl Submitted {
    fn read(answer: Answer) -> Result<Self> {
        let value: Value = json::response(&answer.body)?;
        match value.get("request_id") {
            Some(Value::Null) | None => Ok(Submitted::Done(answer)),
            Some(_) => Ok(Submitted::Promised(json::response_value(value)?)),
        }
    }
}
