//! Requests about sampling sessions (here also called samplers) and samples.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::types::SamplerKind;
use crate::wire::json::*;

use super::super::checkpoint::{CheckpointId, Kind};
use super::super::feeds::{Feed, client_of};
use super::super::job::{Counted, Job, Work};
use super::super::reply::{Reply, refuse};
use super::super::request_order::Seen;
use super::super::sampling::{Sample, Slot, Weights};
use super::super::served::Served;
use super::{Inner, SamplerEntry, State};

/// Limit of the clients of one sampler, because each has a feed; and of those of all samplers.
const MAX_FEEDS: usize = 4096;
pub(super) const MAX_ALL_FEEDS: usize = 131_072;
/// Limit of the bytes of samples that wait or run.
pub(super) const MAX_SAMPLE_BYTES: usize = 256 << 20;

impl State {
    /// Saves a model's weights for sampling: as a checkpoint if the request has a name, otherwise as a new sampling
    /// session.
    pub(in crate::local) fn save_for_sampler(
        &self,
        request: SaveWeightsForSamplerRequest,
        fingerprint: u64,
    ) -> Reply<UntypedFuture> {
        let model_id = request.model_id.clone();
        if let Some(name) = request.path {
            return self.submit(&model_id, request.seq_id, fingerprint, |model| {
                let (ttl, metadata) = (request.ttl_seconds, request.user_metadata);
                match self.save(model, &model_id, Kind::Sampler, &name, ttl, metadata) {
                    Ok(save) => Work::SaveSampler { model_id: model_id.clone(), save },
                    Err(error) => Work::Refused { error },
                }
            });
        }
        // Leave the number of the sampling session out of the fingerprint: a client that repeats the request may send
        // another number for the sampling session.
        let fingerprint = hash_of(&(&model_id, request.seq_id, request.kind));
        let mut inner = self.inner.lock();
        let model = inner.model(&model_id)?;
        let (session_id, shown) =
            (model.session_id.clone(), (model.base_model.clone(), model.served.clone()));
        let number = match request.sampling_session_seq_id {
            Some(it) => it,
            None => inner.session(&session_id)?.samplers.len() as u64,
        };
        let sampler_id = format!("{session_id}:sample:{number}");
        let taken = inner.samplers.contains_key(&sampler_id);
        let full = self.limits.max_samplers <= inner.samplers.len();
        let mut made = None;
        let reply = self.submit_locked(&mut inner, &model_id, request.seq_id, fingerprint, |model| {
            if taken {
                let error = format!("sampling_session_seq_id {number} was used for another request");
                return Work::Refused { error };
            }
            if full {
                return Work::Refused { error: self.too_many_samplers() };
            }
            let slot = match request.kind {
                SamplerKind::Snapshot => Slot::default(),
                SamplerKind::Inflight => model.inflight.clone(),
            };
            made = Some(slot.clone());
            Work::Snapshot { model_id: model_id.clone(), slot, sampler_id: sampler_id.clone() }
        })?;
        // `made` is `None` if the request is a repeated one, or if the id of its sampler was taken.
        if let Some(slot) = made {
            inner.session(&session_id)?.samplers.insert(number, fingerprint, &sampler_id);
            inner.samplers.insert(sampler_id, SamplerEntry::new(session_id, shown, None, slot));
        }
        Ok(reply)
    }

