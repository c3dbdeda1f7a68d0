//! Checkpoints: lists, deletion and expiry, publishing, archives, copies.

use std::time::{Duration, SystemTime};

use tinkex::types::{AccessToken, CheckpointPath, CheckpointType, CopyOptions, Ttl};

use super::*;

const PATH: &str = "tinker://s:train:0/weights/step 1";
const PLACE: &str = "/api/v1/training_runs/s:train:0/checkpoints/weights/step%201";

fn answering(path: &str, act: Act) -> (FakeServer, RestClient) {
    let (server, rest) = rest();
    server.always(path, act);
    (server, rest)
}

#[test]
fn each_call_is_one_request_with_the_right_method_path_and_body() {
    let (server, rest) = rest();
    server.script(|it| it.path.contains("/checkpoints/").then(|| Act::status(204, "")));
    rest.delete_checkpoint_from_tinker_path(PATH).unwrap();
    rest.delete_checkpoint("s:train:0", "weights/step 1").unwrap();
    rest.publish_checkpoint_from_tinker_path(PATH).unwrap();
    rest.unpublish_checkpoint_from_tinker_path(PATH).unwrap();
    rest.set_checkpoint_ttl_from_tinker_path(PATH, Ttl::After(Duration::from_secs(7200))).unwrap();
    rest.set_checkpoint_ttl_from_tinker_path(PATH, Ttl::Never).unwrap();
    let sent: Vec<(String, String, String)> = server.requests()[2..]
        .iter()
        .map(|seen| {
            let body = String::from_utf8(seen.body.to_vec()).unwrap();
            (seen.method.clone(), seen.path.strip_prefix(PLACE).unwrap().to_string(), body)
        })
        .collect();
    let expected = [
        ("DELETE", "", ""),
        ("DELETE", "", ""),
        ("POST", "/publish", ""),
        ("DELETE", "/publish", ""),
        ("PUT", "/ttl", r#"{"ttl_seconds":7200}"#),
        // `Ttl::Never` must be sent explicitly, as `null`: it removes the time limit of the checkpoint.
        ("PUT", "/ttl", r#"{"ttl_seconds":null}"#),
    ];
    assert_eq!(sent, expected.map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())));
}

#[test]
fn a_ttl_out_of_range_and_the_wrong_kind_of_path_are_refused_before_anything_is_sent() {
    let (server, rest) = rest();
    let short = Ttl::After(Duration::from_secs(3599));
    assert_eq!(path_of(&rest.set_checkpoint_ttl_from_tinker_path(PATH, short).unwrap_err()), "ttl");
    for wrong in ["tinker://r/weights/x", "tinker://r/sampler_weights/x", "tinker://r/x"] {
        let error = rest.get_external_weights_urls(wrong).unwrap_err();
        assert!(error.is_user_error() && error.to_string().contains("save_weights_external"), "{error}");
    }
    for wrong in ["", "weights/x", "tinker://r", "tinker://r/other/x", "tinker://r/weights/x/y"] {
        assert_eq!(path_of(&rest.publish_checkpoint_from_tinker_path(wrong).unwrap_err()), "path", "{wrong}");
        assert_eq!(path_of(&rest.get_weights_info_by_tinker_path(wrong).unwrap_err()), "path", "{wrong}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_path_of_two_parts_names_a_sampler() {
    let place = "/api/v1/training_runs/model_1/checkpoints/sampler_weights/s1";
    let (server, rest) = answering(place, Act::status(204, ""));
    rest.delete_checkpoint_from_tinker_path("tinker://model_1/s1").unwrap();
    assert_eq!(server.requests_to(place).len(), 1);
}

#[test]
fn publishing_a_public_checkpoint_is_a_conflict_at_once() {
    let act = Act::status(409, r#"{"detail":"already public"}"#);
    let (server, rest) = answering(&format!("{PLACE}/publish"), act);
    for error in [
        rest.publish_checkpoint_from_tinker_path(PATH).unwrap_err(),
        rest.unpublish_checkpoint_from_tinker_path(PATH).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.attempts()), (&ErrorKind::Conflict, Some(1)), "{error}");
        assert!(error.to_string().contains("already public"), "{error}");
    }
    assert_eq!(server.requests_to(&format!("{PLACE}/publish")).len(), 2);
}

#[test]
fn paths_of_listed_checkpoints_are_accepted_by_the_calls_for_their_type() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    training.save_state("a", Ttl::Never).wait().unwrap();
    training.save_weights_for_sampler("b", Ttl::Never).wait().unwrap();
    let rest = service.create_rest_client();
    let all: Vec<CheckpointPath> =
        rest.list_user_checkpoints().map(|it| it.unwrap().path().unwrap()).collect();
    let kinds: Vec<CheckpointType> = all.iter().map(CheckpointPath::checkpoint_type).collect();
    assert_eq!(kinds, [CheckpointType::Sampler, CheckpointType::Training]);
    let sampler: tinkex::types::SamplerPath = (&all[0]).try_into().unwrap();
    service.create_sampling_client(&sampler).unwrap();
    assert!(service.create_training_client_from_state(&all[0]).unwrap_err().is_user_error());
    service.create_training_client_from_state(&all[1]).unwrap();
    rest.publish_checkpoint_from_tinker_path(&all[0]).unwrap();
    assert!(rest.list_checkpoints("model-1").unwrap().iter().any(|it| it.public));
}

