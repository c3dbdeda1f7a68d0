//! Which events of the library's own use wait, and what became of the others (PROTOCOL §9.5).

use std::collections::VecDeque;
use std::mem;

/// Events that wait at the same time. A later one is dropped rather than an earlier one: the first are the cause.
pub(crate) const CAPACITY: usize = 10_000;
/// Events in one request, and the number that is worth a request before its time.
pub(crate) const BATCH: usize = 100;
/// Characters of a text in an event.
const LONGEST_TEXT: usize = 1000;

/// What became of the events that a client reports of its own use. Once the client is closed, `queued` is `delivered`
/// plus `dropped`; until then the difference is what still waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TelemetryCounts {
    /// All events so far, those included for which there was no room.
    pub queued: u64,
    /// Events that the server acknowledged.
    pub delivered: u64,
    /// Events that were given up: no room, a refused or failed request, or the end of the client.
    pub dropped: u64,
}

/// The events that wait, at most one batch that is being sent, and the numbers of the others.
#[derive(Debug)]
pub(crate) struct Backlog<E> {
    waiting: VecDeque<E>,
    in_hand: u64,
    next_index: u64,
    counts: TelemetryCounts,
    /// An event found no room since the last batch left.
    full: bool,
    closed: bool,
}

/// What became of an event that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It waits.
    Queued,
    /// It waits, and with it enough others to be sent at once.
    Due,
    /// There was no room, for the first time since there was.
    Full,
    /// It is dropped, and there is nothing new to say about that.
    Dropped,
}

impl<E> Default for Backlog<E> {
    fn default() -> Self {
        Backlog {
            waiting: VecDeque::new(),
            in_hand: 0,
            next_index: 0,
            counts: TelemetryCounts::default(),
            full: false,
            closed: false,
        }
    }
}

impl<E> Backlog<E> {
    /// Takes an event in, if there is room. It is made with its number: those of queued events have no gap.
    pub(crate) fn offer(&mut self, make: impl FnOnce(u64) -> E) -> Offered {
        self.counts.queued += 1;
        if self.closed || CAPACITY <= self.waiting.len() {
            self.counts.dropped += 1;
            let news = !self.closed && !mem::replace(&mut self.full, true);
            return if news { Offered::Full } else { Offered::Dropped };
        }
        self.push(make);
        if self.is_due() { Offered::Due } else { Offered::Queued }
    }

    /// Takes no more events in, after a last one for which there is always room. Doing it again does nothing.
    pub(crate) fn finish(&mut self, last: Option<impl FnOnce(u64) -> E>) {
        if mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(make) = last {
            self.counts.queued += 1;
            self.push(make);
        }
    }

    /// There is enough for a request, or no reason to wait for more.
    pub(crate) fn is_due(&self) -> bool {
        BATCH <= self.waiting.len() || self.closed
    }

    /// No event is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The events of the next request. Its fate is to be settled before the one after it is taken.
    pub(crate) fn take(&mut self) -> Vec<E> {
        let n = self.waiting.len().min(BATCH);
        self.in_hand += n as u64;
        self.full = false;
        self.waiting.drain(..n).collect()
    }

    /// The server acknowledged the request, or it failed.
    pub(crate) fn settle(&mut self, delivered: bool) {
        let n = mem::take(&mut self.in_hand);
        match delivered {
            true => self.counts.delivered += n,
            false => self.counts.dropped += n,
        }
    }

    /// Gives up whatever is not settled, what is being sent included, and returns what waited.
    pub(crate) fn abandon(&mut self) -> VecDeque<E> {
        self.closed = true;
        let waiting = mem::take(&mut self.waiting);
        self.counts.dropped += waiting.len() as u64 + mem::take(&mut self.in_hand);
        waiting
    }

    pub(crate) fn counts(&self) -> TelemetryCounts {
        self.counts
    }

    fn push(&mut self, make: impl FnOnce(u64) -> E) {
        self.waiting.push_back(make(self.next_index));
        self.next_index += 1;
    }
}

