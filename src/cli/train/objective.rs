//! What is minimised: how a batch is submitted, and which figures its result has.

use std::collections::HashMap;

use tinkex::chat::Reduction;
use tinkex::tokenizer::Tokenizer;
use tinkex::train::{SftMetrics, dpo_loss, mean_nll, sequence_logprobs};
use tinkex::types::{Datum, ForwardBackwardOutput, LossFn};
use tinkex::{Error, Pending, SamplingClient, TrainingClient};

use super::args::LossKind;
use super::dataset::Item;
use super::row::Row;
use super::settings::Chosen;
use crate::failure::Failure;

/// Columns of the evaluation in which each trained token counts the same, as for `tinkex eval`. `test/nll` is, as in the
/// cookbook, weighted as the training is: by default each example counts the same.
const PER_TOKEN: &str = "tinkex/test_nll_per_token";
pub(super) const FINAL_PER_TOKEN: &str = "tinkex/final_test_nll_per_token";

/// Log-probabilities of the answers of an item under the reference.
type Scores = Vec<Vec<f32>>;

#[derive(Debug)]
pub(super) enum Objective {
    Sft,
    Dpo(Box<Preferences>),
}

/// The state of DPO. The reference never changes, so each item is scored once.
#[derive(Debug)]
pub(super) struct Preferences {
    pub(super) beta: f64,
    pub(super) reference: SamplingClient,
    train: HashMap<usize, Scores>,
    test: Option<Scores>,
}

/// The data of the evaluation.
#[derive(Debug, Default)]
pub(super) struct Test {
    pub(super) data: Vec<Datum>,
    /// Weights with which each trained token counts the same. Empty for preferences.
    per_token: Vec<Vec<f32>>,
}

/// The figures of an evaluation.
#[derive(Clone, Debug)]
pub(super) struct Tested {
    pub(super) loss: f64,
    /// The loss where each trained token counts the same.
    pub(super) per_token: Option<f64>,
    /// Under their names in `metrics.jsonl`.
    pub(super) row: Row,
}

impl Objective {
    pub(super) fn dpo(beta: f64, reference: SamplingClient) -> Self {
        Objective::Dpo(Box::new(Preferences { beta, reference, train: HashMap::new(), test: None }))
    }

    /// Submits the pass of a batch; `indices` are those of the items, whose data are `data`. Returns it and the number of
    /// tokens that the reference scored for it.
    ///
    /// Waits for the reference of DPO, the first time that an item comes.
    pub(super) fn submit(
        &mut self,
        training: &TrainingClient,
        indices: &[usize],
        data: &[Vec<Datum>],
    ) -> Result<(Pending<ForwardBackwardOutput>, u64), Failure> {
        let all: Vec<Datum> = data.iter().flatten().cloned().collect();
        match self {
            Objective::Sft => Ok((training.forward_backward(all, LossFn::CrossEntropy), 0)),
            Objective::Dpo(preferences) => {
                let (reference, n_scored) = preferences.of_batch(indices, data)?;
                let beta = preferences.beta;
                let pass = training
                    .forward_backward_custom(all, move |data: &[Datum], logprobs: &[&[f32]]| {
                        dpo_loss(data, logprobs, &reference, beta)
                    });
                Ok((pass, n_scored))
            }
        }
    }

    /// The loss that is shown, and the figures of a pass under their names in `metrics.jsonl`. `num_loss_tokens` is the
    /// sum of the weights, as in the cookbook; `tinkex/num_trained_tokens` counts the targets that have one.
    pub(super) fn train_row(
        &self,
        data: &[Datum],
        output: &ForwardBackwardOutput,
        tokenizer: Option<&dyn Tokenizer>,
    ) -> Result<(f64, Row), Failure> {
        match self {
            Objective::Sft => {
                let metrics = SftMetrics::new(data, output, tokenizer)?;
                let loss = metrics.train_mean_nll.unwrap_or(f64::NAN);
                let mut row: Row = vec![
                    ("num_sequences".into(), metrics.num_sequences.into()),
                    ("num_tokens".into(), metrics.num_tokens.into()),
                    ("num_loss_tokens".into(), metrics.num_loss_tokens.into()),
                    ("train_mean_nll".into(), loss.into()),
                ];
                row.extend(metrics.train_mean_bpb.map(|bpb| ("train_mean_bpb".into(), bpb.into())));
                row.push(("tinkex/num_trained_tokens".into(), n_trained(data).into()));
                Ok((loss, row))
            }
            Objective::Dpo(_) => {
                let loss = output.metrics.get("dpo_loss").copied().unwrap_or(f64::NAN);
                let mut row: Row = vec![
                    ("num_sequences".into(), data.len().into()),
                    ("num_tokens".into(), n_tokens(data).into()),
                ];
                row.extend(dpo_figures(&output.metrics, ""));
                row.push(("tinkex/num_trained_tokens".into(), n_trained(data).into()));
                Ok((loss, row))
            }
        }
    }

