//! Slow connections that make progress. A transfer may take longer than its timeout, because the timeout only limits
//! the time in which no bytes arrive or leave.

use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, Datum, LossFn};
use tinkex::{ErrorKind, Phase, ServiceClient};

use crate::util::TEST_TIMEOUT;
use crate::util::relay::{Pace, Relay};

const SHORT: Duration = Duration::from_secs(1);

fn client(relay: &Relay) -> ServiceClient {
    let builder = ServiceClient::builder().without_environment().api_key("tml-test").base_url(relay.url());
    let builder = builder.timeouts(|timeouts| {
        (timeouts.exchange, timeouts.poll) = (SHORT, SHORT);
        (timeouts.submit, timeouts.operation) = (SHORT * 3, TEST_TIMEOUT);
    });
    builder.build().unwrap()
}

#[test]
fn a_result_that_arrives_more_slowly_than_the_poll_timeout_is_read() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    // 4 MiB take at least 1.6 s (64 pieces with a pause of 25 ms each), longer than the poll timeout of 1 s.
    let relay = Relay::start(&listening.url(), Pace { down: Duration::from_millis(25), ..Pace::default() });
    let service = client(&relay);
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let mut body = json!({"metrics": {"a": 1.5}, "loss_fn_outputs": [{}]}).to_string();
    body.push_str(&" ".repeat(4 << 20));
    server.always("/api/v1/retrieve_future", Act::status(200, body));
    // The maximum size of a result grows with the number of targets: send enough of them.
    let long = Datum::cross_entropy(&[1], &vec![2; 20_000]);
    assert_eq!(training.forward(vec![long], LossFn::CrossEntropy).wait().unwrap().metrics["a"], 1.5);
}

#[test]
fn data_that_are_sent_more_slowly_than_the_exchange_timeout_are_accepted() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    // 16 MB take at least 2.4 s. When the client has written everything, the last megabytes are still in socket buffers
    // of the system. So the answer comes some time after the last write.
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
    let service = listening.client().timeouts(|timeouts| {
        (timeouts.exchange, timeouts.poll, timeouts.silence) = (ms(200), ms(200), ms(300));
        timeouts.heartbeat = TEST_TIMEOUT;
    });
    let service = service.build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/session_heartbeat", Act::Reset);
    server.always_altered("/api/v1/retrieve_future", Act::StallBody);
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stuck { .. }), "{error:?}");
    let cause = error.cause().unwrap();
    assert_eq!(*cause.kind(), ErrorKind::Timeout(Phase::Body), "{error:?}");
    // The poll is repeated after a pause, as after a lost connection.
    assert!(server.requests_to("/api/v1/retrieve_future").len() <= 3, "{error:?}");
}
