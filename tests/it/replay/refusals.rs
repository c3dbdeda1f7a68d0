//! The part of the recorded program with invalid calls: the crate or the server refuses most of them. Numbers such as
//! the 234 of `replay.assert_info(234, …)` are the numbers of the recorded exchanges.

use std::sync::mpsc;

use tinkex::testing::codecs;
use tinkex::types::{LoraConfig, LossFn, Ttl};
use tinkex::{Canceller, Category, Error, ErrorKind, SamplingClient};

use super::message;
use super::program::{Clients, MODEL, STATE, examples, forward};
use super::sampling::{prompt, up_to};
use super::server::Replay;
use crate::util::path_of;

const UNKNOWN: ErrorKind = ErrorKind::NotFound;

pub(super) fn run(replay: &Replay, clients: &Clients, on_base: &SamplingClient) {
    let Clients { service, rest, training } = clients;
    let rank = |rank| LoraConfig { rank, ..Default::default() };
    // The recorded server accepts any name for its only model.
    let misnamed = service.create_lora_training_client("no/such-model", rank(8)).unwrap();
    replay.assert_info(234, &misnamed);
    let too_large = service.create_lora_training_client(MODEL, rank(64));
    replay.assert_failure(239, ErrorKind::RequestFailed { category: Category::User }, too_large);

    let missing = service.create_training_client_from_state("tinker://nope/weights/none");
    replay.assert_failure(241, UNKNOWN, missing);
    let no_path = service.create_training_client_from_state("/etc/nope");
    assert_eq!(path_of(&no_path.unwrap_err()), "path");
    let unsent = codecs::encode_load("session_f39fe152", 7, "/etc/nope", false);
    replay.not_sent(243, Some(as_json(unsent)));
    let missing = service.create_sampling_client("tinker://nope/sampler_weights/none");
    replay.assert_failure(246, UNKNOWN, missing);
    let bad_name = training.save_state("bad name/with slash", Ttl::Never);
    assert_eq!(path_of(&bad_name.wait().unwrap_err()), "name");
    replay.not_sent(248, None);
    replay.assert_failure(250, UNKNOWN, rest.get_training_run("nope"));
    let too_late = training.load_state(STATE);
    replay.assert_failure(252, ErrorKind::Status { code: 400 }, too_late.wait());

    let nothing = on_base.sample(&prompt(), 1, &up_to(0));
    replay.assert_failure(254, ErrorKind::Status { code: 400 }, nothing.wait());
    let no_loss = training.forward_backward(examples(), LossFn::Other("no_such_loss".into()));
    replay.assert_failure(256, ErrorKind::Status { code: 422 }, no_loss.wait());

    let small = service.create_lora_training_client(MODEL, rank(4)).unwrap();
    replay.assert_info(260, &small);
    replay.assert_pass(261, &forward(training).wait().unwrap());
    replay.heartbeat();

    // The recorded server answers a datum without targets with an error. This crate refuses to send such data for the
    // losses that it knows. It does not check the data of a `LossFn::Other`, so with `Other("cross_entropy")` the data
    // are sent.
    let without_targets = || {
        let mut datum = examples().swap_remove(0);
        datum.loss_fn_inputs.clear();
        vec![datum.with("weights", vec![1.0f32; 12])]
    };
    let refused = small.forward_backward(without_targets(), LossFn::CrossEntropy).wait();
    assert_eq!(path_of(&refused.unwrap_err()), r#"data[0].loss_fn_inputs["target_tokens"]"#);
    // The recorded program cancelled this call after 15 s, during the pause after the sixth attempt (exchange 270).
    // Here it is cancelled just before the answer to that attempt, so that there is no seventh attempt.
    let (canceller, cancellers) = mpsc::channel::<Canceller>();
    replay.before_answering(270, move || cancellers.recv().unwrap().cancel());
    let unanswered = small.forward_backward(without_targets(), LossFn::Other("cross_entropy".into()));
    canceller.send(unanswered.canceller()).unwrap();
    assert!(unanswered.wait().unwrap_err().is_cancelled());
    replay.heartbeat();
}

fn as_json(body: Result<Vec<u8>, Error>) -> serde_json::Value {
    message::read(Some("application/json"), &body.unwrap())
}
