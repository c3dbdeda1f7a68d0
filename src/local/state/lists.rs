//! Lists of training runs, checkpoints and sessions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::clock_text::rfc3339;
use crate::percent;
use crate::types::{Checkpoint, CheckpointType, Cursor, SessionInfo, Timestamp, TrainingRun};
use crate::wire::json::*;

use super::super::checkpoint::{Kind, SavedCheckpoint};
use super::super::reply::{Reply, refuse};
use super::State;

/// Largest number of items on a page.
const MAX_PAGE: usize = 1000;

/// Offset and limit of a page.
#[derive(Clone, Copy, Debug)]
pub(in crate::local) struct Window {
    offset: usize,
    limit: usize,
}

impl Window {
    /// Reads a query string. `limit` is the default limit; the default offset is 0.
    pub(in crate::local) fn read(query: &str, limit: usize) -> Reply<Self> {
        let number = |name: &str, default| match self::query(query, name) {
            None => Ok(default),
            Some(text) => text.parse().or_else(|_| {
                let most = usize::MAX;
                refuse(422, format!("{name}: must be a whole number from 0 to {most}, is {text:?}"))
            }),
        };
        let limit: usize = number("limit", limit)?;
        Ok(Window { offset: number("offset", 0)?, limit: limit.clamp(1, MAX_PAGE) })
    }

    fn cut<T>(self, all: Vec<T>) -> (Vec<T>, Option<Cursor>) {
        let total_count = Some(all.len() as u64);
        let cursor = Cursor { offset: self.offset as u64, limit: self.limit as u64, total_count };
        (all.into_iter().skip(self.offset).take(self.limit).collect(), Some(cursor))
    }
}

/// Value of a query parameter. A malformed percent encoding is taken as it is.
pub(in crate::local) fn query(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent::decode(value).unwrap_or_else(|| value.to_string()))
}

impl State {
    /// All training runs, or those of a project, the most recently used first. A training run is a model that is or
    /// was loaded, or a copied checkpoint.
    pub(in crate::local) fn training_runs(
        &self,
        window: Window,
        project_id: Option<&str>,
    ) -> TrainingRunsResponse {
        let found = self.store.all();
        let mut ids: BTreeSet<String> = found.iter().map(|it| it.meta.run_id.clone()).collect();
        ids.extend(self.inner.lock().models.keys().cloned());
        ids.extend(self.catalogue.runs.all().into_iter().map(|it| it.run_id));
        if let Some(wanted) = project_id {
            let project = |id: &str| match found.iter().find(|it| it.meta.run_id == id) {
                Some(it) => self.project_of(&it.meta),
                None => self.project_of_run(id),
            };
            ids.retain(|it| project(it).as_deref() == Some(wanted));
        }
        let mut runs: Vec<TrainingRun> = ids.iter().filter_map(|it| self.run_of(it, &found)).collect();
        // All times have the same format, in which the order of the texts is the order of the times.
        runs.sort_by(|a, b| time(&b.last_request_time).cmp(time(&a.last_request_time)));
        let (training_runs, cursor) = window.cut(runs);
        TrainingRunsResponse { training_runs, cursor }
    }

    pub(in crate::local) fn training_run(&self, run_id: &str) -> Reply<TrainingRun> {
        match self.run_of(run_id, &self.store.of_run(run_id)) {
            Some(it) => Ok(it),
            None => refuse(404, format!("training run {run_id} does not exist")),
        }
    }

    fn run_of(&self, run_id: &str, found: &[SavedCheckpoint]) -> Option<TrainingRun> {
        let newest = |kind: Kind| {
            let of_kind = found.iter().filter(|it| it.meta.run_id == run_id && it.kind() == kind);
            of_kind.max_by(|a, b| a.meta.created.cmp(&b.meta.created))
        };
        let last = [newest(Kind::Training), newest(Kind::Sampler)];
        let alive = self.inner.lock().models.get(run_id).map(|model| {
            let metadata = model.user_metadata.clone().unwrap_or_default();
            (model.lora.rank, rfc3339(model.last_request), metadata, model.base_model.clone())
        });
        let newest = last.iter().flatten().max_by(|a, b| a.meta.created.cmp(&b.meta.created));
        let ended = || {
            let record = self.catalogue.runs.get(run_id)?;
            let saved = newest.map(|it| it.meta.created.clone()).unwrap_or_default();
            let name = self.served.shown_name(&record.base_model, record.base_alias.as_deref()).to_owned();
            Some((record.rank, record.last_request.max(saved), record.user_metadata, name))
        };
        let (rank, used, metadata, name) = alive.or_else(ended).or_else(|| {
            let meta = &newest?.meta;
            let name = self.served.shown_of(meta).to_owned();
            Some((meta.rank as u32, meta.created.clone(), BTreeMap::new(), name))
        })?;
        Some(TrainingRun {
            training_run_id: run_id.into(),
            base_model: Some(name),
            model_owner: Some("local".into()),
            is_lora: Some(true),
            corrupted: false,
            lora_rank: Some(rank),
            last_request_time: used.parse().ok(),
            last_checkpoint: last[0].map(describe),
            last_sampler_checkpoint: last[1].map(describe),
            user_metadata: texts(metadata),
        })
    }

