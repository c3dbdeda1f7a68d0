//! The classes of requests, called lanes.

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
    /// Long polls that wait for one result.
    Poll,
    /// All other requests.
    Rest,
    /// Long polls, each of which waits for the results of all samples of one sampling client.
    PollMany,
    /// Reports about the use of the client.
    Telemetry,
}
