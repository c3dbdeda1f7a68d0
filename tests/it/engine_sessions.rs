//! Sessions of the engine: search, traces, account, token authentication, queued requests and the end of a session.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use tinkex::local::{Options, Server};
use tinkex::types::{
    AdamParams, Datum, FinishReason, LoraConfig, LossFn, ModelInput, SamplingParams, SessionSearch,
    SessionStatus, StatusFilter, Stop, Timestamp, Ttl,
};
use tinkex::{CloseStatus, ErrorKind, ServiceClient, ServiceClientBuilder};

use crate::util::engine::{Client, pass, sample};
use crate::util::{TEST_TIMEOUT, eventually};

fn server() -> Server {
    Server::start(Options { threads: 2, ..Options::default() }).unwrap()
}

fn connect(server: &Server) -> ServiceClientBuilder {
    ServiceClient::builder().without_environment().base_url(server.url()).api_key(server.api_key())
}

/// Opens a session with the display name `name`. Returns a client of the session and the session id.
fn session(server: &Server, name: &str) -> (ServiceClient, String) {
    let service = connect(server).display_name(name).user_metadata("team", name).build().unwrap();
    let sampler = service.create_sampling_client("tinkex/nano").unwrap();
    let id = sampler.sampling_session_id().split(':').next().unwrap().to_string();
    (service, id)
}

#[test]
fn sessions_are_found_by_name_id_project_metadata_and_status() {
    let server = server();
    let (red, red_id) = session(&server, "Red team");
    let (blue, blue_id) = session(&server, "Blue team");
    let (_green, green_id) = session(&server, "Green");
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let training = red.create_lora_training_client("tinkex/nano", lora).unwrap();
    let saved = training.save_state("a", Ttl::Never).wait().unwrap().path;
    let rest = red.create_rest_client();
    rest.assign_session_project(&red_id, "p").unwrap();
    blue.close(CloseStatus::Errored).unwrap();
    let find = |search: SessionSearch| -> Vec<String> {
        rest.search_sessions(search).map(|it| it.unwrap().session_id).collect()
    };
    let all = SessionSearch::default;
    assert_eq!(find(SessionSearch { limit: 1, ..all() }), [&green_id, &blue_id, &red_id].map(String::clone));
    let named = SessionSearch { display_name: Some("team".into()), ..all() };
    assert_eq!(find(named.clone()), [blue_id.clone(), red_id.clone()]);
    assert_eq!(find(SessionSearch { session_id: Some(green_id.clone()), ..named }).len(), 3);
    assert_eq!(find(SessionSearch { project_ids: vec!["p".into()], ..all() }), std::slice::from_ref(&red_id));
    let metadata = [("team".to_string(), "Green".to_string())].into();
    assert_eq!(find(SessionSearch { user_metadata: metadata, ..all() }), std::slice::from_ref(&green_id));
    let active = SessionSearch { statuses: vec![StatusFilter::Active], ..all() };
    assert_eq!(find(active), [green_id, red_id.clone()]);
    let ended = |reason| SessionSearch {
        statuses: vec![StatusFilter::ClientFinished { reasons: vec![reason] }],
        ..all()
    };
    assert_eq!(find(ended(FinishReason::Errored)), [blue_id]);
    assert_eq!(find(ended(FinishReason::Success)), Vec::<String>::new());
    let found = rest.search_sessions(SessionSearch { session_id: Some(red_id), ..all() });
    let found: Vec<_> = found.map(|it| it.unwrap()).collect();
    assert_eq!((found[0].checkpoints_count, found[0].status.clone()), (1, Some(SessionStatus::Active)));
    let size = rest.list_checkpoints(saved.run_id()).unwrap()[0].size_bytes;
    assert_eq!((found[0].checkpoint_storage_bytes, found[0].project_id.as_deref()), (size, Some("p")));
    let error = rest.assign_session_project("unknown", "p").unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
}

#[test]
fn a_trace_shows_every_request_of_its_session() {
    let server = server();
    let (service, id) = session(&server, "traced");
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
    let datum = Datum::cross_entropy(&[72, 105], &[33]);
    training.forward_backward(vec![datum], LossFn::CrossEntropy).wait().unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
    let sampler = training.save_weights_and_get_sampling_client().unwrap();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([72]), 1, &params).wait().unwrap();
    let rest = service.create_rest_client();
    let url = rest.export_session_trace(&id).unwrap();
    assert!(url.expose().ends_with(".pftrace"));
    let trace = ureq::get(url.expose()).call().unwrap().body_mut().read_to_vec().unwrap();
    // A trace is a protobuf message of packets. Each packet is field 1 of the message, length-delimited: tag 0x0a.
    assert_eq!(trace[0], 0x0a);
    let text = String::from_utf8_lossy(&trace);
    for name in ["create_model", "forward_backward", "optim_step", "save_weights_for_sampler", "sample"] {
        assert!(text.contains(name), "{name}");
    }
    assert!(text.contains(training.model_id()) && text.contains(sampler.sampling_session_id()));
    assert_eq!(rest.export_session_trace("unknown").unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn the_account_is_local_and_has_no_usage() {
    let server = server();
    let service = connect(&server).build().unwrap();
    assert_eq!(service.create_rest_client().get_api_key_info().unwrap().name.as_deref(), Some("local"));
    let admin = service.create_admin_client();
    let at = |hour: u64| Timestamp::from(UNIX_EPOCH + Duration::from_secs(3600 * hour));
    let usage = admin.get_billing_usage(at(480_000), at(480_001)).unwrap();
    assert!(usage.events.is_empty() && usage.cost_data_through.is_some());
    assert!(admin.get_current_checkpoint_storage_usage(None).unwrap().entries.is_empty());
}

#[test]
fn with_token_authentication_the_key_alone_is_refused() {
    let server =
        Server::start(Options { pjwt_auth_enabled: true, threads: 2, ..Options::default() }).unwrap();
    let service = connect(&server).build().unwrap();
    let sampler = service.create_sampling_client("tinkex/nano").unwrap();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([72]), 1, &params).wait().unwrap();
    let rest = service.create_rest_client();
    assert_eq!(rest.whoami().unwrap().user_urn, "tml:user:local");
    assert_eq!(
        rest.get_api_key_info().unwrap().name.as_deref(),
        Some("local"),
        "this endpoint takes the key"
    );
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let create_session = |key: &str| {
        let url = format!("{}/api/v1/create_session", server.url());
        let request = agent.post(url).header("X-API-Key", key).header("Content-Type", "application/json");
        request.send(json!({"tags": [], "type": "create_session"}).to_string()).unwrap()
    };
    let refused = create_session(server.api_key());
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers().get("www-authenticate").unwrap().to_str().unwrap().to_string();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert_eq!(create_session("eyJforged").status(), 401);
}

