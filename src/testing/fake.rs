//! A fake server that speaks the protocol and can be scripted to fail.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::answers;
use super::memory::InMemory;
use super::tcp::Listening;
use crate::client::{ServiceClient, ServiceClientBuilder};
use crate::http::Answer;
use crate::sync::Mutex;
use crate::sync::clock::VirtualClock;

/// The reaction of the server to a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Act {
    /// Sends an answer.
    Answer(Answer),
    /// Reads the request and closes the connection without an answer. The client sees a FIN, not an RST: an RST after
    /// all data was read needs a socket option that the standard library lacks.
    Reset,
    /// Closes the connection after the first line of the request. Over a socket this sends an RST, because data is
    /// unread. Do not return this act from a script: a script is called after the request was read, so that the act has
    /// the effect of [`Reset`](Act::Reset).
    ResetUnread,
    /// Closes all connections without an answer and refuses new ones for this time, as a server does that restarts. A
    /// server in memory refuses only this request.
    Refuse(Duration),
    /// Never answers, until the client gives up or the server is dropped.
    Stall,
    /// Sends the head of the answer and half of its body, and never the rest.
    StallBody(Answer),
    /// Sends the head of the answer and half of its body, then closes the connection.
    Truncate(Answer),
    /// Sends an answer a few bytes at a time, with this pause after each piece.
    Drip(Answer, Duration),
    /// Sends bytes that are not HTTP.
    Garbage(Bytes),
}

impl Act {
    /// Answers with a status and a JSON body.
    pub fn status(status: u16, body: impl Into<Bytes>) -> Self {
        Act::Answer(Answer::new(status).with_header("content-type", "application/json").with_body(body))
    }

    /// Answers with status 200 and a JSON body.
    pub fn json(value: Value) -> Self {
        Act::status(200, value.to_string())
    }

    /// Adds a header to an answer. Other acts stay unchanged.
    #[must_use]
    pub fn with_header(self, name: &str, value: &str) -> Self {
        match self {
            Act::Answer(answer) => Act::Answer(answer.with_header(name, value)),
            other => other,
        }
    }
}

/// A request that the server received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as received, without decompression.
    pub body: Bytes,
}

impl Seen {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    /// The body, if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

type Script = dyn Fn(&Seen) -> Option<Act> + Send + Sync;
type Alter = dyn Fn(Answer) -> Act + Send + Sync;

/// The reaction that a test set for a path.
#[derive(Clone)]
enum Reaction {
    Act(Act),
    Altered(Arc<Alter>),
}

/// A server with a plausible default answer to each request. A test can replace the answers: see
/// [`next`](Self::next), [`always`](Self::always) and [`script`](Self::script). Clones are cheap and share one server.
#[derive(Clone, Default)]
pub struct FakeServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    keeps_no_requests: bool,
    next: HashMap<String, VecDeque<Reaction>>,
    always: HashMap<String, Reaction>,
    script: Option<Arc<Script>>,
    answers: answers::Answers,
}

impl FakeServer {
    /// Creates a server with the default answers.
    pub fn new() -> Self {
        FakeServer::default()
    }

    /// Announces the endpoint `retrieve_futures` in the flags and offers it from now on. A request to this endpoint is
    /// answered immediately, and each sample is finished when it is submitted.
    pub fn polls_together(&self) {
        self.state.lock().answers.polls_together = true;
    }

    /// Announces custom losses in the flags and offers `create_custom_loss` from now on. Any graph is accepted, and
    /// passes are answered as usual.
    pub fn runs_custom_losses(&self) {
        self.state.lock().answers.runs_losses = true;
    }

    /// Sets the reaction to the next request to a path. Several reactions are used in order.
    pub fn next(&self, path: &str, act: Act) {
        self.set_next(path, Reaction::Act(act));
    }

    /// As [`next`](Self::next), with an act derived from the default answer.
    pub fn next_altered(&self, path: &str, alter: impl Fn(Answer) -> Act + Send + Sync + 'static) {
        self.set_next(path, Reaction::Altered(Arc::new(alter)));
    }

    /// Sets the reaction to all requests to a path.
    pub fn always(&self, path: &str, act: Act) {
        self.state.lock().always.insert(path.into(), Reaction::Act(act));
    }

