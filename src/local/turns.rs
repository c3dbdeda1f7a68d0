//! Order of one model's requests, and recognition of repeated ones. Has no clock, no lock and no thread.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Used request numbers, each with the fingerprint of the request and the id of its result. Bounded: the oldest are
/// dropped.
#[derive(Debug)]
pub(super) struct Recent {
    ids: HashMap<u64, (u64, String)>,
    order: VecDeque<u64>,
    most: usize,
}

/// What is known of a request number.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Never,
    /// Used by the same request; holds the id of its result.
    Same(String),
    /// Used by another request.
    Different,
}

impl Recent {
    pub(super) fn new(most: usize) -> Self {
        Recent { ids: HashMap::new(), order: VecDeque::new(), most }
    }

    pub(super) fn seen(&self, number: u64, fingerprint: u64) -> Seen {
        match self.ids.get(&number) {
            None => Seen::Never,
            Some((known, id)) if *known == fingerprint => Seen::Same(id.clone()),
            Some(_) => Seen::Different,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn insert(&mut self, number: u64, fingerprint: u64, id: &str) {
        if self.ids.insert(number, (fingerprint, id.into())).is_none() {
            self.order.push_back(number);
        }
        if self.most < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

/// Orders the requests of one model by their numbers; a request that arrives early waits (PROTOCOL §8.2).
#[derive(Debug)]
pub(super) struct Turns<J> {
    next: u64,
    waiting: BTreeMap<u64, J>,
    recent: Recent,
}

/// Limit of requests of one model that wait for a missing one.
pub(super) const MOST_WAITING: usize = 1024;

impl<J> Turns<J> {
    /// The first request has number 1.
    pub(super) fn new() -> Self {
        Turns { next: 1, waiting: BTreeMap::new(), recent: Recent::new(4096) }
    }

    /// Number of the request that can run next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn is_full(&self, number: u64) -> bool {
        number != self.next && MOST_WAITING <= self.waiting.len()
    }

    pub(super) fn seen(&self, number: u64, fingerprint: u64) -> Seen {
        match self.recent.seen(number, fingerprint) {
            // It has run, but its fingerprint is no longer known.
            Seen::Never if number < self.next => Seen::Different,
            seen => seen,
        }
    }

    /// Adds a new request; returns those that can run now.
    pub(super) fn arrive(&mut self, number: u64, fingerprint: u64, id: &str, job: J) -> Vec<J> {
        self.recent.insert(number, fingerprint, id);
        self.waiting.insert(number, job);
        let mut due = Vec::new();
        while let Some(job) = self.waiting.remove(&self.next) {
            self.next += 1;
            due.push(job);
        }
        due
    }

    /// The requests that still wait and will never run.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = J> {
        self.waiting.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(turns: &mut Turns<u64>, number: u64) -> Vec<u64> {
        assert_eq!(turns.seen(number, number), Seen::Never);
        turns.arrive(number, number, &number.to_string(), number)
    }

    #[test]
    fn requests_run_in_the_order_of_their_numbers_whatever_the_order_of_arrival() {
        let mut turns = Turns::new();
        for early in [2, 3, 5] {
            assert!(arrive(&mut turns, early).is_empty());
        }
        assert_eq!(arrive(&mut turns, 1), [1, 2, 3]);
        assert_eq!(turns.next(), 4);
        assert_eq!(turns.into_waiting().collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn a_repeated_request_is_known_and_another_under_its_number_is_not() {
        let mut turns = Turns::new();
        arrive(&mut turns, 1);
        arrive(&mut turns, 3);
        assert_eq!(turns.seen(1, 1), Seen::Same("1".into()));
        assert_eq!(turns.seen(3, 3), Seen::Same("3".into()));
        assert_eq!(turns.seen(1, 7), Seen::Different);
        assert_eq!(turns.seen(0, 0), Seen::Different, "turn 0 is over");
    }

    #[test]
    fn what_was_forgotten_cannot_run_again() {
        let mut turns = Turns::new();
        for number in 1..=5000 {
            arrive(&mut turns, number);
        }
        assert_eq!(turns.seen(5000, 5000), Seen::Same("5000".into()));
        assert_eq!(turns.seen(1, 1), Seen::Different);
    }

    #[test]
    fn a_gap_does_not_gather_requests_without_end() {
        let mut turns = Turns::new();
        for number in 2..2 + MOST_WAITING as u64 {
            assert!(!turns.is_full(number));
            arrive(&mut turns, number);
        }
        assert!(turns.is_full(9999) && !turns.is_full(1));
    }
}
