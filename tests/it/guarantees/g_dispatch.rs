//! Tests of the guarantee G-DISPATCH (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 003-D6, 004-3b, 004-7, N-11, N-16.
//!
//! For a while after a 429 the client is throttled: it sends at most 10 samples concurrently instead of 400. A sample
//! waits for a permit before it is sent. After each such wait, the client checks whether it is throttled. So samples
//! that began to wait before the 429 are throttled too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tinkex::testing::{Act, FakeServer};

use super::{Gate, prompt_length, sample};
use crate::util::eventually;

const SAMPLE: &str = "/api/v1/asample";

#[test]
fn samples_that_queued_before_a_refusal_are_throttled_after_it() {
    let server = FakeServer::new();
    let [early, refusal, late] = [Gate::new(), Gate::new(), Gate::new()];
    let (in_flight, max_in_flight) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gates, counts) =
        ([early.clone(), refusal.clone(), late.clone()], (in_flight.clone(), max_in_flight.clone()));
    let refused = AtomicBool::new(false);
    server.script(move |seen| {
        if seen.path != SAMPLE {
            return None;
        }
        // The number of tokens in the prompt tells the samples apart: 2 is the sample that is refused once, 1 a sample
        // that was sent before the refusal, 3 a sample that is sent after the refusal.
        match prompt_length(seen) {
            2 if !refused.swap(true, Ordering::Relaxed) => {
                gates[1].pass();
                return Some(Act::status(429, "too many"));
            }
            1 | 2 => gates[0].pass(),
            _ => {
                counts.1.fetch_max(counts.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gates[2].pass();
                counts.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        None
    });
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let mut all: Vec<_> = (0..400).map(|i| sample(&sampler, if i == 0 { 2 } else { 1 })).collect();
    eventually("all permits are taken", || server.requests_to(SAMPLE).len() == 400);
    all.extend((0..30).map(|_| sample(&sampler, 3)));
    eventually("thirty more wait for one", || service.dump().operations.len() == 430);
    refusal.open();
    eventually("the refused one is sent again", || server.requests_to(SAMPLE).len() == 401);
    early.open();
    eventually("ten late samples are in flight", || in_flight.load(Ordering::SeqCst) == 10);
    // Wait a little: if the client had the fault that this test looks for, it would now send an eleventh late sample.
    std::thread::sleep(std::time::Duration::from_millis(50));
    late.open();
    tinkex::wait_all(all).unwrap();
    assert_eq!(max_in_flight.load(Ordering::SeqCst), 10);
}
