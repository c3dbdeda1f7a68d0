//! A server that speaks the protocol and can be told to misbehave.

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

/// What the server does with a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Act {
    /// Answers.
    Answer(Answer),
    /// Reads the request and closes the connection without an answer. The client sees its end, not an RST: sending one
    /// after everything was read takes a socket option that the standard library does not offer.
    Reset,
    /// Closes the connection without reading more than the first line of the request. Over a socket that is an RST,
    /// because unread data is lost with it. A script cannot say this: it is asked only when the request was read, and then
    /// this is a [`Reset`](Act::Reset).
    ResetUnread,
    /// Closes this connection and all others without an answer, and refuses new ones for a while, as a server does that
    /// is started again. In memory this request alone is refused.
    Refuse(Duration),
    /// Never answers, until the client gives up or the server is dropped.
    Stall,
    /// Sends the head of the answer and half of its body, then never the rest.
    StallBody(Answer),
    /// Sends the head of the answer and half of its body, then closes the connection.
    Truncate(Answer),
    /// Sends an answer a few bytes at a time, with pauses.
    Drip(Answer, Duration),
    /// Sends bytes that are not HTTP.
    Garbage(Bytes),
}

impl Act {
    /// An answer with a status and a body, sent as JSON.
    pub fn status(status: u16, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type".to_string(), "application/json".to_string())];
        Act::Answer(Answer { status, headers, body: body.into() })
    }

    /// A successful JSON answer.
    pub fn json(value: Value) -> Self {
        Act::status(200, value.to_string())
    }

    /// This answer with a header added; other acts stay as they are.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let Act::Answer(answer) = &mut self {
            answer.headers.push((name.to_ascii_lowercase(), value.to_string()));
        }
        self
    }
}

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// Its headers; names are lower case.
    pub headers: Vec<(String, String)>,
    /// Its body, as it came.
    pub body: Bytes,
}

impl Seen {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    /// The body, if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

type Script = dyn Fn(&Seen) -> Option<Act> + Send + Sync;
type Alter = dyn Fn(Answer) -> Act + Send + Sync;

/// What a test said about a path.
#[derive(Clone)]
enum Told {
    Act(Act),
    Altered(Arc<Alter>),
}

/// A server that answers every verb sensibly, unless it is told otherwise. Cheap to clone; clones are the same server.
#[derive(Clone, Default)]
pub struct FakeServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    forgets: bool,
    next: HashMap<String, VecDeque<Told>>,
    always: HashMap<String, Told>,
    script: Option<Arc<Script>>,
    answers: answers::Answers,
}

impl FakeServer {
    /// A server that behaves.
    pub fn new() -> Self {
        FakeServer::default()
    }

    /// From now on the server says in its flags that samples are to be waited for together, and offers
    /// `retrieve_futures`, which it answers at once. Every sample is finished as soon as it is submitted.
    pub fn polls_together(&self) {
        self.state.lock().answers.polls_together = true;
    }

    /// From now on the server says in its flags that it runs custom losses, and offers `create_custom_loss`. It takes any
    /// graph, and answers passes as always.
    pub fn runs_custom_losses(&self) {
        self.state.lock().answers.runs_losses = true;
    }

    /// The next request to a path is met with an act; several of them are used in order.
    pub fn next(&self, path: &str, act: Act) {
        self.tell_next(path, Told::Act(act));
    }

    /// As [`next`](Self::next), with an act made of the usual answer, such as its first half.
    pub fn next_altered(&self, path: &str, alter: impl Fn(Answer) -> Act + Send + Sync + 'static) {
        self.tell_next(path, Told::Altered(Arc::new(alter)));
    }

    /// Every request to a path is met with an act.
    pub fn always(&self, path: &str, act: Act) {
        self.state.lock().always.insert(path.into(), Told::Act(act));
    }

    /// As [`always`](Self::always), with an act made of the usual answer.
    pub fn always_altered(&self, path: &str, alter: impl Fn(Answer) -> Act + Send + Sync + 'static) {
        self.state.lock().always.insert(path.into(), Told::Altered(Arc::new(alter)));
    }

    /// From now on a path is answered as usual.
    pub fn behave(&self, path: &str) {
        let mut state = self.state.lock();
        state.next.remove(path);
        state.always.remove(path);
    }

    /// Requests are met with whatever a function says; where it says nothing, as usual.
    pub fn script(&self, script: impl Fn(&Seen) -> Option<Act> + Send + Sync + 'static) {
        self.state.lock().script = Some(Arc::new(script));
    }

    /// From now on requests are not kept, for tests of so many that their memory would be all that is measured.
    pub fn forget_requests(&self) {
        let mut state = self.state.lock();
        state.forgets = true;
        state.seen = Vec::new();
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    /// The requests to a path so far.
    pub fn requests_to(&self, path: &str) -> Vec<Seen> {
        self.state.lock().seen.iter().filter(|it| it.path == path).cloned().collect()
    }

    /// A client of this server that reaches it without a socket.
    pub fn in_memory(&self) -> ServiceClientBuilder {
        self.in_memory_at(VirtualClock::new())
    }

    /// As [`in_memory`](Self::in_memory), with a clock that the test can move.
    pub fn in_memory_at(&self, clock: VirtualClock) -> ServiceClientBuilder {
        ServiceClient::builder()
            .without_environment()
            .api_key("tml-test")
            .base_url("http://memory.invalid")
            .transport(Arc::new(InMemory::new(self.clone(), clock.clone())))
            .clock(clock.clock())
    }

    /// Listens on a port of this machine until the value is dropped.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn listen(&self) -> std::io::Result<Listening> {
        Listening::start(self.clone())
    }

    /// What to do with a request.
    pub(super) fn act(&self, seen: Seen) -> Act {
        let (told, script) = {
            let mut state = self.state.lock();
            if !state.forgets {
                state.seen.push(seen.clone());
            }
            let queued = state.next.get_mut(&seen.path).and_then(VecDeque::pop_front);
            (queued.or_else(|| state.always.get(&seen.path).cloned()), state.script.clone())
        };
        // Scripts and alterations are the test's own code, and may ask this server things: no lock is held meanwhile.
        match told {
            Some(Told::Act(act)) => act,
            Some(Told::Altered(alter)) => alter(self.usual(&seen)),
            None => script.and_then(|it| it(&seen)).unwrap_or_else(|| Act::Answer(self.usual(&seen))),
        }
    }

    /// Whether the request of which only the first line is known is to be reset now; it counts as seen then.
    pub(super) fn resets_unread(&self, method: &str, path: &str) -> bool {
        let mut state = self.state.lock();
        let is_reset = |it: Option<&Told>| matches!(it, Some(Told::Act(Act::ResetUnread)));
        let reset = match state.next.get(path).and_then(VecDeque::front) {
            Some(front) => is_reset(Some(front)),
            None => is_reset(state.always.get(path)),
        };
        if reset {
            if let Some(queue) = state.next.get_mut(path) {
                queue.pop_front();
            }
            if !state.forgets {
                let (method, path) = (method.to_string(), path.to_string());
                state.seen.push(Seen { method, path, headers: Vec::new(), body: Bytes::new() });
            }
        }
        reset
    }

    fn usual(&self, seen: &Seen) -> Answer {
        self.state.lock().answers.answer(seen)
    }

    fn tell_next(&self, path: &str, told: Told) {
        self.state.lock().next.entry(path.into()).or_default().push_back(told);
    }
}

impl std::fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeServer").field("requests", &self.state.lock().seen.len()).finish_non_exhaustive()
    }
}