    pub(in crate::local) fn create_sampler(
        &self,
        request: CreateSamplingSessionRequest,
        fingerprint: u64,
    ) -> Reply<CreateSamplingSessionResponse> {
        let (checkpoint, served) = match (&request.model_path, &request.base_model) {
            (Some(path), _) => {
                let (checkpoint, meta) = self.sampler_checkpoint(path)?;
                let served = self.served_of(&checkpoint, &meta)?;
                (Some((checkpoint, meta)), served)
            }
            (None, Some(base)) => (None, self.served.find(base)?),
            (None, None) => return refuse(400, "give base_model or model_path"),
        };
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let number = request.sampling_session_seq_id;
        let sampling_session_id = format!("{}:sample:{number}", request.session_id);
        let taken = inner.samplers.contains_key(&sampling_session_id);
        let full = self.limits.max_samplers <= inner.samplers.len();
        let session = inner.session(&request.session_id)?;
        match session.samplers.seen(number, fingerprint) {
            Seen::Same(sampling_session_id) => {
                return Ok(CreateSamplingSessionResponse { sampling_session_id });
            }
            Seen::Never if !taken && full => return refuse(429, self.too_many_samplers()),
            Seen::Never if !taken => {}
            _ => {
                return refuse(409, format!("sampling_session_seq_id {number} was used for another request"));
            }
        }
        session.samplers.insert(number, fingerprint, &sampling_session_id);
        let (slot, name) = match checkpoint {
            Some((checkpoint, meta)) => (self.load_slot(checkpoint, &served), meta.base_alias),
            None => (base_slot(&served), request.base_model),
        };
        let base_model = self.served.shown(&served, name.as_deref()).to_string();
        let entry = SamplerEntry::new(request.session_id, (base_model, served), request.model_path, slot);
        inner.samplers.insert(sampling_session_id.clone(), entry);
        Ok(CreateSamplingSessionResponse { sampling_session_id })
    }

    pub(in crate::local) fn sampler(&self, sampler_id: &str) -> Reply<SamplerResponse> {
        match self.inner.lock().samplers.get(sampler_id) {
            Some(it) => Ok(SamplerResponse {
                sampler_id: sampler_id.into(),
                base_model: Some(it.base_model.clone()),
                model_path: it.model_path.clone(),
            }),
            None => refuse(404, format!("sampler {sampler_id} does not exist")),
        }
    }

    pub(in crate::local) fn sample(&self, request: SampleRequest, fingerprint: u64) -> Reply<UntypedFuture> {
        let stateless = match (&request.sampling_session_id, &request.model_path, &request.base_model) {
            (Some(_), _, _) => None,
            (None, Some(path), _) => {
                let (checkpoint, meta) = self.sampler_checkpoint(path)?;
                let served = self.served_of(&checkpoint, &meta)?;
                Some((Some(checkpoint), served))
            }
            (None, None, Some(base)) => Some((None, self.served.find(base)?)),
            (None, None, None) => {
                return refuse(400, "give sampling_session_id, model_path or base_model");
            }
        };
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let number = request.seq_id;
        let served = match (&request.sampling_session_id, &stateless) {
            (Some(id), _) => inner.sampler(id)?.served.clone(),
            (None, Some((_, served))) => served.clone(),
            // Refused above.
            (None, None) => return refuse(400, "give sampling_session_id, model_path or base_model"),
        };
        let entry = request.sampling_session_id.as_ref().and_then(|it| inner.samplers.get(it));
        if let (Some(entry), Some(number)) = (entry, number) {
            match entry.requests.seen(number, fingerprint) {
                Seen::Same(id) => return Ok(sample_future(&id, request.num_samples)),
                Seen::Different => {
                    return refuse(409, format!("seq_id {number} was used for another sample"));
                }
                Seen::Never => {}
            }
        }
        self.check_pending().or_else(|it| refuse(429, it))?;
        let seed = inner.seeds.u64(..) >> 1;
        let sample = Sample::new(&request, &served, seed).or_else(|it| refuse(400, it))?;
        if MAX_SAMPLE_BYTES < self.waiting_samples.load(Ordering::Relaxed) + sample.bytes() {
            return refuse(429, "too many bytes of samples wait for their turn; send this again later");
        }
        let waiting = Counted::count(sample.bytes(), &self.waiting_samples);
        let entry = request.sampling_session_id.as_ref().and_then(|it| inner.samplers.get_mut(it));
        let feed = match (entry, number) {
            (Some(entry), Some(number)) => Some(entry.feed(client_of(number), &self.feeds)?),
            _ => None,
        };
        let owner = request.sampling_session_id.as_ref().and_then(|it| Some((it, inner.samplers.get(it)?)));
        let session_id = owner.map(|(_, it)| it.session_id.clone());
        let span = owner.and_then(|(id, it)| inner.span(&it.session_id, "sample", id));
        let ticket = self.futures.create_cancellable(session_id.as_deref(), feed, span);
        let reply = sample_future(&ticket.id, request.num_samples);
        let entry = request.sampling_session_id.as_ref().and_then(|it| inner.samplers.get_mut(it));
        let slot = match (entry, stateless) {
            (Some(entry), _) => {
                if let Some(number) = number {
                    entry.requests.insert(number, fingerprint, &ticket.id);
                }
                entry.slot.clone()
            }
            (None, Some((Some(checkpoint), served))) => self.load_slot(checkpoint, &served),
            (None, _) => base_slot(&served),
        };
        let work = Work::Sample { slot, sample: Box::new(sample), waiting };
        self.enqueue(session_id.as_deref().unwrap_or_default(), [Job { ticket: Some(ticket), work }]);
        Ok(reply)
    }

