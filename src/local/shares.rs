//! Shares the cores between samples and exclusive jobs. Has no clock, no lock and no thread: times are parameters,
//! counted from any moment.
//!
//! While both kinds of work wait, they alternate: after an exclusive job, samples may run for as long as that job took.
//! A step of a sample cannot be interrupted, so samples may run longer than that; the excess is deducted from the times
//! that they get after the next exclusive jobs. Unless all of their time is deducted, samples get on by at least one step
//! between two exclusive jobs. So in the long run each kind has half of the time, whatever its steps take.

use std::time::Duration;

/// Time after which a task lets another task go first. Long enough that the change costs little.
const TASK_SLICE: Duration = Duration::from_millis(2);

/// Work that may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Samples.
    Samples,
    /// An exclusive job, now.
    Exclusive,
    /// An exclusive job, once all threads have paused their samples. Until then nothing may start.
    Pausing,
}

/// The samples that compete with exclusive jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Samples {
    None,
    /// Samples wait, and no thread computes any.
    Waiting,
    /// A thread computes samples.
    Running,
}

/// Record of the time that both kinds of work used.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// End of the time that samples have after the latest exclusive job.
    until: Duration,
    /// True if a sample got on since the latest exclusive job, or need not get on before the next one.
    moved: bool,
    /// Time that samples used beyond their share.
    excess: Duration,
    /// Time since which an exclusive job waits.
    asked: Option<Duration>,
    /// Start of the exclusive job that runs.
    began: Duration,
}

impl Shares {
    /// Decides what may start.
    pub(super) fn turn(&mut self, now: Duration, exclusive_waits: bool, samples: Samples) -> Turn {
        if samples == Samples::None {
            self.excess = Duration::ZERO;
        }
        if !exclusive_waits {
            self.asked = None;
            return Turn::Samples;
        }
        self.asked.get_or_insert(now);
        match samples {
            Samples::None => Turn::Exclusive,
            _ if !self.samples_are_over(now) => Turn::Samples,
            Samples::Waiting => Turn::Exclusive,
            Samples::Running => Turn::Pausing,
        }
    }

    /// True if samples have to pause when an exclusive job waits.
    pub(super) fn samples_are_over(&self, now: Duration) -> bool {
        self.moved && self.until <= now
    }

    /// Records that a thread begins to compute samples.
    pub(super) fn samples_move(&mut self) {
        self.moved = true;
    }

    pub(super) fn exclusive_begins(&mut self, now: Duration) {
        let expected = self.asked.take().unwrap_or(now).max(self.until);
        self.excess += now.saturating_sub(expected);
        self.began = now;
    }

    pub(super) fn exclusive_ends(&mut self, now: Duration) {
        let took = now.saturating_sub(self.began);
        self.until = now + took.saturating_sub(self.excess);
        self.excess = self.excess.saturating_sub(took);
        self.moved = !self.excess.is_zero();
    }
}

