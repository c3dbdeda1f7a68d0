//! The steps of a run: submitted ahead, finished in order, saved at the barrier between two steps.

use std::collections::VecDeque;
use std::time::Instant;

use tinkex::train::Run;
use tinkex::types::{AdamParams, Datum, ForwardBackwardOutput, LossFn, OptimStepOutput};
use tinkex::{Pending, ServiceClient};

use super::best::Evaluation;
use super::budget::{MAX_TOKENS, MAX_USD};
use super::dataset::Item;
use super::log::Log;
use super::objective::{FINAL_PER_TOKEN, Objective, Test, n_tokens};
use super::order::order;
use super::plan::{Cost, Tokens, is_eval_due};
use super::progress::{Figures, Progress};
use super::row::{Fields, integer};
use super::samples::Samples;
use super::saving;
use super::seen::Seen;
use super::settings::{Chosen, Settings};
use super::speed::Speed;
use super::summary::Summary;
use crate::connection::App;
use crate::examples::Encoder;
use crate::failure::Failure;

/// What a run is made of.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) app: &'a App,
    pub(super) settings: &'a Settings,
    pub(super) chosen: &'a Chosen,
    pub(super) cost: Cost,
    pub(super) items: &'a [Item],
    pub(super) test: Test,
    pub(super) encoder: &'a Encoder,
    pub(super) service: &'a ServiceClient,
    pub(super) log: &'a Log,
    pub(super) seen: &'a Seen,
    pub(super) samples: Option<Samples>,
}

/// Why the steps ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Finished,
    Signal(u8),
    Budget {
        reason: String,
        option: &'static str,
    },
    /// The reader of the rows on stdout is gone.
    PipeClosed,
}

pub(super) struct Trainer<'a> {
    parts: &'a Parts<'a>,
    objective: Objective,
    progress: Progress,
    order: Box<dyn Iterator<Item = Vec<usize>>>,
    in_flight: VecDeque<Step>,
    /// Of the steps that are finished.
    summary: Summary,
    /// Tokens of the steps that are submitted, those of earlier processes included.
    submitted: Tokens,
    /// Tokens that were sampled or scored beside the steps, not yet in a row.
    beside: Tokens,
    before: f64,
    started: Instant,
    last_finish: Instant,
    speed: Speed,
    is_pipe_closed: bool,
    /// A step was logged, so that an earlier run in the folder is replaced.
    is_settled: bool,
    /// A loss that is not a number was told.
    is_loss_told: bool,
}

/// A step whose results are not there yet.
struct Step {
    number: u64,
    data: Vec<Datum>,
    adam: AdamParams,
    tokens: Tokens,
    /// The pass over the data of the evaluation, before the update.
    test: Option<Pending<ForwardBackwardOutput>>,
    pass: Pending<ForwardBackwardOutput>,
    update: Pending<OptimStepOutput>,
    /// The evaluation after the last update.
    last_test: Option<Pending<ForwardBackwardOutput>>,
    save_s: f64,
}

impl<'a> Trainer<'a> {
    pub(super) fn new(parts: &'a Parts<'a>, objective: Objective, run: &Run) -> Result<Self, Failure> {
        let step = run.next_step();
        let summary = Summary::of_rows(run.folder())?;
        let progress = Progress::new(parts.app, parts.seen, step, parts.chosen.n_steps);
        let now = Instant::now();
        Ok(Trainer {
            order: order(parts.settings, parts.chosen, parts.items.len(), step)?,
            in_flight: VecDeque::new(),
            submitted: summary.totals.tokens,
            before: summary.totals.seconds,
            beside: Tokens::default(),
            summary,
            started: now,
            last_finish: now,
            speed: Speed::new(now, parts.settings.submit_ahead),
            is_pipe_closed: false,
            is_settled: false,
            is_loss_told: false,
            parts,
            objective,
            progress,
        })
    }

    /// Does the steps. At the end all results are in the logs; after a signal and at the end of the budget the state is
    /// saved and recorded.
    pub(super) fn run(&mut self, run: &mut Run) -> Result<End, Failure> {
        let end = self.steps(run);
        self.progress.finish();
        if let Err(Failure::Api { error, .. }) = &end
            && saving::is_refusal(error)
        {
            // The server works, and what was submitted before is saved by now or soon.
            saving::record_rest(run, self.parts.log);
        }
        let end = end?;
        if end != End::Finished && 0 < run.next_step() {
            saving::save(run, self.parts.log)?;
        }
        Ok(end)
    }

