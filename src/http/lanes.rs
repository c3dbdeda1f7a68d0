//! How many idle connections each class of request keeps.

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
