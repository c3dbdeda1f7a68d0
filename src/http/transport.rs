//! What carries a request: sockets, memory in tests, or something of your own
//! (`ServiceClientBuilder::transport`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::config::Timeouts;
use crate::error::{Error, ErrorKind, Phase, Sent, words};
use crate::http_date;
use crate::policy::retry::Failure;
use crate::policy::verdict::Facts;

use super::breakers;

/// The class of a request. Each has connections of its own, so that long polls never starve uploads or heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Sessions, heartbeats, configuration.
    Session,
    /// Training requests.
    Train,
    /// Sampling requests.
    Sample,
    /// Waiting for one result.
    Poll,
    /// Everything else.
    Rest,
    /// Waiting for all samples of a sampling session.
    PollMany,
    /// Reports of the client's own use.
    Telemetry,
}

/// One HTTP request, complete.
#[derive(Clone)]
pub struct Exchange {
    /// Its class.
    pub lane: Lane,
    /// Its method.
    pub method: &'static str,
    /// Its absolute address.
    pub url: String,
    /// Its headers.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// Its body, as it goes over the wire.
    pub body: Bytes,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long may pass without any progress: while the body is written, until the whole head of the answer is there,
    /// between two pieces of the answer's body.
    pub timeout: Duration,
    /// How long everything may take, however steadily bytes flow.
    pub limit: Duration,
    /// The largest answer to accept, in bytes.
    pub largest_answer: u64,
    /// Over a new connection: those that are open are not to be trusted.
    pub fresh: bool,
}

impl std::fmt::Debug for Exchange {
    /// Without header values: one of them is the credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("lane", &self.lane)
            .field("method", &self.method)
            .field("url", &self.url)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// The value of a header, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1.as_str())
    }
}

/// An HTTP answer, complete.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers; names are lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decompressed.
    pub body: Bytes,
}

impl Answer {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A page for people, which no endpoint answers with.
    pub(crate) fn is_page(&self) -> bool {
        let is_html = |it: &str| it.trim_start().to_ascii_lowercase().starts_with("text/html");
        let head = self.body.trim_ascii_start();
        let head = &head[..head.len().min(256)];
        // Some servers call everything so, even their JSON.
        self.header("content-type").is_some_and(is_html) && head.starts_with(b"<")
            || words::is_page(&String::from_utf8_lossy(head))
    }

    pub(crate) fn is_protobuf(&self) -> bool {
        self.header("content-type")
            .is_some_and(|it| it.to_ascii_lowercase().contains("application/x-protobuf"))
    }

    /// When it was sent, by the server's own clock if it says so.
    fn time(&self) -> SystemTime {
        self.header("date").and_then(http_date::parse).unwrap_or_else(SystemTime::now)
    }

    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            status: self.status,
            body: &self.body,
            retry_after_ms: self.header("retry-after-ms"),
            retry_after: self.header("retry-after"),
            at: self.header("retry-after").map(|_| self.time()),
            should_retry: self.header("x-should-retry"),
            location: self.header("location"),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// No connection, or it broke.
    Connection {
        /// Whether the server may have seen the request.
        sent: Sent,
        /// What the system says.
        message: String,
    },
    /// Time ran out.
    Timeout(Phase),
    /// The answer is larger than allowed.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size that was announced or that arrived, if that is known.
        announced: Option<u64>,
    },
    /// The answer is not too large, but has so many parts that reading it would take too much memory.
    TooManyValues {
        /// How many there may be.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// Whoever is at the address is not the server: does not speak TLS, or has a certificate that is not trusted. Nothing
    /// was sent.
    Stranger {
        /// What is wrong.
        message: String,
    },
    /// The answer is not HTTP, or its body cannot be decompressed.
    Garbage {
        /// What is wrong with it.
        message: String,
    },
    /// Not sent: it cannot be written as HTTP, for instance because a header contains the end of a line.
    Unsendable {
        /// What is wrong with it.
        message: String,
    },
    /// The transport was shut down.
    Closed,
    /// Not sent: the circuit breaker is open.
    CircuitOpen {
        /// When to ask again, if that is known.
        retry_after: Option<Duration>,
    },
    /// The credential could not be traded for a token.
    Token(Error),
}

