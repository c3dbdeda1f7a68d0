//! State of the server's queue.

/// State of the server's queue while a result is pending (PROTOCOL §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueState {
    /// The server works on the request, or will soon.
    Active,
    /// The backend has no free capacity.
    PausedCapacity,
    /// The account has too many requests in flight.
    PausedRateLimit,
    /// A state that this version does not know.
    Other(String),
}

impl QueueState {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "active" => QueueState::Active,
            "paused_capacity" => QueueState::PausedCapacity,
            "paused_rate_limit" => QueueState::PausedRateLimit,
            other => QueueState::Other(other.into()),
        }
    }

    /// The name in the protocol.
    #[cfg(feature = "ffi")]
    pub(crate) fn as_str(&self) -> &str {
        match self {
            QueueState::Active => "active",
            QueueState::PausedCapacity => "paused_capacity",
            QueueState::PausedRateLimit => "paused_rate_limit",
            QueueState::Other(name) => name,
        }
    }
}
