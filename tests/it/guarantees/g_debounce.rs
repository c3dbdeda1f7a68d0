//! Tests of the guarantee G-DEBOUNCE (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 003-F6, 003-M4, 004-5, N-34.
//!
//! No state for backoff and debouncing is global. The time until which all samples pause after a 429 belongs to one
//! `ServiceClient`. The queue state that was last reported to the observer, which prevents repeated reports, belongs to
//! one operation. So the state ends with its owner, and no other client shares it.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tinkex::event::{Observer, QueueStateChange};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::AdamParams;

use super::sample;

#[test]
fn a_429_of_one_service_pauses_no_sample_of_another() {
    let server = FakeServer::new();
    let clocks = [VirtualClock::new(), VirtualClock::new()];
    let services = clocks.each_ref().map(|it| server.in_memory_at(it.clone()).build().unwrap());
    let samplers = services.each_ref().map(|it| it.create_sampling_client("fake/model").unwrap());
    server.next("/api/v1/asample", Act::status(429, "too many"));
    sample(&samplers[0], 1).wait().unwrap();
    let before = clocks[1].pauses();
    sample(&samplers[1], 1).wait().unwrap();
    assert_eq!(clocks[1].pauses(), before);
    assert!(!clocks[0].pauses().is_empty());
}

#[derive(Default)]
struct Reasons(Mutex<Vec<String>>);

impl Observer for Reasons {
    fn on_queue_state(&self, change: &QueueStateChange) {
        self.0.lock().unwrap().extend(change.reason.clone());
    }
}

#[test]
fn each_operation_reports_its_own_pause_however_recently_another_did() {
    let (server, reasons) = (FakeServer::new(), Arc::new(Reasons::default()));
    let service = server.in_memory().observer(reasons.clone()).build().unwrap();
    for _ in 0..3 {
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let paused =
            json!({"type": "try_again", "queue_state": "paused_capacity", "queue_state_reason": "full"});
        server.next("/api/v1/retrieve_future", Act::json(paused));
        training.optim_step(AdamParams::default()).wait().unwrap();
        training.close();
    }
    assert_eq!(*reasons.0.lock().unwrap(), ["full"; 3]);
}
