//! News of finished samples, one feed for each client of a sampling session (PROTOCOL §4.5).
//!
//! A feed is a list with a number for each entry. Whoever asks says up to which number it has read, which may then be
//! forgotten, and is told what came after; if that is nothing, the answer waits without a thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::json::Completion;

/// How much news waits at most; beyond, the oldest is forgotten. Whoever missed it can still ask for each sample.
const MOST: usize = 65_536;
/// How many bytes that news may take.
const MOST_BYTES: usize = 2 << 20;

/// Sequence ids of one client of a sampling session: each has so many.
const IDS_PER_CLIENT: u64 = 1_000_000_000;

/// Which client of a sampling session a sequence id belongs to.
pub(super) fn client_of(seq_id: u64) -> u64 {
    seq_id / IDS_PER_CLIENT
}

/// The news for one client.
#[derive(Debug, Default)]
pub(super) struct Feed {
    news: Mutex<News>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct News {
    /// The number of the latest entry.
    last: u64,
    entries: VecDeque<(u64, Completion)>,
    /// What the entries take.
    bytes: usize,
}

impl News {
    fn forget_oldest(&mut self) {
        if let Some((_, it)) = self.entries.pop_front() {
            self.bytes -= size(&it);
        }
    }
}

/// What an entry takes.
fn size(completion: &Completion) -> usize {
    size_of::<(u64, Completion)>() + completion.state.len() + completion.request_id.len()
}

impl Feed {
    /// Adds that a sample has ended.
    pub(super) fn push(&self, completion: Completion) {
        let mut news = self.news.lock();
        news.last += 1;
        let number = news.last;
        news.bytes += size(&completion);
        news.entries.push_back((number, completion));
        while MOST < news.entries.len() || (MOST_BYTES < news.bytes && 1 < news.entries.len()) {
            news.forget_oldest();
        }
        drop(news);
        self.notify.notify_waiters();
    }

    /// What came after `read`, and the number to be given next time.
    fn after(&self, read: u64) -> (Vec<Completion>, u64) {
        let mut news = self.news.lock();
        let last = news.last;
        // A number from another life of this server tells nothing.
        if last < read {
            return (Vec::new(), last);
        }
        while news.entries.front().is_some_and(|it| it.0 <= read) {
            news.forget_oldest();
        }
        (news.entries.iter().map(|it| it.1.clone()).collect(), last)
    }

    /// The news after `read`, waited for if there is none.
    pub(super) async fn wait(self: Arc<Self>, read: u64, patience: Duration) -> (Vec<Completion>, u64) {
        // A time that is beyond all clocks is for ever.
        let deadline = tokio::time::Instant::now().checked_add(patience);
        loop {
            // Created before the look, so that news in between is not missed.
            let notified = self.notify.notified();
            let (news, cursor) = self.after(read);
            let waited = match deadline {
                _ if !news.is_empty() => return (news, cursor),
                Some(it) => tokio::time::timeout_at(it, notified).await.is_ok(),
                None => {
                    notified.await;
                    true
                }
            };
            if !waited {
                return (news, cursor);
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

    fn ids(news: &[Completion]) -> Vec<&str> {
        news.iter().map(|it| it.request_id.as_str()).collect()
    }

    #[test]
    fn what_was_read_is_forgotten_and_the_rest_is_told_again() {
        let feed = Feed::default();
        feed.push(done("a"));
        feed.push(done("b"));
        let (news, cursor) = feed.after(0);
        assert_eq!((ids(&news), cursor), (vec!["a", "b"], 2));
        feed.push(done("c"));
        assert_eq!(ids(&feed.after(0).0), ["a", "b", "c"], "the answer may have been lost");
        let (news, cursor) = feed.after(2);
        assert_eq!((ids(&news), cursor), (vec!["c"], 3));
        assert_eq!(ids(&feed.after(0).0), ["c"]);
        assert_eq!(feed.after(9).1, 3);
    }

    #[test]
    fn news_that_nobody_reads_is_bounded() {
        let feed = Feed::default();
        (0..MOST + 10).for_each(|i| feed.push(done(&i.to_string())));
        let (news, cursor) = feed.after(0);
        let bytes: usize = news.iter().map(size).sum();
        assert!(news.len() <= MOST && bytes <= MOST_BYTES && MOST_BYTES < bytes + 200, "{bytes}");
        assert_eq!(cursor, MOST as u64 + 10);
        assert_eq!(news.last().map(|it| it.request_id.as_str()), Some("65545"), "the latest stays");
        feed.after(cursor);
        assert_eq!(feed.news.lock().bytes, 0);
    }

    #[test]
    fn sequence_ids_say_whose_they_are() {
        assert_eq!([0, 999_999_999, 1_000_000_000, 7_000_000_003].map(client_of), [0, 0, 1, 7]);
    }
}
