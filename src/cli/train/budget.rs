//! The step after which the budget ends a run.

use serde_json::{Value, json};

use super::args::LossKind;
use super::dataset::{Dataset, Item};
use super::order::order;
use super::plan::{Cost, Tokens, is_eval_due};
use super::settings::{Chosen, Settings};
use crate::counted::counted;
use crate::failure::Failure;

pub(super) const MAX_TOKENS: &str = "--max-tokens";
pub(super) const MAX_USD: &str = "--max-usd";

/// A limit that ends a run before its last step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    /// The option with its value.
    option: String,
    /// Number of the steps that are done.
    n_steps: u64,
}

impl Limit {
    /// The limit that is reached first, as the steps will find it; samples, which cost, too, are not known before.
    pub(super) fn of(
        settings: &Settings,
        chosen: &Chosen,
        data: &Dataset,
        cost: Cost,
    ) -> Result<Option<Self>, Failure> {
        if settings.max_tokens.is_none() && settings.max_usd.is_none() {
            return Ok(None);
        }
        let mut total = Tokens::default();
        let n_test = data.facts.n_test_tokens;
        for (n_done, indices) in (0..chosen.n_steps).zip(order(settings, chosen, data.train.len(), 0)?) {
            let items = indices.iter().filter_map(|i| data.train.get(*i));
            let trained: u64 = items.map(|item: &Item| item.n_inputs() as u64).sum();
            let evaluations = u64::from(is_eval_due(n_done, chosen.n_steps, settings.eval_every))
                + u64::from(n_done + 1 == chosen.n_steps);
            total = total + Tokens { trained, prefilled: evaluations * n_test, sampled: 0 };
            let reached = |option: &str, max: &dyn std::fmt::Display| {
                Ok(Some(Limit { option: format!("{option} {max}"), n_steps: n_done }))
            };
            if let Some(max) = settings.max_tokens.filter(|max| *max < total.trained) {
                return reached(MAX_TOKENS, &max);
            }
            if let Some(max) = settings.max_usd.filter(|max| cost.usd(total).is_some_and(|usd| *max < usd)) {
                return reached(MAX_USD, &max);
            }
            if chosen.loss == LossKind::Dpo {
                // The reference scores each pair once, and the loss needs a pass forward in each step.
                let is_first = n_done < chosen.batches_per_epoch;
                total.prefilled += trained * (1 + u64::from(is_first));
            }
        }
        Ok(None)
    }

    /// What the limit does, as a line of the plan.
    pub(super) fn line(&self, chosen: &Chosen) -> String {
        let Limit { option, n_steps } = self;
        if *n_steps == 0 {
            return format!("budget  {option} is less than the first step needs: no step is done");
        }
        let epoch = (n_steps - 1) / chosen.batches_per_epoch.max(1) + 1;
        format!(
            "budget  {option} ends the run after {} of {}, in epoch {epoch} of {}",
            counted(*n_steps, "step"),
            chosen.n_steps,
            chosen.n_epochs_begun()
        )
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "option": self.option, "n_steps": self.n_steps })
    }
}
