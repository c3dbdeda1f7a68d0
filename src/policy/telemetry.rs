//! The queue of telemetry events, and counts of delivered and dropped events (PROTOCOL §9.5).

use std::collections::VecDeque;
use std::mem;

/// Capacity of the queue. When the queue is full, new events are dropped and old ones are kept, because the oldest
/// events show the cause of a failure.
pub(crate) const CAPACITY: usize = 10_000;
/// Largest number of events in one request, a batch. A full batch is sent immediately.
pub(crate) const BATCH: usize = 100;
/// Largest number of characters of a text in an event.
const MAX_TEXT: usize = 1000;

/// Counts of the usage events that a client reports. Once the client is closed, `queued` equals `delivered` plus
/// `dropped`; until then the difference is the number of events that wait or are being sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TelemetryCounts {
    /// All events so far, including events that found the queue full.
    pub queued: u64,
    /// Events that the server acknowledged.
    pub delivered: u64,
    /// Events that were dropped: full queue, refused or failed request, or end of the client.
    pub dropped: u64,
}

/// The waiting events, at most one batch in flight, and the counts.
#[derive(Debug)]
pub(crate) struct Backlog<E> {
    waiting: VecDeque<E>,
    in_flight: u64,
    next_index: u64,
    counts: TelemetryCounts,
    /// An event found the queue full since the last batch was taken.
    full: bool,
    closed: bool,
}

/// Outcome of [`Backlog::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The event waits.
    Queued,
    /// The event waits, and a full batch is due.
    Due,
    /// The event is dropped: the queue has just become full.
    Full,
    /// The event is dropped: the queue is still full, or closed.
    Dropped,
}

impl<E> Default for Backlog<E> {
    fn default() -> Self {
        Backlog {
            waiting: VecDeque::new(),
            in_flight: 0,
            next_index: 0,
            counts: TelemetryCounts::default(),
            full: false,
            closed: false,
        }
    }
}

impl<E> Backlog<E> {
    /// Queues an event if the queue is not full. `make` gets the number of the event; queued events have consecutive
    /// numbers.
    pub(crate) fn push(&mut self, make: impl FnOnce(u64) -> E) -> Pushed {
        self.counts.queued += 1;
        if self.closed || CAPACITY <= self.waiting.len() {
            self.counts.dropped += 1;
            let just_full = !self.closed && !mem::replace(&mut self.full, true);
            return if just_full { Pushed::Full } else { Pushed::Dropped };
        }
        self.append(make);
        if self.is_due() { Pushed::Due } else { Pushed::Queued }
    }

    /// Closes the queue after a last event, which is queued even if the queue is full. A second call has no effect.
    pub(crate) fn finish(&mut self, last: Option<impl FnOnce(u64) -> E>) {
        if mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(make) = last {
            self.counts.queued += 1;
            self.append(make);
        }
    }

    /// A full batch waits, or the queue is closed.
    pub(crate) fn is_due(&self) -> bool {
        BATCH <= self.waiting.len() || self.closed
    }

    /// No event is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the events of the next request. The caller must call [`settle`](Self::settle) before the next call.
    pub(crate) fn take(&mut self) -> Vec<E> {
        let n = self.waiting.len().min(BATCH);
        self.in_flight += n as u64;
        self.full = false;
        self.waiting.drain(..n).collect()
    }

    /// Counts the batch in flight as delivered or as dropped.
    pub(crate) fn settle(&mut self, delivered: bool) {
        let n = mem::take(&mut self.in_flight);
        if delivered {
            self.counts.delivered += n;
        } else {
            self.counts.dropped += n;
        }
    }

    /// Closes the queue and drops all events that are not settled, including the batch in flight. Returns the waiting
    /// events.
    pub(crate) fn drop_all(&mut self) -> VecDeque<E> {
        self.closed = true;
        let waiting = mem::take(&mut self.waiting);
        self.counts.dropped += waiting.len() as u64 + mem::take(&mut self.in_flight);
        waiting
    }

    pub(crate) fn counts(&self) -> TelemetryCounts {
        self.counts
    }

