//! What a run will do and cost. Pure functions.

use serde_json::{Value, json};

use super::args::{LossKind, ScheduleKind};
use super::budget::Limit;
use super::dataset::{Dataset, Facts};
use super::order::order;
use super::settings::{Chosen, Settings};
use crate::counted::{count, counted};
use crate::examples::file_name;
use crate::failure::Failure;
use crate::prices::Price;

/// What the tokens of a run cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cost {
    /// The engine in this process.
    Free,
    Known(Price),
    Unknown,
}

impl Cost {
    /// The cost of tokens in USD; `None` if it is unknown.
    pub(super) fn usd(self, tokens: Tokens) -> Option<f64> {
        match self {
            Cost::Free => Some(0.0),
            Cost::Unknown => None,
            Cost::Known(price) => Some(
                (tokens.trained as f64 * price.train
                    + tokens.prefilled as f64 * price.prefill
                    + tokens.sampled as f64 * price.sample)
                    / 1e6,
            ),
        }
    }
}

/// Numbers of tokens by their price.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tokens {
    pub(super) trained: u64,
    pub(super) prefilled: u64,
    pub(super) sampled: u64,
}

impl std::ops::Add for Tokens {
    type Output = Tokens;

    fn add(self, other: Tokens) -> Tokens {
        Tokens {
            trained: self.trained + other.trained,
            prefilled: self.prefilled + other.prefilled,
            sampled: self.sampled + other.sampled,
        }
    }
}

/// What a run will do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) model: String,
    pub(super) facts: Facts,
    pub(super) n_items: usize,
    pub(super) n_test: usize,
    pub(super) chosen: Chosen,
    pub(super) n_checkpoints: u64,
    /// Of the whole run; without samples.
    pub(super) tokens: Tokens,
    pub(super) usd: Option<f64>,
    cost: Cost,
    limit: Option<Limit>,
    settings: Settings,
}

/// True if the model is evaluated before a step.
pub(super) fn is_eval_due(step: u64, n_steps: u64, every: u64) -> bool {
    step + 1 == n_steps || (0 < every && step.is_multiple_of(every))
}

/// Number of evaluations of a run from a step on: those before a step, and the one after the last step.
fn n_evals(from: u64, n_steps: u64, every: u64) -> u64 {
    if n_steps == 0 {
        return 0;
    }
    let regular = |n: u64| if every == 0 { 0 } else { n.div_ceil(every) };
    let before_last = u64::from(every == 0 || !(n_steps - 1).is_multiple_of(every));
    if n_steps <= from { 1 } else { regular(n_steps) - regular(from) + before_last + 1 }
}

/// Numbers of examples and of tokens that go through the model in the first steps.
fn n_trained(
    settings: &Settings,
    chosen: &Chosen,
    data: &Dataset,
    n_steps: u64,
) -> Result<(u64, u64), Failure> {
    let per_epoch = chosen.batches_per_epoch.max(1);
    let (n_epochs, n_further) = (n_steps / per_epoch, n_steps % per_epoch);
    let (mut n_items, mut n_tokens) = (data.train.len() as u64 * n_epochs, data.facts.n_tokens * n_epochs);
    if 0 < n_further {
        let further = order(settings, chosen, data.train.len(), n_epochs * per_epoch)?;
        let further = further.take(usize::try_from(n_further).unwrap_or(usize::MAX)).flatten();
        for item in further.filter_map(|i| data.train.get(i)) {
            n_items += 1;
            n_tokens += item.n_inputs() as u64;
        }
    }
    Ok((n_items, n_tokens))
}

