//! Learning rates over the steps of a run.

use std::f64::consts::PI;

use crate::error::{Error, Result};

/// The course of the learning rate over the steps of a run.
///
/// Step `s` of `n` has the learning rate `peak · f(s / n)`. Steps count from 0, so that the first step has the peak. A
/// step after the last one has the learning rate of the end.
///
/// # Example: a linear schedule, and the same one with a warm-up
/// ```
/// use tinkex::train::Schedule;
///
/// assert_eq!(Schedule::Linear.learning_rate(50, 100, 8e-4)?, 4e-4);
/// // Steps 0 to 2 rise to the peak in step 3; the decay begins there.
/// let warm = Schedule::Linear.with_warmup(3);
/// assert_eq!(warm.learning_rate(0, 100, 8e-4)?, 2e-4);
/// assert_eq!(warm.learning_rate(3, 100, 8e-4)?, 8e-4);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schedule {
    /// Always the peak: `f(x) = 1`.
    Constant,
    /// Falls to 0 in a straight line: `f(x) = 1 − x`.
    #[default]
    Linear,
    /// Falls to 0 in half a cosine wave: `f(x) = (1 + cos πx) / 2`.
    Cosine,
}

/// A [`Schedule`] after a warm-up, made by [`Schedule::with_warmup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmupSchedule {
    schedule: Schedule,
    warmup_steps: usize,
}

impl Schedule {
    /// The learning rate of a step in a run of `n_steps` steps.
    ///
    /// # Errors
    /// `n_steps` is 0, or `peak` is negative or not a finite number.
    pub fn learning_rate(self, step: usize, n_steps: usize, peak: f64) -> Result<f64> {
        self.with_warmup(0).learning_rate(step, n_steps, peak)
    }

    /// Begins with `warmup_steps` steps in which the learning rate rises in a straight line: step `s` of these has
    /// `peak · (s + 1) / (warmup_steps + 1)`. The step after them has the peak, and the schedule covers the rest of the
    /// run.
    #[must_use]
    pub fn with_warmup(self, warmup_steps: usize) -> WarmupSchedule {
        WarmupSchedule { schedule: self, warmup_steps }
    }

    /// The factor at a share of the run from 0 to 1.
    fn factor(self, progress: f64) -> f64 {
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        }
    }
}

impl WarmupSchedule {
    /// The learning rate of a step in a run of `n_steps` steps, warm-up included.
    ///
    /// # Errors
    /// As for [`Schedule::learning_rate`].
    pub fn learning_rate(self, step: usize, n_steps: usize, peak: f64) -> Result<f64> {
        if n_steps == 0 {
            return Err(Error::invalid("n_steps", "is 0; a schedule needs at least one step"));
        }
        if !peak.is_finite() || peak < 0.0 {
            return Err(Error::invalid("peak", format!("{peak} is not a finite number of at least 0")));
        }
        let warmup = self.warmup_steps;
        if step < warmup {
            return Ok(peak * (step as f64 + 1.0) / (warmup as f64 + 1.0));
        }
        // Only a run that the warm-up fills has no steps left, and then the step is one after the last.
        let n_rest = n_steps.saturating_sub(warmup).max(1);
        let progress = ((step - warmup) as f64 / n_rest as f64).min(1.0);
        Ok(peak * self.schedule.factor(progress))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_schedule_follows_its_formula() {
        for (schedule, step, n_steps, expected) in [
            (Schedule::Constant, 0, 10, 2.0),
            (Schedule::Constant, 9, 10, 2.0),
            (Schedule::Constant, 50, 10, 2.0),
            (Schedule::Linear, 0, 10, 2.0),
            (Schedule::Linear, 5, 10, 1.0),
            (Schedule::Linear, 9, 10, 0.2),
            (Schedule::Linear, 10, 10, 0.0),
            (Schedule::Linear, 11, 10, 0.0),
            (Schedule::Cosine, 0, 12, 2.0),
            (Schedule::Cosine, 3, 12, 1.0 + 0.5f64.sqrt()),
            (Schedule::Cosine, 4, 12, 1.5),
            (Schedule::Cosine, 6, 12, 1.0),
            (Schedule::Cosine, 8, 12, 0.5),
            (Schedule::Cosine, 12, 12, 0.0),
            (Schedule::Cosine, 24, 12, 0.0),
        ] {
            let found = schedule.learning_rate(step, n_steps, 2.0).unwrap();
            assert!((found - expected).abs() < 1e-12, "{schedule:?} {step}/{n_steps}: {found}");
        }
    }

    #[test]
    fn a_warm_up_rises_to_the_peak_and_the_schedule_covers_the_rest() {
        for (schedule, step, expected) in [
            (Schedule::Linear, 0, 0.5),
            (Schedule::Linear, 1, 1.0),
            (Schedule::Linear, 2, 1.5),
            (Schedule::Linear, 3, 2.0),
            (Schedule::Linear, 8, 1.0),
            (Schedule::Linear, 13, 0.0),
            (Schedule::Constant, 2, 1.5),
            (Schedule::Constant, 12, 2.0),
            (Schedule::Cosine, 8, 1.0),
        ] {
            let found = schedule.with_warmup(3).learning_rate(step, 13, 2.0).unwrap();
            assert!((found - expected).abs() < 1e-12, "{schedule:?} {step}: {found}");
        }
        // A warm-up that is longer than the run rises until the end.
        let long = Schedule::Linear.with_warmup(9);
        assert!((long.learning_rate(4, 5, 1.0).unwrap() - 0.5).abs() < 1e-12);
        assert!(long.learning_rate(10, 5, 1.0).unwrap() <= 1.0);
    }

    #[test]
    fn a_run_without_steps_and_a_peak_that_is_not_a_rate_are_refused() {
        let path = |n_steps, peak| {
            let error = Schedule::Cosine.learning_rate(0, n_steps, peak).unwrap_err();
            error.violation().unwrap().path.clone()
        };
        assert_eq!(path(0, 1.0), "n_steps");
        for peak in [-1e-9, f64::NAN, f64::INFINITY] {
            assert_eq!(path(1, peak), "peak");
        }
    }
}
