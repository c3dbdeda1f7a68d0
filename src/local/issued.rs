//! Random tokens that were issued, each with a value and the time of its expiry.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

/// Limit of the tokens of one kind. Above it the oldest is dropped, as if it had never been issued.
const MAX_ISSUED: usize = 4096;

/// Tokens of one kind. All are valid for the same time, so the oldest expires first.
#[derive(Debug)]
pub(super) struct Issued<T> {
    tokens: HashMap<String, (T, SystemTime)>,
    /// The tokens in the order in which they were issued, each with the time at which it is dropped.
    order: VecDeque<(SystemTime, String)>,
    life: Duration,
    /// Time for which a token is remembered after its expiry.
    remembered: Duration,
}

impl<T> Issued<T> {
    pub(super) fn new(life: Duration, remembered: Duration) -> Self {
        Issued { tokens: HashMap::new(), order: VecDeque::new(), life, remembered }
    }

    /// Adds a token; returns the time of its expiry.
    pub(super) fn add(&mut self, token: &str, value: T, now: SystemTime) -> SystemTime {
        let until = now + self.life;
        self.tokens.insert(token.into(), (value, until));
        self.order.push_back((until + self.remembered, token.into()));
        while self.order.front().is_some_and(|it| it.0 <= now || MAX_ISSUED < self.order.len()) {
            if let Some((_, token)) = self.order.pop_front() {
                self.tokens.remove(&token);
            }
        }
        until
    }

    /// Value and expiry of a token.
    pub(super) fn get(&self, token: &str) -> Option<&(T, SystemTime)> {
        self.tokens.get(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_dropped_some_time_after_they_expired_and_when_there_are_too_many() {
        let second = Duration::from_secs(1);
        let (mut issued, now) = (Issued::new(10 * second, 5 * second), SystemTime::now());
        assert_eq!(issued.add("a", 1, now), now + 10 * second);
        issued.add("b", 2, now + 14 * second);
        assert_eq!(issued.get("a"), Some(&(1, now + 10 * second)), "expired and remembered");
        issued.add("c", 3, now + 15 * second);
        assert_eq!((issued.get("a"), issued.get("b").map(|it| it.0)), (None, Some(2)));
        for i in 0..MAX_ISSUED {
            issued.add(&i.to_string(), 4, now + 15 * second);
        }
        assert_eq!((issued.get("b"), issued.get("c"), issued.tokens.len()), (None, None, MAX_ISSUED));
        assert_eq!(issued.get("0").map(|it| it.0), Some(4));
    }
}
