//! Decides which job of a kind is next. Has no clock, no lock and no thread. [`shares`](super::shares) decides which
//! kind of job is next.
//!
//! The sessions that have jobs of a kind are served round-robin, one job at a time. The exclusive jobs of a session run
//! in their order. Its shared jobs start in their order, and wait for no exclusive job except one that sets what they
//! read. An exclusive job waits for no shared job: shared jobs read nothing that it changes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Says whether a job may run at the same time as other jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concurrency {
    /// Starts before all waiting jobs, even while shared jobs run, because the job is quick.
    Immediate,
    /// Runs only while no other job runs.
    Exclusive,
    /// Runs together with other shared jobs.
    Shared,
}

/// Identifies what an exclusive job sets and shared jobs read.
pub(super) type Cell = usize;

/// The jobs that wait, by session.
#[derive(Debug)]
pub(super) struct Schedule<J> {
    immediate: VecDeque<J>,
    sessions: HashMap<String, Session<J>>,
    /// Sessions that have exclusive jobs and are not paused; the first one has its turn.
    exclusive: VecDeque<String>,
    /// Sessions that have shared jobs that may start, and are not paused; the first one has its turn.
    shared: VecDeque<String>,
    paused: HashSet<String>,
}

/// The jobs of a session. The exclusive jobs are numbered from 0.
#[derive(Debug)]
struct Session<J> {
    exclusive: VecDeque<(Option<Cell>, J)>,
    /// Number of the first exclusive job.
    first: u64,
    /// The last exclusive job that sets each cell.
    setters: HashMap<Cell, u64>,
    shared: VecDeque<J>,
    /// The shared jobs that wait for an exclusive job, by its number.
    held: BTreeMap<u64, Vec<J>>,
    /// True if the session is in the order of the sessions with exclusive jobs, and of those with shared jobs.
    listed: [bool; 2],
}

impl<J> Session<J> {
    fn new() -> Self {
        Session {
            exclusive: VecDeque::new(),
            first: 0,
            setters: HashMap::new(),
            shared: VecDeque::new(),
            held: BTreeMap::new(),
            listed: [false; 2],
        }
    }

    fn push(&mut self, concurrency: Concurrency, cell: Option<Cell>, job: J) {
        if concurrency != Concurrency::Shared {
            if let Some(cell) = cell {
                self.setters.insert(cell, self.first + self.exclusive.len() as u64);
            }
            self.exclusive.push_back((cell, job));
            return;
        }
        match cell.and_then(|cell| self.setters.get(&cell)) {
            Some(number) => self.held.entry(*number).or_default().push(job),
            None => self.shared.push_back(job),
        }
    }

    fn take_exclusive(&mut self) -> Option<J> {
        let (cell, job) = self.exclusive.pop_front()?;
        let number = self.first;
        self.first += 1;
        if let Some(cell) = cell
            && self.setters.get(&cell) == Some(&number)
        {
            self.setters.remove(&cell);
        }
        self.shared.extend(self.held.remove(&number).into_iter().flatten());
        Some(job)
    }

    fn is_empty(&self) -> bool {
        self.exclusive.is_empty() && self.shared.is_empty()
    }

    fn into_jobs(self) -> impl Iterator<Item = J> {
        let exclusive = self.exclusive.into_iter().map(|it| it.1);
        exclusive.chain(self.shared).chain(self.held.into_values().flatten())
    }
}

impl<J> Schedule<J> {
    pub(super) fn new() -> Self {
        Schedule {
            immediate: VecDeque::new(),
            sessions: HashMap::new(),
            exclusive: VecDeque::new(),
            shared: VecDeque::new(),
            paused: HashSet::new(),
        }
    }

    /// Adds a job. `cell` is what an exclusive job sets or a shared job reads.
    pub(super) fn push(&mut self, session: &str, concurrency: Concurrency, cell: Option<Cell>, job: J) {
        if concurrency == Concurrency::Immediate {
            self.immediate.push_back(job);
            return;
        }
        if !self.sessions.contains_key(session) {
            self.sessions.insert(session.into(), Session::new());
        }
        if let Some(it) = self.sessions.get_mut(session) {
            it.push(concurrency, cell, job);
        }
        self.join_orders(session);
    }

