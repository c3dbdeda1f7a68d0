//! Requests about existing checkpoints: deletion, expiry, publication, copies, downloads, storage used.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::clock_text::rfc3339;
use crate::types::{CheckpointPath, CheckpointType, StorageEntry, StorageUsage};
use crate::wire::json::*;

use super::super::checkpoint::{CheckpointId, Kind, Meta};
use super::super::downloads::Item;
use super::super::limits::check_name;
use super::super::reply::{Reply, refuse};
use super::State;

/// Accepted values of `ttl_seconds`.
const TTL: std::ops::RangeInclusive<u64> = 3600..=10 * 366 * 24 * 3600;
/// Number of copies whose idempotency key is remembered.
const MAX_COPIES: usize = 4096;

/// Refuses a `ttl_seconds` outside of [`TTL`].
pub(super) fn check_ttl(ttl_seconds: Option<u64>) -> Result<(), String> {
    match ttl_seconds {
        Some(it) if !TTL.contains(&it) => {
            Err(format!("ttl_seconds: must be null or from one hour to ten years, is {it}"))
        }
        _ => Ok(()),
    }
}

/// A download address and its expiry.
pub(in crate::local) struct Address {
    /// Path below the server's URL.
    pub(in crate::local) path: String,
    pub(in crate::local) until: SystemTime,
}

impl State {
    /// Deletes a checkpoint. Samplers that were made from it continue to work.
    pub(in crate::local) fn delete_checkpoint(&self, run_id: &str, segment: &str, name: &str) -> Reply<()> {
        Ok(self.store.delete(&checkpoint_id(run_id, segment, name)?)?)
    }

    /// Sets how long a checkpoint is kept, counted from now; `None` means for an unlimited time.
    pub(in crate::local) fn set_checkpoint_ttl(
        &self,
        run_id: &str,
        segment: &str,
        name: &str,
        ttl_seconds: Option<u64>,
    ) -> Reply<()> {
        check_ttl(ttl_seconds).or_else(|it| refuse(400, it))?;
        Ok(self.store.set_ttl(&checkpoint_id(run_id, segment, name)?, ttl_seconds)?)
    }

    /// Marks a checkpoint as public or private. The mark has no effect on access: every client can read all checkpoints
    /// of this server.
    pub(in crate::local) fn publish_checkpoint(
        &self,
        run_id: &str,
        segment: &str,
        name: &str,
        public: bool,
    ) -> Reply<()> {
        Ok(self.store.publish(&checkpoint_id(run_id, segment, name)?, public)?)
    }

    /// Deletes expired checkpoints.
    pub(in crate::local) fn delete_expired_checkpoints(&self, now: SystemTime) {
        for uri in self.store.sweep(now) {
            log::info!("the embedded engine deleted {uri}: it had expired");
        }
    }

    /// The description of a checkpoint of any kind, by its path.
    pub(super) fn any_checkpoint(&self, path: &str) -> Reply<(CheckpointId, Meta)> {
        let path: CheckpointPath = path.parse().or_else(|it: crate::Error| refuse(400, it.to_string()))?;
        self.checkpoint(path.run_id(), kind_of(&path)?, path.name())
    }

    /// Copies a checkpoint into a new run, which cannot be trained. Several requests with the same idempotency key make
    /// only one copy.
    pub(in crate::local) fn copy_weights(
        &self,
        request: CopyWeightsRequest,
        key: Option<&str>,
    ) -> Reply<CopyWeightsResponse> {
        if request.destination_project_id.is_empty() {
            return refuse(400, "destination_project_id: is empty");
        }
        check_name("destination_project_id", Some(&request.destination_project_id))
            .and_then(|()| check_name("X-Idempotency-Key", key))
            .or_else(|it| refuse(400, it))?;
        check_ttl(request.ttl_seconds).or_else(|it| refuse(400, it))?;
        if let Some((_, path)) =
            key.and_then(|key| self.inner.lock().copies.iter().find(|it| it.0 == key).cloned())
        {
            return Ok(CopyWeightsResponse { tinker_path: path });
        }
        let (from, _) = self.any_checkpoint(&request.source_path)?;
        let run_id = format!("{:016x}:copy:0", self.inner.lock().rng.u64(..));
        let to = CheckpointId::new(&run_id, from.kind, &from.name).or_else(|it| refuse(400, it))?;
        let describe = |meta: Meta| Meta {
            run_id,
            created: rfc3339(SystemTime::now()),
            ttl_seconds: request.ttl_seconds,
            expires: None,
            public: false,
            project_id: Some(request.destination_project_id),
            copy_of: Some(from.uri()),
            ..meta
        };
        self.store.copy(&from, &to, describe)?;
        if let Some(key) = key {
            let copies = &mut self.inner.lock().copies;
            copies.push_back((key.into(), to.uri()));
            if MAX_COPIES < copies.len() {
                copies.pop_front();
            }
        }
        Ok(CopyWeightsResponse { tinker_path: to.uri() })
    }

