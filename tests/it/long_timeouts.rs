//! Timeouts so long that a sum with the timeout overflows, such as the sum of the current time and the timeout.

use std::time::Duration;

use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, LossFn, ModelInput, SamplingParams};
use tinkex::{ServiceClientBuilder, Timeouts};

use crate::util::datum;

/// The first duration overflows when it is added to any time. The other two may overflow only when more is added, such
/// as a second long timeout.
const LONG: [Duration; 3] =
    [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(i64::MAX as u64 - 2_000_000)];

const ALL: [fn(&mut Timeouts) -> &mut Duration; 10] = [
    |it| &mut it.connect,
    |it| &mut it.exchange,
    |it| &mut it.poll,
    |it| &mut it.heartbeat,
    |it| &mut it.submit,
    |it| &mut it.silence,
    |it| &mut it.operation,
    |it| &mut it.close,
    |it| &mut it.finish,
    |it| &mut it.credential_command,
];

/// Uses a client from its first request to its close: a training step, and sixteen samples in flight.
fn works(builder: ServiceClientBuilder) -> tinkex::Result<()> {
    let service = builder.build()?;
    let training = service.create_lora_training_client("fake/model", Default::default())?;
    let step = training.forward_backward(vec![datum()], LossFn::CrossEntropy);
    training.optim_step(AdamParams::default()).wait_timeout(Duration::MAX)?.expect("an answer");
    step.wait()?;
    let sampler = service.create_sampling_client("fake/model")?;
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    tinkex::wait_all((0..16).map(|_| sampler.sample(&ModelInput::from_ints([1]), 1, &params)))?;
    service.close(tinkex::CloseStatus::Success)
}

#[test]
fn every_timeout_may_be_the_longest_duration() {
    for together in [false, true] {
        let server = FakeServer::new();
        if together {
            server.polls_together();
        }
        let listening = server.listen().unwrap();
        for long in LONG {
            for (i, field) in ALL.into_iter().enumerate() {
                let builder = listening.client().timeouts(|it| *field(it) = long);
                works(builder).unwrap_or_else(|it| panic!("{long:?} in field {i}: {it}"));
                let builder = listening.client().unbounded_operations().timeouts(|it| *field(it) = long);
                works(builder).unwrap_or_else(|it| panic!("{long:?} in field {i}, unbounded: {it}"));
            }
            let builder = listening.client().timeouts(|it| ALL.iter().for_each(|field| *field(it) = long));
            works(builder).unwrap_or_else(|it| panic!("{long:?} everywhere: {it}"));
        }
    }
}

#[test]
fn waits_for_a_token_may_have_the_longest_timeout() {
    let server = FakeServer::new();
    server.always("/api/v1/client/config", Act::json(serde_json::json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::json(serde_json::json!({"jwt": "eyJ.first"})));
    let listening = server.listen().unwrap();
    let builder = listening.client().timeouts(|it| ALL.iter().for_each(|field| *field(it) = Duration::MAX));
    let service = builder.build().unwrap();
    let rest = service.create_rest_client();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| rest.get_server_capabilities().unwrap());
        }
    });
}

#[cfg(feature = "local")]
#[test]
fn a_long_poll_of_the_engine_may_be_the_longest_duration() {
    use tinkex::local::{Options, Server};
    let server = Server::start(Options { long_poll: Duration::MAX, ..Options::default() }).unwrap();
    let builder = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key());
    let service = builder.build().unwrap();
    let sampler = service.create_sampling_client("tinkex/nano").unwrap();
    let params = SamplingParams { max_tokens: Some(64), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([72]), 2, &params).wait().unwrap();
}
