//! The kinds of failure.

use std::fmt;
use std::time::Duration;

/// The kind of failure of an [`Error`](crate::Error). Any version may add kinds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting of the client cannot be used: a missing key, a base URL without a scheme.
    Config,
    /// The server refused the credential (HTTP 401), the credential has expired, or the credential command printed no
    /// valid credential.
    Auth,
    /// The credential is valid but does not allow the call (HTTP 403).
    Permission,
    /// The requested thing does not exist (HTTP 404).
    NotFound,
    /// The state on the server forbids the call (HTTP 409), for example because a checkpoint of the same name exists.
    Conflict,
    /// An argument is invalid. Nothing was sent. Exception: if the gradients of a custom loss are invalid, its forward
    /// pass has run.
    InvalidInput(Violation),
    /// The account cannot pay for this (HTTP 402).
    Billing,
    /// Too many requests (HTTP 429), for longer than the call was allowed to wait.
    RateLimited,
    /// Another HTTP status that is not a success.
    Status {
        /// The status.
        code: u16,
    },
    /// A deadline passed.
    Timeout(Phase),
    /// The connection could not be made, or it broke.
    Connection {
        /// States if the server may have received the request.
        sent: Sent,
    },
    /// The server's answer cannot be decoded.
    Decode,
    /// The server lacks an endpoint or a feature that the call needs.
    Incompatible,
    /// The server accepted the request, worked on it and failed.
    RequestFailed {
        /// The side at fault according to the server.
        category: Category,
    },
    /// The server no longer has the result of an accepted request (HTTP 410), or does not know the request (404).
    PromiseExpired,
    /// No contact with the server for too long while waiting for a result.
    Stuck {
        /// The time without contact.
        idle: Duration,
    },
    /// The caller cancelled the operation.
    Cancelled,
    /// The client is closed.
    Closed,
    /// A worker thread panicked.
    Panicked {
        /// The thread's name.
        thread: String,
        /// The panic's message.
        message: String,
    },
    /// The caller's own loss function returned an error. The message contains its text.
    CustomLoss,
    /// The training client sends no more requests, because the server may or may not have received an earlier request
    /// and the order of training is lost; or because a custom loss failed between its two passes. The cause is the
    /// earlier failure. Create a new client from the last checkpoint.
    Poisoned,
    /// The server paused the operation for longer than [`PausePolicy`](crate::PausePolicy) allows.
    Paused,
    /// Not sent, because too many earlier requests failed; see [`CircuitBreaker`](crate::CircuitBreaker). The cause, if
    /// any, is the failure of an earlier attempt of this call.
    CircuitOpen,
    /// The operating system refused a resource: a thread, a file.
    System,
}

/// The phase of an operation whose time limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a permit, because too many requests or bytes are in flight.
    Admission,
    /// Looking up the host's name.
    Resolve,
    /// Connecting.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the head of the answer.
    FirstByte,
    /// Receiving the body of the answer.
    Body,
    /// One whole HTTP exchange.
    Exchange,
    /// The whole operation, over all attempts.
    Total,
}

/// States for a failed request if the server may have received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The server has certainly not received the request.
    No,
    /// The server may have received the request.
    Maybe,
}

/// The side at fault for a failed request according to the server (PROTOCOL §1.13).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Category {
    /// The request is at fault.
    User,
    /// The server is at fault.
    Server,
    /// The server does not know.
    Unknown,
    /// A category that this version does not know.
    Other(String),
}

impl ErrorKind {
    /// The name of the kind, without the values that it carries, such as `NotFound`.
    ///
    /// # Example: count failures by kind
    /// ```
    /// use tinkex::ErrorKind;
    ///
    /// assert_eq!(ErrorKind::Status { code: 503 }.name(), "Status");
    /// ```
    pub fn name(&self) -> &'static str {
        match self {
            ErrorKind::Config => "Config",
            ErrorKind::Auth => "Auth",
            ErrorKind::Permission => "Permission",
            ErrorKind::NotFound => "NotFound",
            ErrorKind::Conflict => "Conflict",
            ErrorKind::InvalidInput(_) => "InvalidInput",
            ErrorKind::Billing => "Billing",
            ErrorKind::RateLimited => "RateLimited",
            ErrorKind::Status { .. } => "Status",
            ErrorKind::Timeout(_) => "Timeout",
            ErrorKind::Connection { .. } => "Connection",
            ErrorKind::Decode => "Decode",
            ErrorKind::Incompatible => "Incompatible",
            ErrorKind::RequestFailed { .. } => "RequestFailed",
            ErrorKind::PromiseExpired => "PromiseExpired",
            ErrorKind::Stuck { .. } => "Stuck",
            ErrorKind::Cancelled => "Cancelled",
            ErrorKind::Closed => "Closed",
            ErrorKind::Panicked { .. } => "Panicked",
            ErrorKind::CustomLoss => "CustomLoss",
            ErrorKind::Poisoned => "Poisoned",
            ErrorKind::Paused => "Paused",
            ErrorKind::CircuitOpen => "CircuitOpen",
            ErrorKind::System => "System",
        }
    }
}

impl Category {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "user" => Category::User,
            "server" => Category::Server,
            "unknown" | "" => Category::Unknown,
            other => Category::Other(other.into()),
        }
    }
}

/// An invalid value in an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The path to the value in the argument, such as `data[3].loss_fn_inputs["weights"][7]`.
    pub path: String,
    /// The problem with the value.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}
