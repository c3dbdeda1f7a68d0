//! Custom losses written as graphs of tensor operations (PROTOCOL §9.6). A session creates each graph once. Servers
//! that support custom losses compute the loss; for other servers the client computes it.

use std::sync::{Mutex, mpsc};

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, Datum, LossFn, LossGraph, ModelInput, TensorData};
use tinkex::{ErrorKind, ServiceClient, TrainingClient};

use crate::util::{datum, path_of, seq_ids};

const CREATE: &str = "/api/v1/create_custom_loss";
const PASS: &str = "/api/v1/forward_backward";

/// The weighted negative log-likelihood. Its gradient with respect to each log-probability is minus the weight.
fn nll() -> LossGraph {
    let graph = LossGraph::trace("nll", &[("logprobs", 1), ("weights", 1)], |tracer| {
        let loss = -(tracer.logprobs() * tracer.input("weights")).sum();
        tracer.metric("custom/nll:mean", loss);
        loss
    });
    graph.unwrap()
}

fn start(server: &FakeServer) -> (ServiceClient, TrainingClient) {
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    (service, training)
}

#[test]
fn a_server_that_runs_custom_losses_gets_the_graph_once_and_then_its_id() {
    let server = FakeServer::new();
    server.runs_custom_losses();
    let (service, training) = start(&server);
    let loss = service.create_custom_loss(nll()).wait().unwrap();
    assert_eq!((loss.loss_id(), loss.name(), loss.session_id()), (Some("loss-1"), "nll", "session-1"));
    let [seen] = &server.requests_to(CREATE)[..] else { panic!("expected one request") };
    assert_eq!(seen.header("x-sdk-method"), Some("ServiceClient.create_custom_loss"));
    let body = seen.json().unwrap();
    assert_eq!(
        (&body["session_id"], &body["custom_loss_seq_id"], &body["name"], &body["type"]),
        (&json!("session-1"), &json!(0), &json!("nll"), &json!("create_custom_loss"))
    );
    assert_eq!(body["inputs"], json!([{"name": "logprobs", "rank": 1}, {"name": "weights", "rank": 1}]));
    assert_eq!((&body["graph"]["format"], body["graph"]["nodes"].as_array().unwrap().len()), (&json!(1), 6));
    // The client sends one pass, with only those inputs that the loss reads.
    training.forward_backward(vec![datum().with("advantages", vec![1.0f32; 4])], &loss).wait().unwrap();
    let [pass] = &server.requests_to(PASS)[..] else { panic!("expected one pass") };
    let has = |text: &str| pass.body.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("custom") && has("loss_id") && has("loss-1") && has("weights") && !has("advantages"));
    // A graph with the same operations and another name gives the same loss; nothing is sent.
    let again = LossGraph::trace("other", &[("logprobs", 1), ("weights", 1)], |tracer| {
        let loss = -(tracer.logprobs() * tracer.input("weights")).sum();
        tracer.metric("custom/nll:mean", loss);
        loss
    });
    assert_eq!(service.create_custom_loss(again.unwrap()).wait().unwrap(), loss);
    let other = LossGraph::trace("squares", &[("logprobs", 1)], |it| it.logprobs().square().sum()).unwrap();
    assert_eq!(service.create_custom_loss(other).wait().unwrap().loss_id(), Some("loss-2"));
    let numbers: Vec<_> = server
        .requests_to(CREATE)
        .iter()
        .map(|it| it.json().unwrap()["custom_loss_seq_id"].clone())
        .collect();
    assert_eq!(numbers, [0, 1]);
}

#[test]
fn a_server_without_custom_losses_gets_two_passes_with_gradients_as_weights() {
    let server = FakeServer::new();
    let (service, training) = start(&server);
    let loss = service.create_custom_loss(nll()).wait().unwrap();
    assert_eq!(loss.loss_id(), None);
    assert!(server.requests_to(CREATE).is_empty(), "something was sent");
    let step = training.train_step(vec![datum(); 2], &loss, AdamParams::default());
    let (output, _) = step.wait().unwrap();
    // In each of the two data, two of the four targets have the weight 1, the others 0. Each log-probability is −0.5.
    assert_eq!((output.metrics["loss:sum"], output.metrics["custom/nll:mean"]), (2.0, 1.0));
    assert!(output.metrics.contains_key("surrogate_loss:sum"));
    assert_eq!(seq_ids(&server), [1, 2, 3]);
    // The same graph also gives the same loss if the client computes it.
    assert_eq!(service.create_custom_loss(nll()).wait().unwrap(), loss);
    // `forward` alone takes one pass.
    let output = training.forward(vec![datum()], &loss).wait().unwrap();
    assert_eq!((output.metrics["loss:sum"], output.loss_fn_outputs.len()), (1.0, 1));
    assert_eq!(seq_ids(&server), [1, 2, 3, 4]);
}