    /// As [`always`](Self::always), with an act derived from the default answer.
    pub fn always_altered(&self, path: &str, alter: impl Fn(Answer) -> Act + Send + Sync + 'static) {
        self.state.lock().always.insert(path.into(), Reaction::Altered(Arc::new(alter)));
    }

    /// Restores the default answers of a path.
    pub fn behave(&self, path: &str) {
        let mut state = self.state.lock();
        state.next.remove(path);
        state.always.remove(path);
    }

    /// Sets a function that chooses the reaction to each request for which neither [`next`](Self::next) nor
    /// [`always`](Self::always) set one. If it returns `None`, the default answer is sent.
    pub fn script(&self, script: impl Fn(&Seen) -> Option<Act> + Send + Sync + 'static) {
        self.state.lock().script = Some(Arc::new(script));
    }

    /// Stops keeping requests, for tests that measure memory over many of them.
    pub fn forget_requests(&self) {
        let mut state = self.state.lock();
        state.keeps_no_requests = true;
        state.seen = Vec::new();
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    /// The requests to a path so far.
    pub fn requests_to(&self, path: &str) -> Vec<Seen> {
        self.state.lock().seen.iter().filter(|it| it.path == path).cloned().collect()
    }

    /// A builder of a client that reaches this server without a socket. The client's clock is virtual: pauses and
    /// timeouts of the client take no real time. For real time use [`listen`](Self::listen), or pass a `Clock` to the
    /// builder.
    pub fn in_memory(&self) -> ServiceClientBuilder {
        self.in_memory_at(VirtualClock::new())
    }

    /// As [`in_memory`](Self::in_memory), with a clock that the test can advance.
    pub fn in_memory_at(&self, clock: VirtualClock) -> ServiceClientBuilder {
        ServiceClient::builder()
            .without_environment()
            .api_key("tml-test")
            .base_url("http://memory.invalid")
            .transport(Arc::new(InMemory::new(self.clone(), clock.clone())))
            .clock(clock.clock())
    }

    /// Listens on a loopback port until the returned value is dropped.
    ///
    /// # Errors
    /// No port or no thread is available.
    pub fn listen(&self) -> std::io::Result<Listening> {
        Listening::start(self.clone())
    }

    /// Records a request and returns the reaction to it.
    pub(super) fn act(&self, seen: Seen) -> Act {
        let (reaction, script) = {
            let mut state = self.state.lock();
            if !state.keeps_no_requests {
                state.seen.push(seen.clone());
            }
            let queued = state.next.get_mut(&seen.path).and_then(VecDeque::pop_front);
            (queued.or_else(|| state.always.get(&seen.path).cloned()), state.script.clone())
        };
        // Scripts and alterations are code of the test and may call this server: run them without the lock.
        match reaction {
            Some(Reaction::Act(act)) => act,
            Some(Reaction::Altered(alter)) => alter(self.default_answer(&seen)),
            None => script
                .and_then(|script| script(&seen))
                .unwrap_or_else(|| Act::Answer(self.default_answer(&seen))),
        }
    }

    /// Returns true if the request is to be reset after its first line; then also records the request.
    pub(super) fn resets_unread(&self, method: &str, path: &str) -> bool {
        let mut state = self.state.lock();
        let is_reset =
            |reaction: Option<&Reaction>| matches!(reaction, Some(Reaction::Act(Act::ResetUnread)));
        let reset = match state.next.get(path).and_then(VecDeque::front) {
            Some(front) => is_reset(Some(front)),
            None => is_reset(state.always.get(path)),
        };
        if reset {
            if let Some(queue) = state.next.get_mut(path) {
                queue.pop_front();
            }
            if !state.keeps_no_requests {
                let (method, path) = (method.to_string(), path.to_string());
                state.seen.push(Seen { method, path, headers: Vec::new(), body: Bytes::new() });
            }
        }
        reset
    }

    fn default_answer(&self, seen: &Seen) -> Answer {
        self.state.lock().answers.answer(seen)
    }

    fn set_next(&self, path: &str, reaction: Reaction) {
        self.state.lock().next.entry(path.into()).or_default().push_back(reaction);
    }
}

impl std::fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeServer").field("requests", &self.state.lock().seen.len()).finish_non_exhaustive()
    }
}
