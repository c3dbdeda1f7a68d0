//! The kinds of failure.

use std::fmt;
use std::time::Duration;

/// What kind of failure an [`Error`](crate::Error) is. New kinds may be added in any version.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting of the client cannot be used: no key, a base URL without a scheme.
    Config,
    /// The credential was refused (HTTP 401), or is missing or malformed.
    Auth,
    /// The credential is good but does not allow this (HTTP 403).
    Permission,
    /// The thing asked for does not exist (HTTP 404).
    NotFound,
    /// Something stands in the way, such as a checkpoint of the same name (HTTP 409).
    Conflict,
    /// An argument cannot be sent. Nothing was sent.
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
    /// No connection, or it broke.
    Connection {
        /// Whether the server may have seen the request.
        sent: Sent,
    },
    /// The server's answer could not be understood.
    Decode,
    /// The server does not offer what the call needs.
    Incompatible,
    /// The server accepted the request, worked on it and failed.
    RequestFailed {
        /// Whose fault the server says it is.
        category: Category,
    },
    /// The server does not know the result of an accepted request any more (HTTP 410), or at all (404).
    PromiseExpired,
    /// No contact with the server for too long while waiting for a result.
    Stuck {
        /// How long there was no contact.
        idle: Duration,
    },
    /// The caller cancelled.
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
    /// The caller's own loss function returned an error, which the message repeats.
    CustomLoss,
    /// An earlier request of this training client has an unknown fate, so that the order of later ones cannot be
    /// kept, or a custom loss failed between its two passes. The cause is the earlier failure; make a new client from the last checkpoint.
    Poisoned,
    /// The server pauses the operation, for longer than [`PausePolicy`](crate::PausePolicy) allows.
    Paused,
    /// Not sent, because too many requests before it failed; see [`CircuitBreaker`](crate::CircuitBreaker). The cause,
    /// if there is one, is how this call itself failed before.
    CircuitOpen,
    /// The operating system refused: a thread, a file.
    System,
}

/// Which clock ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a permit: too much is in flight already.
    Admission,
    /// Looking up the host's name.
    Resolve,
    /// Connecting.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the answer to begin.
    FirstByte,
    /// Receiving the answer.
    Body,
    /// The whole of one HTTP exchange.
    Exchange,
    /// The operation's deadline, over all attempts.
    Total,
    /// The caller's own wait; the operation goes on.
    Wait,
}

/// Whether the server may have seen a request whose connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Certainly not.
    No,
    /// Perhaps.
    Maybe,
}

/// Whose fault the server says a failed request was (PROTOCOL §1.13).
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

/// The place of a value that cannot be sent, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where the value stands, such as `data[3].loss_fn_inputs["weights"][7]`.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}