    /// The checkpoints of a run, newest first.
    pub(in crate::local) fn checkpoints_of(&self, run_id: &str) -> Reply<CheckpointsResponse> {
        let found = self.store.of_run(run_id);
        if self.run_of(run_id, &found).is_none() {
            return refuse(404, format!("training run {run_id} does not exist"));
        }
        Ok(CheckpointsResponse { checkpoints: newest_first(&found), cursor: None })
    }

    /// The checkpoints of all runs, newest first.
    pub(in crate::local) fn checkpoints(&self, window: Window) -> CheckpointsResponse {
        let (checkpoints, cursor) = window.cut(newest_first(&self.store.all()));
        CheckpointsResponse { checkpoints, cursor }
    }

    /// The sessions, newest first.
    pub(in crate::local) fn sessions(&self, window: Window) -> SessionsResponse {
        let inner = self.inner.lock();
        let mut all: Vec<(usize, String)> =
            inner.sessions.iter().map(|(id, it)| (it.number, id.clone())).collect();
        drop(inner);
        all.sort_by(|a, b| b.cmp(a));
        let (sessions, cursor) = window.cut(all.into_iter().map(|it| it.1).collect());
        SessionsResponse { sessions, cursor }
    }

    pub(in crate::local) fn session_info(&self, id: &str) -> Reply<SessionInfo> {
        let saved = self.store.all();
        let inner = self.inner.lock();
        let Some(session) = inner.sessions.get(id) else {
            return refuse(404, format!("session {id} does not exist"));
        };
        let alive = inner.models.iter().filter(|it| it.1.session_id == id).map(|it| it.0.clone());
        let prefix = format!("{id}:train:");
        let gone = saved.iter().map(|it| it.meta.run_id.clone()).filter(|it| it.starts_with(&prefix));
        let listed = self.catalogue.runs.all().into_iter().map(|it| it.run_id);
        let listed = listed.filter(|it| it.starts_with(&prefix));
        let runs: BTreeSet<String> = alive.chain(gone).chain(listed).collect();
        let samplers = inner.samplers.iter().filter(|it| it.1.session_id == id).map(|it| it.0.clone());
        let samplers: BTreeSet<String> = samplers.collect();
        Ok(SessionInfo {
            training_run_ids: runs.into_iter().collect(),
            sampler_ids: samplers.into_iter().collect(),
            user_metadata: texts(session.user_metadata.clone()),
            display_name: session.display_name.clone(),
        })
    }
}

fn time(time: &Option<Timestamp>) -> &str {
    time.as_ref().map_or("", Timestamp::as_str)
}

fn newest_first(found: &[SavedCheckpoint]) -> Vec<Checkpoint> {
    let mut all: Vec<Checkpoint> = found.iter().map(describe).collect();
    all.sort_by(|a, b| (time(&b.time), &b.tinker_path).cmp(&(time(&a.time), &a.tinker_path)));
    all
}

fn describe(found: &SavedCheckpoint) -> Checkpoint {
    let SavedCheckpoint { checkpoint, meta, size_bytes } = found;
    Checkpoint {
        checkpoint_id: format!("{}/{}", checkpoint.kind.segment(), checkpoint.name),
        checkpoint_type: Some(match checkpoint.kind {
            Kind::Training => CheckpointType::Training,
            Kind::Sampler => CheckpointType::Sampler,
            Kind::External => CheckpointType::External,
        }),
        time: meta.created.parse().ok(),
        tinker_path: checkpoint.uri(),
        size_bytes: Some(*size_bytes),
        public: meta.public,
        user_metadata: meta.user_metadata.clone().unwrap_or_default(),
        expires_at: meta.expiry().map(Into::into),
    }
}

pub(super) fn texts(map: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::String(it) => it,
        other => other.to_string(),
    };
    map.into_iter().map(|(name, value)| (name, text(value))).collect()
}
