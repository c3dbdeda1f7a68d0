//! Servers that drop a session with its models when they hear nothing of it for 300 s (PROTOCOL §11, "sessions").

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, ModelInput, SamplingParams};
use tinkex::{ErrorKind, ServiceClient};

use crate::util::PATIENCE;

const BEAT: &str = "/api/v1/session_heartbeat";
const RETRIEVE: &str = "/api/v1/retrieve_future";
const STATE: &str = "tinker://run/weights/a";

/// A server that is strict about heartbeats.
struct Strict {
    server: FakeServer,
    time: VirtualClock,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    last: Option<Instant>,
    gaps: Vec<Duration>,
    is_dropped: bool,
    /// No heartbeat arrives any more.
    is_deaf: bool,
}

impl Strict {
    /// `also` is asked first.
    fn new(also: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let (server, time) = (FakeServer::new(), VirtualClock::new());
        let known: Arc<Mutex<Known>> = Arc::default();
        let (book, clock) = (known.clone(), time.clock());
        server.script(move |seen| {
            also(&seen.path);
            let mut book = book.lock().unwrap();
            let gap = book.last.map(|it| clock.now() - it);
            if seen.path == "/api/v1/create_session" {
                (book.last, book.is_dropped) = (Some(clock.now()), false);
                return None;
            }
            book.is_dropped |= gap.is_some_and(|it| Duration::from_secs(300) < it);
            if seen.path == BEAT {
                if book.is_deaf {
                    return Some(Act::Reset);
                }
                (book.last, book.gaps) = (Some(clock.now()), [&book.gaps[..], &[gap.unwrap()]].concat());
            }
            let what = if seen.path == RETRIEVE { "Future" } else { "Model" };
            let detail = format!(r#"{{"detail":"{what} not found"}}"#);
            book.is_dropped.then(|| Act::status(404, detail))
        });
        Strict { server, time, known }
    }

    fn service(&self) -> ServiceClient {
        self.server.in_memory_at(self.time.clone()).build().unwrap()
    }

    /// Lets time pass until so many more heartbeats were sent.
    fn beats(&self, n: usize) {
        let n = self.server.requests_to(BEAT).len() + n;
        let limit = Instant::now() + PATIENCE;
        while self.server.requests_to(BEAT).len() < n {
            assert!(Instant::now() < limit, "no heartbeat");
            let before = self.server.requests_to(BEAT).len();
            self.time.advance(Duration::from_secs(10));
            // The thread may not have begun its wait yet when the time moves, and then needs another push.
            let pushed = Instant::now();
            while self.server.requests_to(BEAT).len() == before && pushed.elapsed() < Duration::from_secs(2) {
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
            // Closed until the test lets it go.
            let _opened = gate.lock().unwrap().recv();
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
    let known = strict.known.lock().unwrap();
    assert!(!known.is_dropped && 80 <= known.gaps.len());
    assert_eq!(known.gaps.iter().min(), Some(&Duration::from_secs(10)), "{:?}", known.gaps);
}

#[test]
fn a_dropped_session_is_reported_in_the_servers_words_and_a_new_one_continues() {
    let strict = Strict::new(|_| {});
    let service = strict.service();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    strict.known.lock().unwrap().is_deaf = true;
    // Whatever is asked then finds the session gone.
    strict.beats(31);
    let step = || training.optim_step(AdamParams::default()).wait().unwrap_err();
    let error = step();
    assert!(error.kind() == &ErrorKind::NotFound && error.to_string().contains("Model not found"), "{error}");
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
    // The order of training is not what is lost.
    assert_eq!(step().kind(), &ErrorKind::NotFound);
    strict.known.lock().unwrap().is_deaf = false;
    let again = strict.service();
    let training = again.create_training_client_from_state(STATE).unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn a_result_lost_with_its_session_ends_the_wait_before_the_deadline() {
    let strict = Strict::new(|_| {});
    let (known, server) = (strict.known.clone(), strict.server.clone());
    let service = strict.service();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next_altered("/api/v1/optim_step", move |answer| {
        known.lock().unwrap().is_dropped = true;
        Act::Answer(answer)
    });
    let before = strict.time.clock().now();
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PromiseExpired, "{error}");
    assert!(strict.time.clock().now() - before < Duration::from_secs(300));
}
