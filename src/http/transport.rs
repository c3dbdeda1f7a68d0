//! The transport that carries requests: sockets by default, memory in tests, or a transport of your own
//! ([`ServiceClientBuilder::transport`](crate::ServiceClientBuilder::transport)).
//!
//! # Example: a transport that answers without a server
//! ```
//! use std::sync::Arc;
//! use tinkex::ServiceClient;
//! use tinkex::transport::{Answer, Broken, Exchange, Transport};
//!
//! struct Healthy;
//!
//! impl Transport for Healthy {
//!     fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken> {
//!         assert!(exchange.url.ends_with("/api/v1/healthz"));
//!         Ok(Answer::new(200).with_header("Content-Type", "application/json").with_body(r#"{"status":"ok"}"#))
//!     }
//!
//!     fn shutdown(&self) {}
//! }
//!
//! let service = ServiceClient::builder().api_key("tml-example").transport(Arc::new(Healthy)).build()?;
//! assert_eq!(service.create_rest_client().healthz()?, "ok");
//! # Ok::<(), tinkex::Error>(())
//! ```

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::config::Timeouts;
use crate::error::{Error, ErrorKind, Phase, Sent, words};
use crate::http_date;
use crate::policy::retry::Failure;
use crate::policy::verdict::Facts;

pub use crate::lane::Lane;

/// One complete HTTP request, with its limits.
#[derive(Clone)]
#[non_exhaustive]
pub struct Exchange {
    /// The class of the request.
    pub lane: Lane,
    /// The method.
    pub method: &'static str,
    /// The absolute URL.
    pub url: String,
    /// The headers.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body as it goes over the wire.
    pub body: Bytes,
    /// Time limit for opening the connection.
    pub connect_timeout: Duration,
    /// Time limit without progress: while the body is written, until the whole head of the answer has arrived, and
    /// between two pieces of the answer's body.
    pub timeout: Duration,
    /// Limit of the whole exchange, however steadily bytes flow.
    pub limit: Duration,
    /// The largest body to accept, in bytes.
    pub largest_answer: u64,
    /// Requires a new connection, because an open one has just failed.
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
    /// Creates a request without headers and body, for tests of a transport. Its limits are the default ones of
    /// [`Timeouts`] and an answer of 1 MiB.
    pub fn new(lane: Lane, method: &'static str, url: impl Into<String>) -> Self {
        let timeouts = Timeouts::default();
        Exchange {
            lane,
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            connect_timeout: timeouts.connect,
            timeout: timeouts.exchange,
            limit: timeouts.exchange,
            largest_answer: 1 << 20,
            fresh: false,
        }
    }

    /// The value of a header. The case of the name does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0.eq_ignore_ascii_case(name)).map(|header| header.1.as_str())
    }
}

/// One complete HTTP answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The decompressed body.
    pub body: Bytes,
}

impl Answer {
    /// Creates an answer without headers and body.
    pub fn new(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }

    /// Adds a header. The name is put into lower case.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body is an HTML page, which no endpoint answers with.
    pub(crate) fn is_page(&self) -> bool {
        let is_html = |value: &str| value.trim_start().to_ascii_lowercase().starts_with("text/html");
        let head = self.body.trim_ascii_start();
        let head = &head[..head.len().min(256)];
        // Some servers send this content type with everything, even with JSON.
        self.header("content-type").is_some_and(is_html) && head.starts_with(b"<")
            || words::is_page(&String::from_utf8_lossy(head))
    }

    pub(crate) fn is_protobuf(&self) -> bool {
        self.header("content-type")
            .is_some_and(|it| it.to_ascii_lowercase().contains("application/x-protobuf"))
    }

