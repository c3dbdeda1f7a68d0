//! The figures of a whole run.

use std::path::Path;

use tinkex::train::{MetricValue, MetricsLog};

use super::best::{Evaluation, better};
use super::objective::FINAL_PER_TOKEN;
use super::plan::Tokens;
use crate::failure::Failure;

/// Sums over the whole run, also over its earlier processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) tokens: Tokens,
    pub(super) usd: f64,
    pub(super) seconds: f64,
}

/// Figures at the end of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) totals: Totals,
    pub(super) last_loss: Option<f64>,
    /// The mean of the losses, of which later ones count more.
    pub(super) smooth_loss: Option<f64>,
    /// The smallest loss with its step, counted from 1.
    pub(super) best_loss: Option<(f64, u64)>,
    /// All evaluations, in order.
    pub(super) tests: Vec<Evaluation>,
    pub(super) best_test: Option<Evaluation>,
    /// Of the model after the last step.
    pub(super) final_test: Option<f64>,
    /// The same, where each trained token counts the same.
    pub(super) final_per_token: Option<f64>,
}

/// The part of a smoothed loss that stays in each step.
const KEEP: f64 = 0.9;

impl Summary {
    /// The sums of the rows in a folder.
    pub(super) fn of_rows(folder: &Path) -> Result<Self, Failure> {
        let mut summary = Summary::default();
        for row in MetricsLog::read(folder)? {
            let value = |name: &str| row.values.get(name).and_then(MetricValue::as_f64);
            let tokens = |kind: &str| value(&format!("tokens/cumulative/{kind}")).map(|n| n as u64);
            let totals = &mut summary.totals;
            totals.tokens = Tokens {
                trained: tokens("trained").unwrap_or(totals.tokens.trained),
                prefilled: tokens("prefill_uncached").unwrap_or(totals.tokens.prefilled),
                sampled: tokens("sampled").unwrap_or(totals.tokens.sampled),
            };
            totals.usd = value("cost/cumulative_usd").unwrap_or(totals.usd);
            totals.seconds = value("time/total").unwrap_or(totals.seconds);
            let loss = value("train_mean_nll").or_else(|| value("dpo_loss"));
            let test = value("test/nll").or_else(|| value("test/dpo_loss"));
            if let (Some(step), Some(loss)) = (row.step, loss) {
                summary.add(step, loss, test);
                if let Some(loss) = value("tinkex/final_test_loss") {
                    summary.add_final_test(loss, value(FINAL_PER_TOKEN), step + 1);
                }
            }
        }
        Ok(summary)
    }

    /// Adds a step, with the number that its row has, and the evaluation before it.
    pub(super) fn add(&mut self, step: u64, loss: f64, test: Option<f64>) {
        self.last_loss = Some(loss);
        let smooth = self.smooth_loss.filter(|it| it.is_finite());
        self.smooth_loss = Some(smooth.map_or(loss, |smooth| KEEP * smooth + (1.0 - KEEP) * loss));
        self.best_loss = match self.best_loss {
            Some(best) if best.0 <= loss || loss.is_nan() => Some(best),
            _ => Some((loss, step + 1)),
        };
        if let Some(loss) = test {
            self.add_test(Evaluation { loss, n_done: step });
        }
    }

    /// Adds the evaluation of the model after the last step.
    pub(super) fn add_final_test(&mut self, loss: f64, per_token: Option<f64>, n_done: u64) {
        (self.final_test, self.final_per_token) = (Some(loss), per_token);
        self.add_test(Evaluation { loss, n_done });
    }

    fn add_test(&mut self, evaluation: Evaluation) {
        self.tests.push(evaluation);
        self.best_test = better(self.best_test, evaluation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_values_have_steps_that_are_counted_from_1() {
        let mut summary = Summary::default();
        for (step, loss, test) in [(0, 3.0, Some(4.0)), (1, 1.0, None), (2, 2.0, Some(2.0))] {
            summary.add(step, loss, test);
        }
        assert_eq!((summary.last_loss, summary.best_loss), (Some(2.0), Some((1.0, 2))));
        assert_eq!(summary.best_test, Some(Evaluation { loss: 2.0, n_done: 2 }));
        summary.add_final_test(1.5, None, 3);
        assert_eq!(summary.best_test, Some(Evaluation { loss: 1.5, n_done: 3 }));
        let smooth = summary.smooth_loss.unwrap_or_default();
        assert!((smooth - (0.9 * (0.9 * 3.0 + 0.1 * 1.0) + 0.1 * 2.0)).abs() < 1e-12, "{smooth}");
    }
}