#[test]
fn delete_checkpoints_reports_a_result_for_each_path() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    for step in 0..4 {
        training.save_state(&format!("step-{step}"), Ttl::Never).wait().unwrap();
    }
    training.save_weights_for_sampler("s", Ttl::Never).wait().unwrap();
    let rest = service.create_rest_client();
    let plan = rest.keep_last(training.model_id(), 2).unwrap();
    let mut paths = plan.paths_to_delete();
    let names: Vec<&str> = paths.iter().map(CheckpointPath::name).collect();
    assert_eq!(names, ["step-1", "step-0"]);
    assert_eq!(rest.list_user_checkpoints().count(), 5, "a plan deletes nothing");
    paths.insert(1, "tinker://model-1/weights/gone".parse().unwrap());
    let done: Vec<bool> = rest.delete_checkpoints(paths).iter().map(|it| it.1.is_ok()).collect();
    assert_eq!(done, [true, false, true]);
    assert_eq!(rest.list_user_checkpoints().count(), 3);
}

#[test]
fn external_weights_have_a_url_for_each_file_and_debug_hides_the_urls() {
    let place = "/api/v1/training_runs/r/checkpoints/external_weights/x/external_weights_urls";
    let body =
        json!({"urls": {"a/b.safetensors": "https://h/b?sig=secret"}, "expires": "2026-11-20T13:00:00Z"});
    let (server, rest) = answering(place, Act::json(body));
    let urls = rest.get_external_weights_urls("tinker://r/external_weights/x").unwrap();
    assert_eq!(urls.urls["a/b.safetensors"].expose(), "https://h/b?sig=secret");
    assert!(urls.expires.as_ref().unwrap().to_system_time().is_some());
    assert!(!format!("{urls:?}").contains("secret"));
    server.always(place, Act::json(json!({})));
    assert!(rest.get_external_weights_urls("tinker://r/external_weights/x").unwrap().urls.is_empty());
}

const ARCHIVE: &str = "/api/v1/training_runs/r/checkpoints/weights/x/archive";

#[test]
fn the_url_of_an_archive_is_the_target_of_a_redirect() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let rest = listening.client().build().unwrap().create_rest_client();
    let url = "https://storage.invalid/x.tar.gz?sig=secret";
    let redirect = Act::status(302, "").with_header("location", url);
    server.next(ARCHIVE, redirect.clone().with_header("expires", "Fri, 20 Nov 2026 15:19:59 GMT"));
    let archive = rest.get_checkpoint_archive_url("tinker://r/weights/x").unwrap();
    assert_eq!(archive.url.expose(), url);
    assert_eq!(archive.expires.unwrap().as_str(), "2026-11-20T15:19:59Z");
    // Without an `expires` header, the client assumes that the URL is valid for about 15 minutes.
    server.next(ARCHIVE, redirect);
    let before = SystemTime::now();
    let archive = rest.get_checkpoint_archive_url("tinker://r/weights/x").unwrap();
    let left = archive.expires.unwrap().to_system_time().unwrap().duration_since(before).unwrap();
    assert!((890..=960).contains(&left.as_secs()), "{left:?}");
    server.next(ARCHIVE, Act::json(json!({"url": url, "expires": "2026-11-20T15:19:59Z"})));
    assert_eq!(rest.get_checkpoint_archive_url("tinker://r/weights/x").unwrap().url.expose(), url);
    assert_eq!(server.requests_to(ARCHIVE)[0].header("accept"), Some("application/json"));
}

#[test]
fn an_unfinished_archive_is_polled_and_one_without_a_url_is_an_error() {
    let (server, rest) = answering(ARCHIVE, Act::json(json!({"url": "https://h/x"})));
    for _ in 0..3 {
        server.next(ARCHIVE, Act::status(503, "not yet").with_header("retry-after", "30"));
    }
    rest.get_checkpoint_archive_url("tinker://r/weights/x").unwrap();
    for body in [json!({}), json!({"url": ""})] {
        server.next(ARCHIVE, Act::json(body));
        let error = rest.get_checkpoint_archive_url("tinker://r/weights/x").unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Decode, "{error}");
    }
    server.next(ARCHIVE, Act::status(302, ""));
    assert!(rest.get_checkpoint_archive_url("tinker://r/weights/x").is_err());
}

