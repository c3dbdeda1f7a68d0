//! The verbs of the client with two generations of SkyRL, another server of this API: 0.3 is SkyRL-tx 0.3.0, which
//! reads only JSON, and 0.4 is SkyRL 0.4.0. A fake server replays the responses that `tests/python/skyrl.py` recorded
//! from the real packages, both on their JAX backend.

use serde_json::Value;
use tinkex::testing::{Act, FakeServer, Seen};
use tinkex::types::*;
use tinkex::{CloseStatus, Error, ErrorKind, ServiceClient, TrainingClient};

use crate::util::recorded::{act, lines};

const PROMPT: [i32; 3] = [72, 105, 33];
const RECORDED: [(&str, &str); 2] =
    [("0.3", include_str!("../data/skyrl/0.3.jsonl")), ("0.4", include_str!("../data/skyrl/0.4.jsonl"))];

/// A server that replays the recorded responses.
fn server(recorded: &str) -> FakeServer {
    let lines = lines(recorded);
    let server = FakeServer::new();
    server.script(move |seen| Some(answer(&lines, seen)));
    server
}

fn answer(lines: &[Value], seen: &Seen) -> Act {
    let body = seen.json().unwrap_or_default();
    let find = |verb: &str| lines.iter().find(|it| it["verb"] == *verb);
    let path = seen.path.split('?').next().unwrap().trim_start_matches("/api/v1/");
    if path == "retrieve_future" {
        // The fake server uses the name of the recorded verb as the request id, so the request id names the recorded
        // result.
        let line = find(body["request_id"].as_str().unwrap()).unwrap();
        return act(&line["result"], None);
    }
    let verb = verb(seen, path, &body);
    match find(&verb) {
        Some(line) => act(line, line.get("result").map(|_| verb.as_str())),
        None => Act::status(404, r#"{"detail":"Not Found"}"#),
    }
}

/// The name under which the response to a request was recorded.
fn verb(seen: &Seen, path: &str, body: &Value) -> String {
    let is_json = seen.header("content-type").is_some_and(|it| it.contains("json"));
    let names = |word: &[u8]| seen.body.windows(word.len()).any(|it| it == word);
    let dro = if names(b"dro") { ", loss dro" } else { "" };
    match (seen.method.as_str(), path) {
        (_, "forward_backward") if is_json => format!("forward_backward, JSON{dro}"),
        // The last field of the protobuf message is `forward_only` with the value true.
        (_, "forward_backward") if seen.body.ends_with(&[0x30, 1]) => "forward, protobuf".into(),
        (_, "forward_backward") => format!("forward_backward{dro}"),
        (_, "forward") => "forward, JSON".into(),
        (_, "save_weights") if body["path"] == "taken" => "save_weights, again".into(),
        (_, "save_weights_for_sampler") if body["path"].is_null() => {
            "save_weights_for_sampler, unnamed".into()
        }
        (_, "load_weights") if body["model_id"].is_null() => "load_weights, create".into(),
        ("DELETE", _) => "delete".into(),
        (_, path) if path.ends_with("/archive") => "archive".into(),
        (_, path) if path.ends_with("/finish") => "finish".into(),
        (_, path) if path.ends_with("/checkpoints") => "training_runs/{id}/checkpoints".into(),
        (_, path) if path.starts_with("training_runs/") => "training_runs/{id}".into(),
        (_, path) if path.starts_with("samplers/") => "samplers/{id}".into(),
        (_, path) => path.into(),
    }
}

/// Runs `test` once for each generation, with a server of that generation and clients of that server.
fn for_each_generation(test: impl Fn(&str, &FakeServer, &ServiceClient, &TrainingClient)) {
    for (generation, recorded) in RECORDED {
        let server = server(recorded);
        let service = server.in_memory().build().unwrap();
        let lora = LoraConfig { rank: 8, ..Default::default() };
        let training = service.create_lora_training_client("base/model", lora).unwrap();
        test(generation, &server, &service, &training);
    }
}

fn datum() -> Datum {
    Datum::cross_entropy(&PROMPT[..2], &[33, 32])
}

#[test]
fn each_generation_trains_and_its_passes_have_a_loss() {
    for_each_generation(|generation, server, _, training| {
        assert_eq!(training.get_info().base_model.as_deref(), Some("base/model"), "{generation}");
        assert_eq!(training.get_info().lora_rank, Some(8), "{generation}");
        let data = || vec![datum()];
        for pass in [
            training.forward_backward(data(), LossFn::CrossEntropy),
            training.forward(data(), LossFn::CrossEntropy),
        ] {
            let output = pass.wait().unwrap();
            assert!(!output.metrics.contains_key("loss:sum"), "{generation}");
            let logprobs = output.logprobs(0).unwrap();
            let sum = -f64::from(logprobs[1]) - f64::from(logprobs[2]);
            assert!((output.loss().unwrap() - sum).abs() < 1e-6, "{generation}: {output:?}");
            assert!((output.loss_per_token().unwrap() - sum / 2.0).abs() < 1e-6, "{generation}");
        }
        training.optim_step(AdamParams::default()).wait().unwrap();
        let ones = |_: &[Datum], all: &[&[f32]]| {
            Ok::<_, Error>(CustomLoss::new(5.0, all.iter().map(|it| vec![1.0; it.len()]).collect()))
        };
        assert_eq!(training.forward_backward_custom(data(), ones).wait().unwrap().loss(), Some(5.0));
        let step = training.train_step(data(), LossFn::CrossEntropy, AdamParams::default());
        assert!(step.wait().unwrap().0.loss().is_some());
        // 0.3 gets only JSON, 0.4 only protobuf.
        let passes = server.requests().into_iter().filter(|it| it.path.contains("/forward"));
        let is_json = |it: Seen| it.header("content-type").unwrap().contains("json");
        assert!(passes.map(is_json).all(|it| it == (generation == "0.3")), "{generation}");
    });
}

#[test]
fn an_unknown_loss_poisons_no_client() {
    for_each_generation(|generation, _, _, training| {
        let sampled = Datum::new(ModelInput::from_ints(PROMPT))
            .with("target_tokens", vec![105i64, 33, 32])
            .with("logprobs", vec![-1.0f32; 3])
            .with("advantages", vec![1.0f32; 3]);
        let error = training.forward_backward(vec![sampled], LossFn::Dro).wait().unwrap_err();
        assert_eq!(error.http_status(), Some(422), "{generation}: {error:?}");
        assert!(error.to_string().contains("loss_fn"), "{generation}: {error}");
        training.optim_step(AdamParams::default()).wait().unwrap();
    });
}

#[test]
fn each_generation_saves_once_under_a_name_and_loads_in_its_own_way() {
    for_each_generation(|generation, server, service, training| {
        let state = training.save_state("state", Ttl::Never).wait().unwrap().path;
        // Skip this part with 0.3. If the name is taken, 0.3 answers with a status 500, after which the client cannot
        // know whether the server accepted the request.
        if generation != "0.3" {
            let options = SaveStateOptions { overwrite: true, ..Default::default() };
            let error = training.save_state_with("taken", &options).wait().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Conflict), "{generation}: {error:?}");
            assert!(!error.to_string().contains("overwrite"), "{generation}: {error}");
        }
        training.optim_step(AdamParams::default()).wait().unwrap();
        let lora = LoraConfig { rank: 8, ..Default::default() };
        let other = service.create_lora_training_client("base/model", lora).unwrap();
        other.load_state_with_optimizer(&state).wait().unwrap();
        service.create_training_client_from_state(&state).unwrap();
        assert_eq!(server.requests_to("/api/v1/weights_info").len(), 1, "{generation}");
        other.unload_model().wait().unwrap();
    });
}

