//! Servers that read passes (`forward_backward` and `forward` requests) only as JSON. The client sends its first pass
//! as protobuf and repeats it as JSON after certain errors (PROTOCOL §3.3). If a server reads protobuf and only fails
//! once, the client must not conclude that the server reads only JSON.

use serde_json::json;
use tinkex::testing::{Act, FakeServer, Seen};
use tinkex::types::*;
use tinkex::{ErrorKind, TrainingClient};

use crate::util::datum;

const BACKWARD: &str = "/api/v1/forward_backward";
const FORWARD: &str = "/api/v1/forward";

fn is_json(seen: &Seen) -> bool {
    seen.header("content-type").is_some_and(|it| it.contains("json"))
}

/// Lists the passes that the server got: `true` for JSON, and the sequence id of a JSON pass.
fn passes(server: &FakeServer) -> Vec<(bool, Option<u64>)> {
    let seen = server.requests().into_iter().filter(|it| it.path == BACKWARD || it.path == FORWARD);
    let id = |seen: &Seen| seen.json().and_then(|body| body["seq_id"].as_u64());
    seen.map(|it| (is_json(&it), id(&it))).collect()
}

/// Creates a server that answers `forward_backward` with `act` if the pass is protobuf, and normally if it is JSON.
fn reading_json(act: Act) -> FakeServer {
    let server = FakeServer::new();
    server.script(move |seen| (seen.path == BACKWARD && !is_json(seen)).then(|| act.clone()));
    server
}

fn client(server: &FakeServer) -> TrainingClient {
    let service = server.in_memory().build().unwrap();
    service.create_lora_training_client("fake/model", Default::default()).unwrap()
}

fn pass(training: &TrainingClient) -> tinkex::Result<ForwardBackwardOutput> {
    training.forward_backward(vec![datum(); 2], LossFn::CrossEntropy).wait()
}

