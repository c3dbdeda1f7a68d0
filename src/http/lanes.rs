//! Sizes of buffers and numbers of idle connections, for each class of requests (lane).

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

    /// The sizes of the input and the output buffer of a connection, in bytes. With ureq's default of 128 KiB, 2000
    /// waiting connections would take 576 MB. The input buffer must hold the head of an answer, the output buffer the
    /// longest line of the head of a request.
    pub(super) fn buffers(self) -> (usize, usize) {
        match self {
            Lane::Poll => (10 << 10, 4 << 10),
            Lane::Sample => (10 << 10, 8 << 10),
            _ => (16 << 10, 16 << 10),
        }
    }

    /// The number of idle connections to keep: as many as requests of the class usually run at the same time. Each
    /// further request opens a new connection.
    pub(super) fn idle_connections(self) -> usize {
        match self {
            Lane::Session => 4,
            Lane::Train => 16,
            Lane::Sample => 400,
            Lane::Poll => 256,
            Lane::Rest => 8,
            Lane::Telemetry => 1,
            // Each sampling client usually uses one connection.
            Lane::PollMany => 16,
        }
    }
}