/// Opens another session on the engine of `client`.
fn open_session(client: &Client) -> String {
    let (status, made) = client.post("create_session", &json!({"tags": [], "type": "create_session"}));
    assert_eq!(status, 200, "{made}");
    made["session_id"].as_str().unwrap().into()
}

fn base_sampler(client: &Client, session: &str) -> String {
    let body = json!({"session_id": session, "sampling_session_seq_id": 0, "base_model": "tinkex/nano"});
    client.post("create_sampling_session", &body).1["sampling_session_id"].as_str().unwrap().into()
}

/// Queues 1500 long samples and 299 passes over many examples. Returns the request ids of the last sample and the last
/// pass.
fn queue_many(client: &Client, session: &str) -> [String; 2] {
    let body = json!({"session_id": session, "model_seq_id": 0, "base_model": "tinkex/nano", "lora_config": {"rank": 8}});
    let model = client.run("create_model", &body)["model_id"].as_str().unwrap().to_string();
    let sampler = base_sampler(client, session);
    let long = |seq| sample(&sampler, seq, json!({"max_tokens": 500, "stop": []}));
    let samples: Vec<_> = (0..1500).map(|i| client.submit("asample", &long(i))).collect();
    let submit = |i| {
        let mut body = pass(&model, i, "forward_backward_input");
        let data = &mut body["forward_backward_input"]["data"];
        *data = vec![data[0].clone(); 64].into();
        client.submit("forward_backward", &body)
    };
    let passes: Vec<_> = (1..300).map(submit).collect();
    [samples.last().unwrap().clone(), passes.last().unwrap().clone()]
}

fn is_pending(client: &Client, request_id: &str) -> bool {
    let (_, response) = client.post("retrieve_future", &json!({"request_id": request_id}));
    response["type"] == "try_again"
}

fn short_polls() -> Options {
    Options { long_poll: Duration::from_millis(20), ..Options::default() }
}

#[test]
fn another_program_trains_while_one_has_thousands_of_samples_and_passes_queued() {
    let client = Client::with(short_polls());
    let busy = open_session(&client);
    let last = queue_many(&client, &busy);
    // From now on the busy session sends nothing, as if its program had been killed. Nothing polls for its results
    // before the end of this test.
    let model = client.model(0);
    client.losses(&model, 1, 2);
    let sampled = client.sample(&base_sampler(&client, &client.session), 0, json!({"max_tokens": 3}));
    assert!(sampled["sequences"][0]["tokens"].is_array(), "{sampled}");
    for id in &last {
        assert!(is_pending(&client, id), "the queue of the busy session is already done");
    }
}

#[test]
fn queued_requests_fail_when_their_session_is_finished() {
    let client = Client::with(short_polls());
    let busy = open_session(&client);
    let last = queue_many(&client, &busy);
    let finish = json!({"reason": {"type": "success"}, "detail": null});
    assert_eq!(client.post(&format!("sessions/{busy}/finish"), &finish).0, 200);
    for id in &last {
        let error = client.wait(id)["error"].as_str().unwrap().to_string();
        assert!(error.contains("not executed: its session was finished"), "{error}");
    }
}

#[test]
fn queued_requests_fail_when_their_session_times_out() {
    let client = Client::with(Options { session_timeout: Duration::from_secs(5), ..short_polls() });
    let busy = open_session(&client);
    let last = queue_many(&client, &busy);
    for id in &last {
        let error = client.wait(id)["error"].as_str().unwrap().to_string();
        assert!(error.contains("not executed: its session was silent for too long"), "{error}");
    }
}

#[test]
fn a_dropped_sample_is_cancelled_during_the_long_poll_for_its_result() {
    // With this `long_poll` the engine holds a poll until its result exists. So only the cancellation can end the poll.
    let server =
        Server::start(Options { long_poll: Duration::MAX, threads: 1, ..Options::default() }).unwrap();
    let service = connect(&server).timeouts(|timeouts| timeouts.poll = 10 * TEST_TIMEOUT).build().unwrap();
    let sampler = service.create_sampling_client("tinkex/nano").unwrap();
    let params =
        SamplingParams { max_tokens: Some(2000), stop: Some(Stop::Tokens(vec![])), ..Default::default() };
    let prompt = ModelInput::from_ints([72]);
    let long = sampler.sample(&prompt, 60, &params);
    eventually("it is accepted", || long.status().request_id.is_some());
    let id = long.status().request_id.unwrap();
    drop(long);
    let client = Client::alongside(server);
    let (status, ended) = client.post("retrieve_future", &json!({"request_id": id}));
    assert_eq!((status, &ended["error"]), (200, &json!("cancelled by the client")));
    let short = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&prompt, 1, &short).wait().unwrap();
}
