//! Responses with fewer or more items than requested are errors, so that a caller may index into a result without a
//! check.

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{LossFn, ModelInput, SampleOptions, SamplingParams};
use tinkex::{Error, ErrorKind};

use crate::util::{datum, training};

const RETRIEVE: &str = "/api/v1/retrieve_future";

/// Requests two samples of a prompt of three tokens, on a server that applies `change` to the result. Returns the
/// number of sequences.
fn sampled(options: SampleOptions, change: impl FnOnce(&mut Value)) -> Result<usize, Error> {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let sequence = json!({"tokens": [7, 7], "logprobs": [-1, -1], "stop_reason": "length",
        "topk_logprobs": [[[7, -1]], [[7, -1]]]});
    let mut result = json!({"sequences": [sequence, sequence], "prompt_logprobs": [null, -1, -1],
        "topk_prompt_logprobs": [null, [[7, -1]], [[7, -1]]], "type": "sample"});
    change(&mut result);
    server.always(RETRIEVE, Act::json(result));
    let params = SamplingParams { max_tokens: Some(2), ..Default::default() };
    let response = sampler.sample_with(&ModelInput::from_ints([1, 2, 3]), 2, &params, &options).wait()?;
    Ok(response.sequences.len())
}

#[test]
fn a_sample_with_a_wrong_number_of_sequences_or_logprobs_is_an_error() {
    type Change = fn(&mut Value);
    let everything = || SampleOptions {
        include_prompt_logprobs: true,
        topk_prompt_logprobs: 1,
        topk_sample_logprobs: 1,
        ..Default::default()
    };
    assert_eq!(sampled(everything(), |_| ()).unwrap(), 2);
    let table: [(&str, Change); 9] = [
        ("no sequence", |it| it["sequences"] = json!([])),
        ("one sequence", |it| drop(it["sequences"].as_array_mut().unwrap().pop())),
        ("three sequences", |result| {
            let one = result["sequences"][0].clone();
            result["sequences"].as_array_mut().unwrap().push(one);
        }),
        ("too few log-probabilities", |it| it["sequences"][1]["logprobs"] = json!([-1])),
        ("too few rows", |it| it["sequences"][1]["topk_logprobs"] = json!([[[7, -1]]])),
        ("no rows", |it| it["sequences"][1]["topk_logprobs"] = json!(null)),
        ("no log-probabilities of the prompt", |it| it["prompt_logprobs"] = json!(null)),
        ("too many log-probabilities of the prompt", |it| it["prompt_logprobs"] = json!([null, -1, -1, -1])),
        ("no rows of the prompt", |it| it["topk_prompt_logprobs"] = json!(null)),
    ];
    for (name, change) in table {
        let error = sampled(everything(), change).unwrap_err();
        // If the lists of likeliest tokens (the rows) are missing completely, the server does not know the option. The
        // error is then `Incompatible`.
        let kind = if name.starts_with("no rows") { ErrorKind::Incompatible } else { ErrorKind::Decode };
        assert_eq!((error.kind(), error.operation()), (&kind, Some("sample")), "{name}: {error}");
    }
    // Fields that were not requested may be missing or present.
    for change in [(|it| it["prompt_logprobs"] = json!(null)) as Change, |_| ()] {
        assert_eq!(sampled(SampleOptions::default(), change).unwrap(), 2);
    }
}

#[test]
fn prompt_logprobs_that_do_not_match_the_prompt_are_an_error() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    for scores in [json!(null), json!([null]), json!([null, -1, -1, -1])] {
        let result =
            json!({"sequences": [{"tokens": [7], "stop_reason": "length"}], "prompt_logprobs": scores});
        server.next(RETRIEVE, Act::json(result));
        let error = sampler.compute_logprobs(&ModelInput::from_ints([1, 2, 3])).wait().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Decode, "{scores}: {error}");
    }
}

#[test]
fn a_pass_with_a_wrong_number_of_outputs_or_logprobs_is_an_error() {
    let output = |n: usize| json!({"logprobs": vec![-1.0; n]});
    for (outputs, problem) in [
        (json!([]), "0 outputs for the 2 data"),
        (json!([output(4)]), "1 outputs for the 2 data"),
        (json!([output(4), output(4), output(4)]), "3 outputs for the 2 data"),
        (json!([output(4), output(3)]), "3 log-probabilities for the 4 targets of datum 1"),
        (json!([output(5), output(4)]), "5 log-probabilities for the 4 targets of datum 0"),
    ] {
        let (server, _service, training) = training();
        server.next(RETRIEVE, Act::json(json!({"loss_fn_outputs": outputs, "metrics": {"loss:sum": 1}})));
        let error = training.forward_backward(vec![datum(); 2], LossFn::CrossEntropy).wait().unwrap_err();
        assert!(*error.kind() == ErrorKind::Decode && error.to_string().contains(problem), "{error}");
        // The server accepted the pass, so that the client is not poisoned.
        training.forward(vec![datum(); 2], LossFn::CrossEntropy).wait().unwrap();
    }
}
