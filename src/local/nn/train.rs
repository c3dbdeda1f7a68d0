//! Training of one LoRA model: runs batches, accumulates their gradients, applies optimizer steps.

use super::adam::{Adam, StepOutput};
use super::example::Example;
use super::layer::Rows;
use super::lora::LoraSpec;
use super::loss::Loss;
use super::memory::{Plan, adapter_bytes, shown};
use super::pass::{Model, Slope, Targets, Workspace};
use super::sequence_loss::SequenceLoss;
use super::weights::Weights;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A batch is divided into groups of whole sequences. The limit of a group's rows (tokens) is a quarter of all rows of
/// the batch, but not less than the first of these two numbers and not more than the second. A sequence longer than the
/// limit is a group of its own. So short sequences share matrix products, and small batches still use several threads.
const GROUP_ROWS: (usize, usize) = (96, 256);

/// Number of groups that are computed in parallel (a wave), before their gradients are added up. It limits the memory,
/// and it is fixed so that the order of the sums does not depend on the number of threads.
pub(super) const WAVE: usize = 8;

/// Result of [`Trainer::run`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunOutput {
    /// The loss, summed over targets and data.
    pub loss_sum: f64,
    /// For each datum, the log-probabilities of its targets, `[N, k]` row-major.
    pub logprobs: Vec<Vec<f32>>,
    /// Metrics of a custom loss. If the name of a metric ends with `:mean`, it is averaged over the data, otherwise
    /// summed.
    pub metrics: BTreeMap<String, f64>,
}

/// One LoRA model being trained.
#[derive(Debug)]
pub(crate) struct Trainer {
    pub(super) model: Model,
    pub(super) grads: Vec<f32>,
    pub(super) exp_avg: Vec<f32>,
    pub(super) exp_avg_sq: Vec<f32>,
    pub(super) step: u64,
    /// Workspaces that are not in use. `idle_grads` are the gradient buffers that are not in use.
    idle: Mutex<Vec<Workspace>>,
    idle_grads: Vec<Vec<f32>>,
    /// Copy of the gradients before a backward pass, restored if the pass fails. Its memory is reused by the next pass.
    before: Vec<f32>,
    /// Limit of the bytes of a pass, by estimate. Default: none.
    pub(crate) max_pass_bytes: u64,
}

