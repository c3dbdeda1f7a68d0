//! Tests of the guarantee G-RATE (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 003-D3, 003-F3, 004-2, 004-3a, N-17.
//!
//! After a refusal (429, or 402 for an account that cannot pay) no sample is sent for a while. This time is called the
//! window. Its end is one value, protected by one lock. A refusal can only extend the window, and a success does not
//! end it. When a sample has waited for the end of the window, it checks again, before it is sent, that the window has
//! not been extended.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tinkex::event::{Backoff, Observer};
use tinkex::sync::Clock;
use tinkex::testing::{Act, FakeServer};

use super::{Gate, prompt_length, sample};
use crate::util::eventually;

const SAMPLE: &str = "/api/v1/asample";
/// Number of tokens in a prompt that is large enough for a pause of 5 s after a 429.
const LARGE: usize = 13_200;
const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(1);

/// Records the length of each pause, and the time at which the observer was told about it.
#[derive(Default)]
struct Pauses(Mutex<Vec<(Duration, Instant)>>);

impl Pauses {
    /// Time of the first pause of this length.
    fn first(&self, pause: Duration) -> Option<Instant> {
        self.0.lock().unwrap().iter().find(|it| it.0 == pause).map(|it| it.1)
    }
}

impl Observer for Pauses {
    fn on_backoff(&self, backoff: &Backoff) {
        self.0.lock().unwrap().push((backoff.pause, Instant::now()));
    }
}

#[test]
fn neither_a_shorter_refusal_nor_a_success_ends_the_window_early() {
    let (server, pauses) = (FakeServer::new(), Arc::new(Pauses::default()));
    let [long, last] = [Gate::new(), Gate::new()];
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let refused: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (gates, seen_at, refused_at) = ([long.clone(), last.clone()], arrivals.clone(), refused.clone());
    server.script(move |seen| {
        if seen.path != SAMPLE {
            return None;
        }
        let nth = {
            let mut all = seen_at.lock().unwrap();
            all.push(Instant::now());
            all.len()
        };
        // The number of tokens in the prompt tells the samples apart.
        match prompt_length(seen) {
            // Of the first four requests, those of the samples 1, `LARGE` and 3 are refused, in this order. Later
            // requests succeed.
            _ if 4 < nth => return None,
            1 => {}
            LARGE => {
                gates[0].pass();
                *refused_at.lock().unwrap() = Some(Instant::now());
            }
            // The first request of sample 2 succeeds, during the long pause.
            2 => {
                gates[1].pass();
                return None;
            }
            _ => gates[1].pass(),
        }
        Some(Act::status(429, "too many"))
    });
    let service = server.in_memory().clock(Clock::default()).observer(pauses.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let held = [LARGE, 2, 3].map(|n_tokens| sample(&sampler, n_tokens));
    eventually("three samples are held", || arrivals.lock().unwrap().len() == 3);
    let first = sample(&sampler, 1);
    eventually("the short pause began", || pauses.first(SHORT).is_some());
    // Give `first` time to begin its wait for the end of the short pause. If this time is too short, the test checks
    // less but still passes.
    std::thread::sleep(Duration::from_millis(100));
    long.open();
    eventually("the long pause began", || pauses.first(LONG).is_some());
    last.open();
    first.wait().unwrap();
    tinkex::wait_all(held).unwrap();
    let (refused, began) = (refused.lock().unwrap().unwrap(), pauses.first(LONG).unwrap());
    let arrivals = arrivals.lock().unwrap();
    assert_eq!(arrivals.len(), 7);
    // A repeated request may arrive before the long pause began or after it has ended, but not in between.
    assert!(arrivals[4..].iter().all(|it| *it <= began || refused + LONG <= *it), "{began:?} {arrivals:?}");
    assert!(arrivals[4..].iter().any(|it| refused + LONG <= *it));
}

#[test]
fn an_account_that_cannot_pay_pauses_all_samples_together() {
    let (server, pauses) = (FakeServer::new(), Arc::new(Pauses::default()));
    server.next(SAMPLE, Act::status(402, r#"{"detail":"no funds"}"#));
    let service = server.in_memory().clock(Clock::default()).observer(pauses.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let began = Instant::now();
    let first = sample(&sampler, 1);
    eventually("the pause began", || pauses.first(LONG).is_some());
    let others = [1, 2, 3].map(|n_tokens| sample(&sampler, n_tokens));
    tinkex::wait_all(others).unwrap();
    assert!(LONG <= began.elapsed(), "{:?}", began.elapsed());
    first.wait().unwrap();
    // The refused sample, whose seq id is 0, was sent a second time with the same seq id.
    let numbers: Vec<_> =
        server.requests_to(SAMPLE).iter().map(|it| it.json().unwrap()["seq_id"].clone()).collect();
    assert_eq!(numbers.iter().filter(|it| **it == 0).count(), 2, "{numbers:?}");
    assert_eq!(numbers.len(), 5);
}
