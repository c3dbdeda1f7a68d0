//! One LoRA model in training: batches in, gradients accumulated, steps taken.

use super::adam::{Adam, StepOutput};
use super::layer::Rows;
use super::lora::LoraSpec;
use super::loss::Loss;
use super::pass::{Model, Targets, Workspace};
use super::sampler::Sampler;
use super::weights::Weights;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::sync::Arc;

/// Sequences are packed into one pass up to about this many rows, so that short ones share their products: a
/// quarter of the batch within these bounds, so that small batches too are shared out over several threads.
const GROUP_ROWS: (usize, usize) = (96, 256);

/// Groups whose gradients exist side by side before they are added up. A bound on memory, and fixed, so that
/// the order of the sums does not depend on the number of threads.
const WAVE: usize = 8;

/// One sequence to learn from. With `N` tokens and `k` targets per position, `targets` and `weights` are
/// `[N, k]` row-major.
#[derive(Clone, Debug, Default)]
pub(crate) struct Example {
    /// The input, `N` token ids.
    pub tokens: Vec<u32>,
    /// The tokens to predict after each input token.
    pub targets: Vec<i64>,
    /// Targets per position; 1 except for cross entropy against several candidates.
    pub k: usize,
    /// Weight of each target, for cross entropy; empty for the other losses.
    pub weights: Vec<f32>,
    /// Log-probability of each target when it was sampled; empty for cross entropy.
    pub logprobs: Vec<f32>,
    /// Advantage of each target; empty for cross entropy.
    pub advantages: Vec<f32>,
}

/// What [`Trainer::run`] computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunOutput {
    /// The loss, summed over targets and data.
    pub loss_sum: f64,
    /// For each datum, the log-probabilities of its targets, `[N, k]` row-major.
    pub logprobs: Vec<Vec<f32>>,
}

/// One LoRA model being trained.
#[derive(Debug)]
pub(crate) struct Trainer {
    pub(super) model: Model,
    pub(super) grads: Vec<f32>,
    pub(super) exp_avg: Vec<f32>,
    pub(super) exp_avg_sq: Vec<f32>,
    pub(super) step: u64,
    /// Idle workspaces and gradient buffers of groups.
    idle: Mutex<Vec<Workspace>>,
    idle_grads: Vec<Vec<f32>>,
}

impl Trainer {
    /// A fresh adapter on a base model: it changes nothing until it is trained.
    pub(crate) fn new(base: Arc<Weights>, spec: LoraSpec) -> Trainer {
        let model = Model::new(base, &spec);
        let len = model.params.len();
        Trainer {
            model,
            grads: vec![0.0; len],
            exp_avg: vec![0.0; len],
            exp_avg_sq: vec![0.0; len],
            step: 0,
            idle: Mutex::default(),
            idle_grads: Vec::new(),
        }
    }

    /// The loss of a batch and the log-probabilities of its targets; with `backward`, the adapter's gradients
    /// are added to those accumulated since the last step.
    ///
    /// # Errors
    /// A datum that does not fit the model or the loss, by its index; nothing has changed then.
    pub(crate) fn run(
        &mut self,
        batch: &[Example],
        loss: &Loss,
        backward: bool,
    ) -> Result<RunOutput, String> {
        for (i, example) in batch.iter().enumerate() {
            check(example, loss, &self.model.base).map_err(|e| format!("datum {i}: {e}"))?;
        }
        if batch.is_empty() {
            return Err("the batch has no data".to_owned());
        }
        let groups = groups(batch);
        let mut output = RunOutput { loss_sum: 0.0, logprobs: Vec::with_capacity(batch.len()) };
        let mut buffers = std::mem::take(&mut self.idle_grads);
        for wave in groups.chunks(WAVE) {
            buffers.resize_with(buffers.len().max(if backward { wave.len() } else { 0 }), Vec::new);
            let (model, idle) = (&self.model, &self.idle);
            let one = |group: &[Example], grads: Option<&mut Vec<f32>>| {
                let mut workspace = idle.lock().pop().unwrap_or_default();
                let result = run_group(model, group, loss, &mut workspace, grads);
                idle.lock().push(workspace);
                result
            };
            // The scope moves a lone group into the pool too, where its inner tasks start without a handover.
            let results: Vec<_> = rayon::scope(|_| {
                if backward {
                    wave.par_iter().zip(&mut buffers).map(|(group, grads)| one(group, Some(grads))).collect()
                } else {
                    wave.par_iter().map(|group| one(group, None)).collect()
                }
            });
            for (i, (loss_sum, logprobs)) in results.into_iter().enumerate() {
                output.loss_sum += loss_sum;
                output.logprobs.extend(logprobs);
                if backward {
                    add(&mut self.grads, &buffers[i]);
                }
            }
        }
        self.idle_grads = buffers;
        Ok(output)
    }