impl Trainer {
    /// Creates an adapter for a base model. Before it is trained, the adapter does not change the output of the base
    /// model.
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
            before: Vec::new(),
            max_pass_bytes: u64::MAX,
        }
    }

    /// The adapter's current parameters.
    pub(crate) fn params(&self) -> &[f32] {
        &self.model.params
    }

    /// Bytes that the adapter takes all the time, by estimate.
    pub(crate) fn adapter_memory(&self) -> u64 {
        adapter_bytes(self.model.params.len())
    }

    /// Bytes of the buffers that are kept for the next pass.
    pub(crate) fn idle_memory(&mut self) -> u64 {
        let grads = self.idle_grads.iter().map(|it| size_of_val(&it[..]) as u64).sum::<u64>();
        grads + self.idle.get_mut().iter().map(Workspace::bytes).sum::<u64>()
    }

    /// Frees the buffers that are kept for the next pass.
    pub(crate) fn drop_idle(&mut self) {
        self.idle.get_mut().clear();
        self.idle_grads.clear();
    }

    /// Computes the loss of a batch and the log-probabilities of its targets. With `backward`, adds the adapter's
    /// gradients to those accumulated since the last step.
    ///
    /// # Errors
    /// A datum does not fit the model, the loss or the memory, or its loss or gradient is not finite; the text names the
    /// index of the datum. Then nothing has changed.
    pub(crate) fn run(
        &mut self,
        batch: &[Example],
        loss: &Loss,
        backward: bool,
    ) -> Result<RunOutput, String> {
        for (i, example) in batch.iter().enumerate() {
            check(example, loss, &self.model.base).map_err(|e| format!("data[{i}]: {e}"))?;
        }
        if batch.is_empty() {
            return Err("the batch has no data".to_owned());
        }
        let groups = groups(batch);
        let plan = self.plan(&groups, backward)?;
        let mut output =
            RunOutput { loss_sum: 0.0, logprobs: Vec::with_capacity(batch.len()), metrics: BTreeMap::new() };
        let mut buffers = std::mem::take(&mut self.idle_grads);
        // Keep a copy of the gradients: a datum may fail after the gradients of other data were added.
        if backward {
            self.before.clone_from(&self.grads);
        }
        let mut failed = None;
        // Any number of groups at once gives the same bits: their gradients are added one after the other, in order.
        'waves: for wave in groups.chunks(plan.at_once) {
            buffers.resize_with(buffers.len().max(if backward { wave.len() } else { 0 }), Vec::new);
            let (model, idle) = (&self.model, &self.idle);
            let one = |group: &[Example], grads: Option<&mut Vec<f32>>| {
                let mut workspace = idle.lock().pop().unwrap_or_default();
                let result = run_group(model, group, loss, plan.max_kept, &mut workspace, grads);
                idle.lock().push(workspace);
                result
            };
            // Run the groups inside a scope: even a single group then runs on a thread of the pool, where its inner
            // tasks start.
            let results: Vec<_> = rayon::scope(|_| {
                if backward {
                    wave.par_iter().zip(&mut buffers).map(|(group, grads)| one(group, Some(grads))).collect()
                } else {
                    wave.par_iter().map(|group| one(group, None)).collect()
                }
            });
            for (i, result) in results.into_iter().enumerate() {
                let group = match result {
                    Ok(it) => it,
                    Err((within, error)) => {
                        failed = Some(format!("data[{}]: {error}", output.logprobs.len() + within));
                        break 'waves;
                    }
                };
                output.loss_sum += group.loss_sum;
                output.logprobs.extend(group.logprobs);
                for (name, value) in group.metrics {
                    *output.metrics.entry(name).or_insert(0.0) += value;
                }
                if backward {
                    add(&mut self.grads, &buffers[i]);
                }
            }
        }
        self.idle_grads = buffers;
        if failed.is_none() && !output.loss_sum.is_finite() {
            failed = Some(format!("the sum of the losses is {}, not a finite number", output.loss_sum));
        }
        if failed.is_none() && backward && !all_finite(&self.grads) {
            failed = Some("the sum of the gradients since the last step is not finite".into());
        }
        if let Some(error) = failed {
            if backward {
                std::mem::swap(&mut self.grads, &mut self.before);
            }
            return Err(error);
        }
        for (name, value) in &mut output.metrics {
            if name.ends_with(":mean") {
                *value /= batch.len() as f64;
            }
        }
        Ok(output)
    }

    /// Plans a pass within the memory that it may take. Buffers that are kept for the next pass are freed if the plan
    /// would not fit beside them: they may be of other sizes than those of this pass.
    fn plan(&mut self, groups: &[&[Example]], backward: bool) -> Result<Plan, String> {
        let lengths = |group: &&[Example]| group.iter().map(|it| it.tokens.len()).collect();
        let lengths: Vec<Vec<usize>> = groups.iter().map(lengths).collect();
        match Plan::new(&self.model, &lengths, backward, self.max_pass_bytes) {
            Ok(plan) => {
                if self.max_pass_bytes < self.idle_memory().saturating_add(plan.bytes) {
                    self.drop_idle();
                }
                Ok(plan)
            }
            Err((group, bytes)) => {
                let datum: usize = groups[..group].iter().map(|it| it.len()).sum();
                let tokens = lengths[group].iter().sum::<usize>();
                let (needs, free) = (shown(bytes), shown(self.max_pass_bytes));
                Err(format!(
                    "data[{datum}]: a pass over {tokens} tokens needs {needs} of memory, {free} are free: send a \
                     shorter sequence, or use a lower rank"
                ))
            }
        }
    }

    /// Applies an optimizer step with the accumulated gradients, and clears them. If no backward pass was run since the
    /// last step, the gradients are zero.
    ///
    /// # Errors
    /// The result of the step would not be finite. Then weights, running means and step count stay unchanged, and the
    /// gradients are cleared, because no later step could use them.
    pub(crate) fn adam_step(&mut self, p: &Adam) -> Result<StepOutput, String> {
        let (params, step) = (&mut self.model.params, self.step + 1);
        let stepped = p.step(step, params, &self.grads, &mut self.exp_avg, &mut self.exp_avg_sq);
        self.grads.fill(0.0);
        if stepped.is_ok() {
            self.step = step;
        }
        stepped
    }
}

