//! State of the server: sessions, models and samplers, all under one lock. Requests are accepted or refused here;
//! training, sampling and saving become jobs of the engine thread. The submodules implement the requests, by subject.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::Value;

use crate::clock_text::{parse_rfc3339, rfc3339, rfc3339_micros};
use crate::types::LoraConfig;
use crate::wire::json::*;

use super::catalogue::{Catalogue, End, SessionRecord};
use super::checkpoint::Store;
use super::downloads::Downloads;
use super::feeds::Feed;
use super::futures::{Futures, Outcome, Position, session_of};
use super::job::{Counted, Job, Work};
use super::limits::{check_metadata, check_name, cut_detail};
use super::nn::LoraSpec;
use super::queue::Queue;
use super::reply::{Reply, refuse};
use super::request_order::{RecentRequests, RequestOrder, Seen};
use super::sampling::Slot;
use super::served::{Models, Served};
use super::trace::{Span, Trace};

mod checkpoints;
mod custom_losses;
mod lists;
mod models;
mod samplers;
mod search;

use custom_losses::CustomLosses;

pub(super) use lists::{Window, query};

/// Owner (a URN) of all objects of the server.
pub(super) const USER: &str = "tml:user:local";

/// Number of requests remembered for each sampler. A repeated request gets the result of the original one.
const MAX_REMEMBERED: usize = 65_536;

/// Number of ended sessions that are remembered (`MAX_ENDED`), and of ended sessions whose trace is kept
/// (`MAX_TRACES`).
const MAX_ENDED: usize = 1024;
const MAX_TRACES: usize = 16;
/// Number of training runs that are remembered. Above it, runs without checkpoints are forgotten.
const MAX_RUNS: usize = 4096;
/// Limit of the bytes of passes that wait. Above it a pass is accepted only if no other job of its session must run
/// before it.
const MAX_WAITING_BYTES: usize = 256 << 20;

pub(super) struct State {
    pub(super) futures: Arc<Futures>,
    store: Arc<Store>,
    catalogue: Arc<Catalogue>,
    served: Models,
    limits: Limits,
    queue: Arc<Queue>,
    /// Bytes of passes that wait.
    waiting: Arc<AtomicUsize>,
    /// Bytes of samples that wait or run.
    waiting_samples: Arc<AtomicUsize>,
    /// Bytes of the custom losses of all sessions.
    loss_bytes: Arc<AtomicUsize>,
    /// Number of the clients of all samplers.
    feeds: Arc<AtomicUsize>,
    downloads: Downloads,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Used to resume paused sessions.
    queue: Arc<Queue>,
    rng: fastrand::Rng,
    /// Source of seeds for requests without one. It starts from the server's seed, so the same requests in the same
    /// order get the same seeds.
    seeds: fastrand::Rng,
    sessions: HashMap<String, Session>,
    sessions_made: usize,
    /// Ended sessions, the latest last.
    ended: VecDeque<String>,
    /// Ids of sessions by the idempotency key of the request that created them.
    session_keys: HashMap<String, String>,
    models: HashMap<String, Model>,
    samplers: HashMap<String, SamplerEntry>,
    /// Idempotency keys of copy requests, each with the path of the copy, the latest last.
    copies: VecDeque<(String, String)>,
}

struct Session {
    /// Number of sessions that were created before this one.
    number: usize,
    created: SystemTime,
    user_metadata: BTreeMap<String, Value>,
    display_name: Option<String>,
    project_id: Option<String>,
    end: Option<End>,
    /// `None` if the session ended so long ago that its trace was dropped.
    trace: Option<Arc<Trace>>,
    last_contact: Instant,
    /// Time of the last poll for a result. A poll shows that a client waits: it resumes a paused session, but it does
    /// not delay the session timeout.
    last_poll: Instant,
    /// True if no jobs of the session are run, because its client has been silent for `pause_after`.
    paused: bool,
    models: RecentRequests,
    samplers: RecentRequests,
    losses: CustomLosses,
}

