//! Sessions without an engine thread.

use super::*;

struct Nobody {
    state: State,
    queue: Arc<Queue>,
    folder: std::path::PathBuf,
}

impl Nobody {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tinkex-state-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let queue = Arc::new(Queue::new(2));
        let names = Names::new(&Default::default(), &folder, &ModelConfig::nano()).expect("the names");
        let state = State::new(
            ModelConfig::nano(),
            names,
            0,
            Silence { session_timeout: Duration::from_secs(300), pause_after: Duration::from_secs(60) },
            Arc::new(Store::open(folder.clone()).expect("a store")),
            Arc::new(Futures::new(0)),
            queue.clone(),
        );
        Nobody { state, queue, folder }
    }

    /// A session and its model, whose creation was taken from the queue.
    fn model(&self) -> (String, String) {
        let session = CreateSessionRequest::default();
        let session_id = self.state.create_session(session, None).session_id;
        let body = serde_json::json!({
            "session_id": session_id, "model_seq_id": 0, "base_model": NANO, "lora_config": {"rank": 2}
        });
        let request = serde_json::from_value(body).expect("a request");
        let model_id = self.state.create_model(request, 0).expect("a model").model_id.expect("an id");
        assert!(matches!(self.queue.look(), Some(Job { work: Work::Create { .. }, .. })));
        (session_id, model_id)
    }

    /// Submits a request that fails with this text in its turn.
    fn submit(&self, model_id: &str, seq_id: u64, error: &str) -> String {
        let work = |_: &Model| Work::Refused { error: error.into() };
        self.state.submit(model_id, Some(seq_id), seq_id, work).expect("a turn").request_id
    }

    /// The next job of the engine thread.
    fn next(&self) -> Option<String> {
        match self.queue.look()?.work {
            Work::Refused { error } => Some(error),
            other => Some(other.verb().into()),
        }
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_session_of_which_nothing_is_heard_has_no_turns_until_it_is_heard_of_again() {
    let nobody = Nobody::new("paused");
    let (session_id, model_id) = nobody.model();
    let first = nobody.submit(&model_id, 1, "one");
    nobody.submit(&model_id, 2, "two");
    nobody.submit(&model_id, 3, "three");
    nobody.state.pause_silent_sessions(Instant::now() + Duration::from_secs(50));
    assert_eq!(nobody.next().as_deref(), Some("one"));
    let later = Instant::now() + Duration::from_secs(70);
    nobody.state.pause_silent_sessions(later);
    assert_eq!(nobody.next(), None);
    nobody.state.polled(&first);
    assert_eq!(nobody.next().as_deref(), Some("two"), "somebody waits");
    nobody.state.pause_silent_sessions(later);
    assert_eq!(nobody.next(), None);
    nobody.state.heartbeat(&session_id).expect("a session");
    assert_eq!(nobody.next().as_deref(), Some("three"));
}

#[test]
fn what_an_ended_session_had_queued_is_answered_and_its_model_unloaded() {
    let nobody = Nobody::new("ended");
    let (session_id, model_id) = nobody.model();
    let (queued, early) = (nobody.submit(&model_id, 1, "one"), nobody.submit(&model_id, 3, "three"));
    nobody.state.end_silent_sessions(Instant::now() + Duration::from_secs(301));
    for id in [queued, early] {
        let found = format!("{:?}", nobody.state.futures.now(&id));
        assert!(found.contains("silent for too long"), "{found}");
    }
    // Sampler slots are dropped, then the model is unloaded.
    assert_eq!(nobody.next().as_deref(), Some("forget"));
    assert_eq!(nobody.next().as_deref(), Some("unload_model"));
    assert_eq!(nobody.next(), None);
    assert_eq!(nobody.state.heartbeat(&session_id).expect_err("an end").status, 410);
}

#[test]
fn passes_that_find_too_much_waiting_are_sent_again_unless_nothing_else_could_make_room() {
    let nobody = Nobody::new("full");
    let (_, model_id) = nobody.model();
    let refused = |number, fingerprint| {
        let work = Work::Refused { error: "a pass".into() };
        nobody.state.submit_large(&model_id, Some(number), fingerprint, work).err().map(|it| it.status)
    };
    assert_eq!(refused(2, 2), None);
    let much = nobody.state.room(MOST_WAITING_BYTES + 1);
    assert_eq!((refused(3, 3), refused(2, 2)), (Some(429), None), "what was taken stays taken");
    assert_eq!(refused(1, 1), None, "everything waits for it");
    assert_eq!(refused(3, 3), Some(429), "two wait before it");
    drop(much);
    assert_eq!(refused(3, 3), None);
}
