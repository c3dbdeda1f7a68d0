//! Order of the requests of one model, and recognition of repeated requests. Has no clock, no lock and no thread.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Request numbers that were used, each with the fingerprint (hash) of its request and the id of its result. Only the
/// latest `max` numbers are kept.
#[derive(Debug)]
pub(super) struct RecentRequests {
    ids: HashMap<u64, (u64, String)>,
    order: VecDeque<u64>,
    max: usize,
}

/// State of a request number.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Never,
    /// Used by the same request; holds the id of its result.
    Same(String),
    /// Used by another request.
    Different,
}

impl RecentRequests {
    pub(super) fn new(max: usize) -> Self {
        RecentRequests { ids: HashMap::new(), order: VecDeque::new(), max }
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
        if self.max < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

/// Puts the requests of one model in the order of their numbers. A request waits until all requests with lower numbers
/// have arrived (PROTOCOL §8.2).
#[derive(Debug)]
pub(super) struct RequestOrder<J> {
    next: u64,
    waiting: BTreeMap<u64, J>,
    recent: RecentRequests,
}

/// Limit of the requests of one model that wait for a request that has not arrived.
pub(super) const MAX_WAITING: usize = 1024;

impl<J> RequestOrder<J> {
    /// The first request has number 1.
    pub(super) fn new() -> Self {
        RequestOrder { next: 1, waiting: BTreeMap::new(), recent: RecentRequests::new(4096) }
    }

    /// Number of the request that can run next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn is_full(&self, number: u64) -> bool {
        number != self.next && MAX_WAITING <= self.waiting.len()
    }

    pub(super) fn seen(&self, number: u64, fingerprint: u64) -> Seen {
        match self.recent.seen(number, fingerprint) {
            // The number was used, but its fingerprint is no longer kept, so a repetition cannot be recognised. Count
            // it as another request, which is refused.
            Seen::Never if number < self.next => Seen::Different,
            seen => seen,
        }
    }

    /// Adds a new request; returns all requests that can run now, in order.
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

    /// The requests that still wait for a missing one. The caller has to fail them.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = J> {
        self.waiting.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(requests: &mut RequestOrder<u64>, number: u64) -> Vec<u64> {
        assert_eq!(requests.seen(number, number), Seen::Never);
        requests.arrive(number, number, &number.to_string(), number)
    }

    #[test]
    fn requests_run_in_the_order_of_their_numbers() {
        let mut requests = RequestOrder::new();
        for early in [2, 3, 5] {
            assert!(arrive(&mut requests, early).is_empty());
        }
        assert_eq!(arrive(&mut requests, 1), [1, 2, 3]);
        assert_eq!(requests.next(), 4);
        assert_eq!(requests.into_waiting().collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn a_repeated_request_is_recognised_and_another_request_with_its_number_is_not() {
        let mut requests = RequestOrder::new();
        arrive(&mut requests, 1);
        arrive(&mut requests, 3);
        assert_eq!(requests.seen(1, 1), Seen::Same("1".into()));
        assert_eq!(requests.seen(3, 3), Seen::Same("3".into()));
        assert_eq!(requests.seen(1, 7), Seen::Different);
        assert_eq!(requests.seen(0, 0), Seen::Different, "number 0 is never used");
    }

    #[test]
    fn a_request_whose_fingerprint_was_dropped_does_not_run_again() {
        let mut requests = RequestOrder::new();
        for number in 1..=5000 {
            arrive(&mut requests, number);
        }
        assert_eq!(requests.seen(5000, 5000), Seen::Same("5000".into()));
        assert_eq!(requests.seen(1, 1), Seen::Different);
    }

    #[test]
    fn the_number_of_requests_that_wait_for_a_missing_one_is_bounded() {
        let mut requests = RequestOrder::new();
        for number in 2..2 + MAX_WAITING as u64 {
            assert!(!requests.is_full(number));
            arrive(&mut requests, number);
        }
        assert!(requests.is_full(9999) && !requests.is_full(1));
    }
}