#[test]
fn each_generation_samples_and_scores_prompts() {
    for_each_generation(|generation, _, service, training| {
        let prompt = ModelInput::from_ints(PROMPT);
        let weights = training.save_weights_for_sampler("weights", Ttl::Never).wait().unwrap().path;
        let named = service.create_sampling_client(&weights).unwrap();
        let unnamed = training.save_weights_and_get_sampling_client().unwrap();
        for sampler in [named, unnamed] {
            let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
            let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
            let sample = sampler.sample_with(&prompt, 1, &params, &options).wait().unwrap();
            assert!(!sample.sequences[0].tokens.is_empty(), "{generation}");
            let computed = sampler.compute_logprobs(&prompt).wait().unwrap();
            for logprobs in [sample.prompt_logprobs.unwrap(), computed] {
                let are_present: Vec<_> = logprobs.iter().map(Option::is_some).collect();
                assert_eq!(are_present, [false, true, true], "{generation}: {logprobs:?}");
            }
        }
    });
}

#[test]
fn each_generation_lists_its_objects_and_missing_endpoints_are_incompatible() {
    for_each_generation(|generation, _, service, training| {
        let rest = service.create_rest_client();
        assert_eq!(rest.get_server_capabilities().unwrap().supported_models.len(), 1);
        assert!(!rest.list_training_runs().page(20, 0).unwrap().items.is_empty(), "{generation}");
        let run = rest.get_training_run(training.model_id()).unwrap();
        assert_eq!(run.lora_rank, Some(8), "{generation}");
        let checkpoints = rest.list_checkpoints(training.model_id()).unwrap();
        assert!(2 <= checkpoints.len(), "{generation}: {checkpoints:?}");
        let weights = training.save_weights_for_sampler("weights", Ttl::Never).wait().unwrap().path;
        rest.get_checkpoint_archive_url(&weights).unwrap();
        let error = rest.list_sessions().page(20, 0).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Incompatible), "{generation}: {error:?}");
        service.close(CloseStatus::Success).unwrap();
    });
}