/// A text as it may leave the process: without the secrets given, without anything that looks like a credential, and
/// of bounded length. Servers and proxies repeat in their errors whatever they were sent.
pub(crate) fn presentable(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_string();
    for secret in secrets.iter().filter(|it| !it.is_empty()) {
        text = text.replace(secret, "***");
    }
    for prefix in ["tml-", "eyJ"] {
        text = masked(&text, prefix);
    }
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Hides every word that starts with a prefix.
fn masked(text: &str, prefix: &str) -> String {
    let of_word = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | '=' | '+' | '/');
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(prefix) {
        out.push_str(&rest[..at]);
        out.push_str(prefix);
        out.push_str("***");
        rest = rest[at..].trim_start_matches(of_word);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(backlog: &mut Backlog<u64>, n: usize) -> Vec<Offered> {
        (0..n).map(|_| backlog.offer(|i| i)).collect()
    }

    fn counts(queued: u64, delivered: u64, dropped: u64) -> TelemetryCounts {
        TelemetryCounts { queued, delivered, dropped }
    }

    #[test]
    fn a_full_batch_is_due_at_once_and_batches_are_bounded() {
        let mut backlog = Backlog::default();
        let offers = fill(&mut backlog, 250);
        assert!(offers[..99].iter().all(|it| *it == Offered::Queued));
        assert!(offers[99..].iter().all(|it| *it == Offered::Due));
        let sizes: Vec<_> = (0..4).map(|_| backlog.take().len()).collect();
        assert_eq!(sizes, [100, 100, 50, 0]);
    }

    #[test]
    fn numbers_start_at_zero_and_have_no_gap_where_events_were_dropped() {
        let mut backlog = Backlog::default();
        fill(&mut backlog, CAPACITY + 3);
        let first = backlog.take();
        backlog.settle(true);
        assert_eq!(backlog.offer(|i| i), Offered::Due);
        let rest: Vec<_> = std::iter::repeat_with(|| backlog.take()).take(100).flatten().collect();
        assert!(first.into_iter().chain(rest).eq(0..=CAPACITY as u64));
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_told_once_until_there_was_room() {
        let mut backlog = Backlog::default();
        let offers = fill(&mut backlog, CAPACITY + 3);
        assert_eq!(offers[CAPACITY..], [Offered::Full, Offered::Dropped, Offered::Dropped]);
        assert_eq!(backlog.counts(), counts(CAPACITY as u64 + 3, 0, 3));
        backlog.take();
        let offers = fill(&mut backlog, BATCH + 2);
        assert_eq!(offers[BATCH..], [Offered::Full, Offered::Dropped]);
    }

    #[test]
    fn only_what_the_server_acknowledged_counts_as_delivered() {
        // How many events are taken, and what becomes of them.
        let table = [(&[true, true][..], counts(150, 150, 0)), (&[true, false], counts(150, 100, 50))];
        for (fates, expected) in table {
            let mut backlog = Backlog::default();
            fill(&mut backlog, 150);
            for fate in fates {
                backlog.take();
                backlog.settle(*fate);
            }
            assert_eq!(backlog.counts(), expected);
        }
    }

    #[test]
    fn the_last_event_always_has_room_and_none_comes_after_it() {
        let mut backlog = Backlog::default();
        fill(&mut backlog, CAPACITY);
        backlog.finish(Some(|i| i));
        backlog.finish(Some(|_| unreachable!("a second end")));
        assert_eq!(backlog.offer(|i| i), Offered::Dropped);
        assert!(backlog.is_due() && !backlog.is_empty());
        let mut all = Vec::new();
        while !backlog.is_empty() {
            all.extend(backlog.take());
            backlog.settle(true);
        }
        assert_eq!(all.len(), CAPACITY + 1);
        assert_eq!(backlog.counts(), counts(CAPACITY as u64 + 2, CAPACITY as u64 + 1, 1));
    }

    #[test]
    fn what_is_abandoned_is_dropped_once_whatever_a_late_answer_says() {
        let mut backlog = Backlog::default();
        fill(&mut backlog, 150);
        backlog.take();
        assert_eq!(backlog.abandon().len(), 50);
        backlog.settle(true);
        assert_eq!(backlog.counts(), counts(150, 0, 150));
    }

    #[test]
    fn secrets_are_hidden_and_long_texts_cut() {
        let table = [
            ("the key hunter2 is wrong", "the key *** is wrong"),
            ("'tml-abc_1.2': no", "'tml-***': no"),
            ("Bearer eyJhbGci.eyJzdWIi.x-y_z, again tml-x", "Bearer eyJ***, again tml-***"),
            ("nothing to hide", "nothing to hide"),
        ];
        for (text, expected) in table {
            assert_eq!(presentable(text, &["hunter2", ""]), expected);
        }
        let long = presentable(&"ä".repeat(LONGEST_TEXT + 1), &[]);
        assert_eq!(long.chars().count(), LONGEST_TEXT + 1);
        assert!(long.ends_with("ä…"));
    }
}
