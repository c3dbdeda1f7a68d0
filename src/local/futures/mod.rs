//! Futures: pending requests, and the results of finished requests, which are kept for some time so that they can be
//! fetched again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::json::Completion;

use super::feeds::Feed;
use super::trace::Span;

/// Time for which a result is kept after it was first fetched. The client fetches it once more if the response was
/// lost.
const KEEP_FETCHED: Duration = Duration::from_secs(120);
/// Time for which a result is kept if it is never fetched.
const KEEP_UNFETCHED: Duration = Duration::from_secs(3600);
/// Limit of the bytes of all results. Above it results are dropped: first the fetched ones, the oldest first, then the
/// others.
const MAX_BYTES: usize = 256 << 20;
/// Bytes that a result takes besides its content: its entry, its ids and its times, by estimate.
const ENTRY_BYTES: usize = 512;

/// Result of a request.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// A JSON body.
    Json(Bytes),
    /// A protobuf `ForwardBackwardOutput`.
    Pass(Bytes),
    /// A protobuf `SampleResponse`.
    Sample(Bytes),
    /// A failure. `category` says who caused it: `user` or `server`.
    Failed { error: String, category: &'static str },
}

impl Outcome {
    pub(super) fn user(error: impl Into<String>) -> Self {
        Outcome::Failed { error: error.into(), category: "user" }
    }

    pub(super) fn server(error: impl Into<String>) -> Self {
        Outcome::Failed { error: error.into(), category: "server" }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Outcome::Json(it) | Outcome::Pass(it) | Outcome::Sample(it) => it.len(),
            Outcome::Failed { error, .. } => error.len(),
        }
    }
}

/// The engine's handle of a request: with it the engine starts the request, sets its result, and sees whether it was
/// cancelled.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) id: String,
    pub(super) cancelled: Arc<AtomicBool>,
    span: Option<Arc<Span>>,
}

impl Ticket {
    /// Records that the engine started the request.
    pub(super) fn mark_started(&self) {
        if let Some(it) = &self.span {
            it.start();
        }
    }
}

/// Model and sequence number of a request. The request runs only after all requests of the model with lower numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Position {
    pub(super) model_id: String,
    pub(super) seq_id: u64,
}

struct Entry {
    outcome: Option<Outcome>,
    /// Time of the end; time of creation while the request is pending.
    done: Instant,
    fetched: Option<Instant>,
    notify: Arc<Notify>,
    cancelled: Arc<AtomicBool>,
    position: Option<Position>,
    /// True for samples only. The requests of a model cannot be cancelled; they run even if no client waits for them.
    cancellable: bool,
    /// Session of the request, if it has one.
    session: Option<Box<str>>,
    /// Feed to which the completion is added.
    feed: Option<Arc<Feed>>,
    /// Records the times of the request for the trace.
    span: Option<Arc<Span>>,
}

impl Entry {
    /// Bytes that the result takes; 0 while there is none.
    fn size(&self) -> usize {
        self.outcome.as_ref().map_or(0, |it| ENTRY_BYTES + it.len())
    }

    fn end(&mut self, id: &str, outcome: Outcome) {
        if let Some(it) = &self.span {
            it.end();
        }
        if let Some(feed) = &self.feed {
            let size = outcome.len() as u64;
            let (state, size) = match &outcome {
                Outcome::Failed { .. } => ("failed", None),
                _ => ("finished", Some(size)),
            };
            let (state, request_id) = (state.into(), id.into());
            feed.push(Completion { state, request_id, response_payload_uncompressed_size: size });
        }
        self.outcome = Some(outcome);
        self.done = Instant::now();
        self.notify.notify_waiters();
    }
}

/// State of a request id.
#[derive(Debug)]
pub(super) enum Found {
    /// Never issued by this server.
    Unknown,
    /// Issued by this server; the result has been dropped.
    Expired,
    Pending(Option<Position>),
    Done(Outcome),
}