    /// Gives the session a place in the orders that it belongs to and is not in.
    fn join_orders(&mut self, session: &str) {
        let Some(jobs) = self.sessions.get_mut(session).filter(|_| !self.paused.contains(session)) else {
            return;
        };
        let has_jobs = [!jobs.exclusive.is_empty(), !jobs.shared.is_empty()];
        let orders = [&mut self.exclusive, &mut self.shared];
        for ((order, has_jobs), listed) in orders.into_iter().zip(has_jobs).zip(&mut jobs.listed) {
            if has_jobs && !*listed {
                *listed = true;
                order.push_back(session.into());
            }
        }
    }

    fn leave_orders(&mut self, session: &str) {
        if let Some(it) = self.sessions.get_mut(session) {
            it.listed = [false; 2];
        }
        self.exclusive.retain(|it| it != session);
        self.shared.retain(|it| it != session);
    }

    pub(super) fn take_immediate(&mut self) -> Option<J> {
        self.immediate.pop_front()
    }

    pub(super) fn take_exclusive(&mut self) -> Option<J> {
        let session = self.exclusive.pop_front()?;
        let jobs = self.sessions.get_mut(&session)?;
        jobs.listed[0] = false;
        let job = jobs.take_exclusive();
        self.end_turn(&session);
        job
    }

    pub(super) fn take_shared(&mut self) -> Option<J> {
        let session = self.shared.pop_front()?;
        let jobs = self.sessions.get_mut(&session)?;
        jobs.listed[1] = false;
        let job = jobs.shared.pop_front();
        self.end_turn(&session);
        job
    }

    fn end_turn(&mut self, session: &str) {
        self.join_orders(session);
        // Jobs are held only while the exclusive job that they wait for is there.
        if self.sessions.get(session).is_some_and(Session::is_empty) {
            self.sessions.remove(session);
        }
    }

    /// True if an exclusive job may start, as far as its session is concerned.
    pub(super) fn has_exclusive(&self) -> bool {
        !self.exclusive.is_empty()
    }

    /// As [`has_exclusive`](Self::has_exclusive), for shared jobs.
    pub(super) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Gives a session no more turns until it is resumed.
    pub(super) fn pause(&mut self, session: &str) {
        if self.paused.insert(session.into()) {
            self.leave_orders(session);
        }
    }

    pub(super) fn resume(&mut self, session: &str) {
        if self.paused.remove(session) {
            self.join_orders(session);
        }
    }

    /// Removes all jobs of a session and returns them, except immediate ones.
    pub(super) fn remove_session(&mut self, session: &str) -> impl Iterator<Item = J> + use<J> {
        self.leave_orders(session);
        self.paused.remove(session);
        self.sessions.remove(session).into_iter().flat_map(Session::into_jobs)
    }