impl Session {
    fn new(number: usize, record: SessionRecord) -> Self {
        Session {
            number,
            created: parse_rfc3339(&record.created).unwrap_or(SystemTime::UNIX_EPOCH),
            user_metadata: record.user_metadata,
            display_name: record.display_name,
            project_id: record.project_id,
            end: record.end,
            trace: None,
            last_contact: Instant::now(),
            last_poll: Instant::now(),
            paused: false,
            models: RecentRequests::new(0),
            samplers: RecentRequests::new(0),
            losses: CustomLosses::new(),
        }
    }

    fn record(&self, id: &str) -> SessionRecord {
        SessionRecord {
            format: 1,
            session_id: id.into(),
            created: rfc3339_micros(self.created),
            user_metadata: self.user_metadata.clone(),
            display_name: self.display_name.clone(),
            project_id: self.project_id.clone(),
            end: self.end.clone(),
        }
    }

    /// Records that a client contacted the session, and resumes the session if it is paused.
    fn touch(&mut self, id: &str, queue: &Queue) {
        self.last_contact = Instant::now();
        self.resume(id, queue);
    }

    fn resume(&mut self, id: &str, queue: &Queue) {
        if std::mem::take(&mut self.paused) {
            queue.resume(id);
        }
    }
}

/// A model that is being trained.
pub(super) struct Model {
    session_id: String,
    /// Name of the base model in the request.
    base_model: String,
    served: Arc<Served>,
    lora: LoraConfig,
    spec: LoraSpec,
    user_metadata: Option<BTreeMap<String, Value>>,
    last_request: SystemTime,
    order: RequestOrder<Job>,
    /// Weights that all samplers of the kind `SamplerKind::Inflight` of this model share. Each save for such a sampler
    /// replaces them.
    inflight: Slot,
}

struct SamplerEntry {
    session_id: String,
    /// Name of the base model in the request.
    base_model: String,
    served: Arc<Served>,
    model_path: Option<String>,
    slot: Slot,
    requests: RecentRequests,
    /// Completion feeds of the clients of this sampler, by client number, and their counts in those of all samplers.
    feeds: HashMap<u64, (Arc<Feed>, Counted)>,
    /// Number of clients that requested a client number.
    joined: u64,
}

impl SamplerEntry {
    fn new(
        session_id: String,
        (base_model, served): (String, Arc<Served>),
        model_path: Option<String>,
        slot: Slot,
    ) -> Self {
        let requests = RecentRequests::new(MAX_REMEMBERED);
        let feeds = HashMap::new();
        SamplerEntry { session_id, base_model, served, model_path, slot, requests, feeds, joined: 0 }
    }
}

/// Limits of sessions and models; see the fields of the same names in `Options`.
pub(super) struct Limits {
    pub(super) session_timeout: Duration,
    pub(super) pause_after: Duration,
    pub(super) max_models: usize,
    pub(super) max_sessions: usize,
    pub(super) max_samplers: usize,
    pub(super) max_waiting_requests: usize,
}

impl State {
    pub(super) fn new(
        served: Models,
        seed: u64,
        limits: Limits,
        store: Arc<Store>,
        catalogue: Arc<Catalogue>,
        futures: Arc<Futures>,
        queue: Arc<Queue>,
    ) -> Self {
        let mut inner = Inner {
            queue: queue.clone(),
            rng: fastrand::Rng::new(),
            seeds: fastrand::Rng::with_seed(seed),
            sessions: HashMap::new(),
            sessions_made: 0,
            ended: VecDeque::new(),
            session_keys: HashMap::new(),
            models: HashMap::new(),
            samplers: HashMap::new(),
            copies: VecDeque::new(),
        };
        inner.add_earlier_sessions(&catalogue);
        State {
            futures,
            store,
            catalogue,
            served,
            limits,
            queue,
            waiting: Arc::default(),
            waiting_samples: Arc::default(),
            loss_bytes: Arc::default(),
            feeds: Arc::default(),
            downloads: Downloads::default(),
            inner: Mutex::new(inner),
        }
    }

    /// Queues jobs of a session for the engine thread. All jobs without a session are queued under the empty session
    /// id. After the engine thread has ended, no job runs; the futures of new jobs have already failed then.
    fn enqueue(&self, session_id: &str, jobs: impl IntoIterator<Item = Job>) {
        self.queue.push(session_id, jobs);
    }

