//! From settings to a run that can begin: reads the data, and tells what will happen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tinkex::ServiceClient;

use super::dataset::{Dataset, Source};
use super::given::Given;
use super::left::{Left, Origin};
use super::plan::{Cost, Plan, usd};
use super::ready::Ready;
use super::samples::Prompts;
use super::seen::Seen;
use super::settings::{Chosen, Settings};
use super::{finished, folder, record};
use crate::connection::{App, Connection, lacks_key};
use crate::examples::Encoder;
use crate::failure::Failure;
use crate::prices;

/// A run that costs more is asked for.
const ASK_ABOVE_USD: f64 = 5.0;

/// The folder of a run.
#[derive(Debug)]
pub(super) enum Place {
    New {
        out: Option<PathBuf>,
        overwrite: bool,
    },
    /// `asked` are the settings of the command line.
    Resumed {
        dir: PathBuf,
        config: Map<String, Value>,
        asked: Given,
        force: bool,
    },
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

/// What is decided before a run begins.
pub(super) struct Planned {
    pub(super) data: Dataset,
    pub(super) chosen: Chosen,
    pub(super) cost: Cost,
    plan: Plan,
    /// What differs from the settings with which a resumed run began.
    pub(super) remarks: Vec<String>,
    pub(super) config: Map<String, Value>,
    pub(super) prompts: Option<Prompts>,
}

impl Job {
    pub(super) fn run(mut self) -> Result<(), Failure> {
        match &self.place {
            Place::Resumed { dir, .. } => {
                folder::check_free(dir)?;
                finished::check_log(&self.place)?;
            }
            Place::New { out: Some(out), overwrite } => folder::check(out, *overwrite)?,
            Place::New { out: None, .. } => {}
        }
        let source = Source::read(&self.settings).map_err(|failure| self.explained(failure))?;
        let seen = Arc::new(Seen::new(self.app.global.quiet));
        let connection = match (self.connect(&seen), &self.model) {
            (Ok(connection), _) => connection,
            (Err(failure), Some(model)) if self.dry_run && is_of_key(&failure) => {
                // An estimate needs no account.
                let options = &self.settings.data_options;
                let encoder = Encoder::of(Some(model), None, options, source.train.format)?;
                self.app.note(&format!("note: no server is asked: {}", failure.summary()));
                let planned = self.plan(model, &source, &encoder)?;
                let left = self.left(&planned, None)?;
                return self.tell_plan(&planned, left.as_ref(), &encoder);
            }
            (Err(failure), _) => return Err(failure),
        };
        let service = connection.service.clone();
        self.take_adapter(&service)?;
        let model = self.model(&service)?;
        connection.check_model(&model)?;
        let encoder = Encoder::new(&model, &service, &self.settings.data_options, source.train.format)?;
        let planned = self.plan(&model, &source, &encoder)?;
        let last = finished::final_record(&self.place, &planned.chosen);
        if let Some(last) = last.as_ref().filter(|_| !self.dry_run) {
            return finished::tell(&self, planned, last, &service, &encoder);
        }
        let left = self.left(&planned, Some(&service))?;
        if self.dry_run {
            self.check_adapter()?;
            return self.tell_plan(&planned, left.as_ref(), &encoder);
        }
        let Planned { data, chosen, cost, plan, remarks, config, prompts } = planned;
        let tokens = plan.tokens;
        let mut lines = plan.lines();
        lines.extend(remarks);
        lines.extend(self.batch_note(&chosen));
        for line in &lines {
            self.app.note(line);
        }
        let estimate = left.as_ref().map_or(plan.usd, |left| left.usd);
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
            tokens,
            config,
            prompts,
        }
        .run()
    }

    /// Decides all that is decided before the run begins, and refuses what cannot be run.
    fn plan(&self, model: &str, source: &Source, encoder: &Encoder) -> Result<Planned, Failure> {
        let data = source.encode(encoder, &self.settings.test)?;
        let prompts = match &self.settings.prompts {
            Some(file) => Some(Prompts::read(
                file,
                encoder,
                data.format,
                self.settings.data_options.template.as_deref(),
            )?),
            None => None,
        };
        let chosen = self.settings.choose(model, data.format, data.train.len())?;
        self.check_reference(&chosen)?;
        let cost = self.cost(model)?;
        let plan = Plan::of(model, &self.settings, &chosen, &data, cost)?;
        let config = self.config(model, encoder, &data, &chosen, &data.shown(encoder, false));
        // With force, a state before the last one may be the origin, which the server tells.
        if !matches!(self.place, Place::Resumed { force: true, .. }) {
            self.check_steps(&chosen, self.n_done())?;
        }
        let remarks = self.check_same(&config, &chosen)?;
        Ok(Planned { data, chosen, cost, plan, remarks, config, prompts })
    }

