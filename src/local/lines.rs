//! Decides which job is next. Has no clock, no lock and no thread.
//!
//! Each session has a first-in-first-out queue. Sessions take turns: a turn is one exclusive job or several shared
//! ones. Immediate jobs wait for no turn.

use std::collections::{HashMap, HashSet, VecDeque};

/// How a job may run beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// At once, whatever else is running: the job is quick.
    Express,
    /// Only while no other job is running.
    Alone,
    /// Together with other shared jobs.
    Beside,
}

/// Waiting jobs, by session.
#[derive(Debug)]
pub(super) struct Lines<J> {
    /// Limit of shared jobs that run at the same time, and of those that a session may start in one turn.
    most: usize,
    express: VecDeque<J>,
    lines: HashMap<String, VecDeque<(Way, J)>>,
    /// Sessions that have jobs and are not paused; the first one has its turn.
    order: VecDeque<String>,
    paused: HashSet<String>,
    /// Number of jobs that the first session has started in this turn.
    begun: usize,
}

impl<J> Lines<J> {
    pub(super) fn new(most: usize) -> Self {
        Lines {
            most: most.max(1),
            express: VecDeque::new(),
            lines: HashMap::new(),
            order: VecDeque::new(),
            paused: HashSet::new(),
            begun: 0,
        }
    }

    pub(super) fn push(&mut self, session: &str, way: Way, job: J) {
        if way == Way::Express {
            self.express.push_back(job);
            return;
        }
        match self.lines.get_mut(session) {
            Some(line) => line.push_back((way, job)),
            None => {
                self.lines.insert(session.into(), VecDeque::from([(way, job)]));
                if !self.paused.contains(session) {
                    self.order.push_back(session.into());
                }
            }
        }
    }

    /// Takes the job that may start now, while `running` shared jobs run. `None` if it must wait for these, or if no
    /// job waits.
    pub(super) fn take(&mut self, running: usize) -> Option<(Way, J)> {
        if let Some(job) = self.express.pop_front() {
            return Some((Way::Express, job));
        }
        let session = self.order.front()?;
        let line = self.lines.get_mut(session)?;
        let may = match line.front()?.0 {
            Way::Beside => running < self.most,
            Way::Alone | Way::Express => running == 0,
        };
        let job = if may { line.pop_front()? } else { return None };
        self.begun += 1;
        let over = job.0 != Way::Beside || self.most <= self.begun;
        if over || line.is_empty() {
            self.next_turn();
        }
        Some(job)
    }

    /// Ends the turn of the first session.
    fn next_turn(&mut self) {
        self.begun = 0;
        let Some(session) = self.order.pop_front() else { return };
        if self.lines.get(&session).is_some_and(|it| !it.is_empty()) {
            self.order.push_back(session);
        } else {
            self.lines.remove(&session);
        }
    }

    /// Excludes a session from the turns until it is resumed.
    pub(super) fn pause(&mut self, session: &str) {
        if self.paused.insert(session.into()) {
            self.leave(session);
        }
    }

    pub(super) fn resume(&mut self, session: &str) {
        if self.paused.remove(session) && self.lines.contains_key(session) {
            self.order.push_back(session.into());
        }
    }

    fn leave(&mut self, session: &str) {
        if self.order.front().is_some_and(|it| it == session) {
            self.begun = 0;
        }
        self.order.retain(|it| it != session);
    }

    /// Removes all jobs of a session and returns them.
    pub(super) fn forget(&mut self, session: &str) -> impl Iterator<Item = J> + use<J> {
        self.leave(session);
        self.paused.remove(session);
        self.lines.remove(session).into_iter().flatten().map(|it| it.1)
    }

    /// True if a session has no waiting job.
    pub(super) fn is_idle(&self, session: &str) -> bool {
        !self.lines.contains_key(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts all jobs that may start, in order. No shared job ends until nothing else can start.
    fn all(lines: &mut Lines<&'static str>) -> Vec<&'static str> {
        let (mut done, mut running) = (Vec::new(), 0);
        loop {
            match lines.take(running) {
                Some((Way::Beside, it)) => {
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
        let mut lines = Lines::new(2);
        for it in ["a1", "a2", "a3"] {
            lines.push("a", Way::Alone, it);
        }
        lines.push("b", Way::Alone, "b1");
        lines.push("c", Way::Alone, "c1");
        lines.push("b", Way::Alone, "b2");
        assert_eq!(all(&mut lines), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn a_turn_of_jobs_that_run_side_by_side_is_as_many_as_may_run() {
        let mut lines = Lines::new(2);
        for it in ["a1", "a2", "a3"] {
            lines.push("a", Way::Beside, it);
        }
        lines.push("b", Way::Alone, "b1");
        assert_eq!(lines.take(0), Some((Way::Beside, "a1")));
        assert_eq!(lines.take(1), Some((Way::Beside, "a2")));
        assert_eq!(lines.take(2), None, "b wants the engine for itself");
        assert_eq!(lines.take(1), None);
        assert_eq!(lines.take(0), Some((Way::Alone, "b1")));
        assert_eq!(lines.take(0), Some((Way::Beside, "a3")));
        assert_eq!(lines.take(1), None);
    }

    #[test]
    fn samples_of_several_sessions_run_side_by_side() {
        let mut lines = Lines::new(3);
        lines.push("a", Way::Beside, "a1");
        lines.push("b", Way::Beside, "b1");
        lines.push("b", Way::Beside, "b2");
        lines.push("b", Way::Beside, "b3");
        let begun: Vec<_> = (0..4).map_while(|i| lines.take(i)).map(|it| it.1).collect();
        assert_eq!(begun, ["a1", "b1", "b2"]);
    }

    #[test]
    fn what_is_quick_waits_for_nothing() {
        let mut lines = Lines::new(2);
        lines.push("a", Way::Alone, "a1");
        lines.push("b", Way::Express, "b1");
        lines.push("a", Way::Express, "a2");
        assert_eq!([lines.take(2), lines.take(9)], [Some((Way::Express, "b1")), Some((Way::Express, "a2"))]);
        assert_eq!(lines.take(1), None);
        assert_eq!(lines.take(0), Some((Way::Alone, "a1")));
    }

    #[test]
    fn a_paused_session_has_no_turn_until_it_is_resumed_and_a_forgotten_one_never_again() {
        let mut lines = Lines::new(2);
        for (session, job) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
            lines.push(session, Way::Alone, job);
        }
        lines.pause("a");
        lines.pause("c");
        lines.push("a", Way::Alone, "a3");
        lines.push("c", Way::Alone, "c1");
        assert_eq!(all(&mut lines), ["b1"]);
        lines.resume("a");
        lines.resume("a");
        assert_eq!(all(&mut lines), ["a1", "a2", "a3"]);
        assert!(lines.is_idle("a") && !lines.is_idle("c"));
        assert_eq!(lines.forget("c").collect::<Vec<_>>(), ["c1"]);
        lines.resume("c");
        lines.push("c", Way::Alone, "c2");
        assert_eq!(all(&mut lines), ["c2"]);
    }
}