    pub(super) fn capabilities(&self) -> ServerCapabilitiesResponse {
        let model = |(name, served): (&str, &Served)| SupportedModelJson {
            model_name: Some(name.into()),
            max_context_length: Some(served.config().max_len as u64),
            trainable: Some(true),
            sampleable: Some(true),
        };
        ServerCapabilitiesResponse { supported_models: self.served.all().map(model).collect() }
    }

    // ---- sessions ----

    pub(super) fn create_session(
        &self,
        request: CreateSessionRequest,
        key: Option<&str>,
    ) -> Reply<CreateSessionResponse> {
        let session_id = self.add_session(request, key)?;
        self.catalogue.sessions.write(&session_id);
        let (info_message, warning_message, error_message) = (None, None, None);
        Ok(CreateSessionResponse { session_id, info_message, warning_message, error_message })
    }

    fn add_session(&self, request: CreateSessionRequest, key: Option<&str>) -> Reply<String> {
        check_metadata(&request.user_metadata)
            .and_then(|()| check_name("display_name", request.display_name.as_deref()))
            .and_then(|()| check_name("project_id", request.project_id.as_deref()))
            .and_then(|()| check_name("X-Idempotency-Key", key))
            .or_else(|it| refuse(400, it))?;
        let mut inner = self.inner.lock();
        if let Some(known) = key.and_then(|it| inner.session_keys.get(it)) {
            return Ok(known.clone());
        }
        let max = self.limits.max_sessions;
        // All sessions are active except those in `ended`.
        if max <= inner.sessions.len() - inner.ended.len() && !self.end_dead_session(&mut inner, |_| true) {
            return refuse(
                429,
                format!("{max} sessions are open, as many as Options::max_sessions allows; finish one first"),
            );
        }
        let id = format!("{:016x}", inner.rng.u64(..));
        let record = SessionRecord {
            created: rfc3339_micros(SystemTime::now()),
            user_metadata: request.user_metadata,
            display_name: request.display_name,
            project_id: request.project_id.filter(|it| !it.is_empty()),
            ..SessionRecord::default()
        };
        let mut session = Session::new(inner.sessions_made, record);
        session.trace = Some(Arc::default());
        (session.models, session.samplers) = (RecentRequests::new(4096), RecentRequests::new(4096));
        self.catalogue.sessions.put(session.record(&id));
        inner.sessions.insert(id.clone(), session);
        inner.sessions_made += 1;
        if let Some(key) = key {
            inner.session_keys.insert(key.into(), id.clone());
        }
        Ok(id)
    }

    /// Ends the paused session that has been silent for longest, among those that `counts` accepts: its program has
    /// probably been killed. Returns `false` if there is none.
    fn end_dead_session(&self, inner: &mut Inner, counts: impl Fn(&str) -> bool) -> bool {
        let paused = inner.sessions.iter().filter(|(id, it)| it.paused && it.end.is_none() && counts(id));
        let longest = paused.min_by_key(|it| it.1.last_contact.max(it.1.last_poll)).map(|it| it.0.clone());
        let Some(id) = longest else { return false };
        log::warn!(
            "the embedded engine ended session {id}, whose client is silent, to make room for another"
        );
        self.end_session(inner, &id, End::Silent, "its session was silent, and its room was needed");
        true
    }

    pub(super) fn heartbeat(&self, session_id: &str) -> Reply<SessionHeartbeatResponse> {
        self.inner.lock().session(session_id)?;
        Ok(SessionHeartbeatResponse {})
    }

    /// Records that a client polls for the result of a request.
    pub(super) fn note_poll(&self, request_id: &str) {
        let Some(session_id) = self.futures.session(request_id) else { return };
        let mut inner = self.inner.lock();
        if let Some(session) = inner.sessions.get_mut(&*session_id) {
            session.last_poll = Instant::now();
            session.resume(&session_id, &self.queue);
        }
    }