#[test]
fn the_archive_of_a_sampler_is_also_requested_under_its_bare_name() {
    let (server, rest) = rest();
    let bare = "/api/v1/training_runs/model_17aeb7f9/checkpoints/s1/archive";
    let full = "/api/v1/training_runs/model_17aeb7f9/checkpoints/sampler_weights/s1/archive";
    server.always(full, Act::status(404, r#"{"detail":"Not Found"}"#));
    server.always(bare, Act::status(302, "").with_header("location", "http://h/download"));
    let path = "tinker://model_17aeb7f9/sampler_weights/s1";
    assert_eq!(rest.get_checkpoint_archive_url(path).unwrap().url.expose(), "http://h/download");
    assert_eq!((server.requests_to(full).len(), server.requests_to(bare).len()), (1, 1));
}

#[test]
fn the_archive_of_a_sampler_with_a_short_path_is_requested_under_its_bare_name_first() {
    let (server, rest) = rest();
    let bare = "/api/v1/training_runs/model_17aeb7f9/checkpoints/s1/archive";
    let full = "/api/v1/training_runs/model_17aeb7f9/checkpoints/sampler_weights/s1/archive";
    for path in [bare, full] {
        server.always(path, Act::status(302, "").with_header("location", "http://h/download"));
    }
    let path = "tinker://model_17aeb7f9/s1";
    rest.get_checkpoint_archive_url(path).unwrap();
    assert_eq!((server.requests_to(full).len(), server.requests_to(bare).len()), (0, 1));
    server.next(bare, Act::status(404, r#"{"detail":"Not Found"}"#));
    rest.get_checkpoint_archive_url(path).unwrap();
    assert_eq!((server.requests_to(full).len(), server.requests_to(bare).len()), (1, 2));
}

const COPY: &str = "/api/v1/copy_weights";

#[test]
fn a_copy_goes_to_the_project_of_the_call_or_of_the_client() {
    let server = FakeServer::new();
    let service = server.in_memory().project_id("mine").build().unwrap();
    let rest = service.create_rest_client();
    let copy = rest.copy_weights("tinker://r/weights/x", &CopyOptions::default()).unwrap();
    assert_eq!(copy.as_str(), "tinker://copy-1/weights/x");
    let options = CopyOptions {
        destination_project_id: Some("theirs".into()),
        ttl: Ttl::After(Duration::from_secs(3600)),
        weights_access_token: None,
    };
    rest.copy_weights("tinker://r/sampler_weights/x", &options).unwrap();
    let sent: Vec<Value> = server.requests_to(COPY).iter().map(|it| it.json().unwrap()).collect();
    assert_eq!(sent[0], json!({"destination_project_id": "mine", "source_path": "tinker://r/weights/x"}));
    assert_eq!(
        (&sent[1]["destination_project_id"], &sent[1]["ttl_seconds"]),
        (&json!("theirs"), &json!(3600))
    );
    let (server, rest) = super::rest();
    let error = rest.copy_weights("tinker://r/weights/x", &CopyOptions::default()).unwrap_err();
    assert_eq!(path_of(&error), "destination_project_id");
    assert!(server.requests().is_empty());
}

#[test]
fn a_copy_is_repeated_under_one_key_and_its_token_is_sent_in_one_header_and_shown_nowhere() {
    let (server, rest) = rest();
    server.next(COPY, Act::Reset);
    server.next(COPY, Act::status(503, "busy"));
    let options = CopyOptions {
        destination_project_id: Some("p".into()),
        weights_access_token: Some(AccessToken::new("hush-hush")),
        ..Default::default()
    };
    rest.copy_weights("tinker://r/weights/x", &options).unwrap();
    let seen = server.requests_to(COPY);
    assert_eq!(seen.len(), 3);
    let keys: Vec<_> = seen.iter().map(|it| it.header("x-idempotency-key").unwrap()).collect();
    assert!(keys.iter().all(|it| *it == keys[0]), "{keys:?}");
    let parts: Vec<usize> = keys[0].split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12], "a bare UUID");
    for request in &seen {
        assert_eq!(request.header("x-tinker-weights-access-token"), Some("hush-hush"));
        assert!(!String::from_utf8_lossy(&request.body).contains("hush"));
        assert_eq!(request.headers.iter().filter(|header| header.0 == "x-idempotency-key").count(), 1);
    }
    server.next(COPY, Act::status(403, r#"{"detail":"no"}"#).with_header("x-should-retry", "true"));
    let error = rest.copy_weights("tinker://r/weights/x", &options).unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (&ErrorKind::Permission, Some(1)));
    for shown in [format!("{error:?}"), format!("{error}"), format!("{options:?}"), format!("{rest:?}")] {
        assert!(!shown.contains("hush"), "{shown}");
    }
}