    fn append(&mut self, make: impl FnOnce(u64) -> E) {
        self.waiting.push_back(make(self.next_index));
        self.next_index += 1;
    }
}

/// Removes these secrets and everything that looks like a credential, and limits the length. Servers and proxies may
/// repeat credentials in their error texts.
pub(crate) fn presentable(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_string();
    for secret in secrets.iter().filter(|it| !it.is_empty()) {
        text = text.replace(secret, "***");
    }
    for prefix in ["tml-", "eyJ"] {
        text = masked(&text, prefix);
    }
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Masks each word that starts with the prefix.
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

    fn fill(backlog: &mut Backlog<u64>, n: usize) -> Vec<Pushed> {
        (0..n).map(|_| backlog.push(|i| i)).collect()
    }

    fn counts(queued: u64, delivered: u64, dropped: u64) -> TelemetryCounts {
        TelemetryCounts { queued, delivered, dropped }
    }

    #[test]
    fn a_full_batch_is_due_at_once_and_batches_are_bounded() {
        let mut backlog = Backlog::default();
        let pushed = fill(&mut backlog, 250);
        assert!(pushed[..99].iter().all(|it| *it == Pushed::Queued));
        assert!(pushed[99..].iter().all(|it| *it == Pushed::Due));
        let sizes: Vec<_> = (0..4).map(|_| backlog.take().len()).collect();
        assert_eq!(sizes, [100, 100, 50, 0]);
    }

    #[test]
    fn numbers_start_at_zero_and_skip_no_number_for_dropped_events() {
        let mut backlog = Backlog::default();
        fill(&mut backlog, CAPACITY + 3);
        let first = backlog.take();
        backlog.settle(true);
        assert_eq!(backlog.push(|i| i), Pushed::Due);
        let rest: Vec<_> = std::iter::repeat_with(|| backlog.take()).take(100).flatten().collect();
        assert!(first.into_iter().chain(rest).eq(0..=CAPACITY as u64));
    }

    #[test]
    fn events_beyond_the_capacity_are_dropped_and_reported_once_until_there_is_room_again() {
        let mut backlog = Backlog::default();
        let pushed = fill(&mut backlog, CAPACITY + 3);
        assert_eq!(pushed[CAPACITY..], [Pushed::Full, Pushed::Dropped, Pushed::Dropped]);
        assert_eq!(backlog.counts(), counts(CAPACITY as u64 + 3, 0, 3));
        backlog.take();
        let pushed = fill(&mut backlog, BATCH + 2);
        assert_eq!(pushed[BATCH..], [Pushed::Full, Pushed::Dropped]);
    }

    #[test]
    fn only_acknowledged_events_count_as_delivered() {
        // Outcome of each batch; the counts afterwards.
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
    fn the_last_event_is_queued_beyond_the_capacity_and_later_ones_are_dropped() {
        let mut backlog = Backlog::default();
        fill(&mut backlog, CAPACITY);
        backlog.finish(Some(|i| i));
        backlog.finish(Some(|_| unreachable!("a second end")));
        assert_eq!(backlog.push(|i| i), Pushed::Dropped);
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
    fn dropped_events_are_counted_once_even_if_a_late_answer_acknowledges_them() {
        let mut backlog = Backlog::default();
        fill(&mut backlog, 150);
        backlog.take();
        assert_eq!(backlog.drop_all().len(), 50);
        backlog.settle(true);
        assert_eq!(backlog.counts(), counts(150, 0, 150));
    }

    #[test]
    fn secrets_are_masked_and_long_texts_are_cut() {
        let table = [
            ("the key hunter2 is wrong", "the key *** is wrong"),
            ("'tml-abc_1.2': no", "'tml-***': no"),
            ("Bearer eyJhbGci.eyJzdWIi.x-y_z, again tml-x", "Bearer eyJ***, again tml-***"),
            ("nothing to hide", "nothing to hide"),
        ];
        for (text, expected) in table {
            assert_eq!(presentable(text, &["hunter2", ""]), expected);
        }
        let long = presentable(&"ä".repeat(MAX_TEXT + 1), &[]);
        assert_eq!(long.chars().count(), MAX_TEXT + 1);
        assert!(long.ends_with("ä…"));
    }
}
