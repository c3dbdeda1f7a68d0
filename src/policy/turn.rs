//! Order of the requests of a training client (PROTOCOL §8.2).
//!
//! A turn is the time in which a client submits the requests of one call. It begins with the reservation of one
//! sequence id for each request, and ends when the fate of each request is recorded: accepted by the server or not.
//!
//! The server runs requests in the order of their ids. If an id is missing, it holds back all requests with later ids.
//! A reserved id must therefore reach the server, or be released before the next id is reserved. Otherwise the client
//! is poisoned: all later calls fail.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Phase, Sent};

/// Outcome of one request of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server accepted the request.
    Accepted,
    /// The server certainly did not accept the request.
    Refused,
    /// The request was not sent.
    Unsent,
    /// The server may have accepted the request.
    Unknown,
}

/// Derives the fate of a request from the error of its submission.
pub(crate) fn fate(error: &Error) -> Fate {
    match error.sent() {
        Some(Sent::No) => Fate::Refused,
        Some(Sent::Maybe) => Fate::Unknown,
        None => match error.kind() {
            ErrorKind::Cancelled | ErrorKind::Timeout(Phase::Admission) | ErrorKind::InvalidInput(_) => {
                Fate::Unsent
            }
            _ => Fate::Unknown,
        },
    }
}

/// State of the order after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The order is intact: later requests may follow.
    Whole,
    /// The order is lost: no later request may be sent.
    Broken,
}

/// The counter of sequence ids. Ids on the wire start at 1.
#[derive(Debug)]
pub(crate) struct Turns {
    next: u32,
}

impl Turns {
    /// Creates a counter whose first id is `first`.
    pub(crate) fn starting_at(first: u32) -> Self {
        Turns { next: first }
    }

    /// Reserves `n` consecutive ids. `None` if the protocol has no more ids.
    pub(crate) fn reserve(&mut self, n: usize) -> Option<Range<u32>> {
        let end = u32::try_from(n)
            .ok()
            .and_then(|n| self.next.checked_add(n))
            .filter(|it| *it <= i32::MAX as u32)?;
        let range = self.next..end;
        self.next = end;
        Some(range)
    }

    /// Ends a turn. `fates` has the fate of each id of `range`, in order. Releases the id of the first request that was
    /// not accepted and all later ids of `range`, if the server certainly accepted none of these requests. Otherwise
    /// the order is broken.
    pub(crate) fn settle(&mut self, range: Range<u32>, fates: &[Fate]) -> Settled {
        let accepted = fates.iter().take_while(|fate| **fate == Fate::Accepted).count();
        if fates[accepted..].iter().any(|fate| matches!(fate, Fate::Accepted | Fate::Unknown)) {
            return Settled::Broken;
        }
        // A client has one turn at a time, so no id was reserved after this range. The cast is exact, because
        // `accepted` is at most the length of a range of `u32`.
        self.next = range.start + accepted as u32;
        Settled::Whole
    }

    /// Ends the turn of a custom loss. `range` has one id for each forward part, then one for each backward part.
    /// `backward` is `None` if no backward part was sent. If all forward parts were accepted in that case, no id is
    /// missing on the server, but the order is broken: later requests of the caller rely on the gradients.
    pub(crate) fn settle_custom(
        &mut self,
        range: Range<u32>,
        forward: &[Fate],
        backward: Option<&[Fate]>,
    ) -> Settled {
        let unsent = vec![Fate::Unsent; forward.len()];
        match backward {
            None if forward.iter().all(|fate| *fate == Fate::Accepted) => Settled::Broken,
            backward => self.settle(range, &[forward, backward.unwrap_or(&unsent)].concat()),
        }
    }
}

