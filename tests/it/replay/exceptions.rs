//! Where this crate does not send what the official SDK sent, each with its reason. There are no others, and each is asserted
//! to be exactly what it says: a row that no longer applies fails the test.

use std::ops::RangeInclusive;

/// Some exchanges of a recording that are not reproduced to the letter.
pub(crate) struct Exception {
    /// Their numbers.
    pub(crate) of: RangeInclusive<u64>,
    pub(crate) how: How,
    /// The reason, for the reader.
    pub(crate) why: &'static str,
}

/// What is different.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// Nothing is sent. The program has to say so with [`Replay::not_sent`](super::server::Replay::not_sent).
    NotSent,
    /// A field has another value. Everything else is equal.
    Field(&'static str, u64),
    /// The requests come in any order among themselves.
    AnyOrder,
    /// Of the headers only the key is compared.
    OnlyKey,
}

/// Why a later id is lower than the recorded one.
const GIVEN_BACK: &str = "a training request that the server certainly refused gives its sequence id back here, while the \
                          official SDK leaves a gap, which stalls a server that works by sequence id (PROTOCOL §8.2)";

pub(crate) const PLAIN: &[Exception] = &[
    Exception {
        of: 186..=193,
        how: How::AnyOrder,
        why: "samples in flight have no order (PROTOCOL §8.2); the recorded one is that of the answers, not of the calls",
    },
    Exception {
        of: 226..=226,
        how: How::OnlyKey,
        why: "the recorded program asked with Python's urllib, because the official SDK has no such call any more",
    },
    Exception {
        of: 227..=227,
        how: How::NotSent,
        why: "urllib followed the redirect; this crate hands out the address and downloads nothing",
    },
    Exception {
        of: 243..=243,
        how: How::NotSent,
        why: "a path that is none is refused before anything is sent, and takes no id",
    },
    Exception {
        of: 248..=248,
        how: How::NotSent,
        why: "a name that cannot be a part of a path is refused before anything is sent, and takes no id",
    },
    Exception { of: 252..=252, how: How::Field("seq_id", 70), why: GIVEN_BACK },
    Exception { of: 256..=256, how: How::Field("seq_id", 70), why: GIVEN_BACK },
    Exception {
        of: 258..=258,
        how: How::Field("model_seq_id", 7),
        why: "exchange 243, which is not sent here, had taken the number 7",
    },
    Exception { of: 261..=261, how: How::Field("seq_id", 70), why: GIVEN_BACK },
];