    /// A run that begins with saved weights has the form of their adapter.
    fn take_adapter(&mut self, service: &ServiceClient) -> Result<(), Failure> {
        let (Some(from), Place::New { .. }) = (&self.settings.from, &self.place) else { return Ok(()) };
        // Weights that the server does not know are an error when the run begins.
        let Ok(info) = service.create_rest_client().get_weights_info_by_tinker_path(from) else {
            return Ok(());
        };
        let lora = &mut self.settings.lora;
        if let Some(rank) = info.lora_rank {
            if self.given.get("rank").is_some() && lora.rank != rank {
                return Err(Failure::usage(format!(
                    "--rank {}: the adapter of {from} has rank {rank}, which cannot be changed",
                    lora.rank
                ))
                .with_remedy("leave --rank out"));
            }
            lora.rank = rank;
        }
        lora.train_mlp = info.train_mlp.unwrap_or(lora.train_mlp);
        lora.train_attn = info.train_attn.unwrap_or(lora.train_attn);
        lora.train_unembed = info.train_unembed.unwrap_or(lora.train_unembed);
        Ok(())
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

    /// The rest of a resumed run. With a server, refuses one that would do steps again whose state is gone.
    fn left(&self, planned: &Planned, service: Option<&ServiceClient>) -> Result<Option<Left>, Failure> {
        let Place::Resumed { dir, force, .. } = &self.place else { return Ok(None) };
        let Planned { data, chosen, cost, .. } = planned;
        let last = finished::final_record(&self.place, chosen);
        let of = |origin: &Origin| Left::of(origin, last.is_some(), &self.settings, chosen, data, *cost);
        if let (Some(last), Some(service)) = (&last, service) {
            // Its weights to sample from are enough.
            let found = finished::check(dir, last, &self.settings, service)?;
            let left = of(&Origin::of(dir, None)?)?;
            return Ok(Some(if found.weights.state.is_some() { left } else { left.without_state() }));
        }
        let origin = Origin::of(dir, service)?;
        origin.check(dir, *force)?;
        self.check_steps(chosen, origin.n_done())?;
        of(&origin).map(Some)
    }

    fn tell_plan(&self, planned: &Planned, left: Option<&Left>, encoder: &Encoder) -> Result<(), Failure> {
        let Planned { data, plan, remarks, .. } = planned;
        let mut json = plan.to_json(&data.shown(encoder, false));
        if let Some(left) = left {
            json["resume"] = left.to_json();
            json["resume"]["remarks"] = remarks.as_slice().into();
        }
        self.app.out.value(&json, || {
            let mut lines = plan.lines();
            lines.extend(left.iter().flat_map(|left| left.lines()));
            lines.extend(remarks.iter().cloned());
            lines.extend(self.batch_note(&plan.chosen));
            lines.push("example, with its trained tokens marked:".into());
            lines.push(data.shown(encoder, self.app.out.has_color()));
            lines.join("\n")
        })
    }

    fn connect(&self, seen: &Arc<Seen>) -> Result<Connection, Failure> {
        let mut app = self.app.clone();
        app.is_dry_run = self.dry_run;
        app.connect_with(|builder| {
            let builder = builder.observer(seen.clone()).tags(self.settings.tags.iter().cloned());
            let dir = match (&self.place, &self.model) {
                (Place::Resumed { dir, .. }, _) | (Place::New { out: Some(dir), .. }, _) => Some(dir.clone()),
                (Place::New { .. }, Some(model)) => Some(folder::by_default(model, SystemTime::now())),
                (Place::New { .. }, None) => None,
            };
            match dir.and_then(|dir| self.name(&dir)).or_else(|| self.settings.name.clone()) {
                Some(name) => builder.display_name(name),
                None => builder,
            }
        })
    }

    /// The name by which lists of runs and of sessions show this run, whose folder is `dir`.
    pub(super) fn name(&self, dir: &Path) -> Option<String> {
        let own = || {
            let dir = std::path::absolute(dir).ok()?;
            Some(dir.file_name()?.to_string_lossy().into_owned())
        };
        self.settings.name.clone().or_else(own)
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
            record::keep(&mut config, old, record::RESUMES);
        }
        config
    }
}

/// True if all that keeps the server from being asked is the key.
fn is_of_key(failure: &Failure) -> bool {
    matches!(failure, Failure::Api { error, .. } if lacks_key(error))
}
