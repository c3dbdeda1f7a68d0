//! G-RATE. Answers 003-D3, 003-F3, 004-2, 004-3a, N-17.
//!
//! The window during which nobody sends is one value under one lock. It is only ever extended, no success clears it, and
//! whoever waits for its end looks at it again before going on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tinkex::event::{Backoff, Observer};
use tinkex::sync::Clock;
use tinkex::testing::{Act, FakeServer};

use super::{Gate, prompt_length, sample};
use crate::util::eventually;

const SAMPLE: &str = "/api/v1/asample";
/// Tokens of a prompt that is large enough for a pause of five seconds.
const LARGE: usize = 13_200;
const LONG: Duration = Duration::from_secs(5);

/// When the long pause began.
#[derive(Default)]
struct Pauses(Mutex<Option<Instant>>);

impl Observer for Pauses {
    fn on_backoff(&self, it: &Backoff) {
        if it.pause == LONG {
            *self.0.lock().unwrap() = Some(Instant::now());
        }
    }
}

#[test]
fn neither_a_shorter_refusal_nor_a_success_ends_the_window_early() {
    let (server, gate, pauses) = (FakeServer::new(), Gate::new(), Arc::new(Pauses::default()));
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (held, seen_at) = (gate.clone(), arrivals.clone());
    server.script(move |seen| {
        if seen.path != SAMPLE {
            return None;
        }
        let nth = {
            let mut all = seen_at.lock().unwrap();
            all.push(Instant::now());
            all.len()
        };
        held.pass();
        // A sample of two tokens succeeds; of the others each is refused once.
        (nth <= 4 && prompt_length(seen) != 2).then(|| Act::status(429, "too many"))
    });
    let service = server.in_memory().clock(Clock::default()).observer(pauses.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let all: Vec<_> = [1, LARGE, 1, 2].map(|it| sample(&sampler, it)).into();
    eventually("all were sent", || arrivals.lock().unwrap().len() == 4);
    gate.open();
    tinkex::wait_all(all).unwrap();
    let began = pauses.0.lock().unwrap().unwrap();
    let arrivals = arrivals.lock().unwrap();
    assert_eq!(arrivals.len(), 7);
    // What was sent again before the long pause began was allowed to be.
    assert!(arrivals[4..].iter().all(|it| *it <= began || began + LONG <= *it), "{began:?} {arrivals:?}");
    assert!(arrivals[4..].iter().any(|it| began + LONG <= *it));
}

#[test]
fn an_account_that_cannot_pay_pauses_all_samples_together() {
    let (server, pauses) = (FakeServer::new(), Arc::new(Pauses::default()));
    server.next(SAMPLE, Act::status(402, r#"{"detail":"no funds"}"#));
    let service = server.in_memory().clock(Clock::default()).observer(pauses.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let first = sample(&sampler, 1);
    eventually("the pause began", || pauses.0.lock().unwrap().is_some());
    let began = pauses.0.lock().unwrap().unwrap();
    // The observer is told just before the others are.
    std::thread::sleep(Duration::from_millis(100));
    let others = [1, 2, 3].map(|it| sample(&sampler, it));
    tinkex::wait_all(others).unwrap();
    assert!(LONG <= began.elapsed(), "{:?}", began.elapsed());
    first.wait().unwrap();
    // The refused one was sent again as it was.
    let numbers: Vec<_> =
        server.requests_to(SAMPLE).iter().map(|it| it.json().unwrap()["seq_id"].clone()).collect();
    assert_eq!(numbers.iter().filter(|it| **it == 0).count(), 2, "{numbers:?}");
    assert_eq!(numbers.len(), 5);
}