    /// Pauses each session that got neither a request nor a poll for `pause_after`. Its jobs wait until the next
    /// request or poll.
    pub(super) fn pause_silent_sessions(&self, now: Instant) {
        let mut inner = self.inner.lock();
        for (id, session) in inner.sessions.iter_mut().filter(|it| it.1.end.is_none() && !it.1.paused) {
            let last = session.last_contact.max(session.last_poll);
            if self.limits.pause_after < now.saturating_duration_since(last) {
                session.paused = true;
                self.queue.pause(id);
            }
        }
    }

    /// Ends a session. A repeated call has no effect, and the first reason is kept.
    pub(super) fn finish_session(&self, session_id: &str, request: FinishSessionRequest) -> Reply<()> {
        {
            let mut inner = self.inner.lock();
            if !inner.sessions.contains_key(session_id) {
                return refuse(404, format!("session {session_id} does not exist"));
            }
            let end = End::Finished { reason: request.reason, detail: request.detail.map(cut_detail) };
            self.end_session(&mut inner, session_id, end, "its session was finished");
        }
        self.catalogue.sessions.write(session_id);
        Ok(())
    }

    /// Ends each session that got no request for longer than the session timeout.
    pub(super) fn end_silent_sessions(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let silent = |it: &Session| {
            it.end.is_none() && self.limits.session_timeout < now.saturating_duration_since(it.last_contact)
        };
        let ids: Vec<String> =
            inner.sessions.iter().filter(|it| silent(it.1)).map(|it| it.0.clone()).collect();
        for id in ids {
            let timeout = self.limits.session_timeout.as_secs();
            log::warn!("the embedded engine ended session {id}: no heartbeat for {timeout} s");
            self.end_session(&mut inner, &id, End::Silent, "its session was silent for too long");
        }
    }

    fn end_session(&self, inner: &mut Inner, session_id: &str, end: End, why: &str) {
        if let Some(session) = inner.sessions.get_mut(session_id) {
            if session.end.is_none() {
                session.end = Some(end);
                inner.ended.push_back(session_id.into());
                self.catalogue.sessions.put(session.record(session_id));
            }
            session.models = RecentRequests::new(0);
            session.samplers = RecentRequests::new(0);
            session.losses = CustomLosses::new();
        }
        inner.forget_old_sessions(&self.catalogue);
        inner.session_keys.retain(|_, it| it != session_id);
        let gone = inner.samplers.extract_if(|_, it| it.session_id == session_id);
        // Let the engine thread drop the samplers, outside this lock, because dropping thousands takes a while.
        let slots: Vec<Slot> = gone.map(|it| it.1.slot).collect();
        let of_session: Vec<String> =
            inner.models.iter().filter(|it| it.1.session_id == session_id).map(|it| it.0.clone()).collect();
        // Fail the queued jobs. A job that is running is completed.
        let dropped = format!("not executed: {why}");
        for ticket in self.queue.remove_session(session_id).into_iter().filter_map(|it| it.ticket) {
            self.futures.finish(&ticket.id, Outcome::user(dropped.as_str()));
        }
        self.futures.end_session(session_id, &dropped);
        self.enqueue("", [Job { ticket: None, work: Work::DropSlots { slots } }]);
        for model_id in of_session {
            self.remove_model(inner, &model_id, why);
            self.enqueue(session_id, [Job { ticket: None, work: Work::Unload { model_id } }]);
        }
    }

    /// Removes a model, and fails its requests that wait for a request that has not arrived.
    fn remove_model(&self, inner: &mut Inner, model_id: &str, why: &str) {
        let Some(model) = inner.models.remove(model_id) else { return };
        self.catalogue.runs.change(model_id, |it| it.last_request = rfc3339(model.last_request));
        for ticket in model.order.into_waiting().filter_map(|it| it.ticket) {
            let error = format!("model {model_id} was unloaded ({why}) before an earlier request arrived");
            self.futures.finish(&ticket.id, Outcome::user(error));
        }
    }

    // ---- requests of a model ----

