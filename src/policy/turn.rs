//! The order of a training client's requests (PROTOCOL §8.2).
//!
//! The server runs requests by their sequence id and holds back whatever comes after a gap. So an id that was taken
//! must arrive, or be given back before the next one is taken, or the client has to say that its order is lost.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Phase, Sent};

/// What became of one request of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server accepted it.
    Accepted,
    /// The server certainly did not accept it.
    Refused,
    /// It was never sent.
    Unsent,
    /// The server may have accepted it.
    Unknown,
}

/// What a failed submission means for its id.
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

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The order holds: later requests may follow.
    Whole,
    /// The order cannot be kept: no later request may be sent.
    Broken,
}

/// The counter of sequence ids. Ids on the wire start at 1.
#[derive(Debug)]
pub(crate) struct Turns {
    next: u32,
}

impl Turns {
    /// A counter whose first id is `first`.
    pub(crate) fn starting_at(first: u32) -> Self {
        Turns { next: first }
    }

    /// Takes `n` consecutive ids.
    pub(crate) fn reserve(&mut self, n: usize) -> Option<Range<u32>> {
        let end = u32::try_from(n)
            .ok()
            .and_then(|n| self.next.checked_add(n))
            .filter(|it| *it <= i32::MAX as u32)?;
        let range = self.next..end;
        self.next = end;
        Some(range)
    }

    /// Settles a turn, given the fate of each of its ids in their order. Ids behind the accepted ones come back if
    /// certainly nothing arrived under them.
    pub(crate) fn settle(&mut self, range: Range<u32>, fates: &[Fate]) -> Settled {
        let accepted = fates.iter().take_while(|it| **it == Fate::Accepted).count();
        if fates[accepted..].iter().any(|it| matches!(it, Fate::Accepted | Fate::Unknown)) {
            return Settled::Broken;
        }
        // Nothing was reserved after this turn: a client has one turn at a time. The cast cannot lose anything,
        // because the range had that many ids.
        self.next = range.start + accepted as u32;
        Settled::Whole
    }

    /// Settles the turn of a custom loss: the ids of its forward parts, and behind them as many for the backward parts.
    /// `backward` is `None` if the gradients were not to be had. Then nothing is missing on the server, but the client is
    /// broken all the same: what was submitted behind the call counts on its gradients.
    pub(crate) fn settle_custom(
        &mut self,
        range: Range<u32>,
        forward: &[Fate],
        backward: Option<&[Fate]>,
    ) -> Settled {
        let unsent = vec![Fate::Unsent; forward.len()];
        match backward {
            None if forward.iter().all(|it| *it == Fate::Accepted) => Settled::Broken,
            backward => self.settle(range, &[forward, backward.unwrap_or(&unsent)].concat()),
        }
    }
}

/// In which waves the parts of one call are sent; the parts of a wave are sent at the same time. With parallel parts
/// the first one goes last, because the server starts when it sees it and should then see all of them.
pub(crate) fn waves(n: usize, parallel: bool) -> Vec<Vec<usize>> {
    match parallel && 1 < n {
        true => vec![(1..n).collect(), vec![0]],
        false => (0..n).map(|it| vec![it]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::*;

    #[test]
    fn ids_start_where_asked_and_have_no_gap() {
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
    fn parts_behind_the_accepted_ones_give_their_ids_back() {
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
    fn only_a_refusal_of_the_server_or_no_connection_at_all_gives_an_id_back() {
        let error = |kind: ErrorKind, status: Option<u16>, sent| {
            Error::new(kind, "x").with(|it| (it.status, it.sent) = (status, sent))
        };
        let status = |it, sent| error(ErrorKind::Status { code: it }, Some(it), Some(sent));
        let connection = |sent| error(ErrorKind::Connection { sent }, None, Some(sent));
        let table = [
            (status(422, Sent::No), Refused),
            (status(409, Sent::No), Refused),
            // The first attempt may have arrived, and something on the way refused the second.
            (status(409, Sent::Maybe), Unknown),
            (status(429, Sent::Maybe), Unknown),
            (status(500, Sent::Maybe), Unknown),
            (connection(Sent::No), Refused),
            (connection(Sent::Maybe), Unknown),
            (error(ErrorKind::Cancelled, None, Some(Sent::No)), Refused),
            (error(ErrorKind::Cancelled, None, Some(Sent::Maybe)), Unknown),
            (Error::cancelled(), Unsent),
            (Error::timeout(Phase::Admission, "x"), Unsent),
            (Error::decode("an answer that nobody understands"), Unknown),
        ];
        for (error, expected) in table {
            assert_eq!(fate(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn a_custom_loss_that_fails_halfway_breaks_the_order_and_one_that_was_refused_gives_its_ids_back() {
        use Settled::*;
        /// What happened, the fates of the parts of both passes, what is left, and the next id.
        type Row = (&'static str, [Fate; 2], Option<[Fate; 2]>, Settled, u32);
        let table: [Row; 7] = [
            ("all went well", [Accepted, Accepted], Some([Accepted, Accepted]), Whole, 5),
            ("no gradients", [Accepted, Accepted], None, Broken, 5),
            ("the forward parts were refused", [Refused, Unsent], None, Whole, 1),
            ("the second of them was", [Accepted, Refused], None, Whole, 2),
            ("one of them is lost", [Accepted, Unknown], None, Broken, 5),
            ("the backward parts were refused", [Accepted, Accepted], Some([Refused, Unsent]), Whole, 3),
            ("one of them is lost", [Accepted, Accepted], Some([Accepted, Unknown]), Broken, 5),
        ];
        for (what, forward, backward, settled, next) in table {
            let mut turns = Turns::starting_at(1);
            let turn = turns.reserve(4).expect("ids");
            let backward = backward.as_ref().map(|it| &it[..]);
            assert_eq!(turns.settle_custom(turn, &forward, backward), settled, "{what}");
            assert_eq!(turns.reserve(1), Some(next..next + 1), "{what}");
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
    fn what_the_server_took_has_no_gap_and_no_id_twice_whatever_happens() {
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
                let doubtful = ids.clone().zip(&fates).any(|it| *it.1 == Unknown);
                if settled == Settled::Broken {
                    break;
                }
                // After a turn that leaves the order whole, nothing may have arrived that was not accepted.
                prop_assert!(!doubtful);
                accepted.extend(ids.zip(fates).filter(|it| it.1 == Accepted).map(|it| it.0));
                prop_assert_eq!(&accepted, &(first..first + accepted.len() as u32).collect::<Vec<_>>());
                // The next id follows.
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
            assert!(waves.iter().all(|it| !it.is_empty()));
            let mut sent: Vec<usize> = waves.concat();
            sent.sort();
            assert_eq!(sent, (0..n).collect::<Vec<_>>());
        });
    }
}
