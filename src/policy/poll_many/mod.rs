//! Polling for all samples of one sampling session: a state machine that takes events and decides the next request
//! (PROTOCOL §4.5).
//!
//! A *turn* is one request to `retrieve_futures`. The server may hold the request (delay the answer) until a sample
//! finishes. The answer announces finished samples and contains a cursor, which is the server's position in its list of
//! announcements. The client then fetches the results of these samples one by one. The next request repeats the cursor,
//! which acknowledges the announcements, and reports the samples whose results have been fetched, so that the server
//! may drop the results. If no waiter is registered, the request is only a *report*: it reports and acknowledges, and
//! the server answers immediately. A sample that is not announced for a minute is looked up (a *look*): the client
//! requests its result directly.
//!
//! `W` is the waiter of a sample, a value of the caller. The machine stores waiters and returns them; it does not use
//! them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::wire::json::{self, Completion, RetrieveFuturesResponse};

use super::poll::Times;
use super::verdict::{Facts, Verdict};

/// Largest number of consecutive repetitions of a request that the server refuses as malformed, or of a turn that
/// panicked.
const MAX_BAD_REQUESTS: u32 = 3;
/// Pause after a failure. Also the pause between two reports, if the server moves its cursor again and again without
/// announcing a sample.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Shortest interval between a poll that announced samples and the next poll, which announces all samples that have
/// finished in this time.
const FLOOR: Duration = Duration::from_millis(20);
/// Shortest interval between a poll that announced nothing and the next poll: some servers answer immediately instead
/// of holding the request.
const FLOOR_EMPTY: Duration = Duration::from_millis(50);

/// Time without an announcement after which a sample is looked up: if the announcement was lost, the sample would
/// otherwise wait until its deadline. Each look that finds the sample unfinished doubles this time.
const LOOK_AFTER: Duration = Duration::from_secs(60);
/// Largest number of doublings of [`LOOK_AFTER`].
const MAX_DOUBLINGS: u32 = 4;
/// Largest number of concurrent looks.
const MAX_LOOKS: usize = 4;
/// Number of consecutive reports without an announced sample that follow each other without a pause. A server that
/// moves its cursor on each request would otherwise get an endless series of reports without pauses.
const MAX_EMPTY_REPORTS: u32 = 3;
/// Largest number of entries in each [`Recent`]: announced samples whose waiter is not registered yet, and samples
/// whose waiter gave up.
const MAX_REMEMBERED: usize = 4096;

/// One request for finished samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Acknowledges all announcements up to this cursor; the server may drop them.
    pub(crate) prev_cursor: u64,
    /// The server may hold the request until a sample finishes. If false, the request is only a report.
    pub(crate) holds: bool,
    /// Samples whose results have been fetched, sorted.
    pub(crate) retrieved: Vec<String>,
}

/// Outcome of one request.
pub(crate) enum Event<'a> {
    /// The server answered.
    Answer(Facts<'a>),
    /// No answer; a later request may be answered.
    Broken(Error),
    /// No answer; a later request would fail in the same way.
    Fatal(Error),
    /// The client's thread panicked.
    Panicked(Error),
}

/// Action before the next request.
#[derive(Debug)]
pub(crate) enum Step<W> {
    /// Fetch the results of these finished samples.
    Ready(Vec<(String, W, Completion)>),
    /// No action.
    Nothing,
    /// Fail these waiters.
    Fail(Vec<W>, Error),
    /// The server lacks the endpoint: let each of these waiters poll for its own sample.
    PollAlone(Vec<W>),
}

/// Outcome of [`PollMany::register`].
#[derive(Debug)]
pub(crate) enum Registered<W> {
    /// The machine stores the waiter.
    Waiting,
    /// As `Waiting`; returns the previous waiter of the same id, which will not get the result.
    Replaces(W),
    /// The sample has finished.
    Ready(W, Completion),
    /// The server lacks the endpoint: the waiter must poll for its own sample.
    PollAlone(W),
    /// Polling has ended with an error.
    Refused(W, Error),
}

/// Reason for the end of polling.
#[derive(Debug)]
enum End {
    EndpointMissing,
    Failed(Error),
}

