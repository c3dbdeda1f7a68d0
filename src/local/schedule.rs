//! Decides which job is next. Has no clock, no lock and no thread.
//!
//! Each session has a first-in-first-out queue, and the sessions are served round-robin. When a session has its turn,
//! it starts one exclusive job or several shared jobs. Immediate jobs are in a separate queue, which is served before
//! all turns.

use std::collections::{HashMap, HashSet, VecDeque};

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

/// The jobs that wait, by session.
#[derive(Debug)]
pub(super) struct Schedule<J> {
    /// Limit of the shared jobs that run at the same time, and of the jobs that a session may start in one turn.
    max: usize,
    immediate: VecDeque<J>,
    queues: HashMap<String, VecDeque<(Concurrency, J)>>,
    /// Sessions that have jobs and are not paused; the first one has its turn.
    order: VecDeque<String>,
    paused: HashSet<String>,
    /// Number of jobs that the first session has started in this turn.
    started: usize,
}

impl<J> Schedule<J> {
    pub(super) fn new(max: usize) -> Self {
        Schedule {
            max: max.max(1),
            immediate: VecDeque::new(),
            queues: HashMap::new(),
            order: VecDeque::new(),
            paused: HashSet::new(),
            started: 0,
        }
    }

    pub(super) fn push(&mut self, session: &str, concurrency: Concurrency, job: J) {
        if concurrency == Concurrency::Immediate {
            self.immediate.push_back(job);
            return;
        }
        match self.queues.get_mut(session) {
            Some(queue) => queue.push_back((concurrency, job)),
            None => {
                self.queues.insert(session.into(), VecDeque::from([(concurrency, job)]));
                if !self.paused.contains(session) {
                    self.order.push_back(session.into());
                }
            }
        }
    }

    /// Takes the next job, if it may start while `running` shared jobs run. `None` if the next job has to wait for
    /// them, or if there is no job.
    pub(super) fn take(&mut self, running: usize) -> Option<(Concurrency, J)> {
        if let Some(job) = self.immediate.pop_front() {
            return Some((Concurrency::Immediate, job));
        }
        let session = self.order.front()?;
        let queue = self.queues.get_mut(session)?;
        let may = match queue.front()?.0 {
            Concurrency::Shared => running < self.max,
            Concurrency::Exclusive | Concurrency::Immediate => running == 0,
        };
        let job = if may { queue.pop_front()? } else { return None };
        self.started += 1;
        let over = job.0 != Concurrency::Shared || self.max <= self.started;
        if over || queue.is_empty() {
            self.end_turn();
        }
        Some(job)
    }

    /// Ends the turn of the first session.
    fn end_turn(&mut self) {
        self.started = 0;
        let Some(session) = self.order.pop_front() else { return };
        if self.queues.get(&session).is_some_and(|it| !it.is_empty()) {
            self.order.push_back(session);
        } else {
            self.queues.remove(&session);
        }
    }

    /// Gives a session no more turns until it is resumed.
    pub(super) fn pause(&mut self, session: &str) {
        if self.paused.insert(session.into()) {
            self.leave_order(session);
        }
    }

    pub(super) fn resume(&mut self, session: &str) {
        if self.paused.remove(session) && self.queues.contains_key(session) {
            self.order.push_back(session.into());
        }
    }

    fn leave_order(&mut self, session: &str) {
        if self.order.front().is_some_and(|it| it == session) {
            self.started = 0;
        }
        self.order.retain(|it| it != session);
    }

    /// Removes all jobs of a session and returns them, except immediate ones.
    pub(super) fn remove_session(&mut self, session: &str) -> impl Iterator<Item = J> + use<J> {
        self.leave_order(session);
        self.paused.remove(session);
        self.queues.remove(session).into_iter().flatten().map(|it| it.1)
    }