/// Numbers of examples, and of tokens without samples, of a run from a step on.
pub(super) fn amount(
    settings: &Settings,
    chosen: &Chosen,
    data: &Dataset,
    from: u64,
) -> Result<(u64, Tokens), Failure> {
    let facts = &data.facts;
    let (all_items, all_trained) = n_trained(settings, chosen, data, chosen.n_steps)?;
    let (done_items, done_trained) = n_trained(settings, chosen, data, from.min(chosen.n_steps))?;
    let trained = all_trained - done_trained;
    let evaluated = facts.n_test_tokens * n_evals(from, chosen.n_steps, settings.eval_every);
    // The reference of DPO scores each example once, and the custom loss needs a pass forward in each step.
    let scored = match chosen.loss {
        LossKind::Sft => 0,
        LossKind::Dpo => facts.n_tokens.min(trained) + facts.n_test_tokens + trained,
    };
    Ok((all_items - done_items, Tokens { trained, prefilled: evaluated + scored, sampled: 0 }))
}

impl Plan {
    pub(super) fn of(
        model: &str,
        settings: &Settings,
        chosen: &Chosen,
        data: &Dataset,
        cost: Cost,
    ) -> Result<Self, Failure> {
        let facts = data.facts.clone();
        let (_, tokens) = amount(settings, chosen, data, 0)?;
        // The last step is saved as the final checkpoint alone.
        let n_periodic = chosen.n_steps.saturating_sub(1).checked_div(settings.save_every).unwrap_or(0);
        Ok(Plan {
            model: model.into(),
            n_items: data.train.len(),
            n_test: data.test.len(),
            chosen: *chosen,
            n_checkpoints: n_periodic + 1,
            tokens,
            usd: cost.usd(tokens),
            cost,
            limit: Limit::of(settings, chosen, data, cost)?,
            settings: settings.clone(),
            facts,
        })
    }

    /// Lines for people, and remarks on the data.
    pub(super) fn lines(&self) -> Vec<String> {
        let (facts, chosen) = (&self.facts, &self.chosen);
        let files: Vec<String> = facts
            .files
            .iter()
            .map(|file| format!("{} ({})", file_name(&file.path), counted(file.n_lines as u64, "line")))
            .collect();
        let what = match chosen.loss {
            LossKind::Sft => "example",
            LossKind::Dpo => "pair",
        };
        let mut data = format!("{}: {}", files.join(", "), counted(self.n_items as u64, what));
        if 0 < self.n_test {
            data.push_str(&format!(", and {} for the evaluation", count(self.n_test as u64)));
        }
        for (n, fate) in [(facts.n_truncated, "cut"), (facts.n_dropped, "left out as too long")] {
            if 0 < n {
                data.push_str(&format!(", {n} {fate}"));
            }
        }
        if 0 < facts.n_ties {
            data.push_str(&format!(", {} left out", counted(facts.n_ties as u64, "tie")));
        }
        let [least, low, median, high, most] = facts.lengths;
        let tokens = format!(
            "{} in an epoch, {} of them trained; lengths {least} to {most}, median {median}, 80% between {low} and {high}",
            count(facts.n_tokens),
            count(facts.n_trained),
        );
        let epochs = counted(chosen.n_epochs_begun(), "epoch");
        let schedule = match self.settings.schedule {
            ScheduleKind::Linear => ", falling to 0",
            ScheduleKind::Cosine => ", falling to 0 as a cosine",
            ScheduleKind::Constant => "",
        };
        let steps = format!(
            "{} with batches of {} ({epochs}); learning rate {}{schedule}; rank {}",
            count(chosen.n_steps),
            chosen.batch_size,
            rate(chosen.lr),
            self.settings.lora.rank
        );
        let kept = |text: &str| if text == "never" { "until deleted".into() } else { format!("for {text}") };
        let saves = match self.n_checkpoints {
            1 => format!("the final checkpoint, kept {}", kept(&self.settings.final_ttl.text)),
            n => format!(
                "{} checkpoints, one every {} kept {}{}, and the final one kept {}",
                count(n),
                every(self.settings.save_every),
                kept(&self.settings.ttl.text),
                self.settings.keep_last.map(|n| format!(", the last {n} of them alone")).unwrap_or_default(),
                kept(&self.settings.final_ttl.text)
            ),
        };
        let total = count(self.tokens.trained + self.tokens.prefilled);
        let cost = match self.cost {
            Cost::Free => format!("{total} tokens, free: the engine is on this machine"),
            Cost::Unknown => format!("{total} tokens; the price of {} is unknown", self.model),
            Cost::Known(_) => format!("{total} tokens, about {}", usd(self.usd.unwrap_or(0.0))),
        };
        let from = self.settings.from.as_ref().map(|from| format!("from    {from}"));
        let own = [
            format!("data    {data}"),
            format!("tokens  {tokens}"),
            format!("steps   {steps}"),
            format!("saves   {saves}"),
            format!("cost    {cost}"),
        ];
        let mut lines: Vec<String> = from.into_iter().chain(own).collect();
        lines.extend(self.limit.as_ref().map(|limit| limit.line(chosen)));
        lines.extend(facts.remarks.iter().cloned());
        lines
    }