#[test]
fn a_large_batch_is_computed_by_several_threads_with_the_same_result() {
    let server = FakeServer::new();
    let (service, training) = start(&server);
    let loss = service.create_custom_loss(nll()).wait().unwrap();
    // 1000 data with 100 targets each. Each target has the log-probability −0.5 and the weight 1.
    let one = Datum::cross_entropy(&[1], &[2; 100]);
    let output = training.forward_backward(vec![one; 1000], &loss).wait().unwrap();
    assert_eq!((output.metrics["loss:sum"], output.metrics["custom/nll:mean"]), (50_000.0, 50.0));
    assert_eq!(output.loss_fn_outputs.len(), 1000);
}

#[test]
fn a_loss_is_computed_here_if_the_announced_endpoint_is_missing() {
    let server = FakeServer::new();
    server.runs_custom_losses();
    server.always(CREATE, Act::status(404, r#"{"detail":"Not Found"}"#));
    let (service, training) = start(&server);
    let loss = service.create_custom_loss(nll()).wait().unwrap();
    assert_eq!(loss.loss_id(), None);
    let output = training.forward_backward(vec![datum()], &loss).wait().unwrap();
    assert_eq!(output.metrics["loss:sum"], 1.0);
    assert_eq!(server.requests_to(CREATE).len(), 1);
}

#[test]
fn concurrent_creations_of_the_same_loss_share_one_request() {
    let server = FakeServer::new();
    server.runs_custom_losses();
    let (service, _training) = start(&server);
    let all: Vec<_> = (0..20).map(|_| service.create_custom_loss(nll())).collect();
    let handles = tinkex::wait_all(all).unwrap();
    assert!(handles.into_iter().all(|it| it.loss_id() == Some("loss-1")));
    assert_eq!(server.requests_to(CREATE).len(), 1);
}

#[test]
fn a_refusal_of_a_loss_is_reported_and_not_cached() {
    let server = FakeServer::new();
    server.runs_custom_losses();
    server.next(CREATE, Act::status(422, r#"{"detail":"graph: torch.exp is not allowed"}"#));
    let (service, training) = start(&server);
    let error = service.create_custom_loss(nll()).wait().unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("torch.exp is not allowed"), "{error}");
    let loss = service.create_custom_loss(nll()).wait().unwrap();
    let sent = server.requests_to(CREATE);
    assert_eq!((sent.len(), sent[1].json().unwrap()["custom_loss_seq_id"].clone()), (2, json!(1)));
    training.forward_backward(vec![datum()], loss).wait().unwrap();
}

#[test]
fn each_waiter_for_a_loss_retries_after_the_failure_of_another() {
    let server = FakeServer::new();
    server.runs_custom_losses();
    for _ in 0..2 {
        server.next(CREATE, Act::status(422, r#"{"detail":"not now"}"#));
    }
    let (service, _training) = start(&server);
    let all: Vec<_> = (0..6).map(|_| service.create_custom_loss(nll())).collect();
    let results: Vec<_> = all.into_iter().map(tinkex::Pending::wait).collect();
    assert_eq!(results.iter().filter(|it| it.is_err()).count(), 2);
    assert!(results.iter().flatten().all(|it| it.loss_id() == Some("loss-1")));
    assert_eq!(server.requests_to(CREATE).len(), 3);
}

#[test]
fn cancelling_the_creation_of_a_loss_does_not_affect_other_waiters() {
    let server = FakeServer::new();
    server.runs_custom_losses();
    let (arrived, arrival) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(Some(gate));
    server.script(move |seen| {
        if seen.path == CREATE
            && let Some(gate) = gate.lock().unwrap().take()
        {
            arrived.send(()).unwrap();
            // Blocks until the test drops the sender.
            let _ = gate.recv();
        }
        None
    });
    let (service, _training) = start(&server);
    let first = service.create_custom_loss(nll());
    arrival.recv_timeout(crate::util::TEST_TIMEOUT).unwrap();
    let second = service.create_custom_loss(nll());
    first.cancel();
    assert!(first.wait().unwrap_err().is_cancelled());
    drop(open);
    assert_eq!(second.wait().unwrap().loss_id(), Some("loss-1"));
}

#[test]
fn a_loss_of_another_session_or_data_that_lack_its_inputs_are_refused_before_anything_is_sent() {
    let (server, other) = (FakeServer::new(), FakeServer::new());
    other.always("/api/v1/create_session", Act::json(json!({"session_id": "session-9"})));
    let (service, training) = start(&server);
    let (foreign, _training) = start(&other);
    let foreign = foreign.create_custom_loss(nll()).wait().unwrap();
    let before = server.requests().len();
    let refused =
        |data: Vec<Datum>, loss| path_of(&training.forward_backward(data, loss).wait().unwrap_err());
    assert_eq!(refused(vec![datum()], &foreign), "loss");
    let loss = service.create_custom_loss(nll()).wait().unwrap();
    let mut bare = datum();
    bare.loss_fn_inputs.remove("weights");
    assert_eq!(refused(vec![datum(), bare], &loss), r#"data[1].loss_fn_inputs["weights"]"#);
    let with_option = LossFn::Traced(loss.clone()).with("beta", 0.1);
    let error = training.forward_backward(vec![datum()], with_option).wait().unwrap_err();
    assert_eq!(path_of(&error), r#"loss_fn_config["beta"]"#);
    assert_eq!(server.requests().len(), before, "something was sent");
    training.forward_backward(vec![datum()], &loss).wait().unwrap();
}

#[test]
fn data_of_shapes_that_do_not_fit_the_loss_are_refused_with_the_step_that_fails() {
    let server = FakeServer::new();
    let (service, training) = start(&server);
    // `logprobs` has the shape [tokens, candidates], `advantages` the shape [tokens]. Their product is only defined if
    // both numbers are equal.
    let inputs = [("logprobs", 2), ("advantages", 1)];
    let graph = LossGraph::trace("wide", &inputs, |it| (it.logprobs() * it.input("advantages")).sum());
    let loss = service.create_custom_loss(graph.unwrap()).wait().unwrap();
    let wide = |rows: usize, columns: usize| {
        let targets = TensorData::from(vec![1i64; rows * columns]).with_shape([rows, columns]).unwrap();
        let datum = Datum::new(ModelInput::from_ints(&[1, 2, 3][..rows]));
        datum.with("target_tokens", targets).with("advantages", vec![1.0f32; rows])
    };
    let before = server.requests().len();
    let error = training.forward_backward(vec![wide(3, 3), wide(3, 2)], &loss).wait().unwrap_err();
    assert_eq!(path_of(&error), "data[1]");
    assert!(error.to_string().contains("mul_2") && error.to_string().contains("[3, 2] and [3]"), "{error}");
    assert_eq!(server.requests().len(), before, "something was sent");
    training.forward_backward(vec![wide(3, 3)], &loss).wait().unwrap();
}

#[test]
fn a_gradient_that_is_not_finite_poisons_the_client_and_names_its_place() {
    let server = FakeServer::new();
    let (service, training) = start(&server);
    // The slope of a square root is infinite at 0.
    let graph =
        LossGraph::trace("root", &[("logprobs", 1)], |it| (it.logprobs() + 0.5).sqrt().sum()).unwrap();
    let loss = service.create_custom_loss(graph).wait().unwrap();
    let error = training.forward_backward(vec![datum()], &loss).wait().unwrap_err();
    assert!(
        path_of(&error) == "data[0]"
            && error.to_string().contains("with respect to log-probability 0 is inf"),
        "{error}"
    );
    let after = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(*after.kind(), ErrorKind::Poisoned);
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_that_names_the_datum() {
    // The fake server's log-probabilities are −0.5; divided by a weight of 0 they are −∞.
    let graph = LossGraph::trace("odds", &[("logprobs", 1), ("weights", 1)], |tracer| {
        (tracer.logprobs() / tracer.input("weights")).sum()
    });
    for forward_only in [true, false] {
        let server = FakeServer::new();
        let (service, training) = start(&server);
        let loss = service.create_custom_loss(graph.clone().unwrap()).wait().unwrap();
        let data = vec![
            datum().with("weights", vec![1.0f32; 4]),
            datum().with("weights", vec![1.0f32, 0.0, 1.0, 1.0]),
        ];
        let pass =
            if forward_only { training.forward(data, &loss) } else { training.forward_backward(data, &loss) };
        let error = pass.wait().unwrap_err();
        assert_eq!(path_of(&error), "data[1]");
        assert!(error.to_string().contains("the loss odds is -inf, not a finite number"), "{error}");
    }
    // Gradients are sent as `f32`. A gradient that overflows `f32` is an error.
    let steep = LossGraph::trace("steep", &[("logprobs", 1)], |it| (it.logprobs() * 1e39).sum()).unwrap();
    let error = steep.evaluate(&[datum()], &[&[-0.5; 4]]).unwrap_err();
    assert!(path_of(&error) == "data[0]" && error.to_string().contains("log-probability 0"), "{error}");
}

#[test]
fn a_panic_of_the_traced_function_reaches_the_caller_and_the_next_trace_works() {
    let panicked = std::panic::catch_unwind(|| {
        LossGraph::trace("mine", &[("logprobs", 1)], |_| panic!("my loss fell over"))
    });
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"my loss fell over"));
    LossGraph::trace("mine", &[("logprobs", 1)], |it| it.logprobs().sum()).unwrap();
}

#[test]
fn a_closed_service_creates_no_losses() {
    let server = FakeServer::new();
    let (service, _training) = start(&server);
    service.close(tinkex::CloseStatus::Success).unwrap();
    assert!(service.create_custom_loss(nll()).wait().unwrap_err().is_closed());
}
