//! Servers that drop a session and its models after 300 s without a heartbeat (PROTOCOL §11, "sessions").

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, ModelInput, SamplingParams};
use tinkex::{ErrorKind, ServiceClient};

use crate::util::TEST_TIMEOUT;

const BEAT: &str = "/api/v1/session_heartbeat";
const RETRIEVE: &str = "/api/v1/retrieve_future";
const STATE: &str = "tinker://run/weights/a";

/// A server that drops its session after 300 s without a heartbeat, measured on a virtual clock.
struct Strict {
    server: FakeServer,
    time: VirtualClock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: Option<Instant>,
    gaps: Vec<Duration>,
    is_dropped: bool,
    /// The server resets the connection of each heartbeat, so that the heartbeat does not count.
    resets_heartbeats: bool,
}

impl Strict {
    /// Starts a server that calls `before` with the path of each request before it handles the request.
    fn new(before: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let (server, time) = (FakeServer::new(), VirtualClock::new());
        let state: Arc<Mutex<State>> = Arc::default();
        let (scripted, clock) = (state.clone(), time.clock());
        server.script(move |seen| {
            before(&seen.path);
            let mut state = scripted.lock().unwrap();
            let gap = state.last.map(|last| clock.now() - last);
            if seen.path == "/api/v1/create_session" {
                (state.last, state.is_dropped) = (Some(clock.now()), false);
                return None;
            }
            state.is_dropped |= gap.is_some_and(|gap| Duration::from_secs(300) < gap);
            if seen.path == BEAT {
                if state.resets_heartbeats {
                    return Some(Act::Reset);
                }
                (state.last, state.gaps) = (Some(clock.now()), [&state.gaps[..], &[gap.unwrap()]].concat());
            }
            let what = if seen.path == RETRIEVE { "Future" } else { "Model" };
            let detail = format!(r#"{{"detail":"{what} not found"}}"#);
            state.is_dropped.then(|| Act::status(404, detail))
        });
        Strict { server, time, state }
    }

    fn service(&self) -> ServiceClient {
        self.server.in_memory_at(self.time.clone()).build().unwrap()
    }

    /// Advances the clock until `n` more heartbeats were sent.
    fn beats(&self, n: usize) {
        let n = self.server.requests_to(BEAT).len() + n;
        let limit = Instant::now() + TEST_TIMEOUT;
        while self.server.requests_to(BEAT).len() < n {
            assert!(Instant::now() < limit, "no heartbeat");
            let before = self.server.requests_to(BEAT).len();
            self.time.advance(Duration::from_secs(10));
            // Wait 2 s for the heartbeat. If it does not arrive, the clock moved before the heartbeat thread began its
            // wait: the outer loop advances the clock once more.
            let advanced = Instant::now();
            while self.server.requests_to(BEAT).len() == before && advanced.elapsed() < Duration::from_secs(2)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn heartbeats_keep_a_session_while_its_user_is_blocked_or_idle() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let strict = Strict::new(move |path| {
        if path == "/api/v1/healthz" {
            // Blocks until the test drops the sender.
            let _ = gate.lock().unwrap().recv();
        }
    });
    let service = strict.service();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let rest = service.create_rest_client();
    let blocked = std::thread::spawn(move || rest.healthz());
    strict.beats(40);
    assert!(!blocked.is_finished());
    drop(open);
    blocked.join().unwrap().unwrap();
    strict.beats(40);
    training.optim_step(AdamParams::default()).wait().unwrap();
    let state = strict.state.lock().unwrap();
    assert!(!state.is_dropped && 80 <= state.gaps.len());
    assert_eq!(state.gaps.iter().min(), Some(&Duration::from_secs(10)), "{:?}", state.gaps);
}

#[test]
fn a_dropped_session_is_reported_in_the_servers_words_and_a_new_one_continues() {
    let strict = Strict::new(|_| {});
    let service = strict.service();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    strict.state.lock().unwrap().resets_heartbeats = true;
    // The client sends a heartbeat every 10 s, and all 31 are lost. After 310 s the server has dropped the session.
    strict.beats(31);
    let step = || training.optim_step(AdamParams::default()).wait().unwrap_err();
    let error = step();
    assert!(error.kind() == &ErrorKind::NotFound && error.to_string().contains("Model not found"), "{error}");
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
    // The error is not `Poisoned`: the server refused the first step, so the client knows which requests were accepted.
    assert_eq!(step().kind(), &ErrorKind::NotFound);
    strict.state.lock().unwrap().resets_heartbeats = false;
    let again = strict.service();
    let training = again.create_training_client_from_state(STATE).unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn a_result_lost_with_its_session_ends_the_wait_before_the_deadline() {
    let strict = Strict::new(|_| {});
    let (state, server) = (strict.state.clone(), strict.server.clone());
    let service = strict.service();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next_altered("/api/v1/optim_step", move |answer| {
        state.lock().unwrap().is_dropped = true;
        Act::Answer(answer)
    });
    let before = strict.time.clock().now();
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PromiseExpired, "{error}");
    assert!(strict.time.clock().now() - before < Duration::from_secs(300));
}
