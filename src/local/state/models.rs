//! Requests that create, load, save, describe and unload models.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::clock_text::rfc3339;
use crate::types::{LoraConfig, SamplerPath, TrainingPath};
use crate::wire::json::*;

use super::super::catalogue::RunRecord;
use super::super::checkpoint::{CheckpointId, Kind, Meta};
use super::super::futures::session_of;
use super::super::job::{Job, Load, Save, Work};
use super::super::limits::check_metadata;
use super::super::names::NANO;
use super::super::nn::LoraSpec;
use super::super::reply::{Reply, refuse};
use super::super::request_order::{RequestOrder, Seen};
use super::super::sampling::Slot;
use super::super::served::Served;
use super::checkpoints::check_ttl;
use super::{Inner, Model, State, future};

/// Largest rank of an adapter.
const MAX_RANK: u32 = 256;

/// Error of a load request that names no destination, or two.
const TWO_FORMS: &str = "give either session_id and model_seq_id, or model_id";

impl State {
    fn spec(&self, lora: &LoraConfig, inner: &mut Inner) -> Reply<LoraSpec> {
        if let Err(error) = lora.validate() {
            return refuse(400, error.to_string());
        }
        if !(1..=MAX_RANK).contains(&lora.rank) {
            return refuse(400, format!("lora_config.rank: must be in 1..={MAX_RANK}, is {}", lora.rank));
        }
        Ok(LoraSpec {
            rank: lora.rank as usize,
            seed: lora.seed.unwrap_or_else(|| inner.seeds.u64(..)),
            train_attn: lora.train_attn,
            train_mlp: lora.train_mlp,
            train_unembed: lora.train_unembed,
        })
    }

    pub(in crate::local) fn create_model(
        &self,
        request: CreateModelRequest,
        fingerprint: u64,
    ) -> Reply<UntypedFuture> {
        let served = self.served.find(&request.base_model)?;
        check_optimizer(&request.optimizer_config)?;
        check_user_metadata(request.user_metadata.as_ref())?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(again) = inner.repeated_model(&request.session_id, request.model_seq_id, fingerprint)? {
            return Ok(again);
        }
        let mut lora = request.lora_config.unwrap_or_default();
        let spec = self.spec(&lora, inner)?;
        lora.seed = Some(spec.seed);
        let new = NewModel {
            session_id: request.session_id,
            number: request.model_seq_id,
            base_model: request.base_model,
            served,
            lora,
            spec,
            user_metadata: request.user_metadata,
            from: None,
        };
        self.add_model(inner, new, fingerprint)
    }

    fn add_model(&self, inner: &mut Inner, new: NewModel, fingerprint: u64) -> Reply<UntypedFuture> {
        let model_id = format!("{}:train:{}", new.session_id, new.number);
        self.make_room_for_model(inner)?;
        let work = Work::Create {
            model_id: model_id.clone(),
            base: new.served.base.clone(),
            spec: new.spec.clone(),
            from: new.from,
        };
        let span = inner.span(&new.session_id, work.verb(), &model_id);
        let ticket = self.futures.create(None, span);
        inner.session(&new.session_id)?.models.insert(new.number, fingerprint, &ticket.id);
        let model = Model {
            session_id: new.session_id,
            base_model: new.base_model,
            served: new.served,
            lora: new.lora,
            spec: new.spec,
            user_metadata: new.user_metadata,
            last_request: SystemTime::now(),
            order: RequestOrder::new(),
            inflight: Slot::default(),
        };
        // The engine thread writes the record before it reports the model as made.
        self.catalogue.runs.put(self.run_record(inner, &model_id, &model));
        inner.models.insert(model_id.clone(), model);
        let reply = future(&ticket.id, Some(&model_id));
        self.enqueue(session_of(&model_id), [Job { ticket: Some(ticket), work }]);
        Ok(reply)
    }

    /// Ends a session whose client is silent if too many models are loaded. Its models are unloaded then.
    fn make_room_for_model(&self, inner: &mut Inner) -> Reply<()> {
        let max = self.limits.max_models;
        if inner.models.len() < max {
            return Ok(());
        }
        let owners: HashSet<String> = inner.models.values().map(|it| it.session_id.clone()).collect();
        if self.end_dead_session(inner, |id| owners.contains(id)) {
            return Ok(());
        }
        refuse(
            429,
            format!(
                "{max} models are loaded, as many as Options::max_models allows; unload one or finish a session"
            ),
        )
    }

    fn run_record(&self, inner: &Inner, model_id: &str, model: &Model) -> RunRecord {
        let now = rfc3339(model.last_request);
        RunRecord {
            format: 1,
            run_id: model_id.into(),
            base_model: model.served.name.clone(),
            base_alias: Some(model.base_model.clone()).filter(|it| *it != model.served.name),
            rank: model.lora.rank,
            created: now.clone(),
            last_request: now,
            user_metadata: model.user_metadata.clone().unwrap_or_default(),
            project_id: inner.sessions.get(&model.session_id).and_then(|it| it.project_id.clone()),
        }
    }