    /// True if no job of a session waits in its queue.
    pub(super) fn is_idle(&self, session: &str) -> bool {
        !self.queues.contains_key(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts all jobs in order. The shared jobs end only when no other job can start.
    fn run_all(schedule: &mut Schedule<&'static str>) -> Vec<&'static str> {
        let (mut done, mut running) = (Vec::new(), 0);
        loop {
            match schedule.take(running) {
                Some((Concurrency::Shared, it)) => {
                    running += 1;
                    done.push(it);
                }
                Some((_, it)) => done.push(it),
                None if 0 < running => running = 0,
                None => return done,
            }
        }
    }

    #[test]
    fn sessions_take_turns_and_each_keeps_its_order() {
        let mut schedule = Schedule::new(2);
        for job in ["a1", "a2", "a3"] {
            schedule.push("a", Concurrency::Exclusive, job);
        }
        schedule.push("b", Concurrency::Exclusive, "b1");
        schedule.push("c", Concurrency::Exclusive, "c1");
        schedule.push("b", Concurrency::Exclusive, "b2");
        assert_eq!(run_all(&mut schedule), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn a_turn_starts_at_most_the_limit_of_shared_jobs() {
        let mut schedule = Schedule::new(2);
        for job in ["a1", "a2", "a3"] {
            schedule.push("a", Concurrency::Shared, job);
        }
        schedule.push("b", Concurrency::Exclusive, "b1");
        assert_eq!(schedule.take(0), Some((Concurrency::Shared, "a1")));
        assert_eq!(schedule.take(1), Some((Concurrency::Shared, "a2")));
        assert_eq!(schedule.take(2), None, "b1 is exclusive");
        assert_eq!(schedule.take(1), None);
        assert_eq!(schedule.take(0), Some((Concurrency::Exclusive, "b1")));
        assert_eq!(schedule.take(0), Some((Concurrency::Shared, "a3")));
        assert_eq!(schedule.take(1), None);
    }

    #[test]
    fn samples_of_several_sessions_run_concurrently() {
        let mut schedule = Schedule::new(3);
        schedule.push("a", Concurrency::Shared, "a1");
        schedule.push("b", Concurrency::Shared, "b1");
        schedule.push("b", Concurrency::Shared, "b2");
        schedule.push("b", Concurrency::Shared, "b3");
        let started: Vec<_> = (0..4).map_while(|i| schedule.take(i)).map(|it| it.1).collect();
        assert_eq!(started, ["a1", "b1", "b2"]);
    }

    #[test]
    fn an_immediate_job_does_not_wait_for_other_jobs() {
        let mut schedule = Schedule::new(2);
        schedule.push("a", Concurrency::Exclusive, "a1");
        schedule.push("b", Concurrency::Immediate, "b1");
        schedule.push("a", Concurrency::Immediate, "a2");
        assert_eq!(
            [schedule.take(2), schedule.take(9)],
            [Some((Concurrency::Immediate, "b1")), Some((Concurrency::Immediate, "a2"))]
        );
        assert_eq!(schedule.take(1), None);
        assert_eq!(schedule.take(0), Some((Concurrency::Exclusive, "a1")));
    }

    #[test]
    fn a_paused_session_has_no_turn_and_a_removed_session_has_no_jobs() {
        let mut schedule = Schedule::new(2);
        for (session, job) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
            schedule.push(session, Concurrency::Exclusive, job);
        }
        schedule.pause("a");
        schedule.pause("c");
        schedule.push("a", Concurrency::Exclusive, "a3");
        schedule.push("c", Concurrency::Exclusive, "c1");
        assert_eq!(run_all(&mut schedule), ["b1"]);
        schedule.resume("a");
        schedule.resume("a");
        assert_eq!(run_all(&mut schedule), ["a1", "a2", "a3"]);
        assert!(schedule.is_idle("a") && !schedule.is_idle("c"));
        assert_eq!(schedule.remove_session("c").collect::<Vec<_>>(), ["c1"]);
        schedule.resume("c");
        schedule.push("c", Concurrency::Exclusive, "c2");
        assert_eq!(run_all(&mut schedule), ["c2"]);
    }
}