/// Groups the requests of a call, its parts, into waves. The parts of one wave are sent concurrently, and the next wave
/// is sent after them. With `parallel`, part 0 is the last wave: the server starts when it receives part 0, and should
/// have all other parts by then.
pub(crate) fn waves(n: usize, parallel: bool) -> Vec<Vec<usize>> {
    if parallel && 1 < n { vec![(1..n).collect(), vec![0]] } else { (0..n).map(|part| vec![part]).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::*;

    #[test]
    fn ids_start_at_the_given_number_and_have_no_gap() {
        let mut turns = Turns::starting_at(1);
        assert_eq!(turns.reserve(3), Some(1..4));
        assert_eq!(turns.settle(1..4, &[Accepted, Accepted, Accepted]), Settled::Whole);
        assert_eq!(turns.reserve(1), Some(4..5));
    }

    #[test]
    fn a_refused_id_is_used_again() {
        let mut turns = Turns::starting_at(1);
        let turn = turns.reserve(1).expect("an id");
        assert_eq!(turns.settle(turn, &[Refused]), Settled::Whole);
        assert_eq!(turns.reserve(1), Some(1..2));
    }

    #[test]
    fn the_ids_of_parts_behind_the_accepted_ones_are_released() {
        let mut turns = Turns::starting_at(5);
        let turn = turns.reserve(4).expect("ids");
        assert_eq!(turns.settle(turn, &[Accepted, Accepted, Refused, Unsent]), Settled::Whole);
        assert_eq!(turns.reserve(1), Some(7..8));
    }

    #[test]
    fn a_gap_or_an_unknown_fate_breaks_the_order() {
        for fates in [[Unknown, Unsent], [Unsent, Accepted], [Refused, Unknown], [Accepted, Unknown]] {
            let mut turns = Turns::starting_at(1);
            let turn = turns.reserve(2).expect("ids");
            assert_eq!(turns.settle(turn, &fates), Settled::Broken, "{fates:?}");
        }
    }

    #[test]
    fn only_a_refusal_of_the_server_or_no_connection_releases_an_id() {
        let error = |kind: ErrorKind, status: Option<u16>, sent| {
            Error::new(kind, "x").with(|it| (it.status, it.sent) = (status, sent))
        };
        let status = |it, sent| error(ErrorKind::Status { code: it }, Some(it), Some(sent));
        let connection = |sent| error(ErrorKind::Connection { sent }, None, Some(sent));
        let table = [
            (status(422, Sent::No), Refused),
            (status(409, Sent::No), Refused),
            // The first attempt may have been accepted; only the second one was certainly refused.
            (status(409, Sent::Maybe), Unknown),
            (status(429, Sent::Maybe), Unknown),
            (status(500, Sent::Maybe), Unknown),
            (connection(Sent::No), Refused),
            (connection(Sent::Maybe), Unknown),
            (error(ErrorKind::Cancelled, None, Some(Sent::No)), Refused),
            (error(ErrorKind::Cancelled, None, Some(Sent::Maybe)), Unknown),
            (Error::cancelled(), Unsent),
            (Error::timeout(Phase::Admission, "x"), Unsent),
            (Error::decode("an unknown answer"), Unknown),
        ];
        for (error, expected) in table {
            assert_eq!(fate(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn a_custom_loss_that_fails_halfway_breaks_the_order_and_a_refused_one_releases_its_ids() {
        use Settled::*;
        /// Case; fates of the forward parts; fates of the backward parts, if sent; state of the order; next id.
        type Row = (&'static str, [Fate; 2], Option<[Fate; 2]>, Settled, u32);
        let table: [Row; 7] = [
            ("all parts were accepted", [Accepted, Accepted], Some([Accepted, Accepted]), Whole, 5),
            ("no gradients", [Accepted, Accepted], None, Broken, 5),
            ("the forward parts were refused", [Refused, Unsent], None, Whole, 1),
            ("the second forward part was refused", [Accepted, Refused], None, Whole, 2),
            ("the fate of a forward part is unknown", [Accepted, Unknown], None, Broken, 5),
            ("the backward parts were refused", [Accepted, Accepted], Some([Refused, Unsent]), Whole, 3),
            (
                "the fate of a backward part is unknown",
                [Accepted, Accepted],
                Some([Accepted, Unknown]),
                Broken,
                5,
            ),
        ];
        for (case, forward, backward, settled, next) in table {
            let mut turns = Turns::starting_at(1);
            let turn = turns.reserve(4).expect("ids");
            let backward = backward.as_ref().map(|it| &it[..]);
            assert_eq!(turns.settle_custom(turn, &forward, backward), settled, "{case}");
            assert_eq!(turns.reserve(1), Some(next..next + 1), "{case}");
        }
    }

    #[test]
    fn ids_never_leave_the_range_of_the_wire() {
        assert_eq!(Turns::starting_at(i32::MAX as u32).reserve(1), None);
        assert_eq!(Turns::starting_at(1).reserve(usize::MAX), None);
    }

    #[test]
    fn the_first_of_parallel_parts_is_sent_last() {
        assert_eq!(waves(3, true), [vec![1, 2], vec![0]]);
        assert_eq!(waves(3, false), [[0], [1], [2]]);
        assert_eq!(waves(1, true), [[0]]);
    }

    #[test]
    fn accepted_ids_have_no_gap_and_no_repetition_for_any_fates() {
        use proptest::prelude::*;
        let fates =
            || prop_oneof![6 => Just(Accepted), 1 => Just(Refused), 1 => Just(Unsent), 1 => Just(Unknown)];
        let calls = proptest::collection::vec(proptest::collection::vec(fates(), 1..6), 0..20);
        proptest!(|(calls in calls, first in 1u32..100)| {
            let mut turns = Turns::starting_at(first);
            let mut accepted = Vec::new();
            for fates in calls {
                let ids = turns.reserve(fates.len()).expect("ids");
                let settled = turns.settle(ids.clone(), &fates);
                let any_unknown = fates.contains(&Unknown);
                if settled == Settled::Broken {
                    break;
                }
                // The order is intact only if the fate of each request is known.
                prop_assert!(!any_unknown);
                accepted.extend(ids.zip(fates).filter(|(_, fate)| *fate == Accepted).map(|(id, _)| id));
                prop_assert_eq!(&accepted, &(first..first + accepted.len() as u32).collect::<Vec<_>>());
                // The next id follows without a gap.
                let next = turns.reserve(1).expect("an id");
                prop_assert_eq!(next.start, first + accepted.len() as u32);
                turns.settle(next, &[Refused]);
            }
        });
    }

    #[test]
    fn every_part_is_sent_exactly_once() {
        proptest::proptest!(|(n in 0usize..40, parallel: bool)| {
            let waves = waves(n, parallel);
            assert!(waves.iter().all(|wave| !wave.is_empty()));
            let mut sent: Vec<usize> = waves.concat();
            sent.sort();
            assert_eq!(sent, (0..n).collect::<Vec<_>>());
        });
    }
}
