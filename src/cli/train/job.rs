//! From settings to a run: reads the data, tells what will happen, trains, and tells what has happened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tinkex::train::{CheckpointRecord, MetricsLog, Run, RunOptions};
use tinkex::types::ModelOptions;
use tinkex::{CloseStatus, ServiceClient};

use super::args::LossKind;
use super::dataset::{Dataset, Source};
use super::given::Given;
use super::log::Log;
use super::objective::{Objective, Test};
use super::plan::{Cost, Plan, usd};
use super::samples::Samples;
use super::seen::Seen;
use super::settings::{Chosen, Settings};
use super::steps::{End, Parts, Summary, Trainer};
use super::waiting::Waiting;
use super::{ending, folder, record, saved};
use crate::args::Progress;
use crate::connection::App;
use crate::examples::Encoder;
use crate::failure::Failure;
use crate::prices;

/// A run that costs more is asked for.
const ASK_ABOVE_USD: f64 = 5.0;

/// The folder of a run.
#[derive(Debug)]
pub(super) enum Place {
    New { out: Option<PathBuf>, overwrite: bool },
    Resumed { dir: PathBuf, config: Map<String, Value>, force: bool },
}

/// A run before anything is known but its settings.
pub(super) struct Job<'a> {
    pub(super) app: &'a App,
    pub(super) given: Given,
    pub(super) settings: Settings,
    /// `None` for that of the weights to begin with.
    pub(super) model: Option<String>,
    pub(super) place: Place,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

/// A run that can begin.
struct Ready<'a> {
    job: &'a Job<'a>,
    model: String,
    service: ServiceClient,
    seen: Arc<Seen>,
    encoder: Encoder,
    data: Dataset,
    chosen: Chosen,
    cost: Cost,
    config: Map<String, Value>,
}