/// Cuts a batch into groups of whole sequences with the same number of targets per position.
fn groups(batch: &[Example]) -> Vec<&[Example]> {
    let total: usize = batch.iter().map(|e| e.tokens.len()).sum();
    let max = (total / 4).clamp(GROUP_ROWS.0, GROUP_ROWS.1);
    let mut groups = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (i, example) in batch.iter().enumerate() {
        let full = rows + example.tokens.len() > max || example.k != batch[start].k;
        if i > start && full {
            groups.push(&batch[start..i]);
            (start, rows) = (i, 0);
        }
        rows += example.tokens.len();
    }
    groups.push(&batch[start..]);
    groups
}

/// Index of a datum in its group, and the problem with its loss or gradients.
type DatumError = (usize, String);

/// Result of the pass of a group.
struct GroupOutput {
    loss_sum: f64,
    /// Log-probabilities of each datum.
    logprobs: Vec<Vec<f32>>,
    /// Metrics of a custom loss, summed over the data of the group.
    metrics: BTreeMap<String, f64>,
}

/// Runs one group. If `grads` is given, overwrites it with the gradients of the group. An error carries the index of
/// the datum in the group.
fn run_group(
    model: &Model,
    group: &[Example],
    loss: &Loss,
    max_kept: usize,
    workspace: &mut Workspace,
    grads: Option<&mut Vec<f32>>,
) -> Result<GroupOutput, DatumError> {
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
    let each = |i: usize, lp: f32| token(i, lp).1;
    // Losses of whole sequences. With a backward pass `all_slopes` sets them, otherwise they are computed after the
    // pass.
    let found: RefCell<Option<Result<Vec<SequenceLoss>, DatumError>>> = RefCell::new(None);
    let all_slopes = |logprobs: &[f32]| {
        let result = sequence_losses(group, loss, logprobs, true);
        let slopes = match &result {
            Ok(all) => all.iter().flat_map(|it| &it.slopes).copied().collect(),
            Err(_) => vec![0.0; logprobs.len()],
        };
        found.replace(Some(result));
        slopes
    };
    let slope = if loss.is_sequence_loss() { Slope::Sequence(&all_slopes) } else { Slope::Each(&each) };
    let targets = Targets { ids: &ids, k, slope, max_kept };
    let mut logprobs = vec![0.0; ids.len()];
    let tokens = group.iter().flat_map(|e| &e.tokens).copied();
    let mut grads = grads;
    let buffer = grads.as_deref_mut().map(|grads| {
        grads.clear();
        grads.resize(model.params.len(), 0.0);
        grads.as_mut_slice()
    });
    let backward = buffer.is_some();
    workspace.targets(model, &rows, tokens, &targets, &mut logprobs, buffer);
    if let Some(i) = logprobs.iter().position(|lp| !lp.is_finite()) {
        let (datum, target) = datum_of_target(group, i);
        return Err((datum, format!("the log-probability of target {target} is {}", logprobs[i])));
    }
    let not_finite = |i: usize, what: &str, value: f64| {
        let (datum, target) = datum_of_target(group, i);
        (datum, format!("the {what} of target {target} is {value}, not a finite number"))
    };
    let mut metrics = BTreeMap::new();
    let mut loss_sum = 0.0;
    if loss.is_sequence_loss() {
        let all = found.take().unwrap_or_else(|| sequence_losses(group, loss, &logprobs, false))?;
        for (i, one) in all.iter().enumerate() {
            if !one.loss.is_finite() {
                return Err((i, format!("the loss is {}, not a finite number", one.loss)));
            }
            if let Some(target) = one.slopes.iter().position(|slope| !slope.is_finite() && backward) {
                let slope = one.slopes[target];
                let what = "the derivative of the loss with respect to the log-probability of target";
                return Err((i, format!("{what} {target} is {slope}, not a finite number")));
            }
            loss_sum += one.loss;
        }
        for (name, value) in all.iter().flat_map(|it| &it.metrics) {
            *metrics.entry(name.clone()).or_insert(0.0) += value;
        }
    } else {
        for (i, &lp) in logprobs.iter().enumerate() {
            let (value, slope) = token(i, lp);
            if !value.is_finite() {
                return Err(not_finite(i, "loss", value));
            }
            if backward && !slope.is_finite() {
                let what = "derivative of the loss with respect to the log-probability";
                return Err(not_finite(i, what, f64::from(slope)));
            }
            loss_sum += value;
        }
    }
    if let Some(grads) = grads
        && !all_finite(grads)
    {
        return Err(failing_datum(model, group, loss, max_kept, workspace, grads));
    }
    let logprobs = split(group, &logprobs).into_iter().map(<[f32]>::to_vec).collect();
    Ok(GroupOutput { loss_sum, logprobs, metrics })
}