    pub(in crate::local) fn load_weights(
        &self,
        request: LoadWeightsRequest,
        fingerprint: u64,
    ) -> Reply<UntypedFuture> {
        // A request with a `model_id` has a sequence number. It is accepted even if it is invalid, and fails when it is
        // run: if its number were missing, all later requests of the model would wait.
        if let Some(model_id) = request.model_id.clone() {
            return self.load_into(&model_id, request, fingerprint);
        }
        let (Some(session_id), Some(number)) = (request.session_id.clone(), request.model_seq_id) else {
            return refuse(422, TWO_FORMS);
        };
        check_user_metadata(request.user_metadata.as_ref())?;
        let (load, meta) = self.resolve_load(&request)?;
        let served = self.served_of(&load.checkpoint, &meta)?;
        let alias = request.base_model.or(meta.base_alias.clone());
        let mut inner = self.inner.lock();
        if let Some(again) = inner.repeated_model(&session_id, number, fingerprint)? {
            return Ok(again);
        }
        let new = NewModel {
            session_id,
            number,
            base_model: self.served.shown(&served, alias.as_deref()).into(),
            served,
            lora: lora_config(&meta),
            spec: meta.spec(),
            user_metadata: request.user_metadata,
            from: Some(load),
        };
        self.add_model(&mut inner, new, fingerprint)
    }

    /// Loads a checkpoint into an existing model, as the first request of that model.
    fn load_into(
        &self,
        model_id: &str,
        request: LoadWeightsRequest,
        fingerprint: u64,
    ) -> Reply<UntypedFuture> {
        let found = match (&request.session_id, request.model_seq_id) {
            (None, None) => self.resolve_load(&request).map_err(|it| it.detail),
            _ => Err(TWO_FORMS.into()),
        };
        let seq_id = request.seq_id;
        self.submit(model_id, seq_id, fingerprint, |model| {
            let refused = |error: String| Work::Refused { error };
            let number = seq_id.unwrap_or_else(|| model.order.next());
            if number != 1 {
                return refused(format!(
                    "load_weights must be the first request of a model, is its request {number}: load the checkpoint \
                     into a new model"
                ));
            }
            match found {
                Ok((_, meta)) if meta.base_seed != model.served.identity => refused(format!(
                    "{} was trained on {}, model {model_id} has the base model {}",
                    request.path, meta.base_model, model.served.name
                )),
                Ok((load, meta)) if lora_config(&meta) == model.config_with_seed_of(&meta) => {
                    Work::Load { model_id: model_id.into(), load }
                }
                Ok(_) => refused(format!("{} has another LoRA shape than model {model_id}", request.path)),
                Err(error) => refused(error),
            }
        })
    }

    fn resolve_load(&self, request: &LoadWeightsRequest) -> Reply<(Load, Meta)> {
        let (checkpoint, meta) = self.training_checkpoint(&request.path)?;
        if let Some(base) = &request.base_model
            && self.served.find(base)?.identity != meta.base_seed
        {
            return refuse(
                400,
                format!("{} was trained on {}, not on {base}", request.path, meta.base_model),
            );
        }
        if let Some(optimizer) = &request.optimizer_config {
            check_optimizer(optimizer)?;
        }
        Ok((Load { checkpoint, optimizer: request.optimizer }, meta))
    }

    pub(in crate::local) fn unload_model(&self, model_id: &str) -> Reply<UntypedFuture> {
        let mut inner = self.inner.lock();
        inner.model(model_id)?;
        self.remove_model(&mut inner, model_id, "as asked");
        let ticket = self.futures.create(None, None);
        let reply = future(&ticket.id, Some(model_id));
        let work = Work::Unload { model_id: model_id.into() };
        self.enqueue(session_of(model_id), [Job { ticket: Some(ticket), work }]);
        Ok(reply)
    }

    pub(in crate::local) fn get_info(&self, model_id: &str) -> Reply<GetInfoResponse> {
        let mut inner = self.inner.lock();
        let model = inner.model(model_id)?;
        Ok(GetInfoResponse {
            model_id: model_id.into(),
            model_data: ModelData {
                arch: Some(model.served.family.clone()),
                model_name: Some(model.base_model.clone()),
                tokenizer_id: model.served.tokenizer.clone(),
                ..ModelData::default()
            },
            is_lora: Some(true),
            lora_rank: Some(model.lora.rank),
            model_name: Some(model.base_model.clone()),
            ..GetInfoResponse::default()
        })
    }