/// Session of a model or a sampler, whose ids begin with the session id.
pub(super) fn session_of(id: &str) -> &str {
    id.split(':').next().unwrap_or(id)
}

enum Look {
    Now(Found),
    Later(Arc<Notify>, Option<Position>),
}

/// All requests of a server.
pub(super) struct Futures {
    /// Prefix of all request ids of this run of the server. The ids of earlier runs, whose results are lost, have
    /// another prefix.
    prefix: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    issued: u64,
    entries: HashMap<u64, Entry>,
    /// Number of requests without a result.
    pending: usize,
    bytes: usize,
    swept: Option<Instant>,
    /// Error text for requests after [`Futures::close`]; `None` before.
    closed: Option<&'static str>,
}

impl Futures {
    pub(super) fn new(run: u64) -> Self {
        Futures { prefix: format!("req-{run:08x}-"), inner: Mutex::default() }
    }

    /// Adds a request.
    pub(super) fn create(&self, position: Option<Position>, span: Option<Arc<Span>>) -> Ticket {
        let session = position.as_ref().map(|it| session_of(&it.model_id).into());
        self.add(position, session, false, None, span)
    }

    /// Adds a request that can be cancelled. Its completion is added to `feed`, if one is given.
    pub(super) fn create_cancellable(
        &self,
        session: Option<&str>,
        feed: Option<Arc<Feed>>,
        span: Option<Arc<Span>>,
    ) -> Ticket {
        self.add(None, session.map(Into::into), true, feed, span)
    }

    fn add(
        &self,
        position: Option<Position>,
        session: Option<Box<str>>,
        cancellable: bool,
        feed: Option<Arc<Feed>>,
        span: Option<Arc<Span>>,
    ) -> Ticket {
        let mut inner = self.inner.lock();
        let number = inner.issued;
        inner.issued += 1;
        let cancelled = Arc::new(AtomicBool::new(false));
        let id = format!("{}{number}", self.prefix);
        let mut entry = Entry {
            outcome: None,
            done: Instant::now(),
            fetched: None,
            notify: Arc::default(),
            cancelled: cancelled.clone(),
            position,
            cancellable,
            session,
            feed,
            span: span.clone(),
        };
        match inner.closed {
            Some(why) => entry.end(&id, Outcome::server(why)),
            None => inner.pending += 1,
        }
        inner.entries.insert(number, entry);
        Ticket { id, cancelled, span }
    }

    /// Number of requests that wait or run.
    pub(super) fn pending(&self) -> usize {
        self.inner.lock().pending
    }

    fn number(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Ends a request with a result. Later calls for the same request have no effect.
    pub(super) fn finish(&self, id: &str, outcome: Outcome) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let entry = self.number(id).and_then(|it| inner.entries.get_mut(&it));
        let Some(entry) = entry.filter(|it| it.outcome.is_none()) else { return };
        entry.end(id, outcome);
        let size = entry.size();
        inner.pending -= 1;
        inner.bytes += size;
        inner.sweep(now);
    }

    /// Ends a request if it can be cancelled and is pending.
    pub(super) fn cancel(&self, id: &str) {
        let cancelled = {
            let inner = self.inner.lock();
            let entry = self.number(id).and_then(|it| inner.entries.get(&it));
            entry.filter(|it| it.cancellable).map(|it| it.cancelled.clone())
        };
        if let Some(flag) = cancelled {
            flag.store(true, Ordering::Relaxed);
            self.finish(id, Outcome::user("cancelled by the client"));
        }
    }

    /// Ends the pending samples of a session and sets their cancel flags. All results of the session are kept only as long
    /// as if they had been fetched now: a session that ended fetches no more results, at least not for long.
    pub(super) fn end_session(&self, session: &str, why: &str) {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        let (mut bytes, mut ended) = (0, 0);
        let of_session = |it: &Entry| it.session.as_deref() == Some(session);
        for (number, entry) in inner.entries.iter_mut().filter(|it| of_session(it.1)) {
            entry.fetched.get_or_insert(now);
            if entry.cancellable && entry.outcome.is_none() {
                entry.cancelled.store(true, Ordering::Relaxed);
                entry.end(&format!("{}{number}", self.prefix), Outcome::user(why));
                bytes += entry.size();
                ended += 1;
            }
        }
        inner.bytes += bytes;
        inner.pending -= ended;
    }

