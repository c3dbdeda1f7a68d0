//! The run itself: opens its folder, trains, closes its session, and tells what has happened.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tinkex::train::{CheckpointRecord, MetricsLog, Run, RunOptions};
use tinkex::types::ModelOptions;
use tinkex::{CloseStatus, Error, ErrorKind, ServiceClient};

use super::args::LossKind;
use super::dataset::Dataset;
use super::ending::Ending;
use super::folder::Made;
use super::job::{Job, Place};
use super::log::Log;
use super::objective::{Objective, Test};
use super::plan::{Cost, Tokens};
use super::samples::{Prompts, Samples};
use super::saved::{Sizes, Weights};
use super::seen::Seen;
use super::settings::Chosen;
use super::steps::{End, Parts, Trainer};
use super::summary::Summary;
use super::supervisor::Supervisor;
use super::{best, budget, ending, folder, held_out, record, saved, saving};
use crate::connection::Connection;
use crate::examples::Encoder;
use crate::failure::Failure;
use crate::run::NAME;

/// A run that can begin.
pub(super) struct Ready {
    pub(super) job: Job,
    /// The plan, as it was told.
    pub(super) lines: Vec<String>,
    pub(super) model: String,
    pub(super) service: ServiceClient,
    /// Keeps the engine of `--local` alive. Shared, so that it outlives the clients of both threads.
    pub(super) connection: Arc<Connection>,
    pub(super) seen: Arc<Seen>,
    pub(super) encoder: Encoder,
    pub(super) data: Dataset,
    pub(super) chosen: Chosen,
    pub(super) cost: Cost,
    /// Of the whole run, as planned.
    pub(super) tokens: Tokens,
    pub(super) config: Map<String, Value>,
    pub(super) prompts: Option<Prompts>,
}

impl Ready {
    pub(super) fn run(self) -> Result<(), Failure> {
        let app = self.job.app.clone();
        let (dir, made) = match &self.job.place {
            Place::New { out, overwrite } => {
                let dir = out.clone().unwrap_or_else(|| folder::by_default(&self.model, SystemTime::now()));
                if *overwrite {
                    // A signal must not end the process while the files of the earlier run are put aside.
                    app.stop.defer_briefly();
                }
                let made = folder::prepare(&dir, *overwrite)?;
                (dir, Some(made))
            }
            Place::Resumed { dir, .. } => (dir.clone(), None),
        };
        let log = Log::open(&dir, &app);
        if let (Err(_), Some(made)) = (&log, &made) {
            made.forget();
        }
        let log = Arc::new(log?);
        for line in &self.lines {
            log.write(line);
        }
        let connection = self.connection.clone();
        let supervisor = Supervisor {
            stop: &app.stop,
            log: &log,
            folder: &dir,
            service: &connection.service,
            limit: self.job.settings.stop_within,
        };
        let (dir, log) = (dir.clone(), log.clone());
        supervisor.run(move || self.work(&dir, made.as_ref(), &log))
    }