/// Polling state of one sampling session.
#[derive(Debug)]
pub(crate) struct PollMany<W> {
    cursor: u64,
    acked: u64,
    waiting: HashMap<String, Waiting<W>>,
    /// Time of the earliest due look.
    next_look: Duration,
    /// Announced samples without a waiter: the announcement may arrive before the answer to the submission.
    finished: Recent<Completion>,
    /// Samples whose results are being fetched. Reports wait until these fetches have ended.
    fetching: HashMap<String, Fetch>,
    /// Samples whose waiters gave up. The announcements of these samples may still arrive and must not be stored.
    forgotten: Recent<()>,
    /// Fetched samples that are not reported to the server yet.
    retrieved: BTreeSet<String>,
    bad_requests: u32,
    /// Consecutive reports that announced nothing.
    empty_reports: u32,
    last_contact: Duration,
    silence: Duration,
    end: Option<End>,
}

#[derive(Debug)]
struct Waiting<W> {
    waiter: W,
    /// Time of the next look, and number of looks so far.
    look: Duration,
    looks: u32,
}

/// Reason for a fetch.
#[derive(Clone, Copy, Debug)]
enum Fetch {
    /// The server announced the sample.
    Announced,
    /// An individual look; holds the number of looks before it.
    Look(u32),
}

/// A map that keeps only the latest [`MAX_REMEMBERED`] entries, so that ids sent by the server cannot fill the memory.
#[derive(Debug)]
struct Recent<V> {
    entries: HashMap<String, (u64, V)>,
    /// Ids in order of insertion. An id that is removed from the map stays here. `insert` drops the oldest ids when
    /// there are more than [`MAX_REMEMBERED`].
    order: VecDeque<(u64, String)>,
    n_inserted: u64,
}

impl<V> Recent<V> {
    fn new() -> Self {
        Recent { entries: HashMap::new(), order: VecDeque::new(), n_inserted: 0 }
    }

    fn insert(&mut self, id: &str, value: V) {
        // An existing entry keeps its age.
        if let Some(known) = self.entries.get_mut(id) {
            known.1 = value;
            return;
        }
        self.n_inserted += 1;
        self.entries.insert(id.into(), (self.n_inserted, value));
        self.order.push_back((self.n_inserted, id.into()));
        while MAX_REMEMBERED < self.order.len()
            && let Some((number, oldest)) = self.order.pop_front()
        {
            // If the id was removed and inserted again, its entry has a larger number and must stay.
            if self.entries.get(&oldest).is_some_and(|entry| entry.0 == number) {
                self.entries.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, id: &str) -> Option<V> {
        self.entries.remove(id).map(|it| it.1)
    }
}

impl<W> PollMany<W> {
    /// Starts polling. Waiters fail after `silence` without any answer of the server.
    pub(crate) fn new(silence: Duration) -> Self {
        PollMany {
            cursor: 0,
            acked: 0,
            waiting: HashMap::new(),
            next_look: Duration::MAX,
            finished: Recent::new(),
            fetching: HashMap::new(),
            forgotten: Recent::new(),
            retrieved: BTreeSet::new(),
            bad_requests: 0,
            empty_reports: 0,
            last_contact: Duration::ZERO,
            silence,
            end: None,
        }
    }

    /// Creates the machine for a server that is known to lack the endpoint.
    pub(crate) fn without_endpoint() -> Self {
        PollMany { end: Some(End::EndpointMissing), ..PollMany::new(Duration::MAX) }
    }

    /// Registers the waiter of a sample. Called when the sample is accepted, and after each look that found the sample
    /// unfinished.
    pub(crate) fn register(&mut self, id: &str, waiter: W, now: Duration) -> Registered<W> {
        let looks = match self.fetching.remove(id) {
            Some(Fetch::Look(before)) => before + 1,
            _ => 0,
        };
        if let Some(completion) = self.finished.remove(id) {
            self.fetching.insert(id.into(), Fetch::Announced);
            return Registered::Ready(waiter, completion);
        }
        match &self.end {
            Some(End::EndpointMissing) => Registered::PollAlone(waiter),
            Some(End::Failed(error)) => Registered::Refused(waiter, error.clone()),
            None => {
                let look = now + LOOK_AFTER * (1 << looks.min(MAX_DOUBLINGS));
                self.next_look = self.next_look.min(look);
                match self.waiting.insert(id.into(), Waiting { waiter, look, looks }) {
                    Some(before) => Registered::Replaces(before.waiter),
                    None => Registered::Waiting,
                }
            }
        }
    }

    /// Removes the waiter of a sample.
    pub(crate) fn forget(&mut self, id: &str) -> Option<W> {
        let waiter = self.waiting.remove(id)?;
        if self.end.is_none() {
            self.forgotten.insert(id, ());
        }
        Some(waiter.waiter)
    }

    /// Takes the waiters whose samples are due for an individual look. After the look the caller registers the waiter
    /// again or calls [`fetched`](Self::fetched).
    pub(crate) fn take_due_looks(&mut self, now: Duration) -> Vec<(String, W)> {
        let looking = self.fetching.values().filter(|fetch| matches!(fetch, Fetch::Look(_))).count();
        let n_free = MAX_LOOKS.saturating_sub(looking);
        if now < self.next_look || n_free == 0 {
            return Vec::new();
        }
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.look <= now);
        let mut due: Vec<(Duration, String)> = due.map(|(id, waiting)| (waiting.look, id.clone())).collect();
        due.sort();
        due.truncate(n_free);
        let take = |(_, id): (Duration, String)| {
            let Waiting { waiter, looks, .. } = self.waiting.remove(&id)?;
            self.fetching.insert(id.clone(), Fetch::Look(looks));
            Some((id, waiter))
        };
        let looks = due.into_iter().filter_map(take).collect();
        self.next_look = self.waiting.values().map(|it| it.look).min().unwrap_or(Duration::MAX);
        looks
    }

    /// Returns false if the server is known to lack the endpoint.
    pub(crate) fn has_endpoint(&self) -> bool {
        !matches!(self.end, Some(End::EndpointMissing))
    }

    /// The registered waiters.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (&String, &W)> {
        self.waiting.iter().map(|(id, waiting)| (id, &waiting.waiter))
    }