    /// True if no exclusive job of a session waits.
    pub(super) fn is_idle(&self, session: &str) -> bool {
        self.sessions.get(session).is_none_or(|it| it.exclusive.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Concurrency::*;

    /// Takes all jobs of a kind.
    fn all<J>(mut take: impl FnMut() -> Option<J>) -> Vec<J> {
        std::iter::from_fn(&mut take).collect()
    }

    #[test]
    fn sessions_take_turns_and_each_keeps_its_order() {
        for concurrency in [Exclusive, Shared] {
            let mut schedule = Schedule::new();
            for (session, job) in
                [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]
            {
                schedule.push(session, concurrency, None, job);
            }
            let taken = all(|| match concurrency {
                Shared => schedule.take_shared(),
                _ => schedule.take_exclusive(),
            });
            assert_eq!(taken, ["a1", "b1", "c1", "a2", "b2", "a3"]);
            assert!(!schedule.has_shared() && !schedule.has_exclusive());
        }
    }

    #[test]
    fn exclusive_and_shared_jobs_of_a_session_do_not_wait_for_each_other() {
        let mut schedule = Schedule::new();
        for (concurrency, job) in [(Shared, "s1"), (Exclusive, "e1"), (Shared, "s2"), (Exclusive, "e2")] {
            schedule.push("a", concurrency, None, job);
        }
        assert_eq!(schedule.take_exclusive(), Some("e1"));
        assert_eq!(schedule.take_shared(), Some("s1"));
        assert_eq!(all(|| schedule.take_shared()), ["s2"]);
        assert_eq!(all(|| schedule.take_exclusive()), ["e2"]);
    }

    #[test]
    fn a_shared_job_waits_for_the_last_job_before_it_that_sets_what_it_reads() {
        let mut schedule = Schedule::new();
        for (concurrency, cell, job) in [
            (Shared, Some(1), "reads 1 before"),
            (Exclusive, None, "first"),
            (Exclusive, Some(1), "sets 1"),
            (Shared, Some(1), "reads 1"),
            (Shared, Some(2), "reads 2"),
            (Exclusive, Some(1), "sets 1 again"),
            (Shared, Some(1), "reads 1 again"),
        ] {
            schedule.push("a", concurrency, cell, job);
        }
        // Cells of another session have other numbers.
        schedule.push("b", Shared, Some(3), "of b");
        assert_eq!(all(|| schedule.take_shared()), ["reads 1 before", "of b", "reads 2"]);
        assert_eq!([schedule.take_exclusive(), schedule.take_shared()], [Some("first"), None]);
        assert_eq!([schedule.take_exclusive(), schedule.take_shared()], [Some("sets 1"), Some("reads 1")]);
        assert_eq!(schedule.take_shared(), None);
        assert_eq!(
            [schedule.take_exclusive(), schedule.take_shared()],
            [Some("sets 1 again"), Some("reads 1 again")]
        );
        schedule.push("a", Shared, Some(1), "reads 1 after");
        assert_eq!(schedule.take_shared(), Some("reads 1 after"));
        assert!(schedule.sessions.is_empty(), "nothing is kept of a session without jobs");
    }

    #[test]
    fn immediate_jobs_have_their_own_queue() {
        let mut schedule = Schedule::new();
        for (session, concurrency, job) in
            [("a", Exclusive, "a1"), ("b", Immediate, "b1"), ("a", Immediate, "a2")]
        {
            schedule.push(session, concurrency, None, job);
        }
        assert_eq!(all(|| schedule.take_immediate()), ["b1", "a2"]);
        assert_eq!(all(|| schedule.take_exclusive()), ["a1"]);
    }

    #[test]
    fn a_paused_session_has_no_turn_and_a_removed_session_has_no_jobs() {
        let mut schedule = Schedule::new();
        for (session, concurrency, job) in
            [("a", Exclusive, "a1"), ("b", Exclusive, "b1"), ("a", Shared, "a2"), ("a", Exclusive, "a3")]
        {
            schedule.push(session, concurrency, None, job);
        }
        schedule.pause("a");
        schedule.pause("c");
        schedule.push("a", Exclusive, None, "a4");
        schedule.push("c", Exclusive, Some(1), "c1");
        schedule.push("c", Shared, Some(1), "c2");
        schedule.push("c", Shared, None, "c3");
        assert_eq!(all(|| schedule.take_exclusive()), ["b1"]);
        assert_eq!(schedule.take_shared(), None);
        schedule.resume("a");
        schedule.resume("a");
        assert_eq!(all(|| schedule.take_exclusive()), ["a1", "a3", "a4"]);
        assert_eq!(all(|| schedule.take_shared()), ["a2"]);
        assert!(schedule.is_idle("a") && !schedule.is_idle("c"));
        assert_eq!(schedule.remove_session("c").collect::<Vec<_>>(), ["c1", "c3", "c2"]);
        schedule.resume("c");
        schedule.push("c", Exclusive, None, "c4");
        assert_eq!(all(|| schedule.take_exclusive()), ["c4"]);
    }
}
