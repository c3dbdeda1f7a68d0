//! Waiting for the samples of one sampling session together: a state machine that is fed what happened and says what
//! to do (PROTOCOL §4.5).
//!
//! `W` is whoever waits for a sample. The machine keeps waiters and hands them back; it never looks at them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::wire::json::{self, Completion, RetrieveFuturesResponse};

use super::poll::Times;
use super::verdict::{Facts, Verdict};

/// How often a request that the server calls malformed, or a turn that panicked, is repeated.
const MOST_BAD_REQUESTS: u32 = 3;
/// The pause after anything that went wrong, or that went on for no reason.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Polls that bring something follow each other no faster than this, so that samples that finish one after the other
/// are announced together.
const FLOOR: Duration = Duration::from_millis(20);
/// Polls that bring nothing follow each other no faster than this: some servers answer at once.
const FLOOR_EMPTY: Duration = Duration::from_millis(50);

/// After so long without news a sample is looked up by itself, lest an announcement that got lost leave it waiting until
/// its deadline; each time it is found unfinished, the next look comes after twice as long.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_PATIENCE: u32 = 4;
/// Samples that are looked up by themselves at the same time.
const LOOKS: usize = 4;
/// Reports that bring nothing follow each other at once only so often: there may be a server whose cursor moves by itself.
const MOST_EMPTY_REPORTS: u32 = 3;
/// How many ids are remembered that nobody waits for.
const MOST_REMEMBERED: usize = 4096;

/// One request for news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Everything up to here has been received, and the server may forget it.
    pub(crate) prev_cursor: u64,
    /// The server may hold the request until there is news. Otherwise it only takes notice.
    pub(crate) long: bool,
    /// Samples whose results have been fetched, sorted.
    pub(crate) retrieved: Vec<String>,
}

/// What happened to one request for news.
pub(crate) enum Event<'a> {
    /// The server answered.
    Answer(Facts<'a>),
    /// No answer, but there may be one later.
    Broken(Error),
    /// No answer, and there will not be any.
    Fatal(Error),
    /// The client's own thread failed.
    Panicked(Error),
}

/// What to do next, besides asking again after a pause.
#[derive(Debug)]
pub(crate) enum Step<W> {
    /// These samples are finished, and their results are to be fetched.
    Ready(Vec<(String, W, Completion)>),
    /// Nothing.
    Nothing,
    /// These waiters fail.
    Fail(Vec<W>, Error),
    /// The server has no such endpoint: these wait each for itself.
    Alone(Vec<W>),
}

/// What becomes of a new waiter.
#[derive(Debug)]
pub(crate) enum Registered<W> {
    /// It will be handed back.
    Waiting,
    /// As `Waiting`, in the place of somebody who waited for the same id and will not get its result.
    Replaces(W),
    /// Its sample is finished already.
    Ready(W, Completion),
    /// It has to wait for itself.
    Alone(W),
    /// Nobody waits here any more.
    Refused(W, Error),
}

/// Why there will be no more polls.
#[derive(Debug)]
enum End {
    NotOffered,
    Failed(Error),
}

/// The state of one sampling session.
#[derive(Debug)]
pub(crate) struct PollMany<W> {
    cursor: u64,
    acked: u64,
    waiting: HashMap<String, Waiting<W>>,
    /// No waiter is to be looked up before this.
    next_look: Duration,
    /// Finished, but nobody has come for them yet: a completion may overtake the answer to its submission.
    finished: Recent<Completion>,
    /// Their results are being fetched. Meanwhile there is nothing to report, and soon there will be.
    fetching: HashMap<String, Fetch>,
    /// Nobody waits for them any more. Their completions may still come, and must not be kept.
    forgotten: Recent<()>,
    /// Fetched, and the server does not know that yet.
    retrieved: BTreeSet<String>,
    bad_requests: u32,
    /// Reports since the last one that brought something, or that somebody waited for.
    empty_reports: u32,
    last_contact: Duration,
    silence: Duration,
    end: Option<End>,
}