    /// Removes and returns all waiters.
    pub(crate) fn take_waiters(&mut self) -> Vec<W> {
        self.waiting.drain().map(|it| it.1.waiter).collect()
    }

    /// Records that the fetch of a result has ended. `settled` is true if the client has the result or its failure: the
    /// next report then lets the server drop the result.
    pub(crate) fn fetched(&mut self, id: String, settled: bool) {
        self.fetching.remove(&id);
        self.finished.remove(&id);
        if settled && self.end.is_none() {
            self.retrieved.insert(id);
        }
    }

    /// The next request, if a waiter is registered or a report is due.
    pub(crate) fn next(&self) -> Option<Turn> {
        let holds = !self.waiting.is_empty();
        // A report waits until the current fetches have ended, so that it reports their samples too.
        let due = holds || (self.fetching.is_empty() && self.has_report());
        (self.end.is_none() && due).then(|| self.turn(holds))
    }

    /// The report before the end of the client; does not wait for fetches in flight.
    pub(crate) fn final_report(&self) -> Option<Turn> {
        (self.end.is_none() && self.has_report()).then(|| self.turn(false))
    }

    fn has_report(&self) -> bool {
        !self.retrieved.is_empty() || self.acked < self.cursor
    }

    fn turn(&self, holds: bool) -> Turn {
        Turn { prev_cursor: self.cursor, holds, retrieved: self.retrieved.iter().cloned().collect() }
    }

    /// Applies the outcome of a request. Returns the action and the pause before the next request.
    pub(crate) fn on(&mut self, turn: &Turn, event: Event<'_>, times: Times) -> (Step<W>, Duration) {
        match event {
            Event::Answer(facts) => {
                self.last_contact = times.now;
                self.answer(turn, facts, times)
            }
            Event::Broken(error) => {
                let idle = times.now.saturating_sub(self.last_contact.max(times.contact));
                if idle < self.silence {
                    return (Step::Nothing, AFTER_FAILURE.min(self.silence - idle));
                }
                // Polling continues for waiters that are registered later: the server has answered the submissions of
                // their samples, so it is alive.
                let message = format!("no answer from the server for {:.1} s", idle.as_secs_f64());
                let error = Error::new(ErrorKind::Stuck { idle }, message).caused_by(error);
                self.drop_reports();
                (Step::Fail(self.take_waiters(), error), AFTER_FAILURE)
            }
            Event::Fatal(error) => self.fail(error),
            Event::Panicked(error) => self.bad_request(error),
        }
    }

