//! G-TELEM. Answers, as far as there is something to answer, 000-C, 001-1, 001-7, 002-3, N-08, N-09, N-20, N-21, N-33.
//!
//! A program that did not ask for telemetry sends none: there is nothing that could queue, pile up or hold up its end.

use tinkex::CloseStatus;
use tinkex::types::AdamParams;

use super::sample;
use crate::util::training;

#[test]
fn nothing_is_reported_to_anybody_by_default() {
    let (server, service, training) = training();
    training.optim_step(AdamParams::default()).wait().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    sample(&sampler, 1).wait().unwrap();
    sampler.close();
    service.close(CloseStatus::Errored).unwrap();
    assert!(server.requests().iter().all(|it| !it.path.contains("telemetry")));
}