    /// The figures of the whole run.
    pub(super) fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        summary.totals.seconds = self.seconds();
        summary
    }

    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    fn steps(&mut self, run: &mut Run) -> Result<End, Failure> {
        let n_steps = self.parts.chosen.n_steps;
        let mut end = None;
        if run.next_step() < n_steps && run.next_step() == 0 {
            self.sample(run)?;
        }
        loop {
            let is_over = end.is_some() || n_steps <= run.next_step();
            if !is_over && self.in_flight.len() <= self.parts.settings.submit_ahead {
                end = self.submit(run)?;
                continue;
            }
            match self.in_flight.pop_front() {
                Some(step) => self.finish(run, step)?,
                None => return Ok(end.unwrap_or(End::Finished)),
            }
        }
    }

    /// Submits the next step, and a checkpoint if one is due after it; or tells why no further step is done.
    fn submit(&mut self, run: &mut Run) -> Result<Option<End>, Failure> {
        if let Some(signal) = self.parts.app.stop.signal() {
            return Ok(Some(End::Signal(signal)));
        }
        if self.is_pipe_closed {
            return Ok(Some(End::PipeClosed));
        }
        let (chosen, settings) = (self.parts.chosen, self.parts.settings);
        let number = run.next_step();
        if 0 < number && 0 < settings.sample_every && number.is_multiple_of(settings.sample_every) {
            self.sample(run)?;
        }
        let indices = self.order.next().unwrap_or_default();
        let items = indices.iter().filter_map(|i| self.parts.items.get(*i));
        let data: Vec<Vec<Datum>> =
            items.map(|item| item.data(chosen.reduction)).collect::<Result<_, _>>()?;
        let all: Vec<Datum> = data.iter().flatten().cloned().collect();
        let is_eval =
            !self.parts.test.data.is_empty() && is_eval_due(number, chosen.n_steps, settings.eval_every);
        let is_last = !self.parts.test.data.is_empty() && number + 1 == chosen.n_steps;
        let n_test = self.parts.test.n_tokens() as u64;
        let mut tokens = Tokens {
            trained: n_tokens(&all) as u64,
            prefilled: if is_eval { n_test } else { 0 } + if is_last { n_test } else { 0 },
            sampled: 0,
        };
        if let Some(end) = self.over_budget(tokens) {
            return Ok(Some(end));
        }
        let adam = settings.adam(chosen, number)?;
        let training = run.training().clone();
        let evaluate = || training.forward(self.parts.test.data.clone(), LossFn::CrossEntropy);
        let test = is_eval.then(evaluate);
        let (pass, n_scored) = self.objective.submit(&training, &indices, &data)?;
        tokens.prefilled += n_scored;
        let update = training.optim_step(adam);
        let last_test = is_last.then(evaluate);
        let saving = Instant::now();
        saving::tolerate(run.checkpoint_if_due(number), self.parts.log)?;
        let save_s = saving.elapsed().as_secs_f64();
        tokens = tokens + std::mem::take(&mut self.beside);
        self.submitted = self.submitted + tokens;
        self.in_flight.push_back(Step {
            number,
            data: all,
            adam,
            tokens,
            test,
            pass,
            update,
            last_test,
            save_s,
        });
        Ok(None)
    }

    /// The end of the run if a step of so many tokens is not in the budget.
    fn over_budget(&self, step: Tokens) -> Option<End> {
        let settings = self.parts.settings;
        let total = self.submitted + self.beside + step;
        let end = |option, max: &dyn std::fmt::Display| {
            Some(End::Budget { reason: format!("the next step would exceed {option} {max}"), option })
        };
        if let Some(max) = settings.max_tokens.filter(|max| *max < total.trained) {
            return end(MAX_TOKENS, &max);
        }
        let usd = self.parts.cost.usd(total)?;
        let max = settings.max_usd.filter(|max| *max < usd)?;
        end(MAX_USD, &max)
    }

    /// Samples the prompts with the weights after the steps that are submitted.
    fn sample(&mut self, run: &Run) -> Result<(), Failure> {
        if let Some(samples) = &self.parts.samples {
            let sampler = run.training().save_weights_and_get_sampling_client()?;
            let tokens = samples.add(run.next_step(), &sampler, self.parts.encoder)?;
            self.beside = self.beside + tokens;
        }
        Ok(())
    }

    /// Waits for the results of a step and writes them to the logs.
    fn finish(&mut self, run: &mut Run, step: Step) -> Result<(), Failure> {
        let parts = self.parts;
        let tokenizer = parts.encoder.tokenizer();
        let test = step.test.map(Pending::wait).transpose()?;
        let output = step.pass.wait()?;
        let update = step.update.wait()?;
        let last_test = step.last_test.map(Pending::wait).transpose()?;
        let now = Instant::now();
        let step_s = now.duration_since(std::mem::replace(&mut self.last_finish, now)).as_secs_f64();
        let tokens_per_s = self.speed.add(step.tokens.trained, now);

        let (loss, figures) = self.objective.train_row(&step.data, &output, tokenizer)?;
        let (mut test_loss, mut last) = (None, None);
        let mut row = Fields::default();
        row.add("epoch", integer(step.number / parts.chosen.batches_per_epoch));
        row.add("progress", (step.number as f64 / parts.chosen.n_steps as f64).into());
        row.add("learning_rate", step.adam.learning_rate.into());
        row.extend(figures);
        if let Some(output) = test {
            let tested = self.objective.tested(&parts.test, &output, tokenizer)?;
            row.extend(tested.row);
            test_loss = Some(tested.loss);
        }
        if let Some(output) = last_test {
            let tested = self.objective.tested(&parts.test, &output, tokenizer)?;
            row.add("tinkex/final_test_loss", tested.loss.into());
            if let Some(nll) = tested.per_token {
                row.add(FINAL_PER_TOKEN, nll.into());
            }
            last = Some((tested.loss, tested.per_token));
        }
        let totals = &mut self.summary.totals;
        totals.tokens = totals.tokens + step.tokens;
        for (kind, n, sum) in [
            ("sampled", step.tokens.sampled, totals.tokens.sampled),
            ("prefill_cached", 0, 0),
            ("prefill_uncached", step.tokens.prefilled, totals.tokens.prefilled),
            ("trained", step.tokens.trained, totals.tokens.trained),
        ] {
            row.add(&format!("tokens/{kind}"), integer(n));
            row.add(&format!("tokens/cumulative/{kind}"), integer(sum));
        }
        let usd = parts.cost.usd(step.tokens);
        if let Some(usd) = usd {
            totals.usd += usd;
            row.add("cost/step_usd", usd.into());
            row.add("cost/cumulative_usd", totals.usd.into());
        }
        let total_usd = usd.map(|_| totals.usd);
        let seconds = self.seconds();
        row.add("time/step", step_s.into());
        row.add("time/total", seconds.into());
        row.add("time/save_checkpoint", step.save_s.into());
        row.add("tinkex/tokens_per_s", tokens_per_s.into());
        let counts = parts.seen.take();
        row.add("tinkex/queue_s", counts.queue_s.into());
        row.add("tinkex/retries", integer(counts.retries));
        row.add("tinkex/pause_s", counts.pause_s.into());
        for (name, value) in update.metrics {
            if matches!(name.as_str(), "grad_norm" | "unclipped_grad_l2:mean") {
                row.add("tinkex/grad_norm", value.into());
            }
            row.add(&name, value.into());
        }
        let n_before = run.checkpoints().len();
        saving::tolerate(run.log(step.number, &row.borrowed()), parts.log)?;
        if !std::mem::replace(&mut self.is_settled, true) {
            super::folder::settle(run.folder());
        }
        let n_done = step.number + 1;
        self.summary.add(step.number, loss, test_loss);
        let mut test = test_loss.map(|loss| Evaluation { loss, n_done: step.number });
        if let Some((loss, per_token)) = last {
            self.summary.add_final_test(loss, per_token, n_done);
            test = Some(Evaluation { loss, n_done });
        }
        let figures = Figures {
            n_done,
            loss,
            smooth: self.summary.smooth_loss.unwrap_or(loss),
            test,
            learning_rate: step.adam.learning_rate,
            tokens_per_s,
            usd: total_usd,
        };
        match self.progress.step(&figures, &row.to_json(step.number), parts.app, parts.log) {
            Err(Failure::PipeClosed) => self.is_pipe_closed = true,
            shown => shown?,
        }
        if !loss.is_finite() && !self.is_loss_told {
            self.is_loss_told = true;
            parts.log.say(&format!(
                "warning: the loss of step {n_done} is {loss}: a smaller --lr may help; look for examples that are broken"
            ));
        }
        self.tell_saved(run, n_before);
        Ok(())
    }

    /// Says which checkpoints were recorded, and deletes those that are too many.
    fn tell_saved(&self, run: &Run, n_before: usize) {
        let records = run.checkpoints();
        for record in &records[n_before.min(records.len())..] {
            if let Some(path) = &record.state_path {
                self.progress.tell_above(&format!("saved {path}"), self.parts.log);
            }
        }
        if n_before < records.len()
            && let Some(n) = self.parts.settings.keep_last
        {
            super::saved::keep_last(self.parts.service, records, n, self.parts.log);
        }
    }
}
