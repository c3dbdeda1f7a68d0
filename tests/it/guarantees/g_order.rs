//! Tests of the guarantee G-ORDER (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 004-8, 004-9, N-10, N-32.
//!
//! The server runs the requests of a model in the order of their sequence ids (seq ids). One thread of the client, its
//! actor, handles one call after the other: it reserves the seq ids of a call and sends all requests of that call
//! before it reserves ids for the next call. If it is unknown whether the server accepted a request, the client is
//! poisoned: it refuses all later calls.

use std::sync::Arc;

use tinkex::testing::Act;
use tinkex::types::{AdamParams, Datum, LossFn, Ttl};
use tinkex::{ErrorKind, wait_all};

use crate::util::{datum, seq_ids, training};

#[test]
fn requests_arrive_in_the_order_of_the_calls_with_ids_from_one() {
    let (server, _service, training) = training();
    let a = training.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let b = training.optim_step(AdamParams::default());
    let c = training.save_state("x", Ttl::Never);
    let d = training.forward(vec![datum()], LossFn::CrossEntropy);
    a.wait().unwrap();
    b.wait().unwrap();
    c.wait().unwrap();
    d.wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2, 3, 4]);
}

#[test]
fn ids_rise_without_a_gap_when_many_threads_submit() {
    let (server, _service, training) = training();
    let training = Arc::new(training);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let steps = (0..10).map(|_| training.optim_step(AdamParams::default()));
                wait_all(steps).unwrap();
            });
        }
    });
    assert_eq!(seq_ids(&server), (1..=80).collect::<Vec<u64>>());
}

/// A batch of 2500 data, which is sent in three requests.
fn large() -> Vec<Datum> {
    vec![datum(); 2500]
}

#[test]
fn a_large_batch_is_split_its_first_part_is_sent_last_and_the_results_are_joined_in_order() {
    let (server, _service, training) = training();
    let step = training.forward_backward(large(), LossFn::CrossEntropy);
    let update = training.optim_step(AdamParams::default());
    let output = step.wait().unwrap();
    update.wait().unwrap();
    assert_eq!(output.loss_fn_outputs.len(), 2500);
    assert_eq!(output.metrics["loss:sum"], 2500.0 * 4.0 * 0.5);
    let ids = seq_ids(&server);
    assert_eq!((ids.len(), ids[2], ids[3]), (4, 1, 4), "{ids:?}");
}

#[test]
fn parts_are_sent_one_after_the_other_if_the_server_disables_parallel_chunks() {
    let server = tinkex::testing::FakeServer::new();
    server.always("/api/v1/client/config", Act::status(200, r#"{"parallel_fwdbwd_chunks":false}"#));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.forward_backward(large(), LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2, 3]);
}

#[test]
fn a_refused_request_gives_its_id_back_and_the_client_goes_on() {
    let (server, _service, training) = training();
    server.next("/api/v1/optim_step", Act::status(422, r#"{"detail":"no such optimizer"}"#));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("no such optimizer"), "{error}");
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 1]);
}

#[test]
fn a_request_that_may_have_been_accepted_poisons_the_client_with_its_cause() {
    let (server, service, training) = training();
    server.always("/api/v1/optim_step", Act::status(500, "boom"));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.http_status(), Some(500));
    let error = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("boom") && !error.is_retryable(), "{error}");
    assert!(server.requests_to("/api/v1/forward_backward").is_empty());
    // Other clients of the service are not affected.
    let other = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    other.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
}

#[test]
fn a_batch_of_which_some_parts_were_refused_says_how_many_were_accepted() {
    let server = tinkex::testing::FakeServer::new();
    server.always("/api/v1/client/config", Act::status(200, r#"{"parallel_fwdbwd_chunks":false}"#));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let answered = std::sync::atomic::AtomicU32::new(0);
    server.script(move |seen| {
        let third = seen.path == "/api/v1/forward_backward"
            && answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 2;
        third.then(|| Act::status(400, r#"{"detail":"bad datum"}"#))
    });
    let error = training.forward_backward(large(), LossFn::CrossEntropy).wait().unwrap_err();
    assert_eq!(error.accepted_parts(), Some((2, 3)));
    assert!(error.to_string().contains("2 of 3 parts were accepted"), "{error}");
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2, 3, 3]);
}

#[test]
fn a_refusal_after_an_attempt_that_may_have_arrived_does_not_give_the_id_back() {
    let (server, _service, training) = training();
    server.next("/api/v1/optim_step", Act::Reset);
    server.next("/api/v1/optim_step", Act::status(403, "a proxy says no"));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.http_status(), Some(403));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Poisoned);
}

#[test]
fn cancelling_an_operation_that_was_never_sent_does_not_poison_the_client() {
    let server = tinkex::testing::FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    // The first operation keeps the actor busy, so that the second is cancelled while it is queued.
    let Act::Answer(answer) = Act::json(serde_json::json!({"request_id": "late"})) else { unreachable!() };
    server.next("/api/v1/optim_step", Act::Drip(answer, std::time::Duration::from_millis(20)));
    let first = training.optim_step(AdamParams::default());
    let second = training.optim_step(AdamParams::default());
    second.cancel();
    assert!(second.wait().unwrap_err().is_cancelled());
    drop(first);
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2]);
}

#[test]
fn after_an_attempt_that_may_have_arrived_only_a_refusal_by_the_server_itself_frees_the_id() {
    let table = [
        ("a proxy that drops requests", Act::status(400, ""), false),
        ("a proxy without this path", Act::status(404, "not here"), false),
        ("the server, about the content", Act::status(422, r#"{"detail":"no such option"}"#), true),
    ];
    for (source, refusal, frees_the_id) in table {
        let (server, _service, training) = training();
        // After the lost connection it is unknown whether the server accepted the first attempt.
        server.next("/api/v1/optim_step", Act::Reset);
        server.always("/api/v1/optim_step", refusal);
        training.optim_step(AdamParams::default()).wait().unwrap_err();
        server.behave("/api/v1/optim_step");
        let next = training.optim_step(AdamParams::default()).wait();
        assert_eq!(next.is_ok(), frees_the_id, "{source}: {next:?}");
    }
}
