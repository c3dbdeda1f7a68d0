//! The permitted differences between the requests of this crate and the recorded requests of the official SDK, each
//! with its reason. An exchange is a recorded request with its answer; exchanges are numbered. The replay asserts that
//! each listed difference occurs, so that an outdated row fails the test.

use std::ops::RangeInclusive;

/// Recorded exchanges for which this crate sends something else.
pub(crate) struct Exception {
    /// Numbers of the exchanges.
    pub(crate) of: RangeInclusive<u64>,
    pub(crate) how: How,
    /// Reason for the difference.
    pub(crate) why: &'static str,
}

/// Kind of difference.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// Nothing is sent. The program must call [`Replay::not_sent`](super::server::Replay::not_sent).
    NotSent,
    /// The field has this value instead of the recorded one. Everything else is equal.
    Field(&'static str, u64),
    /// The requests of the range arrive in any order.
    AnyOrder,
    /// Of the compared headers, only `x-api-key` must have the recorded value.
    OnlyKey,
}

/// Reason why a sequence id is lower than the recorded one.
const GIVEN_BACK: &str = "a training request that the server certainly refused gives its sequence id back here, while the \
                          official SDK leaves a gap, which stalls a server that works by sequence id (PROTOCOL §8.2)";

pub(crate) const PLAIN: &[Exception] = &[
    Exception {
        of: 186..=193,
        how: How::AnyOrder,
        why: "samples in flight have no order (PROTOCOL §8.2); they were recorded in the order of their answers",
    },
    Exception {
        of: 226..=226,
        how: How::OnlyKey,
        why: "the recorded program used Python's urllib, because the official SDK no longer has this call",
    },
    Exception {
        of: 227..=227,
        how: How::NotSent,
        why: "urllib followed the redirect; this crate returns the URL and downloads nothing",
    },
    Exception {
        of: 243..=243,
        how: How::NotSent,
        why: "an invalid path is refused before anything is sent, and takes no id",
    },
    Exception {
        of: 248..=248,
        how: How::NotSent,
        why: "a name that is not a valid path segment is refused before anything is sent, and takes no id",
    },
    Exception { of: 252..=252, how: How::Field("seq_id", 70), why: GIVEN_BACK },
    Exception { of: 256..=256, how: How::Field("seq_id", 70), why: GIVEN_BACK },
    Exception {
        of: 258..=258,
        how: How::Field("model_seq_id", 7),
        why: "exchange 243, which this crate does not send, took the number 7",
    },
    Exception { of: 261..=261, how: How::Field("seq_id", 70), why: GIVEN_BACK },
];