    /// Creates an address where a checkpoint can be downloaded as one tar archive.
    pub(in crate::local) fn archive(&self, run_id: &str, segment: &str, name: &str) -> Reply<Address> {
        let checkpoint = checkpoint_id(run_id, segment, name)?;
        let save_id = self.store.meta(&checkpoint)?.save_id;
        let file = format!("{}-{}.tar", checkpoint.run_id.replace(':', "_"), checkpoint.name);
        Ok(self.address(Item::Archive(checkpoint, save_id), &file))
    }

    /// Creates an address where the files of exported weights can be downloaded, and returns it with the names of the
    /// files.
    pub(in crate::local) fn external_weights(
        &self,
        run_id: &str,
        segment: &str,
        name: &str,
    ) -> Reply<(Vec<String>, Address)> {
        let checkpoint = checkpoint_id(run_id, segment, name)?;
        if checkpoint.kind != Kind::External {
            return refuse(400, format!("{} holds no exported weights", checkpoint.uri()));
        }
        let (meta, files) = self.store.files(&checkpoint)?;
        Ok((files, self.address(Item::Files(checkpoint, meta.save_id), "")))
    }

    pub(super) fn address(&self, item: Item, file: &str) -> Address {
        let (token, until) = self.downloads.issue(item, SystemTime::now());
        Address { path: format!("/download/{token}/{file}"), until }
    }

    /// Content of a download address.
    pub(in crate::local) fn download(&self, token: &str, file: &str) -> Reply<Vec<u8>> {
        match self.downloads.lookup(token, SystemTime::now()) {
            None => refuse(404, "this download address does not exist"),
            Some(Err(())) => refuse(403, "this download address has expired; request a new one"),
            Some(Ok(Item::Archive(checkpoint, save_id))) => {
                let (meta, bytes) = self.store.archive(&checkpoint)?;
                the_same(&checkpoint, save_id, &meta).map(|()| bytes)
            }
            Some(Ok(Item::Files(checkpoint, save_id))) => {
                if !self.store.files(&checkpoint)?.1.iter().any(|it| it == file) {
                    return refuse(404, format!("{} has no file {file:?}", checkpoint.uri()));
                }
                let (meta, mut bytes) = self.store.read(&checkpoint, &[file])?;
                the_same(&checkpoint, save_id, &meta).map(|()| bytes.remove(0))
            }
            Some(Ok(Item::Trace(session_id))) => self.trace(&session_id),
        }
    }

    /// Number and size of the checkpoints, by project or of one project.
    pub(in crate::local) fn storage(&self, project_id: Option<&str>) -> StorageUsage {
        let mut all: BTreeMap<Option<String>, (u64, u64)> = Default::default();
        for found in self.store.all() {
            let sum = all.entry(self.project_of(&found.meta)).or_default();
            *sum = (sum.0 + 1, sum.1 + found.size_bytes);
        }
        let wanted = |it: &Option<String>| project_id.is_none() || it.as_deref() == project_id;
        let entry = |(project_id, (checkpoint_count, size_bytes))| StorageEntry {
            project_id,
            org_user_urn: Some(super::USER.into()),
            checkpoint_count,
            size_bytes,
            size_gigabytes: size_bytes as f64 / 1e9,
            estimated_monthly_cost_usd: Some(0.0),
            ..StorageEntry::default()
        };
        let entries = all.into_iter().filter(|it| wanted(&it.0)).map(entry).collect();
        StorageUsage { effective_rate_usd_per_gigabyte_month: Some(0.0), entries }
    }

    /// Project of a checkpoint: the project in its description, or that of the session that trained it.
    pub(super) fn project_of(&self, meta: &Meta) -> Option<String> {
        meta.project_id.clone().or_else(|| self.project_of_run(&meta.run_id))
    }

    pub(super) fn project_of_run(&self, run_id: &str) -> Option<String> {
        let session = run_id.split_once(":train:").map_or(run_id, |it| it.0);
        match self.inner.lock().sessions.get(session) {
            Some(it) => it.project_id.clone(),
            // The session is forgotten.
            None => self.catalogue.runs.get(run_id)?.project_id,
        }
    }
}

/// Refuses a download if the checkpoint was replaced after the address was created.
fn the_same(checkpoint: &CheckpointId, save_id: u64, meta: &Meta) -> Reply<()> {
    if meta.save_id != save_id {
        return refuse(404, format!("{} has been replaced; request a new address", checkpoint.uri()));
    }
    Ok(())
}

fn kind_of(path: &CheckpointPath) -> Reply<Kind> {
    match path.checkpoint_type() {
        CheckpointType::Training => Ok(Kind::Training),
        CheckpointType::Sampler => Ok(Kind::Sampler),
        CheckpointType::External => Ok(Kind::External),
        _ => refuse(404, format!("{path} does not exist")),
    }
}

fn checkpoint_id(run_id: &str, segment: &str, name: &str) -> Reply<CheckpointId> {
    let path = CheckpointPath::of(run_id, &format!("{segment}/{name}"));
    let path = path.or_else(|it| refuse(400, it.to_string()))?;
    CheckpointId::new(run_id, kind_of(&path)?, name).or_else(|it| refuse(400, it))
}