    /// The checkpoint and the description of a save. The error says why the name or the time to live is not valid.
    pub(in crate::local) fn save(
        &self,
        model: &Model,
        model_id: &str,
        kind: Kind,
        name: &str,
        ttl_seconds: Option<u64>,
        user_metadata: Option<BTreeMap<String, String>>,
    ) -> Result<Save, String> {
        let checkpoint = CheckpointId::new(model_id, kind, name)?;
        check_ttl(ttl_seconds)?;
        user_metadata.as_ref().map_or(Ok(()), check_metadata)?;
        let meta = Meta {
            format: 1,
            run_id: model_id.into(),
            base_model: model.served.name.clone(),
            base_alias: Some(model.base_model.clone()).filter(|it| *it != model.served.name),
            base_seed: model.served.identity,
            rank: model.spec.rank,
            seed: model.spec.seed,
            train_attn: model.spec.train_attn,
            train_mlp: model.spec.train_mlp,
            train_unembed: model.spec.train_unembed,
            created: rfc3339(SystemTime::now()),
            ttl_seconds,
            user_metadata,
            ..Meta::default()
        };
        Ok(Save { checkpoint, meta, overwrite: false, recipients: Vec::new() })
    }

    fn training_checkpoint(&self, path: &str) -> Reply<(CheckpointId, Meta)> {
        match path.parse::<TrainingPath>() {
            Ok(it) => self.checkpoint(it.run_id(), Kind::Training, it.name()),
            Err(error) => refuse(400, error.to_string()),
        }
    }

    pub(super) fn sampler_checkpoint(&self, path: &str) -> Reply<(CheckpointId, Meta)> {
        match path.parse::<SamplerPath>() {
            Ok(it) => self.checkpoint(it.run_id(), Kind::Sampler, it.name()),
            Err(error) => refuse(400, error.to_string()),
        }
    }

    pub(super) fn checkpoint(&self, run_id: &str, kind: Kind, name: &str) -> Reply<(CheckpointId, Meta)> {
        let checkpoint = CheckpointId::new(run_id, kind, name).or_else(|it| refuse(400, it))?;
        let meta = self.store.meta(&checkpoint)?;
        self.served_of(&checkpoint, &meta)?;
        Ok((checkpoint, meta))
    }

    /// The base model of a checkpoint.
    pub(super) fn served_of(&self, checkpoint: &CheckpointId, meta: &Meta) -> Reply<Arc<Served>> {
        match self.served.of_checkpoint(meta) {
            Some(served) => Ok(served.clone()),
            None => {
                let (uri, name, seed) = (checkpoint.uri(), &meta.base_model, meta.base_seed);
                let made = if name == NANO { format!("{name} with seed {seed}") } else { name.clone() };
                refuse(400, format!("{uri} was trained on {made}, whose weights this engine does not serve"))
            }
        }
    }

    pub(in crate::local) fn weights_info(&self, path: &str) -> Reply<WeightsInfoResponse> {
        let (_, meta) = self.any_checkpoint(path)?;
        Ok(WeightsInfoResponse {
            base_model: Some(self.served.shown_of(&meta).into()),
            optimizer_config: OptimizerConfig::default(),
            is_lora: Some(true),
            lora_rank: Some(meta.rank as u32),
            train_unembed: Some(meta.train_unembed),
            train_mlp: Some(meta.train_mlp),
            train_attn: Some(meta.train_attn),
        })
    }
}

struct NewModel {
    session_id: String,
    number: u64,
    base_model: String,
    served: Arc<Served>,
    lora: LoraConfig,
    spec: LoraSpec,
    user_metadata: Option<BTreeMap<String, Value>>,
    from: Option<Load>,
}

impl Inner {
    /// Response to the first request if this is a repeated request for a model; `None` if it is a new one.
    fn repeated_model(
        &mut self,
        session_id: &str,
        number: u64,
        fingerprint: u64,
    ) -> Reply<Option<UntypedFuture>> {
        match self.session(session_id)?.models.seen(number, fingerprint) {
            Seen::Never => Ok(None),
            Seen::Same(id) => Ok(Some(future(&id, Some(&format!("{session_id}:train:{number}"))))),
            Seen::Different => refuse(409, format!("model_seq_id {number} was used for another request")),
        }
    }
}

impl Model {
    /// The configuration of this model's adapter, with the seed of `meta`: a comparison with `meta` then ignores the
    /// seeds.
    fn config_with_seed_of(&self, meta: &Meta) -> LoraConfig {
        LoraConfig { seed: Some(meta.seed), ..self.lora }
    }
}

fn lora_config(meta: &Meta) -> LoraConfig {
    LoraConfig {
        rank: meta.rank as u32,
        seed: Some(meta.seed),
        train_unembed: meta.train_unembed,
        train_mlp: meta.train_mlp,
        train_attn: meta.train_attn,
    }
}

fn check_user_metadata(metadata: Option<&BTreeMap<String, Value>>) -> Reply<()> {
    metadata.map_or(Ok(()), check_metadata).or_else(|it| refuse(400, it))
}

fn check_optimizer(config: &OptimizerConfig) -> Reply<()> {
    match config.kind.as_str() {
        "adamw" => Ok(()),
        other => refuse(400, format!("optimizer {other:?} is not offered here; use \"adamw\"")),
    }
}
