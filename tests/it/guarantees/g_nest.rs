//! Tests of the guarantee G-NEST (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`: 002-2,
//! N-04, N-06.
//!
//! A thread class is a group of threads for one kind of job. A job of the client never waits for another job of its
//! thread class. The client may split a pass (a `forward` or `forward_backward` call) into parts. One job waits for the
//! results of all parts. If no thread is free to help, one thread sends all parts. So one thread for each class is
//! enough.

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, LossFn};

use super::sample;
use crate::util::{datum, in_time};

#[test]
fn one_thread_is_enough_for_passes_of_many_parts_and_samples() {
    in_time(|| {
        let server = FakeServer::new();
        let service = server.in_memory().threads(|threads| threads.max_in_flight = 1).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let passes: Vec<_> =
            (0..3).map(|_| training.forward_backward(vec![datum(); 9000], LossFn::CrossEntropy)).collect();
        let step = training.optim_step(AdamParams::default());
        let sampler = training.save_weights_and_get_sampling_client().unwrap();
        let samples: Vec<_> = (0..10).map(|_| sample(&sampler, 1)).collect();
        for pass in passes {
            assert_eq!(pass.wait().unwrap().loss_fn_outputs.len(), 9000);
        }
        step.wait().unwrap();
        tinkex::wait_all(samples).unwrap();
    });
}

#[test]
fn one_thread_is_enough_to_create_a_client_in_three_requests() {
    in_time(|| {
        let server = FakeServer::new();
        let refused = Act::status(422, r#"{"detail":[{"loc":["body","model_id"],"msg":"Field required"}]}"#);
        server.next("/api/v1/load_weights", refused);
        let info = json!({"base_model": "fake/model", "is_lora": true, "lora_rank": 7});
        server.next("/api/v1/weights_info", Act::json(info));
        let service = server.in_memory().threads(|threads| threads.max_in_flight = 1).build().unwrap();
        service.create_training_client_from_state("tinker://r/weights/x").unwrap();
    });
}
