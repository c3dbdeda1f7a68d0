//! From settings to a run that can begin: reads the data, and tells what will happen.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};
use tinkex::ServiceClient;
use tinkex::train::CheckpointLog;

use super::dataset::{Dataset, Source};
use super::given::Given;
use super::plan::{Cost, Plan, usd};
use super::ready::Ready;
use super::seen::Seen;
use super::settings::{Chosen, Settings};
use super::{folder, record};
use crate::connection::{App, Connection};
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
pub(super) struct Job {
    pub(super) app: App,
    pub(super) given: Given,
    pub(super) settings: Settings,
    /// `None` for that of the weights to begin with.
    pub(super) model: Option<String>,
    pub(super) place: Place,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

impl Job {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Place::Resumed { dir, .. } = &self.place {
            folder::check_free(dir)?;
        }
        let source = Source::read(&self.settings)?;
        let seen = Arc::new(Seen::new(self.app.global.quiet));
        let connection = match (self.connect(&seen), &self.model) {
            (Ok(connection), _) => connection,
            (Err(failure), Some(model)) if self.dry_run => {
                // An estimate needs no account.
                let options = &self.settings.data_options;
                let encoder = Encoder::of(Some(model), None, options, source.train.format)?;
                self.app.note(&format!("note: no server is asked: {}", failure.summary()));
                return self.tell_plan(model, &source, &encoder);
            }
            (Err(failure), _) => return Err(failure),
        };
        let service = connection.service.clone();
        let model = self.model(&service)?;
        connection.check_model(&model)?;
        let encoder = Encoder::new(&model, &service, &self.settings.data_options, source.train.format)?;
        if self.dry_run {
            return self.tell_plan(&model, &source, &encoder);
        }
        let data = source.encode(&encoder, &self.settings.test)?;
        let chosen = self.settings.choose(&model, data.format, data.train.len())?;
        let cost = self.cost(&model)?;
        let plan = Plan::of(&model, &self.settings, &chosen, &data, cost);
        let config = self.config(&model, &encoder, &data, &chosen, &data.shown(&encoder, false));
        self.check_same(&config)?;
        let mut lines = plan.lines();
        lines.extend(self.batch_note(&chosen));
        for line in &lines {
            self.app.note(line);
        }
        let estimate = plan.usd.map(|usd| usd * self.share_left(chosen.n_steps));
        if let Some(estimate) = estimate.filter(|usd| ASK_ABOVE_USD < *usd)
            && !self.app.confirm(&format!("Train for about {}?", usd(estimate)), self.yes)?
        {
            return Err(Failure::text("not started"));
        }
        Ready {
            job: self,
            lines,
            model,
            service,
            connection: Arc::new(connection),
            seen,
            encoder,
            data,
            chosen,
            cost,
            config,
        }
        .run()
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

    fn tell_plan(&self, model: &str, source: &Source, encoder: &Encoder) -> Result<(), Failure> {
        let data = source.encode(encoder, &self.settings.test)?;
        let chosen = self.settings.choose(model, data.format, data.train.len())?;
        let plan = Plan::of(model, &self.settings, &chosen, &data, self.cost(model)?);
        self.app.out.value(&plan.to_json(&data.shown(encoder, false)), || {
            let mut lines = plan.lines();
            lines.extend(self.batch_note(&plan.chosen));
            lines.push("example, with its trained tokens marked:".into());
            lines.push(data.shown(encoder, self.app.out.has_color()));
            lines.join("\n")
        })
    }

    fn connect(&self, seen: &Arc<Seen>) -> Result<Connection, Failure> {
        self.app.connect_with(|builder| {
            let builder = builder.observer(seen.clone()).tags(self.settings.tags.iter().cloned());
            match &self.settings.name {
                Some(name) => builder.display_name(name),
                None => builder,
            }
        })
    }

    /// The share of the steps that a resumed run still has to do.
    fn share_left(&self, n_steps: u64) -> f64 {
        let Place::Resumed { dir, .. } = &self.place else { return 1.0 };
        let log = CheckpointLog::open(dir).ok();
        let done = log.and_then(|log| log.last_resumable()?.next_batch).unwrap_or(0);
        n_steps.saturating_sub(done) as f64 / n_steps.max(1) as f64
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
        record::add_place(&mut config, &self.app);
        config.insert(record::OWN.into(), record::own(&data.facts, encoder, chosen.n_steps, example));
        if let Place::Resumed { config: old, .. } = &self.place {
            record::keep(&mut config, old, "started");
        }
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