    /// The same for a pass over the data of the evaluation.
    pub(super) fn tested(
        &mut self,
        test: &Test,
        output: &ForwardBackwardOutput,
        tokenizer: Option<&dyn Tokenizer>,
    ) -> Result<Tested, Failure> {
        match self {
            Objective::Sft => {
                let metrics = SftMetrics::new(&test.data, output, tokenizer)?;
                let nll = metrics.train_mean_nll.unwrap_or(f64::NAN);
                let mut row: Row = vec![("test/nll".into(), nll.into())];
                row.extend(metrics.train_mean_bpb.map(|bpb| ("test/bpb".into(), bpb.into())));
                let per_token = mean_nll(&test.logprobs(output)?, &test.per_token)?;
                row.extend(per_token.map(|nll| (PER_TOKEN.into(), nll.into())));
                Ok(Tested { loss: nll, per_token, row })
            }
            Objective::Dpo(preferences) => {
                let logprobs = test.logprobs(output)?;
                let beta = preferences.beta;
                let reference = preferences.of_test(&test.data)?;
                let loss = dpo_loss(&test.data, &logprobs, reference, beta)?;
                Ok(Tested { loss: loss.loss, per_token: None, row: dpo_figures(&loss.metrics, "test/") })
            }
        }
    }
}

impl Preferences {
    fn of_batch(&mut self, indices: &[usize], data: &[Vec<Datum>]) -> Result<(Scores, u64), Error> {
        let is_new = |i: &usize| !self.train.contains_key(i);
        let new: Vec<(usize, &Vec<Datum>)> =
            indices.iter().copied().zip(data).filter(|(i, _)| is_new(i)).collect();
        let unscored: Vec<Datum> = new.iter().flat_map(|(_, data)| data.iter().cloned()).collect();
        let n_scored = n_tokens(&unscored) as u64;
        if !unscored.is_empty() {
            let mut scores = sequence_logprobs(&unscored, &self.reference)?.into_iter();
            for (i, data) in new {
                self.train.insert(i, scores.by_ref().take(data.len()).collect());
            }
        }
        Ok((indices.iter().filter_map(|i| self.train.get(i)).flatten().cloned().collect(), n_scored))
    }

    fn of_test(&mut self, data: &[Datum]) -> Result<&Scores, Error> {
        let scores = match self.test.take() {
            Some(scores) => scores,
            None => sequence_logprobs(data, &self.reference)?,
        };
        Ok(self.test.insert(scores))
    }
}

impl Test {
    pub(super) fn of(items: &[Item], chosen: &Chosen) -> Result<Self, Failure> {
        let data: Result<Vec<Vec<Datum>>, Failure> =
            items.iter().map(|item| item.data(chosen.reduction)).collect();
        let weights = |datum: &Datum| {
            let weights = datum.loss_fn_inputs.get("weights").and_then(|it| it.as_f32());
            weights.unwrap_or_default().to_vec()
        };
        let per_token = match chosen.loss {
            LossKind::Dpo => Vec::new(),
            LossKind::Sft => {
                let data: Result<Vec<Vec<Datum>>, Failure> =
                    items.iter().map(|item| item.data(Reduction::Sum)).collect();
                data?.iter().flatten().map(weights).collect()
            }
        };
        Ok(Test { data: data?.concat(), per_token })
    }

    fn logprobs<'a>(&self, output: &'a ForwardBackwardOutput) -> Result<Vec<&'a [f32]>, Failure> {
        let all: Option<Vec<&[f32]>> = (0..self.data.len()).map(|i| output.logprobs(i)).collect();
        all.ok_or_else(|| Failure::text("the server sent no log-probabilities of the data of the evaluation"))
    }

    pub(super) fn n_tokens(&self) -> usize {
        n_tokens(&self.data)
    }
}

/// Number of tokens of the inputs.
pub(super) fn n_tokens(data: &[Datum]) -> usize {
    data.iter().map(|datum| datum.model_input.len().unwrap_or(0)).sum()
}

/// Number of targets that count in the loss.
fn n_trained(data: &[Datum]) -> usize {
    let weights = data.iter().filter_map(|datum| datum.loss_fn_inputs.get("weights")?.as_f32());
    weights.flatten().filter(|weight| **weight != 0.0).count()
}

fn dpo_figures(metrics: &std::collections::BTreeMap<String, f64>, prefix: &str) -> Row {
    const NAMES: [&str; 6] =
        ["dpo_loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "num_pairs"];
    let figure = |name: &&str| Some((format!("{prefix}{name}"), (*metrics.get(*name)?).into()));
    NAMES.iter().filter_map(figure).collect()
}
