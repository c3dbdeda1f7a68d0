//! What the connections of each class of request are like.

use super::Lane;

pub(super) const LANES: [Lane; 7] =
    [Lane::Session, Lane::Train, Lane::Sample, Lane::Poll, Lane::Rest, Lane::Telemetry, Lane::PollMany];

impl Lane {
    pub(super) fn idx(self) -> usize {
        match self {
            Lane::Session => 0,
            Lane::Train => 1,
            Lane::Sample => 2,
            Lane::Poll => 3,
            Lane::Rest => 4,
            Lane::Telemetry => 5,
            Lane::PollMany => 6,
        }
    }

    /// The size of each of the two buffers of a connection, in bytes. Thousands of connections may be waiting at once, and
    /// ureq's own 128 KiB would cost them 576 MB. The head of an answer has to fit, and one line of a request's.
    pub(super) fn buffers(self) -> (usize, usize) {
        match self {
            Lane::Poll => (10 << 10, 4 << 10),
            Lane::Sample => (10 << 10, 8 << 10),
            _ => (16 << 10, 16 << 10),
        }
    }

    /// As many as requests of the class usually run at the same time: each one above it pays a new connection.
    pub(super) fn idle_connections(self) -> usize {
        match self {
            Lane::Session => 4,
            Lane::Train => 16,
            Lane::Sample => 400,
            Lane::Poll => 256,
            Lane::Rest => 8,
            Lane::Telemetry => 1,
            // One for each sampling client.
            Lane::PollMany => 16,
        }
    }
}