    /// Opens the run, trains, and tells the end. `made` is the folder of a new run.
    fn work(mut self, dir: &Path, made: Option<&Made>, log: &Log) -> Result<(), Failure> {
        let samples = self.prompts.take().map(|prompts| Samples::new(prompts, dir.join("samples.jsonl")));
        let (app, settings) = (&self.job.app, &self.job.settings);
        let options = self.options(dir);
        if let Place::New { .. } = self.job.place {
            // Before the run: a process that is killed while it begins can be resumed, too.
            let written = MetricsLog::open(dir, 0).and_then(|log| log.write_config(&self.config));
            written.inspect_err(|_| forget(made))?;
        }
        let run = Run::open(dir, &self.service, &self.model, &options);
        // Nothing was trained if it fails: the same command can be tried again.
        let mut run = run.map_err(|error| {
            forget(made);
            match app.stop.signal() {
                Some(signal) => Failure::signal(signal),
                None => error.into(),
            }
        })?;
        app.stop.defer();
        if let Some(samples) = &samples {
            samples.cut(run.next_step()).inspect_err(|_| forget(made))?;
        }
        let from = run.next_step();
        if let Place::Resumed { .. } = self.job.place
            && from < self.chosen.n_steps
            && record::add_resume(&mut self.config, from, self.chosen.n_steps)
        {
            run.write_config(&Value::Object(self.config.clone()))?;
        }
        let is_new = matches!(self.job.place, Place::New { .. });
        log.say(&if from == 0 && is_new {
            format!("run     {}", dir.display())
        } else if from == 0 {
            format!("run     {}, begins again with step 1: no state was saved", dir.display())
        } else {
            let n = self.chosen.n_steps;
            let done = if from < n { "goes on after" } else { "all steps are done:" };
            format!("run     {}, {done} step {from} of {n}", dir.display())
        });
        let parts = Parts {
            app,
            settings,
            chosen: &self.chosen,
            cost: self.cost,
            items: &self.data.train,
            test: Test::of(&self.data.test, &self.chosen).inspect_err(|_| forget(made))?,
            encoder: &self.encoder,
            service: &self.service,
            log,
            seen: &self.seen,
            samples,
        };
        let mut result = self.train(&parts, &mut run);
        if let (Err(failure), Some(signal)) = (&result, app.stop.signal()) {
            log.say(&format!("the state could not be saved: {}", failure.summary()));
            log.say(&saved::last(dir));
            result = Err(Failure::signal(signal));
        }
        let may_stay = made.is_none_or(|made| !made.has_replaced) && !result.as_ref().is_err_and(is_refusal);
        let is_begun = made.is_none() || has_begun(dir, &run) || may_stay;
        result = result.map_err(|failure| explain(failure, is_begun));
        let sizes = match result {
            Ok((End::Finished, ..)) => saved::sizes(&self.service, run.checkpoints()),
            _ => Sizes::default(),
        };
        self.close(&result, &run, from, &sizes, log);
        if let (false, Some(made)) = (is_begun, made) {
            made.forget();
            if made.has_replaced {
                app.note(&format!("nothing was trained: the run in {} is the earlier one", dir.display()));
            }
            return match result {
                Ok((End::Signal(signal), ..)) => Err(Failure::signal(signal)),
                Ok((End::Budget { reason, .. }, ..)) => {
                    Err(Failure::Budget { message: reason, remedy: None })
                }
                result => result.map(|_| ()),
            };
        }
        if has_begun(dir, &run) {
            folder::settle(dir);
        }
        if settings.report && !matches!(result, Ok((End::Finished, ..))) {
            ending::write_report(dir, log);
        }
        if matches!(&result, Ok((end, ..)) if *end != End::Finished) {
            log.say(&saved::last(dir));
        }
        let resume = ending::resume_command(dir);
        if let (Err(Failure::Api { .. }), Some(why)) = (&result, app.lost.get()) {
            let remedy = format!("`{resume}`, which starts an engine of its own");
            result = Err(Failure::text(why.clone()).with_remedy(remedy));
        }
        match result {
            Ok((End::Finished, summary, Some(record))) => {
                return self.tell_end(dir, &summary, &record, &run, &sizes, log);
            }
            Ok((End::Finished, ..)) => return Ok(()),
            // The failure has the command.
            Ok((End::Budget { .. }, ..)) => {}
            _ => crate::notes::write(&format!("resume with: {resume}")),
        }
        let go_on = |failure: Failure| match failure {
            Failure::Signal { .. } => failure.with_remedy(format!("`{resume}`")),
            other => other,
        };
        Err(match result.map_err(go_on)? {
            (End::Signal(signal), ..) => go_on(Failure::signal(signal)),
            (End::Budget { reason, option }, ..) => {
                let message = format!("{reason}; the state is saved");
                let remedy = format!("`{resume}{}`", self.larger_budget(option));
                Failure::Budget { message, remedy: Some(remedy) }
            }
            (End::PipeClosed | End::Finished, ..) => Failure::PipeClosed,
        })
    }

    /// The options of a budget that is enough for all steps as they were planned. `reached` is the one that ended the run.
    fn larger_budget(&self, reached: &str) -> String {
        let settings = &self.job.settings;
        let mut options = String::new();
        if let Some(max) = settings.max_tokens
            && (reached == budget::MAX_TOKENS || max < self.tokens.trained)
        {
            options += &format!(" {} {}", budget::MAX_TOKENS, self.tokens.trained);
        }
        let planned = self.cost.usd(self.tokens).unwrap_or(0.0);
        if let Some(max) = settings.max_usd
            && (reached == budget::MAX_USD || max < planned)
        {
            // Samples, which the plan does not know, cost, too: they may be what has reached the limit.
            let usd = (planned * 1.2).max(max * 2.0);
            options += &format!(" {} {:.2}", budget::MAX_USD, (usd * 100.0).ceil() / 100.0);
        }
        options
    }

    fn options(&self, dir: &Path) -> RunOptions {
        let settings = &self.job.settings;
        let mut metadata = settings.metadata.clone();
        if let Some(name) = self.job.name(dir) {
            metadata.entry(NAME.to_owned()).or_insert(name);
        }
        RunOptions {
            lora: settings.lora,
            start: settings.from.clone(),
            model: ModelOptions {
                user_metadata: Some(metadata).filter(|metadata| !metadata.is_empty()),
                ..Default::default()
            },
            renderer_name: Some(self.encoder.template_name.clone()).filter(|name| !name.is_empty()),
            save_every: settings.save_every,
            sampler_weights: settings.sampler_weights,
            ttl: settings.ttl.ttl,
            final_ttl: settings.final_ttl.ttl,
            n_steps: Some(self.chosen.n_steps),
            batches_per_epoch: Some(self.chosen.batches_per_epoch),
            config: Some(Value::Object(self.config.clone())),
            ..Default::default()
        }
    }