    /// The time of the answer by the `Date` header, else by this machine's clock.
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

/// The reason why an exchange has no answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// The connection could not be opened, or it broke.
    Connection {
        /// Tells whether the server may have received the request.
        sent: Sent,
        /// The problem.
        message: String,
    },
    /// A time limit passed.
    Timeout(Phase),
    /// The answer is larger than allowed.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The announced or received size in bytes, if known.
        announced: Option<u64>,
    },
    /// The JSON of the answer has too many values: decoding it would take too much memory.
    TooManyValues {
        /// The largest number of values allowed.
        limit: usize,
        /// The number of values in the answer.
        found: usize,
    },
    /// The peer is not the server: it does not speak TLS, or its certificate is not trusted. Nothing was sent.
    WrongPeer {
        /// The problem.
        message: String,
    },
    /// The answer is not valid HTTP, its head is too large, or its body cannot be decompressed.
    InvalidHttp {
        /// The problem.
        message: String,
    },
    /// Not sent: the request cannot be written as HTTP, for instance because a header contains a line break.
    Unsendable {
        /// The problem.
        message: String,
    },
    /// The transport was shut down.
    Closed,
    /// Not sent: the circuit breaker is open.
    CircuitOpen {
        /// Time until the next trial, if known.
        retry_after: Option<Duration>,
    },
    /// Not sent: there is no credential for the request. The credential command failed, or the credential could not be
    /// exchanged for a token.
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
            | Broken::WrongPeer { .. } => Sent::No,
            Broken::Timeout(_)
            | Broken::TooLarge { .. }
            | Broken::TooManyValues { .. }
            | Broken::InvalidHttp { .. }
            | Broken::Closed => Sent::Maybe,
        }
    }

    pub(crate) fn failure(&self) -> Failure {
        match self {
            Broken::Connection { sent, .. } => Failure::Connection { sent: *sent },
            Broken::Timeout(Phase::Resolve | Phase::Connect) => Failure::Connection { sent: Sent::No },
            Broken::Timeout(_) => Failure::Timeout,
            // The server may have carried out the request. Requests are idempotent, so that a retry is safe and may get
            // an intact answer.
            Broken::InvalidHttp { .. } => Failure::WrongPeer { sent: Sent::Maybe },
            Broken::WrongPeer { .. } => Failure::WrongPeer { sent: Sent::No },
            Broken::TooLarge { .. }
            | Broken::TooManyValues { .. }
            | Broken::Closed
            | Broken::Unsendable { .. } => Failure::Fatal,
            // A failure of the token endpoint may be temporary. A refused credential stays refused.
            Broken::Token(error) if error.is_retryable() => Failure::Connection { sent: Sent::No },
            Broken::Token(_) | Broken::CircuitOpen { .. } => Failure::Fatal,
        }
    }

    /// The error that the caller gets. `limits` are the time limits of the failed exchange.
    pub(crate) fn error(&self, limits: impl Into<Limits>) -> Error {
        match self {
            Broken::Connection { sent, message } => {
                Error::new(ErrorKind::Connection { sent: *sent }, message)
            }
            Broken::Timeout(phase) => Error::timeout(*phase, limits.into().text(*phase)),
            Broken::TooLarge { limit, announced } => {
                let size = match announced {
                    Some(n) => format!("it has {n} bytes"),
                    // The size of the whole body is unknown: a compressed body announces only its compressed size.
                    None => format!("more than {limit} bytes arrived"),
                };
                Error::decode(format!("the answer exceeds its limit of {limit} bytes: {size}"))
            }
            Broken::TooManyValues { limit, found } => {
                Error::decode(format!("the answer has {found} values and exceeds its limit of {limit}"))
            }
            Broken::WrongPeer { message } => Error::new(ErrorKind::Connection { sent: Sent::No }, message),
            Broken::InvalidHttp { message } => {
                Error::decode(format!("the answer is not valid HTTP: {message}"))
            }
            Broken::Unsendable { message } => {
                Error::invalid("request", format!("cannot be written as HTTP: {message}"))
            }
            Broken::Closed => Error::closed("the client is closed"),
            Broken::CircuitOpen { retry_after } => {
                let text = "not sent: the circuit breaker is open because too many requests failed in a row";
                let retry_after = *retry_after;
                Error::new(ErrorKind::CircuitOpen, text).with(|context| context.retry_after = retry_after)
            }
            Broken::Token(error) => error.clone(),
        }
    }
}

/// The time limits of an exchange that failed, as its error reports them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    /// Limit of the time without progress.
    pub(crate) idle: Duration,
    /// Limit of the wait for the head of the answer.
    pub(crate) head: Duration,
    /// Limit of the whole exchange, however steadily bytes flow.
    pub(crate) whole: Duration,
}

impl Limits {
    fn text(self, phase: Phase) -> String {
        let Limits { connect, idle, head, whole } = self;
        match phase {
            Phase::Resolve => format!("the host name was not resolved within {connect:.1?}"),
            Phase::Connect => format!("no connection within {connect:.1?}"),
            Phase::Send => format!("sending the request made no progress for {idle:.1?}"),
            Phase::FirstByte => format!("the request was sent, but no answer came within {head:.1?}"),
            Phase::Body => format!("the answer began to arrive and then stopped for {idle:.1?}"),
            _ => format!("the exchange did not finish within {whole:.1?}"),
        }
    }
}

impl From<&Timeouts> for Limits {
    /// The limits of a poll.
    fn from(timeouts: &Timeouts) -> Self {
        let poll = timeouts.poll;
        Limits { connect: timeouts.connect.min(poll), idle: poll, head: poll, whole: poll }
    }
}

/// Returns the time limit for the head of the answer: `timeout`, extended because the end of an uploaded body of
/// `n_bytes` may still be in buffers of the system, where its progress cannot be seen.
pub(super) fn head_timeout(timeout: Duration, n_bytes: usize) -> Duration {
    /// The slowest supported upload, in bytes per second.
    const SLOWEST: f64 = 32.0 * 1024.0;
    timeout.saturating_add(Duration::from_secs_f64(n_bytes as f64 / SLOWEST))
}

/// Carries requests. An implementation blocks the calling thread, at most for the time limits of the request.
pub trait Transport: Send + Sync {
    /// Sends a request and receives the whole answer. An error status is an answer, too.
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken>;

    /// Interrupts all requests in progress and refuses later ones.
    fn shutdown(&self);

    /// Opens a branch: a transport to the same server that can be shut down separately. A client uses it for its long
    /// polls. Shutting this transport down must also shut the branch down. If `None`, this transport carries the long
    /// polls, too.
    fn branch(&self) -> Option<Arc<dyn Transport>> {
        None
    }
}

/// The branch of a transport, for calls that must be interrupted separately.
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