/// True if a task that has been running for `ran` has to let another task go first. `others`: there are others, which
/// wait for a thread, or for a part of them whose thread this task occupies.
pub(super) fn task_is_over(ran: Duration, others: bool) -> bool {
    others && TASK_SLICE <= ran
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Shares after an exclusive job that waited from `asked` and ran from `began` to `ended`, in milliseconds.
    fn after_exclusive(shares: &mut Shares, (asked, began, ended): (u64, u64, u64)) {
        shares.turn(ms(asked), true, Samples::Running);
        shares.exclusive_begins(ms(began));
        shares.exclusive_ends(ms(ended));
    }

    #[test]
    fn the_turn_depends_on_what_waits_and_on_the_time_that_samples_had() {
        // An exclusive job ran from 0 to 100 ms. So samples have the time until 200 ms.
        let cases = [
            // (now, samples have got on, an exclusive job waits, samples) -> turn
            ((150, false, false, Samples::None), Turn::Samples),
            ((150, true, false, Samples::Running), Turn::Samples),
            ((150, false, true, Samples::None), Turn::Exclusive),
            ((150, true, true, Samples::Waiting), Turn::Samples),
            ((150, true, true, Samples::Running), Turn::Samples),
            ((199, true, true, Samples::Running), Turn::Samples),
            ((200, true, true, Samples::Running), Turn::Pausing),
            ((200, true, true, Samples::Waiting), Turn::Exclusive),
            // Their time is over, but they were not able to use it.
            ((300, false, true, Samples::Waiting), Turn::Samples),
            ((300, false, true, Samples::Running), Turn::Samples),
            ((300, true, false, Samples::Running), Turn::Samples),
        ];
        for ((now, moved, exclusive_waits, samples), turn) in cases {
            let mut shares = Shares::default();
            after_exclusive(&mut shares, (0, 0, 100));
            if moved {
                shares.samples_move();
            }
            assert_eq!(shares.turn(ms(now), exclusive_waits, samples), turn, "{now} {moved} {samples:?}");
        }
    }

    #[test]
    fn samples_that_run_before_the_first_exclusive_job_pause_at_once() {
        let mut shares = Shares::default();
        assert_eq!(shares.turn(ms(0), false, Samples::Waiting), Turn::Samples);
        shares.samples_move();
        assert_eq!(shares.turn(ms(7), true, Samples::Running), Turn::Pausing);
    }

    #[test]
    fn a_step_that_outlasts_the_time_of_samples_is_deducted_from_their_next_times() {
        let mut shares = Shares::default();
        after_exclusive(&mut shares, (0, 0, 100));
        shares.samples_move();
        // A step holds up the next job from 200 to 230 ms. So samples have 30 ms less after it, in two parts.
        after_exclusive(&mut shares, (110, 230, 240));
        assert!(shares.samples_are_over(ms(240)), "the next job may follow at once");
        after_exclusive(&mut shares, (240, 240, 340));
        assert!(!shares.samples_are_over(ms(420)), "at least one step");
        shares.samples_move();
        assert!(!shares.samples_are_over(ms(419)) && shares.samples_are_over(ms(420)));
    }

    #[test]
    fn samples_that_no_job_waited_for_have_nothing_deducted() {
        let mut shares = Shares::default();
        shares.samples_move();
        assert_eq!(shares.turn(ms(0), false, Samples::Running), Turn::Samples);
        after_exclusive(&mut shares, (5000, 5000, 5100));
        shares.samples_move();
        assert!(!shares.samples_are_over(ms(5199)) && shares.samples_are_over(ms(5200)));
    }

    #[test]
    fn later_samples_do_not_pay_for_earlier_ones() {
        let mut shares = Shares::default();
        shares.samples_move();
        after_exclusive(&mut shares, (0, 900, 901));
        assert_eq!(shares.turn(ms(901), true, Samples::None), Turn::Exclusive);
        shares.exclusive_begins(ms(901));
        shares.exclusive_ends(ms(951));
        shares.samples_move();
        assert!(!shares.samples_are_over(ms(1000)) && shares.samples_are_over(ms(1001)));
    }

    #[test]
    fn both_kinds_get_half_of_the_time_whatever_their_steps_take() {
        // Durations of a step and of the exclusive jobs, which always wait, in milliseconds.
        for (step, jobs) in [(1, [40, 2]), (100, [1000, 5]), (300, [50, 50]), (5000, [50, 2])] {
            let (mut shares, mut now, mut of_samples, mut done) = (Shares::default(), 0, 0, 0);
            for _ in 0..10_000 {
                match shares.turn(ms(now), true, Samples::Waiting) {
                    Turn::Samples => {
                        shares.samples_move();
                        (now, of_samples) = (now + step, of_samples + step);
                    }
                    _ => {
                        let took = jobs[done % 2];
                        shares.exclusive_begins(ms(now));
                        shares.exclusive_ends(ms(now + took));
                        (now, done) = (now + took, done + 1);
                    }
                }
            }
            let share = of_samples as f64 / now as f64;
            assert!((0.49..0.51).contains(&share), "{step} {jobs:?}: {share}");
        }
    }

    #[test]
    fn a_task_goes_on_while_no_other_waits() {
        assert!(!task_is_over(ms(10_000), false) && !task_is_over(ms(1), true) && task_is_over(ms(2), true));
    }
}