    /// Takes a step along the accumulated gradients (zero if there are none) and clears them.
    pub(crate) fn adam_step(&mut self, p: &Adam) -> StepOutput {
        self.step += 1;
        let output =
            p.step(self.step, &mut self.model.params, &self.grads, &mut self.exp_avg, &mut self.exp_avg_sq);
        self.grads.fill(0.0);
        output
    }

    /// The model as it is now, ready for sampling; later steps do not change it.
    pub(crate) fn sampler(&self) -> Sampler {
        Sampler::new(self.model.clone())
    }
}

/// Cuts a batch into groups of whole sequences with the same number of targets per position.
fn groups(batch: &[Example]) -> Vec<&[Example]> {
    let total: usize = batch.iter().map(|e| e.tokens.len()).sum();
    let most = (total / 4).clamp(GROUP_ROWS.0, GROUP_ROWS.1);
    let mut groups = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (i, example) in batch.iter().enumerate() {
        let full = rows + example.tokens.len() > most || example.k != batch[start].k;
        if i > start && full {
            groups.push(&batch[start..i]);
            (start, rows) = (i, 0);
        }
        rows += example.tokens.len();
    }
    groups.push(&batch[start..]);
    groups
}

/// Runs one group; with `grads`, sets it to the group's gradients.
fn run_group(
    model: &Model,
    group: &[Example],
    loss: &Loss,
    workspace: &mut Workspace,
    grads: Option<&mut Vec<f32>>,
) -> (f64, Vec<Vec<f32>>) {
    let rows = Rows::new(group.iter().map(|e| e.tokens.len()));
    let k = group.first().map_or(1, |e| e.k);
    let ids: Vec<u32> = group.iter().flat_map(|e| &e.targets).map(|&id| id as u32).collect();
    let join = |of: fn(&Example) -> &Vec<f32>| group.iter().flat_map(of).copied().collect::<Vec<f32>>();
    let (old, factors) = if loss.is_weighted() {
        (Vec::new(), join(|e| &e.weights))
    } else {
        (join(|e| &e.logprobs), join(|e| &e.advantages))
    };
    let token = |i: usize, lp: f32| loss.token(lp, old.get(i).copied().unwrap_or(0.0), factors[i]);
    let slope = |i: usize, lp: f32| token(i, lp).1;
    let targets = Targets { ids: &ids, k, slope: &slope };
    let mut logprobs = vec![0.0; ids.len()];
    let tokens = group.iter().flat_map(|e| &e.tokens).copied();
    let grads = grads.map(|grads| {
        grads.clear();
        grads.resize(model.params.len(), 0.0);
        grads.as_mut_slice()
    });
    workspace.targets(model, &rows, tokens, &targets, &mut logprobs, grads);
    let loss_sum = logprobs.iter().enumerate().map(|(i, &lp)| token(i, lp).0).sum();
    let mut rest = logprobs.as_slice();
    let split = group.iter().map(|e| {
        let (own, tail) = rest.split_at(e.targets.len());
        rest = tail;
        own.to_vec()
    });
    (loss_sum, split.collect())
}

/// Elements that one task of [`add`] handles.
const ADD_CHUNK: usize = 1 << 15;

fn add(sum: &mut [f32], part: &[f32]) {
    sum.par_chunks_mut(ADD_CHUNK).zip(part.par_chunks(ADD_CHUNK)).for_each(|(sum, part)| {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    });
}

/// Whether a datum fits the model and the loss.
fn check(e: &Example, loss: &Loss, base: &Weights) -> Result<(), String> {
    let (c, n) = (&base.config, e.tokens.len());
    if n == 0 {
        return Err("it has no tokens".to_owned());
    }
    if n > c.max_len {
        return Err(format!("it has {n} tokens, the model takes at most {}", c.max_len));
    }
    if let Some(id) = e.tokens.iter().find(|&&id| id as usize >= c.vocab) {
        return Err(format!("token id {id} is outside the vocabulary of {}", c.vocab));
    }
    if e.k == 0 || (e.k > 1 && !loss.is_weighted()) {
        return Err(format!("{} targets per position do not suit this loss", e.k));
    }
    let expect = |what: &str, len: usize, wanted: usize| {
        if len == wanted {
            return Ok(());
        }
        Err(format!("it has {len} {what} where {n} tokens with {} targets each need {wanted}", e.k))
    };
    expect("targets", e.targets.len(), n * e.k)?;
    if let Some(id) = e.targets.iter().find(|&&id| id < 0 || id >= c.vocab as i64) {
        return Err(format!("target id {id} is outside the vocabulary of {}", c.vocab));
    }
    let weighted = if loss.is_weighted() { n * e.k } else { 0 };
    expect("weights", e.weights.len(), weighted)?;
    expect("logprobs", e.logprobs.len(), n * e.k - weighted)?;
    expect("advantages", e.advantages.len(), n * e.k - weighted)?;
    let mut floats = e.weights.iter().chain(&e.logprobs).chain(&e.advantages);
    if floats.any(|v| !v.is_finite()) {
        return Err("a weight, log-probability or advantage is not finite".to_owned());
    }
    Ok(())
}
