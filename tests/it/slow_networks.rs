//! Lines that are slow but carry on: what takes longer than the time without progress arrives all the same.

use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, Datum, LossFn};
use tinkex::{ErrorKind, Phase, ServiceClient};

use crate::util::PATIENCE;
use crate::util::relay::{Pace, Relay};

const SHORT: Duration = Duration::from_secs(1);

fn client(relay: &Relay) -> ServiceClient {
    let builder = ServiceClient::builder().without_environment().api_key("tml-test").base_url(relay.url());
    let builder = builder.timeouts(|it| {
        (it.exchange, it.poll) = (SHORT, SHORT);
        (it.submit, it.operation) = (SHORT * 3, PATIENCE);
    });
    builder.build().unwrap()
}

#[test]
fn a_result_that_arrives_more_slowly_than_the_poll_timeout_is_read() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    // 4 MiB take 1.6 s at least, with never more than a moment without a byte.
    let relay = Relay::start(&listening.url(), Pace { down: Duration::from_millis(25), ..Pace::default() });
    let service = client(&relay);
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let mut body = json!({"metrics": {"a": 1.5}, "loss_fn_outputs": [{}]}).to_string();
    body.push_str(&" ".repeat(4 << 20));
    server.always("/api/v1/retrieve_future", Act::status(200, body));
    // How large a result may be follows from what was sent.
    let long = Datum::cross_entropy(&[1], &vec![2; 20_000]);
    assert_eq!(training.forward(vec![long], LossFn::CrossEntropy).wait().unwrap().metrics["a"], 1.5);
}

#[test]
fn data_that_are_sent_more_slowly_than_the_exchange_timeout_are_accepted() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    // 16 MB take 2.4 s at least; the last megabytes of them wait in the system's buffers.
    let relay = Relay::start(&listening.url(), Pace { up: Duration::from_millis(10), ..Pace::default() });
    let service = client(&relay);
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let long = Datum::cross_entropy(&[1], &vec![2; 1_000_000]);
    let output = training.forward_backward(vec![long], LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(output.loss_fn_outputs.len(), 1);
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn an_answer_that_stops_halfway_counts_as_silence() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let ms = Duration::from_millis;
    let service = listening.client().timeouts(|it| {
        (it.exchange, it.poll, it.silence) = (ms(200), ms(200), ms(300));
        it.heartbeat = PATIENCE;
    });
    let service = service.build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/session_heartbeat", Act::Reset);
    server.always_altered("/api/v1/retrieve_future", Act::StallBody);
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stuck { .. }), "{error:?}");
    let cause = error.cause().unwrap();
    assert_eq!(*cause.kind(), ErrorKind::Timeout(Phase::Body), "{error:?}");
    // Asked again after a pause, as after a lost connection.
    assert!(server.requests_to("/api/v1/retrieve_future").len() <= 3, "{error:?}");
}