    pub(super) fn to_json(&self, example: &str) -> Value {
        json!({
            "model": self.model,
            "from": self.settings.from.as_ref().map(ToString::to_string),
            "loss": if self.chosen.loss == LossKind::Dpo { "dpo" } else { "sft" },
            "data": self.facts.to_json(),
            "n_examples": self.n_items,
            "n_eval_examples": self.n_test,
            "n_steps": self.chosen.n_steps,
            "n_epochs": self.chosen.n_epochs_begun(),
            "batch_size": self.chosen.batch_size,
            "learning_rate": self.chosen.lr,
            "n_checkpoints": self.n_checkpoints,
            "n_trained_tokens": self.tokens.trained,
            "n_prefill_tokens": self.tokens.prefilled,
            "usd": self.usd,
            "budget_end": self.limit.as_ref().map(Limit::to_json),
            "remarks": self.facts.remarks,
            "example": example,
        })
    }
}

/// The steps between two of something.
fn every(n: u64) -> String {
    if n == 1 { "step".into() } else { counted(n, "step") }
}

pub(super) fn usd(value: f64) -> String {
    if value != 0.0 && value < 0.01 { format!("${value:.4}") } else { format!("${value:.2}") }
}

/// A learning rate, short.
pub(super) fn rate(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let text = format!("{value:.2e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}e{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_are_regular_and_before_the_last_step() {
        for (n_steps, every, steps) in [
            (10, 4, vec![0, 4, 8, 9]),
            (9, 4, vec![0, 4, 8]),
            (3, 0, vec![2]),
            (1, 1, vec![0]),
            (0, 1, vec![]),
        ] {
            let due: Vec<u64> = (0..n_steps).filter(|step| is_eval_due(*step, n_steps, every)).collect();
            assert_eq!(due, steps);
            // The one after the last step comes on top.
            let n = due.len() as u64 + u64::from(0 < n_steps);
            assert_eq!(n_evals(0, n_steps, every), n, "{n_steps} {every}");
            for from in 0..n_steps {
                let n_left = due.iter().filter(|step| from <= **step).count() as u64 + 1;
                assert_eq!(n_evals(from, n_steps, every), n_left, "{from} {n_steps} {every}");
            }
        }
    }

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!([1e-4, 4.729e-4, 0.006, 0.0, 1.0].map(rate), ["1e-4", "4.73e-4", "6e-3", "0", "1e0"]);
        assert_eq!([0.0, 0.001, 0.42, 12.0].map(usd), ["$0.00", "$0.0010", "$0.42", "$12.00"]);
    }

    #[test]
    fn the_cost_follows_the_kind_of_token() {
        let price = Price { prefill: 1.0, cached_prefill: 0.1, sample: 3.0, train: 10.0 };
        let tokens = Tokens { trained: 1_000_000, prefilled: 2_000_000, sampled: 1_000_000 };
        assert_eq!(Cost::Known(price).usd(tokens), Some(15.0));
        assert_eq!(Cost::Unknown.usd(tokens), None);
        assert_eq!(Cost::Free.usd(tokens), Some(0.0));
    }
}
