//! The classes of requests.

/// The class of a request. Each class has its own connections, so that long polls never starve uploads or heartbeats.
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
    /// All other requests.
    Rest,
    /// Waiting for all samples of a sampling session.
    PollMany,
    /// Reports about the use of the client.
    Telemetry,
}