    /// Session of a request.
    pub(super) fn session(&self, id: &str) -> Option<Box<str>> {
        let inner = self.inner.lock();
        inner.entries.get(&self.number(id)?)?.session.clone()
    }

    /// Fails all pending requests, and all requests that are added from now on.
    pub(super) fn close(&self, why: &'static str) {
        let mut inner = self.inner.lock();
        inner.closed = Some(why);
        inner.pending = 0;
        for (number, entry) in inner.entries.iter_mut().filter(|it| it.1.outcome.is_none()) {
            entry.end(&format!("{}{number}", self.prefix), Outcome::server(why));
        }
    }

    fn look(&self, id: &str) -> Look {
        let mut inner = self.inner.lock();
        let Some(number) = self.number(id).filter(|it| *it < inner.issued) else {
            return Look::Now(Found::Unknown);
        };
        match inner.entries.get_mut(&number) {
            None => Look::Now(Found::Expired),
            Some(Entry { outcome: Some(outcome), .. }) => Look::Now(Found::Done(outcome.clone())),
            Some(entry) => Look::Later(entry.notify.clone(), entry.position.clone()),
        }
    }

    /// The state of a request, without waiting.
    #[cfg(test)]
    pub(super) fn now(&self, id: &str) -> Found {
        match self.look(id) {
            Look::Now(found) => found,
            Look::Later(_, position) => Found::Pending(position),
        }
    }

    /// Waits for the end of a request, at most for `timeout`.
    pub(super) async fn wait(&self, id: &str, timeout: Duration) -> Found {
        let (notify, position) = match self.look(id) {
            Look::Now(found) => return found,
            Look::Later(notify, position) => (notify, position),
        };
        // Create the notification before looking again: if the request ends in between, the wait below returns at once.
        let notified = notify.notified();
        if let Look::Now(found) = self.look(id) {
            return found;
        }
        let _ = tokio::time::timeout(timeout, notified).await;
        match self.look(id) {
            Look::Now(found) => found,
            Look::Later(..) => Found::Pending(position),
        }
    }

    /// Records that a client fetched a result.
    pub(super) fn fetched(&self, id: &str) {
        let mut inner = self.inner.lock();
        if let Some(entry) = self.number(id).and_then(|it| inner.entries.get_mut(&it)) {
            entry.fetched.get_or_insert_with(Instant::now);
        }
    }
}

impl Inner {
    fn sweep(&mut self, now: Instant) {
        let recently = self.swept.is_some_and(|it| now.duration_since(it) < Duration::from_secs(5));
        if recently && self.bytes <= MAX_BYTES {
            return;
        }
        self.swept = Some(now);
        self.entries.retain(|_, it| match (&it.outcome, it.fetched) {
            (None, _) => true,
            (_, Some(at)) => now.duration_since(at) < KEEP_FETCHED,
            (_, None) => now.duration_since(it.done) < KEEP_UNFETCHED,
        });
        self.bytes = self.entries.values().map(Entry::size).sum();
        if self.bytes <= MAX_BYTES {
            return;
        }
        let mut done: Vec<_> = self.entries.iter().filter(|it| it.1.outcome.is_some()).collect();
        done.sort_by_key(|(_, it)| (it.fetched.is_none(), it.done));
        // Keep the latest result, even if it is larger than the limit: a client is waiting for it.
        done.pop();
        let mut excess = self.bytes - MAX_BYTES;
        let mut gone = Vec::new();
        for (number, entry) in done {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(entry.size());
            gone.push(*number);
        }
        for number in gone {
            if let Some(entry) = self.entries.remove(&number) {
                self.bytes -= entry.size();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
