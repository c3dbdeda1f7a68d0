//! Invalid input is refused: the error names the path of the invalid value, such as `data[3].model_input`. No request
//! is sent, and the client stays usable.

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{
    AccessToken, AdamParams, CopyOptions, Datum, FromStateOptions, LoraConfig, LossFn, ModelInput,
    SamplerPath, SamplingParams, TensorData, TrainingPath, Ttl, Values,
};
use tinkex::{CloseStatus, ErrorKind, Pending, ServiceClient};

use crate::util::{datum, path_of, training};

/// Waits for `pending`, which must fail, and returns the path of the invalid value from the error.
#[track_caller]
fn refused<T: Send + std::fmt::Debug>(pending: Pending<T>) -> String {
    let error = pending.wait().unwrap_err();
    assert!(error.is_user_error() && !error.is_retryable());
    path_of(&error)
}

#[test]
fn bad_data_is_refused_with_its_path_and_nothing_is_sent() {
    let (server, _service, training) = training();
    let before = server.requests().len();
    let batch = |bad: Datum| vec![datum(), datum(), datum(), bad];
    let pass = |data| training.forward_backward(data, LossFn::CrossEntropy);

    assert_eq!(refused(pass(vec![])), "data");
    assert_eq!(refused(training.forward(vec![], LossFn::CrossEntropy)), "data");
    let input = "data[3].loss_fn_inputs";
    assert_eq!(
        refused(pass(batch(datum().with("target_tokens", vec![1i64])))),
        format!("{input}[\"target_tokens\"]")
    );
    let mut weights = vec![1.0f32; 4];
    weights[2] = f32::NAN;
    assert_eq!(
        refused(pass(batch(datum().with("weights", weights.clone())))),
        format!("{input}[\"weights\"][2]")
    );
    weights[2] = f32::INFINITY;
    assert_eq!(refused(pass(batch(datum().with("weights", weights)))), format!("{input}[\"weights\"][2]"));
    let negative = datum().with("target_tokens", vec![1i64, 2, -3, 4]);
    assert_eq!(refused(pass(batch(negative))), format!("{input}[\"target_tokens\"][2]"));
    let negative = Datum::cross_entropy(&[1, -2], &[3]);
    assert_eq!(refused(pass(batch(negative))), "data[3].model_input.chunks[0].tokens[1]");
    assert_eq!(refused(pass(batch(Datum::new(ModelInput::default())))), "data[3].model_input");

    let adam = AdamParams { learning_rate: f64::NAN, ..Default::default() };
    assert_eq!(refused(training.optim_step(adam)), "adam_params.learning_rate");
    assert_eq!(refused(training.save_state("", Ttl::Never)), "name");
    let minute = Ttl::After(std::time::Duration::from_secs(60));
    assert_eq!(refused(training.save_weights_for_sampler("x", minute)), "ttl");
    assert_eq!(refused(training.load_state("tinker://run/sampler_weights/x")), "path");
    assert_eq!(server.requests().len(), before, "a request was sent");

    training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn a_name_that_cannot_be_a_part_of_a_path_is_refused_by_every_verb_before_anything_is_sent() {
    let (server, service, training) = training();
    let rest = service.create_rest_client();
    let before = server.requests().len();
    let long = "x".repeat(256);
    for name in
        ["", ".", "..", "a/b", "/a", "a/", "tinker://r/weights/x", "a\nb", "a\0", "a\u{202e}b", " a", &long]
    {
        assert_eq!(refused(training.save_state(name, Ttl::Never)), "name", "{name:?}");
        assert_eq!(refused(training.save_weights_for_sampler(name, Ttl::Never)), "name", "{name:?}");
        assert_eq!(refused(training.save_weights_external(name, Ttl::Never, &[])), "name", "{name:?}");
    }
    for name in ["", ".", "..", "a/b", "a\nb"] {
        let path = format!("tinker://run/weights/{name}");
        assert_eq!(refused(training.load_state(&path)), "path", "{name:?}");
        assert_eq!(path_of(&service.create_training_client_from_state(&path).unwrap_err()), "path");
        assert_eq!(path_of(&rest.delete_checkpoint_from_tinker_path(&path).unwrap_err()), "path");
        let id = format!("weights/{name}");
        assert!(rest.delete_checkpoint("run", &id).unwrap_err().is_user_error());
        // Ids of runs and sessions must not contain a slash either.
        for error in [
            rest.list_checkpoints(&format!("run/{name}")).unwrap_err(),
            rest.get_session(&format!("s/{name}")).unwrap_err(),
            rest.get_training_run(&format!("r/{name}")).map(drop).unwrap_err(),
        ] {
            assert!(error.is_user_error(), "{error}");
        }
    }
    assert_eq!(server.requests().len(), before, "a request was sent");
    for name in ["step-100", "a.b", "größe 1", "..."] {
        training.save_state(name, Ttl::Never).wait().unwrap();
    }
}

#[test]
fn bad_prompts_and_parameters_are_refused_with_their_path_and_nothing_is_sent() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let before = server.requests().len();
    let prompt = ModelInput::from_ints([1]);
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };

    assert_eq!(refused(sampler.sample(&ModelInput::default(), 1, &params)), "prompt");
    assert_eq!(
        refused(sampler.sample(&ModelInput::from_ints([-7]), 1, &params)),
        "prompt.chunks[0].tokens[0]"
    );
    assert_eq!(refused(sampler.sample(&prompt, 0, &params)), "num_samples");
    let with = |change: fn(&mut SamplingParams)| {
        let mut params = params.clone();
        change(&mut params);
        refused(sampler.sample(&prompt, 1, &params))
    };
    assert_eq!(with(|it| it.temperature = f32::NAN), "sampling_params.temperature");
    assert_eq!(with(|it| it.top_p = -0.1), "sampling_params.top_p");
    assert_eq!(with(|it| it.top_p = f32::NAN), "sampling_params.top_p");
    assert_eq!(with(|it| it.top_k = -2), "sampling_params.top_k");
    assert_eq!(with(|it| it.stop = Some("".into())), "sampling_params.stop[0]");
    assert_eq!(refused(sampler.compute_logprobs(&ModelInput::from_ints([]))), "prompt");
    assert_eq!(server.requests().len(), before, "a request was sent");

    sampler.sample(&prompt, 1, &params).wait().unwrap();
}