    /// Accepts a request of a model. A request with invalid content is accepted, too, and fails when it is run.
    /// Refusing it now would leave a gap in the sequence numbers, and all later requests of the model would wait for
    /// the missing number.
    pub(super) fn submit(
        &self,
        model_id: &str,
        seq_id: Option<u64>,
        fingerprint: u64,
        work: impl FnOnce(&Model) -> Work,
    ) -> Reply<UntypedFuture> {
        self.submit_locked(&mut self.inner.lock(), model_id, seq_id, fingerprint, work)
    }

    /// Counts bytes of a pass as waiting until the returned value is dropped.
    pub(super) fn count_waiting(&self, bytes: usize) -> Counted {
        Counted::count(bytes, &self.waiting)
    }

    /// Refuses a request if too many others wait or run.
    fn check_pending(&self) -> Result<(), String> {
        let max = self.limits.max_waiting_requests;
        if max <= self.futures.pending() {
            return Err(format!(
                "{max} requests wait, as many as Options::max_waiting_requests allows; send this again later"
            ));
        }
        Ok(())
    }

    /// As [`submit`](Self::submit), for a pass, which holds much memory while it waits. If too many bytes wait already,
    /// the pass is refused with status 429, and the client has to send it again later. A pass that can run before all
    /// other jobs of its session is accepted even then, because the others may be waiting for it.
    pub(super) fn submit_large(
        &self,
        model_id: &str,
        seq_id: Option<u64>,
        fingerprint: u64,
        work: Work,
    ) -> Reply<UntypedFuture> {
        let mut inner = self.inner.lock();
        let order = &inner.model(model_id)?.order;
        let seq_id = seq_id.unwrap_or_else(|| order.next());
        let is_new = order.seen(seq_id, fingerprint) == Seen::Never;
        let is_next = seq_id == order.next() && self.queue.is_idle(session_of(model_id));
        if is_new && !is_next && MAX_WAITING_BYTES < self.waiting.load(Ordering::Relaxed) {
            return refuse(429, "too much data waits for its turn; send this again later");
        }
        self.submit_locked(&mut inner, model_id, Some(seq_id), fingerprint, |_| work)
    }

    /// Accepts a request of whose body only the model and the number can be read. It fails when it is run.
    pub(super) fn submit_unreadable(
        &self,
        (model_id, seq_id): (&str, u64),
        fingerprint: u64,
        error: String,
    ) -> Reply<UntypedFuture> {
        self.submit(model_id, Some(seq_id), fingerprint, |_| Work::Refused { error })
    }

    fn submit_locked(
        &self,
        inner: &mut Inner,
        model_id: &str,
        seq_id: Option<u64>,
        fingerprint: u64,
        work: impl FnOnce(&Model) -> Work,
    ) -> Reply<UntypedFuture> {
        let model = inner.model(model_id)?;
        let seq_id = seq_id.unwrap_or_else(|| model.order.next());
        match model.order.seen(seq_id, fingerprint) {
            Seen::Same(id) => return Ok(future(&id, Some(model_id))),
            Seen::Different => {
                return refuse(
                    409,
                    format!("seq_id {seq_id} of model {model_id} was used for another request"),
                );
            }
            Seen::Never if model.order.is_full(seq_id) => {
                let next = model.order.next();
                return refuse(429, format!("too many requests of model {model_id} wait for seq_id {next}"));
            }
            // Others may be waiting for a request that can run before all other jobs of its session.
            Seen::Never if seq_id == model.order.next() && self.queue.is_idle(session_of(model_id)) => {}
            Seen::Never => self.check_pending().or_else(|it| refuse(429, it))?,
        }
        model.last_request = SystemTime::now();
        let work = work(model);
        let position = Position { model_id: model_id.into(), seq_id };
        let session_id = model.session_id.clone();
        let span = inner.span(&session_id, work.verb(), model_id);
        let ticket = self.futures.create(Some(position), span);
        let model = inner.model(model_id)?;
        let reply = future(&ticket.id, Some(model_id));
        let id = ticket.id.clone();
        let due = model.order.arrive(seq_id, fingerprint, &id, Job { ticket: Some(ticket), work });
        self.enqueue(session_of(model_id), due);
        Ok(reply)
    }

    // ---- catalogue ----