#[derive(Debug)]
struct Waiting<W> {
    waiter: W,
    /// When to look it up, and how often that was done.
    look: Duration,
    looks: u32,
}

/// Why a result is being fetched.
#[derive(Clone, Copy, Debug)]
enum Fetch {
    /// The server said that it is there.
    Announced,
    /// To see whether it is; how often that was done before.
    Look(u32),
}

/// The latest of what nobody may ever ask for: what the server says must not fill the memory.
#[derive(Debug)]
struct Recent<V> {
    entries: HashMap<String, (u64, V)>,
    /// In the order of their numbers. Those that were removed stay here until their turn comes.
    order: VecDeque<(u64, String)>,
    n_inserted: u64,
}

impl<V> Recent<V> {
    fn new() -> Self {
        Recent { entries: HashMap::new(), order: VecDeque::new(), n_inserted: 0 }
    }

    fn insert(&mut self, id: &str, value: V) {
        // One that is there already keeps its age.
        if let Some(known) = self.entries.get_mut(id) {
            known.1 = value;
            return;
        }
        self.n_inserted += 1;
        self.entries.insert(id.into(), (self.n_inserted, value));
        self.order.push_back((self.n_inserted, id.into()));
        while MOST_REMEMBERED < self.order.len()
            && let Some((number, oldest)) = self.order.pop_front()
        {
            // What was inserted again since has another number.
            if self.entries.get(&oldest).is_some_and(|it| it.0 == number) {
                self.entries.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, id: &str) -> Option<V> {
        self.entries.remove(id).map(|it| it.1)
    }
}

impl<W> PollMany<W> {
    /// A session whose waiters are given up after `silence` without any answer of the server.
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

    /// A session on a server that is known not to offer news of many samples.
    pub(crate) fn not_offered() -> Self {
        PollMany { end: Some(End::NotOffered), ..PollMany::new(Duration::MAX) }
    }

    /// Somebody waits for a sample, or goes on waiting after it was looked up and found unfinished.
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
            Some(End::NotOffered) => Registered::Alone(waiter),
            Some(End::Failed(error)) => Registered::Refused(waiter, error.clone()),
            None => {
                let look = now + PATIENCE * (1 << looks.min(MOST_PATIENCE));
                self.next_look = self.next_look.min(look);
                match self.waiting.insert(id.into(), Waiting { waiter, look, looks }) {
                    Some(before) => Registered::Replaces(before.waiter),
                    None => Registered::Waiting,
                }
            }
        }
    }

    /// Nobody waits for a sample any more.
    pub(crate) fn forget(&mut self, id: &str) -> Option<W> {
        let waiter = self.waiting.remove(id)?;
        if self.end.is_none() {
            self.forgotten.insert(id, ());
        }
        Some(waiter.waiter)
    }

    /// Those who have waited for so long that their samples are to be looked up by themselves. Each of them either goes on
    /// waiting afterwards or is [`fetched`](Self::fetched).
    pub(crate) fn doubted(&mut self, now: Duration) -> Vec<(String, W)> {
        let looking = self.fetching.values().filter(|it| matches!(it, Fetch::Look(_))).count();
        let most = LOOKS.saturating_sub(looking);
        if now < self.next_look || most == 0 {
            return Vec::new();
        }
        let due = self.waiting.iter().filter(|it| it.1.look <= now);
        let mut due: Vec<(Duration, String)> = due.map(|it| (it.1.look, it.0.clone())).collect();
        due.sort();
        due.truncate(most);
        let take = |(_, id): (Duration, String)| {
            let Waiting { waiter, looks, .. } = self.waiting.remove(&id)?;
            self.fetching.insert(id.clone(), Fetch::Look(looks));
            Some((id, waiter))
        };
        let doubted = due.into_iter().filter_map(take).collect();
        self.next_look = self.waiting.values().map(|it| it.look).min().unwrap_or(Duration::MAX);
        doubted
    }