#[test]
fn malformed_paths_and_models_with_nothing_to_train_are_refused_before_the_session_is_opened() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    for path in ["tinker://run", "tinker://run/other/x", "run/weights/x", "tinker://run/sampler_weights/x"] {
        assert_eq!(path_of(&service.create_training_client_from_state(path).unwrap_err()), "path");
    }
    for path in ["tinker://run", "tinker://run/external_weights/x"] {
        assert_eq!(path_of(&service.create_sampling_client(path).unwrap_err()), "path");
    }
    assert_eq!(path_of(&service.create_sampling_client("").unwrap_err()), "model");
    let nothing =
        LoraConfig { train_attn: false, train_mlp: false, train_unembed: false, ..Default::default() };
    assert_eq!(path_of(&service.create_lora_training_client("m", nothing).unwrap_err()), "lora_config");
    assert!(server.requests().is_empty());
}

#[test]
fn a_sparse_tensor_too_large_for_memory_is_refused_where_it_must_be_sent_dense() {
    let sparse = |rows: usize, columns: usize| {
        TensorData::from_csr([rows, columns], vec![0, 1], vec![0], Values::F32(vec![1.0]))
    };
    let datum = |columns| {
        Datum::new(ModelInput::from_ints([1]))
            .with("target_tokens", vec![2i64])
            .with("weights", sparse(1, columns))
    };
    let server = FakeServer::new();
    let dense = server.in_memory().dense_tensors(true).build().unwrap();
    let dense = dense.create_lora_training_client("fake/model", Default::default()).unwrap();
    let any = server.in_memory().build().unwrap();
    let any = any.create_lora_training_client("fake/model", Default::default()).unwrap();
    let place = "data[0].loss_fn_inputs[\"weights\"]";
    let pass = |client: &tinkex::TrainingClient, columns| {
        client.forward_backward(vec![datum(columns)], LossFn::Other("mine".into())).wait()
    };
    assert_eq!(path_of(&pass(&dense, 1_000_000_000_000).unwrap_err()), place);
    // A shape with `isize::MAX` elements or more is refused by both clients.
    for client in [&dense, &any] {
        assert_eq!(path_of(&pass(client, usize::MAX).unwrap_err()), place);
    }
    assert!(server.requests_to("/api/v1/forward_backward").is_empty());
    pass(&dense, 1000).unwrap();
    pass(&any, 1_000_000_000_000).unwrap();
}