    fn train(
        &self,
        parts: &Parts<'_>,
        run: &mut Run,
    ) -> Result<(End, Summary, Option<CheckpointRecord>), Failure> {
        let mut trainer = Trainer::new(parts, self.objective()?, run)?;
        let end = trainer.run(run)?;
        let summary = trainer.summary();
        if end != End::Finished {
            return Ok((end, summary, None));
        }
        let record = saving::finish(run, parts.log)?;
        let is_sampled = |samples: &Samples| samples.has(run.next_step());
        if let (Some(samples), Some(path)) = (&parts.samples, &record.sampler_path)
            && !is_sampled(samples)
        {
            let sampler = self.service.create_sampling_client(path)?;
            samples.add(run.next_step(), &sampler, &self.encoder)?;
        }
        Ok((end, summary, Some(record)))
    }

    fn objective(&self) -> Result<Objective, Failure> {
        if self.chosen.loss == LossKind::Sft {
            return Ok(Objective::Sft);
        }
        let settings = &self.job.settings;
        let reference = match (&settings.reference, &settings.from) {
            (Some(reference), _) => self.service.create_sampling_client(reference.as_str())?,
            // A state cannot be sampled from, and its own weights for sampling may be gone.
            (None, Some(from)) => {
                let training = self.service.create_training_client_from_state(from)?;
                training.save_weights_and_get_sampling_client()?
            }
            (None, None) => self.service.create_sampling_client(self.model.as_str())?,
        };
        Ok(Objective::dpo(settings.beta, reference))
    }

    /// Ends the session, and records how the run ended. The process began with step `from`.
    fn close(
        &self,
        result: &Result<(End, Summary, Option<CheckpointRecord>), Failure>,
        run: &Run,
        from: u64,
        sizes: &Sizes,
        log: &Log,
    ) {
        let (status, word) = match result {
            Ok((End::Finished, ..)) => (CloseStatus::Success, "finished"),
            Ok(_) => (CloseStatus::Interrupted, "interrupted"),
            Err(Failure::Signal { .. }) => (CloseStatus::Interrupted, "interrupted"),
            Err(failure) => {
                log.write(&format!("error: {}", failure.summary()));
                (CloseStatus::Errored, "failed")
            }
        };
        let mut config = self.config.clone();
        if let Some(own) = config.get_mut(record::OWN) {
            own["status"] = word.into();
            own["ended"] = folder::date_time(SystemTime::now()).into();
            if !sizes.is_empty() {
                own["checkpoint_bytes"] = json!(sizes);
            }
        }
        if let (Place::Resumed { config: old, .. }, true) = (&self.job.place, from == run.next_step()) {
            // Nothing was trained since.
            record::keep(&mut config, old, "ended");
        }
        // Neither may hide how the run ended.
        if let Err(error) = run.write_config(&Value::Object(config)) {
            log.say(&format!("warning: {error}"));
        }
        if let Err(error) = self.service.close(status) {
            log.write(&format!("warning: the session could not be closed: {error}"));
        }
    }

    fn tell_end(
        &self,
        dir: &Path,
        summary: &Summary,
        record: &CheckpointRecord,
        run: &Run,
        sizes: &Sizes,
        log: &Log,
    ) -> Result<(), Failure> {
        let settings = &self.job.settings;
        let ending = Ending {
            folder: dir,
            settings,
            chosen: &self.chosen,
            summary,
            weights: &Weights::new(record, &settings.final_ttl.text),
            best: best::pick(run.checkpoints(), &summary.tests, sizes),
            held_out: record
                .sampler_path
                .as_ref()
                .filter(|_| !self.data.test.is_empty())
                .and_then(|_| held_out::commands(&self.job.given, settings, dir)),
            prompt: self.data.facts.prompt.as_ref(),
            monthly_usd: match self.cost {
                Cost::Known(_) | Cost::Unknown => saved::monthly_usd(&self.service, record, sizes),
                Cost::Free => None,
            },
        };
        ending::tell(&self.job.app, &ending, log)
    }
}

fn forget(made: Option<&Made>) {
    if let Some(made) = made {
        made.forget();
    }
}

/// True if a step is logged or a checkpoint is recorded.
fn has_begun(dir: &Path, run: &Run) -> bool {
    let has_rows = MetricsLog::read(dir).map_or(true, |rows| !rows.is_empty());
    has_rows || !run.checkpoints().is_empty()
}

/// True for a failure that is not the wish to stop.
fn is_refusal(failure: &Failure) -> bool {
    !matches!(failure, Failure::Signal { .. })
}

/// Says what to do about an error of a step or of the last save. Before the first step, the same command can be tried
/// again; later, the run is resumed.
fn explain(failure: Failure, is_begun: bool) -> Failure {
    let Failure::Api { error, remedy: None } = failure else { return failure };
    // A step may fail because one before it has lost the connection, which is then a cause.
    let is_lost = |it: &Error| matches!(it.kind(), ErrorKind::Timeout(_) | ErrorKind::Connection { .. });
    let remedy = if !is_begun {
        None
    } else if error.is_not_found() {
        Some("resume the run: the server has lost what was in flight, as after a restart".to_owned())
    } else if std::iter::successors(Some(&*error), |it| it.cause()).any(is_lost) {
        Some("resume the run once the server answers; `tinkex doctor` examines the connection".to_owned())
    } else {
        None
    };
    Failure::Api { error, remedy }
}