impl Broken {
    pub(crate) fn sent(&self) -> Sent {
        match self {
            Broken::Connection { sent, .. } => *sent,
            Broken::Timeout(Phase::Resolve | Phase::Connect) => Sent::No,
            Broken::Token(_)
            | Broken::CircuitOpen { .. }
            | Broken::Unsendable { .. }
            | Broken::Stranger { .. } => Sent::No,
            Broken::Timeout(_)
            | Broken::TooLarge { .. }
            | Broken::TooManyValues { .. }
            | Broken::Garbage { .. }
            | Broken::Closed => Sent::Maybe,
        }
    }

    pub(crate) fn failure(&self) -> Failure {
        match self {
            Broken::Connection { sent, .. } => Failure::Connection { sent: *sent },
            Broken::Timeout(Phase::Resolve | Phase::Connect) => Failure::Connection { sent: Sent::No },
            Broken::Timeout(_) => Failure::Timeout,
            // A broken answer to a request that may have been carried out: the request is idempotent, and asking
            // again gives the answer a second chance.
            Broken::Garbage { .. } => Failure::WrongPeer { sent: Sent::Maybe },
            Broken::Stranger { .. } => Failure::WrongPeer { sent: Sent::No },
            Broken::TooLarge { .. }
            | Broken::TooManyValues { .. }
            | Broken::Closed
            | Broken::Unsendable { .. } => Failure::Fatal,
            // The server of tokens may be back soon; a credential that it refuses stays refused.
            Broken::Token(error) if error.is_retryable() => Failure::Connection { sent: Sent::No },
            Broken::Token(_) | Broken::CircuitOpen { .. } => Failure::Fatal,
        }
    }

    pub(crate) fn error(&self, timeouts: &Timeouts) -> Error {
        match self {
            Broken::Connection { sent, message } => {
                Error::new(ErrorKind::Connection { sent: *sent }, message)
            }
            Broken::Timeout(phase @ (Phase::Resolve | Phase::Connect)) => {
                Error::timeout(*phase, format!("no connection within {:.1?}", timeouts.connect))
            }
            Broken::Timeout(Phase::Body) => {
                Error::timeout(Phase::Body, "the answer began to arrive but did not arrive whole in time")
            }
            Broken::Timeout(Phase::Send) => {
                Error::timeout(Phase::Send, "the request could not be sent in time")
            }
            Broken::Timeout(phase) => Error::timeout(*phase, format!("no answer in time ({phase:?})")),
            Broken::TooLarge { limit, announced } => {
                let size = match announced {
                    Some(n) => format!("it has {n}"),
                    // Also of one that was compressed: what it announced is another size.
                    None => format!("it did not say how many, and more than {limit} arrived"),
                };
                Error::decode(format!("the answer is larger than the {limit} bytes that it may have: {size}"))
            }
            Broken::TooManyValues { limit, found } => Error::decode(format!(
                "the answer has {found} values, more than the {limit} that it may have"
            )),
            Broken::Stranger { message } => Error::new(ErrorKind::Connection { sent: Sent::No }, message),
            Broken::Garbage { message } => Error::decode(format!("the answer is not HTTP: {message}")),
            Broken::Unsendable { message } => {
                Error::invalid("request", format!("cannot be written as HTTP: {message}"))
            }
            Broken::Closed => Error::closed("the client is closed"),
            Broken::CircuitOpen { retry_after } => breakers::refusal(*retry_after),
            Broken::Token(error) => error.clone(),
        }
    }
}

/// Carries requests. Implementations block the calling thread, at most for the request's own timeouts.
pub trait Transport: Send + Sync {
    /// Sends a request and receives the whole answer, whatever its status.
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken>;

    /// Interrupts all requests in progress and refuses later ones.
    fn shutdown(&self);

    /// A transport to the same server that can be shut down alone, for a client whose requests wait long. It ends with
    /// this one at the latest. A transport that has none is used for such requests itself.
    fn branch(&self) -> Option<Arc<dyn Transport>> {
        None
    }
}

/// The transport of a call that does not take its client's.
#[derive(Clone)]
pub(crate) struct Branch(Arc<dyn Transport>);

impl Branch {
    pub(crate) fn of(transport: &dyn Transport) -> Option<Self> {
        transport.branch().map(Branch)
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.0
    }
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch").finish_non_exhaustive()
    }
}