    fn answer(&mut self, turn: &Turn, facts: Facts<'_>, times: Times) -> (Step<W>, Duration) {
        let again = |after| (Step::Nothing, after);
        match facts.status {
            200..300 => match json::response::<RetrieveFuturesResponse>(facts.body) {
                Ok(reply) => self.completions(turn, reply, times),
                Err(error) => self.bad_request(error),
            },
            404 | 405 | 501 => {
                self.end = Some(End::EndpointMissing);
                (Step::PollAlone(self.take_waiters()), Duration::ZERO)
            }
            409 => again(AFTER_FAILURE),
            // The session can continue after payment, so only the current waiters fail.
            402 => {
                self.drop_reports();
                (Step::Fail(self.take_waiters(), facts.error()), AFTER_FAILURE)
            }
            _ => match facts.verdict() {
                Verdict::Retry | Verdict::Conflict | Verdict::Dropped => {
                    again(facts.hint().unwrap_or(AFTER_FAILURE).max(AFTER_FAILURE))
                }
                _ if facts.status == 400 => self.bad_request(facts.error()),
                _ => self.fail(facts.error()),
            },
        }
    }

    fn completions(
        &mut self,
        turn: &Turn,
        reply: RetrieveFuturesResponse,
        times: Times,
    ) -> (Step<W>, Duration) {
        self.bad_requests = 0;
        self.acked = self.acked.max(turn.prev_cursor);
        self.cursor = reply.cursor.unwrap_or(self.cursor);
        // A cursor that moves without an announcement needs no acknowledgement.
        if reply.completions.is_empty() {
            self.acked = self.acked.max(self.cursor);
        }
        for id in &turn.retrieved {
            self.retrieved.remove(id);
        }
        let mut ready = Vec::new();
        for completion in reply.completions {
            let id = &completion.request_id;
            if let Some((id, Waiting { waiter, .. })) = self.waiting.remove_entry(id) {
                self.fetching.insert(id.clone(), Fetch::Announced);
                ready.push((id, waiter, completion));
            } else if self.forgotten.remove(id).is_none()
                && !matches!(self.fetching.get(id), Some(Fetch::Announced))
                && !self.retrieved.contains(id)
                // Ignore a repeated announcement of a sample that this request reported as fetched.
                && turn.retrieved.binary_search(id).is_err()
            {
                let id = id.clone();
                self.finished.insert(&id, completion);
            }
        }
        let took = times.now.saturating_sub(times.sent);
        if !ready.is_empty() {
            self.empty_reports = 0;
            return (Step::Ready(ready), FLOOR.saturating_sub(took));
        }
        if turn.holds {
            self.empty_reports = 0;
            return (Step::Nothing, FLOOR_EMPTY.saturating_sub(took));
        }
        self.empty_reports += 1;
        let at_once = self.empty_reports <= MAX_EMPTY_REPORTS || self.cursor <= self.acked;
        (Step::Nothing, if at_once { Duration::ZERO } else { AFTER_FAILURE })
    }

    fn bad_request(&mut self, error: Error) -> (Step<W>, Duration) {
        self.bad_requests += 1;
        if self.bad_requests <= MAX_BAD_REQUESTS { (Step::Nothing, AFTER_FAILURE) } else { self.fail(error) }
    }

    fn fail(&mut self, error: Error) -> (Step<W>, Duration) {
        self.end = Some(End::Failed(error.clone()));
        self.forgotten = Recent::new();
        (Step::Fail(self.take_waiters(), error), Duration::ZERO)
    }

    /// Drops the pending report when all waiters fail, so that a failing server gets no further requests. The server
    /// then keeps the results until they expire.
    fn drop_reports(&mut self) {
        self.retrieved.clear();
        self.acked = self.acked.max(self.cursor);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