#[test]
fn a_training_path_is_not_accepted_as_a_sampler_path() {
    assert!("tinker://r/weights/x".parse::<TrainingPath>().is_ok());
    let error = "tinker://r/weights/x".parse::<SamplerPath>().unwrap_err();
    assert!(error.to_string().contains("save_weights_for_sampler"), "{error}");
}

#[test]
fn a_key_without_its_prefix_and_a_url_without_scheme_are_refused_when_the_client_is_built() {
    let build = |key: &str, url: &str| ServiceClient::builder().api_key(key).base_url(url).build();
    for (key, url) in
        [("sk-1", "http://h"), ("tml-1", "localhost:8000"), ("tml-1", "file:///etc"), ("", "http://h")]
    {
        let error = build(key, url).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config, "{key} {url}");
        assert!(key.is_empty() || !format!("{error:?}{error}").contains(key), "the error contains the key");
    }
    assert!(build("tml-1", "http://h").is_ok());
}

#[test]
fn an_access_token_that_is_not_a_valid_header_is_refused_without_being_shown() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let rest = service.create_rest_client();
    for bad in ["from-the-owner\n", "", " from-the-owner", "from\u{e4}-the-owner", &"x".repeat(9000)] {
        let token = AccessToken::new(bad);
        let options = CopyOptions {
            destination_project_id: Some("p".into()),
            weights_access_token: Some(token.clone()),
            ..CopyOptions::default()
        };
        let options_of_state = FromStateOptions { weights_access_token: Some(token), ..Default::default() };
        for error in [
            rest.copy_weights("tinker://r/weights/x", &options).unwrap_err(),
            service
                .create_training_client_from_state_with("tinker://r/weights/x", &options_of_state)
                .map(drop)
                .unwrap_err(),
        ] {
            assert!(error.is_user_error() && !error.is_retryable(), "{error:?}");
            assert_eq!(path_of(&error), "weights_access_token");
            assert!(!format!("{error} {error:?}").contains("owner"), "{error:?}");
        }
    }
    for path in ["/api/v1/copy_weights", "/api/v1/load_weights"] {
        assert!(server.requests_to(path).is_empty(), "{path} was sent");
    }
}

#[test]
fn ids_from_the_server_are_percent_encoded_in_urls() {
    let server = FakeServer::new();
    server.always("/api/v1/create_session", Act::json(json!({"session_id": "session 1?#"})));
    server.always("/api/v1/create_sampling_session", Act::json(json!({"sampling_session_id": "of 1?#"})));
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    service.create_sampling_client("tinker://r/sampler_weights/x").unwrap();
    service.close(CloseStatus::Success).unwrap();
    for path in ["/api/v1/samplers/of%201%3F%23", "/api/v1/sessions/session%201%3F%23/finish"] {
        assert_eq!(server.requests_to(path).len(), 1, "{path}");
    }
    // An id such as `../x` would change the path of a request. It is an error, and no request is sent with this id.
    server.always("/api/v1/create_sampling_session", Act::json(json!({"sampling_session_id": "../x"})));
    let service = listening.client().build().unwrap();
    let error = service.create_sampling_client("tinker://r/sampler_weights/x").map(drop).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Decode, "{error:?}");
}