    /// The server has not said that there is no such endpoint.
    pub(crate) fn is_offered(&self) -> bool {
        !matches!(self.end, Some(End::NotOffered))
    }

    /// Those who wait.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (&String, &W)> {
        self.waiting.iter().map(|(id, it)| (id, &it.waiter))
    }

    /// Hands all waiters back.
    pub(crate) fn take_waiters(&mut self) -> Vec<W> {
        self.waiting.drain().map(|it| it.1.waiter).collect()
    }

    /// The fetching of a result has ended. If it is `settled`, the server need not keep the result.
    pub(crate) fn fetched(&mut self, id: String, settled: bool) {
        self.fetching.remove(&id);
        self.finished.remove(&id);
        if settled && self.end.is_none() {
            self.retrieved.insert(id);
        }
    }

    /// The next request, if there is anything to ask or to report.
    pub(crate) fn next(&self) -> Option<Turn> {
        let long = !self.waiting.is_empty();
        // What is being fetched will have to be reported as well: one report is enough.
        let due = long || (self.fetching.is_empty() && self.has_news());
        (self.end.is_none() && due).then(|| self.turn(long))
    }

    /// A last report, however much is still under way.
    pub(crate) fn last_words(&self) -> Option<Turn> {
        (self.end.is_none() && self.has_news()).then(|| self.turn(false))
    }

    fn has_news(&self) -> bool {
        !self.retrieved.is_empty() || self.acked < self.cursor
    }

    fn turn(&self, long: bool) -> Turn {
        Turn { prev_cursor: self.cursor, long, retrieved: self.retrieved.iter().cloned().collect() }
    }

    /// Takes note of what became of a request, and decides.
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
                // Whoever comes later brings a fresh sign of life: its submission was answered.
                let message = format!("no answer of the server for {:.1} s", idle.as_secs_f64());
                let error = Error::new(ErrorKind::Stuck { idle }, message).caused_by(error);
                self.settle_down();
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
                Ok(reply) => self.news(turn, reply, times),
                Err(error) => self.bad_request(error),
            },
            404 | 405 | 501 => {
                self.end = Some(End::NotOffered);
                (Step::Alone(self.take_waiters()), Duration::ZERO)
            }
            409 => again(AFTER_FAILURE),
            // Paid for later, the same session goes on; so only those who wait now are told.
            402 => {
                self.settle_down();
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

    fn news(&mut self, turn: &Turn, reply: RetrieveFuturesResponse, times: Times) -> (Step<W>, Duration) {
        self.bad_requests = 0;
        self.acked = self.acked.max(turn.prev_cursor);
        self.cursor = reply.cursor.unwrap_or(self.cursor);
        // The cursor is opaque: one that moves without news is nothing to be acknowledged.
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
                // A repetition of what this very request reported as fetched.
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
        if turn.long {
            self.empty_reports = 0;
            return (Step::Nothing, FLOOR_EMPTY.saturating_sub(took));
        }
        self.empty_reports += 1;
        match self.empty_reports <= MOST_EMPTY_REPORTS || self.cursor <= self.acked {
            true => (Step::Nothing, Duration::ZERO),
            false => (Step::Nothing, AFTER_FAILURE),
        }
    }

    fn bad_request(&mut self, error: Error) -> (Step<W>, Duration) {
        self.bad_requests += 1;
        match self.bad_requests <= MOST_BAD_REQUESTS {
            true => (Step::Nothing, AFTER_FAILURE),
            false => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) -> (Step<W>, Duration) {
        self.end = Some(End::Failed(error.clone()));
        self.forgotten = Recent::new();
        (Step::Fail(self.take_waiters(), error), Duration::ZERO)
    }

    /// Nobody waits any more, so that a server in trouble is left alone: what was to be reported is dropped, which the
    /// server survives.
    fn settle_down(&mut self) {
        self.retrieved.clear();
        self.acked = self.acked.max(self.cursor);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "poll_many_tests.rs"]
mod tests;