    /// Notes the times of the last requests, forgets old runs without checkpoints, and writes what has changed.
    pub(super) fn update_catalogue(&self) {
        let active: HashSet<String> = {
            let inner = self.inner.lock();
            for (id, model) in &inner.models {
                let last = rfc3339(model.last_request);
                if self.catalogue.runs.get(id).is_some_and(|it| it.last_request != last) {
                    self.catalogue.runs.change(id, |it| it.last_request = last);
                }
            }
            inner.models.keys().cloned().collect()
        };
        let mut runs = self.catalogue.runs.all();
        let excess = runs.len().saturating_sub(MAX_RUNS);
        if 0 < excess {
            runs.sort_by(|a, b| a.last_request.cmp(&b.last_request));
            let is_old = |id: &str| !active.contains(id) && !self.store.has_run(id);
            let old = runs.iter().filter(|it| is_old(&it.run_id)).take(excess);
            old.for_each(|it| self.catalogue.runs.forget(&it.run_id));
        }
        self.catalogue.write_changed();
    }

    /// Number of the missing request for which a pending request waits; `None` if no request is missing.
    pub(super) fn waits_for(&self, position: &Position) -> Option<u64> {
        let inner = self.inner.lock();
        let next = inner.models.get(&position.model_id)?.order.next();
        (next <= position.seq_id).then_some(next)
    }

    /// The base model of a model that is being trained.
    pub(super) fn served(&self, model_id: &str) -> Reply<Arc<Served>> {
        Ok(self.inner.lock().model(model_id)?.served.clone())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.queue.close();
        self.update_catalogue();
    }
}

impl Inner {
    /// Adds the sessions of earlier engines. They have ended, because their samplers and their models are lost.
    fn add_earlier_sessions(&mut self, catalogue: &Catalogue) {
        let mut records = catalogue.sessions.all();
        records.sort_by(|a, b| (&a.created, &a.session_id).cmp(&(&b.created, &b.session_id)));
        for mut record in records {
            let id = record.session_id.clone();
            record.end.get_or_insert(End::Stopped);
            self.sessions.insert(id.clone(), Session::new(self.sessions_made, record));
            self.sessions_made += 1;
            self.ended.push_back(id);
            self.forget_old_sessions(catalogue);
        }
    }

    /// Drops the trace of the session that is too old for [`MAX_TRACES`], and removes the session that is too old for
    /// [`MAX_ENDED`].
    fn forget_old_sessions(&mut self, catalogue: &Catalogue) {
        let traced = self.ended.len().saturating_sub(MAX_TRACES);
        if let Some(session) = traced.checked_sub(1).and_then(|i| self.sessions.get_mut(self.ended.get(i)?)) {
            session.trace = None;
        }
        if MAX_ENDED < self.ended.len()
            && let Some(id) = self.ended.pop_front()
        {
            self.sessions.remove(&id);
            catalogue.sessions.forget(&id);
        }
    }

    /// Adds a request to the trace of a session.
    fn span(&self, session_id: &str, verb: &'static str, owner: &str) -> Option<Arc<Span>> {
        Some(self.sessions.get(session_id)?.trace.as_ref()?.begin(verb, owner))
    }

    /// Looks up an active session. This counts as contact with the session.
    fn session(&mut self, id: &str) -> Reply<&mut Session> {
        match self.sessions.get_mut(id) {
            None => refuse(404, format!("session {id} does not exist")),
            Some(session) if session.end.is_some() => refuse(410, format!("session {id} is finished")),
            Some(session) => {
                session.touch(id, &self.queue);
                Ok(session)
            }
        }
    }

    /// Looks up a model. This counts as contact with its session.
    fn model(&mut self, id: &str) -> Reply<&mut Model> {
        let Some(model) = self.models.get_mut(id) else {
            return refuse(404, format!("model {id} does not exist, or its session has ended"));
        };
        if let Some(session) = self.sessions.get_mut(&model.session_id) {
            session.touch(&model.session_id, &self.queue);
        }
        Ok(model)
    }
}

fn future(request_id: &str, model_id: Option<&str>) -> UntypedFuture {
    UntypedFuture {
        request_id: request_id.into(),
        model_id: model_id.map(Into::into),
        sample_sequence_ids: None,
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