#[test]
fn a_server_that_reads_only_json_is_detected_by_the_first_pass_and_remembered() {
    let not_utf8 = || Act::status(500, "Internal Server Error");
    for act in [not_utf8(), Act::status(422, r#"{"detail":[]}"#), Act::status(415, ""), Act::status(400, "?")]
    {
        let server = reading_json(act);
        let training = client(&server);
        assert_eq!(pass(&training).unwrap().loss_fn_outputs.len(), 2);
        assert_eq!(passes(&server), [(false, None), (true, Some(1))], "the same message, with the same id");
        let steps = (training.optim_step(AdamParams::default()), pass(&training));
        steps.0.wait().unwrap();
        steps.1.unwrap();
        training.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        assert_eq!(passes(&server)[2..], [(true, Some(3)), (true, Some(4))]);
        assert_eq!(server.requests_to(FORWARD).len(), 1);
    }
}

#[test]
fn a_server_without_client_config_gets_json_from_the_start() {
    for status in [404, 405] {
        let server = reading_json(Act::status(500, "Internal Server Error"));
        server.always("/api/v1/client/config", Act::status(status, r#"{"detail":"Not Found"}"#));
        let training = client(&server);
        pass(&training).unwrap();
        training.forward_backward_custom(vec![datum()], ones).wait().unwrap();
        assert_eq!(passes(&server), [(true, Some(1)), (true, Some(2)), (true, Some(3))]);
        // A server that reads only protobuf answers JSON with 415.
        let server = FakeServer::new();
        server.always("/api/v1/client/config", Act::status(status, r#"{"detail":"Not Found"}"#));
        server.script(|seen| (seen.path == BACKWARD && is_json(seen)).then(|| Act::status(415, "")));
        let training = client(&server);
        pass(&training).unwrap();
        pass(&training).unwrap();
        assert_eq!(passes(&server).iter().map(|it| it.0).collect::<Vec<_>>(), [true, false, false]);
    }
}

fn ones(_: &[Datum], logprobs: &[&[f32]]) -> tinkex::Result<CustomLoss> {
    Ok(CustomLoss::new(1.0, logprobs.iter().map(|it| vec![1.0; it.len()]).collect()))
}

#[test]
fn a_pass_refused_in_both_formats_poisons_no_client() {
    let refusal = r#"{"detail":"loss_fn: input should be 'cross_entropy'"}"#;
    // First a server that reads both formats, then a server that answers every protobuf pass with 500.
    for protobuf in [Act::status(422, refusal), Act::status(500, "Internal Server Error")] {
        let reads_only_json = matches!(&protobuf, Act::Answer(answer) if answer.status == 500);
        let server = FakeServer::new();
        server.script(move |seen| {
            let is_pass = seen.path == BACKWARD;
            let has_dro = is_pass && seen.body.windows(3).any(|bytes| bytes == b"dro");
            if is_json(seen) {
                has_dro.then(|| Act::status(422, refusal))
            } else {
                (is_pass && (has_dro || reads_only_json)).then(|| protobuf.clone())
            }
        });
        let training = client(&server);
        let mut sampled = datum().with("logprobs", vec![-0.5f32; 4]).with("advantages", vec![1f32; 4]);
        sampled.loss_fn_inputs.remove("weights");
        let error = training.forward_backward(vec![sampled], LossFn::Dro).wait().unwrap_err();
        assert!(error.http_status() == Some(422) && error.to_string().contains("loss_fn"), "{error}");
        pass(&training).unwrap();
        assert_eq!(passes(&server).last().unwrap().0, reads_only_json);
    }
}

#[test]
fn a_pass_that_was_accepted_in_protobuf_before_a_failure_is_found_again_in_protobuf() {
    // The server reads both formats. It accepted the first pass but answered 500. It refuses the repetition as JSON
    // with 409, because the bytes differ from those that it accepted.
    let server = FakeServer::new();
    server.next(BACKWARD, Act::status(500, "oops"));
    server.script(|seen| {
        let detail = r#"{"detail":"another request has this seq_id"}"#;
        (seen.path == BACKWARD && is_json(seen)).then(|| Act::status(409, detail))
    });
    let training = client(&server);
    pass(&training).unwrap();
    pass(&training).unwrap();
    let are_json: Vec<_> = passes(&server).into_iter().map(|it| it.0).collect();
    assert_eq!(are_json, [false, true, false, false], "the conflict is not retried");
}

#[test]
fn one_failure_of_a_server_that_reads_protobuf_does_not_switch_it_to_json() {
    let not_protobuf = || Act::status(422, r#"{"detail":"body: not a protobuf message"}"#);
    for refusal in [Act::status(415, ""), not_protobuf(), Act::status(500, "oops")] {
        let server = FakeServer::new();
        let act = refusal.clone();
        server.script(move |seen| (seen.path == BACKWARD && is_json(seen)).then(|| act.clone()));
        server.next(BACKWARD, Act::status(500, "oops"));
        let training = client(&server);
        pass(&training).unwrap();
        pass(&training).unwrap();
        let are_json: Vec<_> = passes(&server).into_iter().map(|it| it.0).collect();
        assert_eq!(are_json, [false, true, false, false], "{refusal:?}");
    }
}

#[test]
fn a_server_that_accepted_a_pass_never_gets_another_format() {
    let server = FakeServer::new();
    let training = client(&server);
    pass(&training).unwrap();
    server.next(BACKWARD, Act::status(500, "oops"));
    pass(&training).unwrap();
    server.next(BACKWARD, Act::status(422, r#"{"detail":"no"}"#));
    assert_eq!(pass(&training).unwrap_err().http_status(), Some(422));
    assert!(passes(&server).iter().all(|it| !it.0));
}

#[test]
fn all_parts_of_the_first_call_switch_to_json_and_keep_their_ids() {
    let server = reading_json(Act::status(500, "Internal Server Error"));
    server.always("/api/v1/client/config", Act::json(json!({"fwdbwd_max_chunk_len": 1})));
    let training = client(&server);
    let output = training.forward_backward(vec![datum(); 20], LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(output.loss_fn_outputs.len(), 20);
    let mut ids: Vec<_> = passes(&server).into_iter().filter_map(|it| it.1).collect();
    ids.sort();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn non_finite_numbers_are_refused_before_they_are_sent_as_json() {
    let server = reading_json(Act::status(500, "Internal Server Error"));
    let training = client(&server);
    pass(&training).unwrap();
    let sampled = datum().with("logprobs", vec![f32::NEG_INFINITY; 4]).with("advantages", vec![1f32; 4]);
    let error = training.forward_backward(vec![sampled], LossFn::Other("x".into())).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidInput(_)), "{error:?}");
    pass(&training).unwrap();
    assert_eq!(passes(&server).last().unwrap().1, Some(2));
}