impl Job<'_> {
    pub(super) fn run(&self) -> Result<(), Failure> {
        if let Place::Resumed { dir, .. } = &self.place {
            folder::check_free(dir)?;
        }
        let source = Source::read(&self.settings)?;
        let seen = Arc::new(Seen::new(self.app.global.quiet));
        let connection = self.app.connect_with(|builder| {
            let builder = builder.observer(seen.clone()).tags(self.settings.tags.iter().cloned());
            match &self.settings.name {
                Some(name) => builder.display_name(name),
                None => builder,
            }
        })?;
        let service = connection.service.clone();
        let model = self.model(&service)?;
        let encoder = Encoder::new(&model, &service, &self.settings.data_options, source.train.format)?;
        let data = source.encode(&encoder, &self.settings.test)?;
        let chosen = self.settings.choose(&model, data.format, data.train.len())?;
        let cost = self.cost(&model)?;
        let plan = Plan::of(&model, &self.settings, &chosen, &data, cost);
        let example = data.train.first().and_then(|item| item.examples.first());
        let example = |color| example.map(|example| encoder.show(example, color)).unwrap_or_default();
        if self.dry_run {
            return self.tell_plan(&plan, &example(self.app.out.has_color()), &example(false));
        }
        let config = self.config(&model, &encoder, &data, &chosen, &example(false));
        self.check_same(&config)?;
        for line in plan.lines() {
            self.app.note(&line);
        }
        if let Some(note) = self.batch_note(&chosen) {
            self.app.note(&note);
        }
        if let Some(estimate) = plan.usd.filter(|usd| ASK_ABOVE_USD < *usd)
            && !self.app.confirm(&format!("Train for about {}?", usd(estimate)), self.yes)?
        {
            return Err(Failure::text("not started"));
        }
        Ready { job: self, model, service, seen, encoder, data, chosen, cost, config }.run()
    }

    fn model(&self, service: &ServiceClient) -> Result<String, Failure> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
        }
        let Some(from) = &self.settings.from else {
            return Err(Failure::usage("no model: name one with -m"));
        };
        let info = service.create_rest_client().get_weights_info_by_tinker_path(from)?;
        info.base_model
            .ok_or_else(|| Failure::usage(format!("the model of {from} is not known: name it with -m")))
    }

    fn cost(&self, model: &str) -> Result<Cost, Failure> {
        if self.app.global.local.is_some() {
            return Ok(Cost::Free);
        }
        match prices::of(model) {
            Some(price) => Ok(Cost::Known(price)),
            None if self.settings.max_usd.is_some() => {
                Err(Failure::usage(format!("the price of {model} is unknown, so --max-usd cannot be kept"))
                    .with_remedy("--max-tokens limits the run without a price"))
            }
            None => Ok(Cost::Unknown),
        }
    }

    /// Says that the batch is smaller than its size, which changes what the run does.
    fn batch_note(&self, chosen: &Chosen) -> Option<String> {
        let asked = self.settings.batch_size.unwrap_or(chosen.batch_size);
        (chosen.batch_size < asked).then(|| {
            format!(
                "note: a batch of {asked} is more than all examples; it has {} of them",
                chosen.batch_size
            )
        })
    }

    fn tell_plan(&self, plan: &Plan, shown: &str, plain: &str) -> Result<(), Failure> {
        self.app.out.value(&plan.to_json(plain), || {
            let mut lines = plan.lines();
            lines.extend(self.batch_note(&plan.chosen));
            lines.push("example, with its trained tokens marked:".into());
            lines.push(shown.trim_end().to_owned());
            lines.join("\n")
        })
    }

    /// The contents of `config.json`.
    fn config(
        &self,
        model: &str,
        encoder: &Encoder,
        data: &Dataset,
        chosen: &Chosen,
        example: &str,
    ) -> Map<String, Value> {
        let mut config = self.settings.to_object(self.given.to_object(), Some(chosen));
        config.insert("model".into(), model.into());
        record::add_place(&mut config, self.app);
        config.insert(record::OWN.into(), record::own(&data.facts, encoder, chosen.n_steps, example));
        config
    }

    /// Refuses to resume a run that would not go on as it began.
    fn check_same(&self, config: &Map<String, Value>) -> Result<(), Failure> {
        let Place::Resumed { config: old, force, .. } = &self.place else { return Ok(()) };
        let differences = record::differences(old, config);
        if !differences.is_empty() && !force {
            let text = format!("the run began with other settings:\n  {}", differences.join("\n  "));
            return Err(Failure::usage(text)
                .with_remedy("--force-resume goes on all the same; -o DIR begins a new run"));
        }
        for difference in differences {
            self.app.note(&format!("warning: {difference}"));
        }
        let own = |object: &Map<String, Value>, name: &str| object.get(record::OWN)?.get(name)?.as_u64();
        if let (Some(was), Some(is)) = (own(old, "n_steps"), own(config, "n_steps"))
            && was != is
        {
            self.app.note(&format!(
                "the run now has {is} steps, not {was}: from here on the learning rate follows the new number"
            ));
        }
        if self.app.global.local.is_some() && own(old, "threads") != own(config, "threads") {
            self.app.note("warning: another number of processors: the engine adds in another order, so that losses differ in their last digits");
        }
        Ok(())
    }
}

