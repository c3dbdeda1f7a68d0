//! Feeds of completed samples, one for each client of a sampling session (PROTOCOL §4.5).
//!
//! A feed is a list of numbered entries. A request says up to which number the client has read. The feed drops the
//! entries up to that number and returns the later ones. If there is no later entry, the request waits for one without
//! occupying a thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::json::Completion;

/// Limit of the entries of a feed. Above it the oldest entries are dropped; a client that missed an entry can still
/// request the result of that sample by its id.
const MAX_ENTRIES: usize = 65_536;
/// Limit of the bytes of the entries.
const MAX_BYTES: usize = 2 << 20;

/// Number of sequence ids that each client of a sampling session has: client `c` uses the ids from `c · 10^9` on.
const IDS_PER_CLIENT: u64 = 1_000_000_000;

/// Client number of a sequence id.
pub(super) fn client_of(seq_id: u64) -> u64 {
    seq_id / IDS_PER_CLIENT
}

/// The feed of one client.
#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the latest entry.
    last: u64,
    entries: VecDeque<(u64, Completion)>,
    /// Bytes of the entries.
    bytes: usize,
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some((_, it)) = self.entries.pop_front() {
            self.bytes -= size(&it);
        }
    }
}

/// Bytes of an entry.
fn size(completion: &Completion) -> usize {
    size_of::<(u64, Completion)>() + completion.state.len() + completion.request_id.len()
}

impl Feed {
    /// Adds the completion of a sample.
    pub(super) fn push(&self, completion: Completion) {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        state.bytes += size(&completion);
        state.entries.push_back((number, completion));
        while MAX_ENTRIES < state.entries.len() || (MAX_BYTES < state.bytes && 1 < state.entries.len()) {
            state.drop_oldest();
        }
        drop(state);
        self.notify.notify_waiters();
    }

    /// Drops the entries up to the number `read`; returns the later ones, and the number to pass to the next call.
    fn after(&self, read: u64) -> (Vec<Completion>, u64) {
        let mut state = self.state.lock();
        let last = state.last;
        // A number above `last` comes from an earlier run of the server. Return no entries; the returned number is
        // valid for the next call.
        if last < read {
            return (Vec::new(), last);
        }
        while state.entries.front().is_some_and(|it| it.0 <= read) {
            state.drop_oldest();
        }
        (state.entries.iter().map(|it| it.1.clone()).collect(), last)
    }

    /// Returns the entries after the number `read`. If there are none, waits for one, at most for `timeout`.
    pub(super) async fn wait(self: Arc<Self>, read: u64, timeout: Duration) -> (Vec<Completion>, u64) {
        // If the deadline is too late to be represented, wait without a deadline.
        let deadline = tokio::time::Instant::now().checked_add(timeout);
        loop {
            // Create the notification before looking at the feed: an entry that is added in between then ends the wait.
            let notified = self.notify.notified();
            let (entries, cursor) = self.after(read);
            let waited = match deadline {
                _ if !entries.is_empty() => return (entries, cursor),
                Some(it) => tokio::time::timeout_at(it, notified).await.is_ok(),
                None => {
                    notified.await;
                    true
                }
            };
            if !waited {
                return (entries, cursor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(id: &str) -> Completion {
        Completion {
            state: "finished".into(),
            request_id: id.into(),
            response_payload_uncompressed_size: Some(1),
        }
    }

    fn ids(entries: &[Completion]) -> Vec<&str> {
        entries.iter().map(|it| it.request_id.as_str()).collect()
    }

    #[test]
    fn read_entries_are_dropped_and_unread_ones_returned_again() {
        let feed = Feed::default();
        feed.push(done("a"));
        feed.push(done("b"));
        let (entries, cursor) = feed.after(0);
        assert_eq!((ids(&entries), cursor), (vec!["a", "b"], 2));
        feed.push(done("c"));
        assert_eq!(ids(&feed.after(0).0), ["a", "b", "c"], "the response may have been lost");
        let (entries, cursor) = feed.after(2);
        assert_eq!((ids(&entries), cursor), (vec!["c"], 3));
        assert_eq!(ids(&feed.after(0).0), ["c"]);
        assert_eq!(feed.after(9).1, 3);
    }

    #[test]
    fn unread_entries_are_bounded() {
        let feed = Feed::default();
        (0..MAX_ENTRIES + 10).for_each(|i| feed.push(done(&i.to_string())));
        let (entries, cursor) = feed.after(0);
        let bytes: usize = entries.iter().map(size).sum();
        assert!(entries.len() <= MAX_ENTRIES && bytes <= MAX_BYTES && MAX_BYTES < bytes + 200, "{bytes}");
        assert_eq!(cursor, MAX_ENTRIES as u64 + 10);
        assert_eq!(entries.last().map(|it| it.request_id.as_str()), Some("65545"), "the latest stays");
        feed.after(cursor);
        assert_eq!(feed.state.lock().bytes, 0);
    }

    #[test]
    fn a_sequence_id_gives_its_client() {
        assert_eq!([0, 999_999_999, 1_000_000_000, 7_000_000_003].map(client_of), [0, 0, 1, 7]);
    }
}
