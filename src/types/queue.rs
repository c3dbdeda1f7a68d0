//! Why a request waits on the server.

/// What the server says of its queue while a result is pending (PROTOCOL §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueState {
    /// The request is being worked on, or will be soon.
    Active,
    /// The backend has no capacity now.
    PausedCapacity,
    /// The account has too much in flight.
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
}