/// The index of the datum that holds target `i` of a group, and the index of the target in that datum.
fn datum_of_target(group: &[Example], mut i: usize) -> (usize, usize) {
    for (datum, example) in group.iter().enumerate() {
        match i.checked_sub(example.targets.len()) {
            Some(rest) => i = rest,
            None => return (datum, i),
        }
    }
    (group.len().saturating_sub(1), i)
}

/// Finds the datum whose gradients are not finite, by running each datum alone.
fn failing_datum(
    model: &Model,
    group: &[Example],
    loss: &Loss,
    max_kept: usize,
    workspace: &mut Workspace,
    grads: &mut Vec<f32>,
) -> DatumError {
    const PROBLEM: &str = "its gradients are not finite numbers";
    if group.len() == 1 {
        return (0, PROBLEM.into());
    }
    for (i, one) in group.iter().enumerate() {
        let one = std::slice::from_ref(one);
        if let Err((_, error)) = run_group(model, one, loss, max_kept, workspace, Some(grads)) {
            return (i, error);
        }
    }
    (0, format!("the sum of its gradients and those of the next {} data is not finite", group.len() - 1))
}

fn all_finite(values: &[f32]) -> bool {
    // The loop does not stop at the first bad value, so that the compiler can vectorise it.
    let part = |part: &[f32]| part.iter().fold(true, |fine, v| fine & v.is_finite());
    values.par_chunks(ADD_CHUNK).all(part)
}

/// Splits the values of all targets of a group into one slice for each datum.
fn split<'a>(group: &[Example], mut rest: &'a [f32]) -> Vec<&'a [f32]> {
    let own = group.iter().map(|e| {
        let (own, tail) = rest.split_at(e.targets.len());
        rest = tail;
        own
    });
    own.collect()
}

fn sequence_losses(
    group: &[Example],
    loss: &Loss,
    logprobs: &[f32],
    backward: bool,
) -> Result<Vec<SequenceLoss>, DatumError> {
    let one = |(i, (e, own))| loss.sequence_loss(e, own, backward).map_err(|it| (i, it));
    group.iter().zip(split(group, logprobs)).enumerate().map(one).collect()
}

/// Number of elements that one task of [`add`] or [`all_finite`] handles.
const ADD_CHUNK: usize = 1 << 15;

fn add(sum: &mut [f32], part: &[f32]) {
    sum.par_chunks_mut(ADD_CHUNK).zip(part.par_chunks(ADD_CHUNK)).for_each(|(sum, part)| {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    });
}

/// Checks that a datum fits the model and the loss.
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
    let custom = matches!(loss, Loss::Custom(_));
    if e.k == 0 || (e.k > 1 && !loss.is_weighted() && !custom) {
        return Err(format!("this loss does not support {} targets per position", e.k));
    }
    let expect = |what: &str, len: usize, wanted: usize| {
        if len == wanted {
            return Ok(());
        }
        Err(format!("it has {len} {what} instead of {wanted} ({n} tokens, {} targets per token)", e.k))
    };
    expect("targets", e.targets.len(), n * e.k)?;
    if let Some(id) = e.targets.iter().find(|&&id| id < 0 || id >= c.vocab as i64) {
        return Err(format!("target id {id} is outside the vocabulary of {}", c.vocab));
    }
    let wanted = |it: bool| if it { n * e.k } else { 0 };
    let policy = wanted(!loss.is_weighted() && !custom);
    expect("weights", e.weights.len(), wanted(loss.is_weighted()))?;
    expect("logprobs", e.logprobs.len(), policy)?;
    expect("advantages", e.advantages.len(), policy)?;
    expect("mask values", e.mask.len(), wanted(matches!(loss, Loss::Gspo { .. })))?;
    let mut floats = e.weights.iter().chain(&e.logprobs).chain(&e.advantages).chain(&e.mask);
    if floats.any(|v| !v.is_finite()) {
        return Err("a weight, log-probability, advantage or mask value is not finite".to_owned());
    }
    Ok(())
}