    /// Assigns a client number to one more client of a sampling session. The client that created the session has number
    /// 0.
    pub(in crate::local) fn join_sampler(
        &self,
        request: JoinSamplingSessionRequest,
    ) -> Reply<JoinSamplingSessionResponse> {
        let mut inner = self.inner.lock();
        let entry = inner.sampler(&request.sampling_session_id)?;
        entry.joined += 1;
        Ok(JoinSamplingSessionResponse { client_counter: Some(entry.joined) })
    }

    /// Completion feed of a client of a sampling session.
    pub(in crate::local) fn feed(&self, target: &FuturesTarget) -> Reply<Arc<Feed>> {
        let FuturesTarget::SamplingSession { sampling_session_id, cloned_sampler_id } = target;
        self.inner.lock().sampler(sampling_session_id)?.feed(*cloned_sampler_id, &self.feeds)
    }

    fn too_many_samplers(&self) -> String {
        let max = self.limits.max_samplers;
        format!("{max} samplers exist, as many as Options::max_samplers allows; finish a session first")
    }

    /// Creates a slot and queues the job that loads a checkpoint's weights into it. This job comes before all samples
    /// that use the slot.
    fn load_slot(&self, checkpoint: CheckpointId, served: &Served) -> Slot {
        let slot = Slot::default();
        let work = Work::LoadSampler { slot: slot.clone(), checkpoint, base: served.base.clone() };
        self.enqueue("", [Job { ticket: None, work }]);
        slot
    }
}

/// Slot of a base model.
fn base_slot(served: &Served) -> Slot {
    Arc::new(Mutex::new(Weights::Base(served.base.clone())))
}

impl Inner {
    /// Looks up a sampler whose session is active. This counts as contact with the session.
    fn sampler(&mut self, id: &str) -> Reply<&mut SamplerEntry> {
        let Some(session_id) = self.samplers.get(id).map(|it| it.session_id.clone()) else {
            return refuse(404, format!("sampling session {id} does not exist"));
        };
        self.session(&session_id)?;
        match self.samplers.get_mut(id) {
            Some(it) => Ok(it),
            None => refuse(404, format!("sampling session {id} does not exist")),
        }
    }
}

impl SamplerEntry {
    /// The feed of a client. A new one is counted in `all`.
    pub(super) fn feed(&mut self, client: u64, all: &Arc<AtomicUsize>) -> Reply<Arc<Feed>> {
        if let Some((known, _)) = self.feeds.get(&client) {
            return Ok(known.clone());
        }
        if MAX_FEEDS <= self.feeds.len() {
            return refuse(429, format!("{MAX_FEEDS} clients share this sampler, the limit"));
        }
        if MAX_ALL_FEEDS <= all.load(Ordering::Relaxed) {
            return refuse(429, format!("{MAX_ALL_FEEDS} clients of samplers exist, the limit"));
        }
        let feed: Arc<Feed> = Arc::default();
        self.feeds.insert(client, (feed.clone(), Counted::count(1, all)));
        Ok(feed)
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn sample_future(request_id: &str, num_samples: u32) -> UntypedFuture {
    let ids = (0..num_samples).map(|i| format!("{request_id}:{i}")).collect();
    UntypedFuture { request_id: request_id.into(), model_id: None, sample_sequence_ids: Some(ids) }
}