impl Ready<'_> {
    fn run(self) -> Result<(), Failure> {
        let (app, settings) = (self.job.app, &self.job.settings);
        let dir = match &self.job.place {
            Place::New { out, overwrite } => {
                let dir = out.clone().unwrap_or_else(|| folder::by_default(&self.model, SystemTime::now()));
                folder::prepare(&dir, *overwrite)?;
                dir
            }
            Place::Resumed { dir, .. } => dir.clone(),
        };
        let samples = match &settings.prompts {
            Some(file) => {
                Some(Samples::read(file, dir.join("samples.jsonl"), &self.encoder, self.data.format)?)
            }
            None => None,
        };
        let log = Log::open(&dir, app)?;
        let options = self.options();
        if let Place::New { .. } = self.job.place {
            // Before the run: a process that is killed while it begins can be resumed, too.
            MetricsLog::open(&dir, 0)?.write_config(&self.config)?;
        }
        let mut run = Run::open(&dir, &self.service, &self.model, &options)?;
        app.stop.defer();
        if let Some(samples) = &samples {
            samples.cut(run.next_step())?;
        }
        let from = run.next_step();
        log.say(&if from == 0 {
            format!("run     {}", dir.display())
        } else {
            format!("run     {}, from step {from} of {}", dir.display(), self.chosen.n_steps)
        });
        let parts = Parts {
            app,
            settings,
            chosen: &self.chosen,
            cost: self.cost,
            items: &self.data.train,
            test: Test::of(&self.data.test, &self.chosen)?,
            encoder: &self.encoder,
            service: &self.service,
            log: &log,
            seen: &self.seen,
            samples,
        };
        let result = self.train(&parts, &mut run);
        self.close(&result, &run, &log);
        match result? {
            (End::Finished, summary, Some(record)) => self.tell_end(&dir, &summary, &record, &log),
            (End::Finished, ..) => Ok(()),
            (End::Signal(signal), ..) => {
                crate::notes::write(&format!("resume with: {}", ending::resume_command(&dir)));
                Err(Failure::Signal(signal))
            }
            (End::PipeClosed, ..) => {
                crate::notes::write(&format!("resume with: {}", ending::resume_command(&dir)));
                Err(Failure::PipeClosed)
            }
            (End::Budget(reason), ..) => {
                crate::notes::write(&format!("resume with: {}", ending::resume_command(&dir)));
                Err(Failure::Budget(format!("{reason}; the state is saved")))
            }
        }
    }

    fn options(&self) -> RunOptions {
        let settings = &self.job.settings;
        let metadata = settings.metadata.clone();
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
        let waiting = Waiting::new(&parts.app.stop, parts.log);
        let mut trainer = Trainer::new(parts, &waiting, self.objective()?, run)?;
        let end = trainer.run(run)?;
        let summary = trainer.summary();
        if end != End::Finished {
            return Ok((end, summary, None));
        }
        let record = run.finish()?;
        let is_sampled = |samples: &Samples| samples.has(run.next_step());
        if let (Some(samples), Some(path)) = (&parts.samples, &record.sampler_path)
            && !is_sampled(samples)
        {
            let sampler = self.service.create_sampling_client(path)?;
            samples.add(run.next_step(), &sampler, &self.encoder, &waiting)?;
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

    /// Ends the session, and records how the run ended.
    fn close(
        &self,
        result: &Result<(End, Summary, Option<CheckpointRecord>), Failure>,
        run: &Run,
        log: &Log,
    ) {
        let (status, word) = match result {
            Ok((End::Finished, ..)) => (CloseStatus::Success, "finished"),
            Ok(_) => (CloseStatus::Interrupted, "interrupted"),
            Err(failure) => {
                log.write(&format!("error: {}", text_of(failure)));
                (CloseStatus::Errored, "failed")
            }
        };
        let mut config = self.config.clone();
        if let Some(own) = config.get_mut(record::OWN) {
            own["status"] = word.into();
        }
        // Neither may hide how the run ended.
        if let Err(error) = run.write_config(&Value::Object(config)) {
            log.say(&format!("warning: {error}"));
        }
        if let Err(error) = self.service.close(status) {
            log.write(&format!("warning: the session could not be closed: {error}"));
        }
        if result.is_err() {
            log.say(&format!("resume with: {}", ending::resume_command(run.folder())));
        }
    }

    fn tell_end(
        &self,
        dir: &Path,
        summary: &Summary,
        record: &CheckpointRecord,
        log: &Log,
    ) -> Result<(), Failure> {
        let (app, settings) = (self.job.app, &self.job.settings);
        let report = settings.report.then(|| write_report(dir, log)).flatten();
        let report = report.as_deref();
        let monthly = match self.cost {
            Cost::Known(_) => saved::monthly_usd(&self.service, record),
            Cost::Free | Cost::Unknown => None,
        };
        let lines = ending::lines(app, settings, &self.chosen, summary, record, monthly, report);
        for line in &lines {
            log.write(line);
        }
        if app.global.progress == Progress::Json {
            for line in &lines {
                app.note(line);
            }
            return Ok(());
        }
        app.out.value(&ending::to_json(&self.chosen, summary, record, dir, report), || lines.join("\n"))
    }
}

/// A failure in a line.
fn text_of(failure: &Failure) -> String {
    match failure {
        Failure::Api { error, .. } => error.to_string(),
        Failure::Text { message, .. } | Failure::Usage { message, .. } | Failure::Budget(message) => {
            message.clone()
        }
        other => format!("{other:?}"),
    }
}

/// Writes the report. A run is not worse without one.
fn write_report(dir: &Path, log: &Log) -> Option<PathBuf> {
    match crate::report::write(dir) {
        Ok(path) => Some(path),
        Err(failure) => {
            log.say(&format!("warning: no report: {}", text_of(&failure)));
            None
        }
    }
}
