//! The figures of a whole run.

use tinkex::train::{MetricValue, MetricsLog, Run};

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
    /// The smallest loss with its step.
    pub(super) best_loss: Option<(f64, u64)>,
    pub(super) best_test: Option<(f64, u64)>,
    /// Of the model after the last step.
    pub(super) final_test: Option<f64>,
}

impl Summary {
    /// The sums of the rows that a resumed run keeps.
    pub(super) fn of_rows(run: &Run) -> Result<Self, Failure> {
        let mut summary = Summary::default();
        for row in MetricsLog::read(run.folder())? {
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
            }
            summary.final_test = value("tinkex/final_test_loss").or(summary.final_test);
        }
        Ok(summary)
    }

    pub(super) fn add(&mut self, step: u64, loss: f64, test: Option<f64>) {
        let better = |best: Option<(f64, u64)>, value: f64| match best {
            Some(best) if best.0 <= value || value.is_nan() => Some(best),
            _ => Some((value, step)),
        };
        self.last_loss = Some(loss);
        self.best_loss = better(self.best_loss, loss);
        if let Some(test) = test {
            self.best_test = better(self.best_test, test);
        }
    }
}
