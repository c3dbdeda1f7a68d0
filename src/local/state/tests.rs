//! Tests of sessions and their queue, without an engine thread: the tests take the jobs from the queue.

use super::*;
use crate::local::catalogue::RunRecord;
use crate::local::cpu::Cpu;
use crate::local::names::NANO;

struct Harness {
    state: State,
    queue: Arc<Queue>,
    folder: std::path::PathBuf,
}

fn limits(session_timeout: Duration, pause_after: Duration) -> Limits {
    Limits {
        session_timeout,
        pause_after,
        max_models: 2,
        max_sessions: 3,
        max_samplers: 1000,
        max_waiting_requests: 1000,
    }
}

impl Harness {
    fn new(name: &str) -> Self {
        let (session_timeout, pause_after) = (Duration::from_secs(300), Duration::from_secs(60));
        Harness::with(name, limits(session_timeout, pause_after))
    }

    fn with(name: &str, limits: Limits) -> Self {
        let folder = std::env::temp_dir().join(format!("tinkex-state-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let queue = Arc::new(Queue::new(2, 2));
        let served = Models::load(&Cpu::default(), &Default::default(), &Default::default(), &folder, 0)
            .expect("the models");
        let state = State::new(
            served,
            0,
            limits,
            Arc::new(Store::open(folder.clone()).expect("a store")),
            Arc::new(Catalogue::in_memory()),
            Arc::new(Futures::new(0)),
            queue.clone(),
        );
        Harness { state, queue, folder }
    }

    /// Creates a session and a model, and takes the job that creates the model from the queue.
    fn model(&self) -> (String, String) {
        let session = CreateSessionRequest::default();
        let session_id = self.state.create_session(session, None).expect("room").session_id;
        let body = serde_json::json!({
            "session_id": session_id, "model_seq_id": 0, "base_model": NANO, "lora_config": {"rank": 2}
        });
        let request = serde_json::from_value(body).expect("a request");
        let model_id = self.state.create_model(request, 0).expect("a model").model_id.expect("an id");
        assert!(matches!(self.queue.take_next(), Some(Job { work: Work::Create { .. }, .. })));
        (session_id, model_id)
    }

    /// Submits a request that fails with this text when it is run.
    fn submit(&self, model_id: &str, seq_id: u64, error: &str) -> String {
        let work = |_: &Model| Work::Refused { error: error.into() };
        self.state.submit(model_id, Some(seq_id), seq_id, work).expect("a turn").request_id
    }

    /// Takes the next job from the queue. Returns the error text of a refused request, and the name of any other work.
    fn next(&self) -> Option<String> {
        match self.queue.take_next()?.work {
            Work::Refused { error } => Some(error),
            other => Some(other.verb().into()),
        }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_silent_session_is_paused_until_the_next_contact() {
    let harness = Harness::new("paused");
    let (session_id, model_id) = harness.model();
    let first = harness.submit(&model_id, 1, "one");
    harness.submit(&model_id, 2, "two");
    harness.submit(&model_id, 3, "three");
    harness.state.pause_silent_sessions(Instant::now() + Duration::from_secs(50));
    assert_eq!(harness.next().as_deref(), Some("one"));
    let later = Instant::now() + Duration::from_secs(70);
    harness.state.pause_silent_sessions(later);
    assert_eq!(harness.next(), None);
    harness.state.note_poll(&first);
    assert_eq!(harness.next().as_deref(), Some("two"), "a client waits");
    harness.state.pause_silent_sessions(later);
    assert_eq!(harness.next(), None);
    harness.state.heartbeat(&session_id).expect("a session");
    assert_eq!(harness.next().as_deref(), Some("three"));
}

#[test]
fn the_end_of_a_session_fails_its_queued_requests_and_unloads_its_model() {
    let harness = Harness::new("ended");
    let (session_id, model_id) = harness.model();
    let (queued, early) = (harness.submit(&model_id, 1, "one"), harness.submit(&model_id, 3, "three"));
    harness.state.end_silent_sessions(Instant::now() + Duration::from_secs(301));
    for id in [queued, early] {
        let found = format!("{:?}", harness.state.futures.now(&id));
        assert!(found.contains("silent for too long"), "{found}");
    }
    // Sampler slots are dropped, then the model is unloaded.
    assert_eq!(harness.next().as_deref(), Some("drop_slots"));
    assert_eq!(harness.next().as_deref(), Some("unload_model"));
    assert_eq!(harness.next(), None);
    assert_eq!(harness.state.heartbeat(&session_id).expect_err("an end").status, 410);
}

#[test]
fn a_pass_is_refused_while_too_many_bytes_wait_unless_later_passes_wait_for_it() {
    let harness = Harness::new("full");
    let (_, model_id) = harness.model();
    let refused = |number, fingerprint| {
        let work = Work::Refused { error: "a pass".into() };
        harness.state.submit_large(&model_id, Some(number), fingerprint, work).err().map(|it| it.status)
    };
    assert_eq!(refused(2, 2), None);
    let much = harness.state.count_waiting(MAX_WAITING_BYTES + 1);
    assert_eq!((refused(3, 3), refused(2, 2)), (Some(429), None), "an accepted pass stays accepted");
    assert_eq!(refused(1, 1), None, "all later passes wait for it");
    assert_eq!(refused(3, 3), Some(429), "two passes wait before it");
    drop(much);
    assert_eq!(refused(3, 3), None);
}

#[test]
fn a_request_above_the_limit_is_refused_unless_others_may_wait_for_it() {
    let (session_timeout, pause_after) = (Duration::from_secs(300), Duration::from_secs(60));
    let few = Limits { max_waiting_requests: 3, ..limits(session_timeout, pause_after) };
    let harness = Harness::with("waiting", few);
    let (_, model_id) = harness.model();
    let status = |number: u64| {
        let work = |_: &Model| Work::Refused { error: "x".into() };
        harness.state.submit(&model_id, Some(number), number, work).err().map(|it| it.status)
    };
    // The model itself is one request that is not finished.
    assert_eq!([status(2), status(3), status(4)], [None, None, Some(429)]);
    assert_eq!(status(2), None, "an accepted request stays accepted");
    assert_eq!(status(1), None, "the others wait for it");
    assert_eq!(status(4), Some(429), "three wait before it");
}

#[test]
fn clients_and_bytes_of_samples_and_custom_losses_are_counted_over_all_sessions() {
    let harness = Harness::new("totals");
    let (session_id, _) = harness.model();
    let body = serde_json::json!({
        "session_id": session_id, "sampling_session_seq_id": 0, "base_model": NANO
    });
    let request = serde_json::from_value(body).expect("a request");
    let id = harness.state.create_sampler(request, 0).expect("a sampler").sampling_session_id;
    let sample = |number: u64| {
        let body = serde_json::json!({
            "sampling_session_id": id, "seq_id": number, "num_samples": 1, "sampling_params": {"max_tokens": 1},
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]}
        });
        harness.state.sample(serde_json::from_value(body).expect("a request"), number)
    };
    let much = Counted::count(samplers::MAX_SAMPLE_BYTES, &harness.state.waiting_samples);
    assert_eq!(sample(0).expect_err("too many bytes").status, 429);
    drop(much);
    sample(0).expect("room");
    let clients = Counted::count(samplers::MAX_ALL_FEEDS, &harness.state.feeds);
    sample(1).expect("a client that is known");
    assert_eq!(sample(1_000_000_000).expect_err("a new client").status, 429);
    drop(clients);
    sample(1_000_000_000).expect("room");
    assert_eq!(harness.state.feeds.load(Ordering::Relaxed), 2);
    assert_ne!(harness.state.waiting_samples.load(Ordering::Relaxed), 0);
    let create = |number: u64| {
        let node = |op: &str, args: serde_json::Value| serde_json::json!({"op": op, "name": op, "target": "logprobs", "args": args, "kwargs": {}});
        let mut total = node("call_method", serde_json::json!([{"ref": "placeholder"}]));
        total["target"] = "sum".into();
        let body = serde_json::json!({
            "session_id": session_id, "custom_loss_seq_id": number, "name": "n",
            "inputs": [{"name": "logprobs", "rank": 1}],
            "graph": {"format": 1, "nodes": [node("placeholder", serde_json::json!([])), total,
                                             node("output", serde_json::json!([{"tuple": [{"ref": "call_method"}, {"dict": {}}]}]))]}
        });
        harness.state.create_custom_loss(serde_json::from_value(body).expect("a request"), number)
    };
    let losses = Counted::count(custom_losses::MAX_BYTES, &harness.state.loss_bytes);
    assert_eq!(create(0).expect_err("too many bytes").status, 429);
    drop(losses);
    create(0).expect("room");
    let finish =
        serde_json::from_value(serde_json::json!({"reason": {"type": "success"}})).expect("a request");
    harness.state.finish_session(&session_id, finish).expect("a session");
    while harness.next().is_some() {}
    let totals = [&harness.state.feeds, &harness.state.waiting_samples, &harness.state.loss_bytes];
    assert_eq!(totals.map(|it| it.load(Ordering::Relaxed)), [0; 3], "the end of a session frees all");
}

#[test]
fn a_model_above_the_limit_replaces_those_of_a_paused_session_or_is_refused() {
    let harness = Harness::new("models");
    let (first, model_id) = harness.model();
    harness.model();
    let create = |number: u64, session_id: &str| {
        let body = serde_json::json!({"session_id": session_id, "model_seq_id": number, "base_model": NANO});
        harness.state.create_model(serde_json::from_value(body).expect("a request"), number)
    };
    let session_id =
        harness.state.create_session(CreateSessionRequest::default(), None).expect("room").session_id;
    let refused = create(0, &session_id).expect_err("two are loaded");
    assert_eq!(refused.status, 429);
    assert!(refused.detail.contains("Options::max_models"), "{}", refused.detail);
    harness.state.unload_model(&model_id).expect("a model");
    create(0, &session_id).expect("room");
    // All sessions are silent, and the one that wants a model comes back.
    harness.state.pause_silent_sessions(Instant::now() + Duration::from_secs(70));
    harness.state.heartbeat(&session_id).expect("a session");
    create(1, &session_id).expect("the model of a paused session is unloaded");
    assert_eq!(create(2, &session_id).expect_err("its own models stay").status, 429);
    harness.state.heartbeat(&first).expect("a session without a model is not ended");
}

#[test]
fn a_session_above_the_limit_replaces_a_paused_one_or_is_refused() {
    let harness = Harness::new("sessions");
    let create =
        || harness.state.create_session(CreateSessionRequest::default(), None).map(|it| it.session_id);
    let all: Vec<String> = (0..3).map(|_| create().expect("room")).collect();
    let refused = create().expect_err("three are open");
    assert!(refused.status == 429 && refused.detail.contains("Options::max_sessions"), "{}", refused.detail);
    let finish = FinishSessionRequest { reason: FinishReason::Success, detail: None };
    harness.state.finish_session(&all[0], finish).expect("a session");
    let fourth = create().expect("an ended one does not count");
    harness.state.pause_silent_sessions(Instant::now() + Duration::from_secs(70));
    for id in [&all[1], &fourth] {
        harness.state.heartbeat(id).expect("a session");
    }
    create().expect("the paused one is ended");
    assert_eq!(harness.state.heartbeat(&all[2]).expect_err("an end").status, 410);
    assert_eq!(create().expect_err("no other is paused").status, 429);
}

#[test]
fn of_many_ended_runs_those_without_checkpoints_are_forgotten() {
    let harness = Harness::new("runs");
    let (_, model_id) = harness.model();
    let add = |i: usize| {
        let last_request = format!("2026-01-01T00:00:00.{i:06}Z");
        let run_id = format!("s:train:{i}");
        harness.state.catalogue.runs.put(RunRecord { run_id, last_request, ..RunRecord::default() });
    };
    (0..MAX_RUNS + 9).for_each(add);
    std::fs::create_dir_all(harness.folder.join("s_train_3/weights/a")).expect("a folder");
    harness.state.update_catalogue();
    let left = harness.state.catalogue.runs.all();
    let has = |id: &str| left.iter().any(|it| it.run_id == id);
    assert_eq!(left.len(), MAX_RUNS);
    assert!(
        has(&model_id) && has("s:train:3") && has("s:train:11") && !has("s:train:2") && !has("s:train:10")
    );
}
