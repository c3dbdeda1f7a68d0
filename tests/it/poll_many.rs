//! Waiting for many samples with one poll, `retrieve_futures` (PROTOCOL §4.5). A thread of the sampling client, the
//! poller, polls for the ids of finished samples, fetches each result with `retrieve_future`, and reports the fetched
//! ids in a later poll.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tinkex::sync::CancelToken;
use tinkex::testing::{Act, FakeServer, Seen, VirtualClock};
use tinkex::types::{ModelInput, SampleResponse, SamplingParams};
use tinkex::{CloseStatus, ErrorKind, PausePolicy, Pending, SamplingClient, ServiceClient, Stage};

use crate::util::{HOUR, TEST_TIMEOUT, alone, client_threads, eventually};

const POLL_MANY: &str = "/api/v1/retrieve_futures";
const ONE: &str = "/api/v1/retrieve_future";

fn in_memory() -> (FakeServer, ServiceClient, SamplingClient) {
    let server = FakeServer::new();
    server.polls_together();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    (server, service, sampler)
}

fn sample(sampler: &SamplingClient) -> Pending<SampleResponse> {
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([1]), 1, &params)
}

fn bodies(server: &FakeServer, path: &str) -> Vec<Value> {
    server.requests_to(path).iter().map(|it| it.json().unwrap()).collect()
}

/// Makes the server delay the answer to each poll until the returned token is cancelled. Real servers delay it until a
/// sample is finished.
fn hold(server: &FakeServer) -> CancelToken {
    let release = CancelToken::new();
    let released = release.clone();
    server.script(move |seen: &Seen| {
        if seen.path == POLL_MANY {
            released.wait_timeout(TEST_TIMEOUT);
        }
        None
    });
    release
}

#[test]
fn a_sample_is_announced_fetched_whole_and_reported() {
    let (server, service, sampler) = in_memory();
    assert_eq!(sample(&sampler).wait().unwrap().sequences.len(), 1);
    service.close(CloseStatus::Success).unwrap();
    let paths = [POLL_MANY, ONE, "/api/v1/asample", "/api/v1/sessions/session-1/finish"];
    let requests: Vec<_> =
        server.requests().into_iter().filter(|it| paths.contains(&it.path.as_str())).collect();
    let order: Vec<_> = requests.iter().map(|it| it.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(
        order[..4],
        ["asample", "retrieve_futures", "retrieve_future", "retrieve_futures"],
        "{order:?}"
    );
    assert_eq!(order.last(), Some(&"finish"));
    let target = json!({
        "type": "sampling_session", "sampling_session_id": "sampler-1", "cloned_sampler_id": 0
    });
    assert_eq!(
        requests[1].json().unwrap(),
        json!({"target": target, "prev_cursor": 0, "retrieved_request_ids": []})
    );
    assert_eq!(requests[2].json().unwrap(), json!({"request_id": "request-1", "allow_metadata_only": false}));
    assert_eq!(
        requests[3].json().unwrap(),
        json!({"target": target, "prev_cursor": 1, "timeout": 0.0, "retrieved_request_ids": ["request-1"]})
    );
}

#[test]
fn a_failed_sample_is_fetched_with_retrieve_future_and_reported() {
    let (server, service, sampler) = in_memory();
    let failed = json!({"state": "failed", "request_id": "request-1"});
    server.next(POLL_MANY, Act::json(json!({"completions": [failed], "cursor": 1})));
    server.next(ONE, Act::json(json!({"error": "prompt exceeds context window", "category": "user"})));
    let error = sample(&sampler).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RequestFailed { .. }), "{error}");
    service.close(CloseStatus::Success).unwrap();
    assert_eq!(bodies(&server, ONE)[0]["allow_metadata_only"], true);
    assert!(bodies(&server, POLL_MANY).iter().any(|it| it["retrieved_request_ids"] == json!(["request-1"])));
}

#[test]
fn failed_polls_delay_samples_and_fail_none() {
    let (server, _service, sampler) = in_memory();
    for act in [
        Act::status(503, "busy"),
        Act::status(429, "slow down"),
        Act::status(408, ""),
        Act::Reset,
        Act::Stall,
        Act::Garbage("nonsense".into()),
        Act::status(400, r#"{"detail":"bad"}"#),
        Act::status(200, "<html>"),
    ] {
        server.next(POLL_MANY, act);
    }
    sample(&sampler).wait().unwrap();
}

#[test]
fn a_402_of_a_poll_is_retried_unless_the_policy_is_to_fail() {
    for policy in [PausePolicy::Wait, PausePolicy::Fail] {
        let server = FakeServer::new();
        server.polls_together();
        let service = server.in_memory().pause_policy(policy).build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        server.next(POLL_MANY, Act::status(402, r#"{"detail":"no funds"}"#));
        let first = sample(&sampler).wait();
        match policy {
            PausePolicy::Fail => assert_eq!(*first.unwrap_err().kind(), ErrorKind::Billing),
            _ => assert_eq!(first.unwrap().sequences.len(), 1),
        }
        sample(&sampler).wait().unwrap();
    }
}

#[test]
fn a_403_of_a_poll_fails_current_and_later_samples() {
    let (server, _service, sampler) = in_memory();
    server.always(POLL_MANY, Act::status(403, "no"));
    assert_eq!(*sample(&sampler).wait().unwrap_err().kind(), ErrorKind::Permission);
    assert_eq!(*sample(&sampler).wait().unwrap_err().kind(), ErrorKind::Permission);
}

#[test]
fn a_server_without_the_endpoint_is_polled_for_each_sample() {
    for status in [404, 405, 501] {
        let (server, service, sampler) = in_memory();
        server.always(POLL_MANY, Act::status(status, r#"{"detail":"Not Found"}"#));
        let pending: Vec<_> = (0..20).map(|_| sample(&sampler)).collect();
        pending.into_iter().for_each(|it| drop(it.wait().unwrap()));
        // Other sampling clients of the service know that the endpoint is missing and send it no request.
        sample(&service.create_sampling_client("fake/model").unwrap()).wait().unwrap();
        assert_eq!(server.requests_to(POLL_MANY).len(), 1);
        assert!(bodies(&server, ONE).iter().all(|it| it["allow_metadata_only"] == true));
    }
}

#[test]
fn one_panic_during_a_poll_is_survived_and_repeated_panics_fail_the_sample() {
    let (server, _service, sampler) = in_memory();
    let armed = AtomicBool::new(true);
    server.script(move |seen| {
        assert!(seen.path != POLL_MANY || !armed.swap(false, Ordering::Relaxed), "the moon is blue");
        None
    });
    sample(&sampler).wait().unwrap();
    let always = server.clone();
    always.script(|seen| {
        assert!(seen.path != POLL_MANY, "the moon is green");
        None
    });
    let error = sample(&sampler).wait().unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("the moon is green"), "{error}");
}

#[test]
fn a_panic_while_a_result_is_fetched_fails_only_that_sample() {
    let (server, _service, sampler) = in_memory();
    let armed = AtomicBool::new(true);
    server.script(move |seen| {
        assert!(seen.path != ONE || !armed.swap(false, Ordering::Relaxed), "the moon is blue");
        None
    });
    assert!(sample(&sampler).wait().unwrap_err().is_panic());
    sample(&sampler).wait().unwrap();
}

#[test]
fn an_expired_sample_is_submitted_again_with_a_new_seq_id() {
    let (server, _service, sampler) = in_memory();
    server.next(ONE, Act::status(410, r#"{"detail":"promise expired"}"#));
    sample(&sampler).wait().unwrap();
    let numbers: Vec<_> = bodies(&server, "/api/v1/asample").iter().map(|it| it["seq_id"].clone()).collect();
    assert_eq!(numbers, [0, 1]);
    assert!(bodies(&server, POLL_MANY).iter().all(|it| it["retrieved_request_ids"] != json!(["request-1"])));
}

#[test]
fn a_completion_that_overtakes_the_answer_to_its_submission_is_kept() {
    let server = FakeServer::new();
    server.polls_together();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let early = |id: &str| json!({"state": "finished", "request_id": id});
    let completions = json!({"completions": [early("request-2"), early("request-1")], "cursor": 2});
    server.next(POLL_MANY, Act::json(completions));
    server.always(POLL_MANY, Act::json(json!({"completions": [], "cursor": 2})));
    sample(&sampler).wait().unwrap();
    sample(&sampler).wait().unwrap();
}

#[test]
fn a_sample_ends_at_its_deadline_and_the_poller_continues() {
    let server = FakeServer::new();
    server.polls_together();
    let clock = VirtualClock::new();
    let service = server.in_memory_at(clock).timeouts(|it| {
        (it.operation, it.silence) = (Duration::from_secs(600), Duration::from_secs(6000));
    });
    let service = service.build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(POLL_MANY, Act::Stall);
    server.always(ONE, Act::Stall);
    let error = sample(&sampler).wait().unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("600s"), "{error}");
    server.behave(POLL_MANY);
    server.behave(ONE);
    sample(&sampler).wait().unwrap();
}

#[test]
fn a_sample_that_the_server_never_announces_is_found_without_waiting_for_its_deadline() {
    let server = FakeServer::new();
    server.polls_together();
    let clock = VirtualClock::new();
    let service = server.in_memory_at(clock.clone()).unbounded_operations().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always_altered(POLL_MANY, move |_| {
        clock.advance(Duration::from_secs(30));
        Act::json(json!({"completions": [], "cursor": 0}))
    });
    let mut pending: Vec<_> = (0..9).map(|_| sample(&sampler)).collect();
    server.next(ONE, Act::json(json!({"type": "try_again", "queue_state": "active"})));
    for it in &mut pending {
        it.wait_timeout(TEST_TIMEOUT).unwrap().unwrap();
    }
    assert!(bodies(&server, ONE).iter().all(|it| it["allow_metadata_only"] == true));
}

#[test]
fn closing_a_sampling_client_ends_its_held_poll_and_leaves_others_alone() {
    alone("poll_many::closing_a_sampling_client_ends_its_held_poll_and_leaves_others_alone", || {
        let server = FakeServer::new();
        server.polls_together();
        let held = hold(&server);
        let listening = server.listen().unwrap();
        let idle = Duration::from_millis(20);
        let service = listening.client().threads(|it| it.idle = idle).build().unwrap();
        let clients = [(); 2].map(|_| service.create_sampling_client("fake/model").unwrap());
        let [lost, kept] = clients.each_ref().map(sample);
        eventually("both polls are held", || server.requests_to(POLL_MANY).len() == 2);
        let polling = || client_threads().iter().filter(|it| it.starts_with("tk-poll")).count();
        assert_eq!((polling(), service.dump().pools.iter().map(|it| it.queued).sum::<usize>()), (2, 0));
        clients[0].close();
        assert!(lost.wait().unwrap_err().is_closed());
        assert!(sample(&clients[0]).wait().unwrap_err().is_closed());
        eventually("the thread of its poller ends", || polling() == 1);
        held.cancel();
        kept.wait().unwrap();
    });
}

#[test]
fn closing_the_service_answers_every_waiting_sample_and_ends_the_poll() {
    let server = FakeServer::new();
    server.polls_together();
    let held = hold(&server);
    let listening = server.listen().unwrap();
    let builder =
        listening.client().timeouts(|it| (it.poll, it.close, it.finish) = (HOUR, TEST_TIMEOUT, HOUR));
    let service = builder.build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let pending: Vec<_> = (0..50).map(|_| sample(&sampler)).collect();
    eventually("all are submitted", || server.requests_to("/api/v1/asample").len() == 50);
    eventually("the poll is held", || !server.requests_to(POLL_MANY).is_empty());
    service.close(CloseStatus::Success).unwrap();
    assert!(pending.into_iter().all(|it| it.wait().unwrap_err().is_closed()));
    assert!(service.dump().pools.iter().all(|it| it.threads == 0), "{}", service.dump());
    held.cancel();
}

#[test]
fn the_status_of_a_waiting_sample_shows_the_last_answer_of_the_server() {
    let server = FakeServer::new();
    server.polls_together();
    let service = server.in_memory().unbounded_operations().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let finished = CancelToken::new();
    let is_finished = finished.clone();
    server.script(move |seen| {
        // Each pause of the client advances the virtual clock. Delay each poll by 1 ms of real time, so that the clock
        // advances slowly and the last answer is not old when the test looks at it.
        let early = [POLL_MANY, ONE].contains(&seen.path.as_str())
            && !is_finished.wait_timeout(Duration::from_millis(1));
        early.then(|| {
            if seen.path == POLL_MANY {
                Act::json(json!({"completions": [], "cursor": 0}))
            } else {
                Act::json(json!({"type": "try_again"}))
            }
        })
    });
    let pending = sample(&sampler);
    eventually("some polls brought nothing", || 60 < server.requests_to(POLL_MANY).len());
    let dump = service.dump();
    let status = &dump.operations[0];
    assert_eq!(status.stage, Stage::Waiting);
    assert!(status.last_contact.unwrap() < Duration::from_secs(2), "{status:?}");
    finished.cancel();
    pending.wait().unwrap();
}

#[test]
fn cancelling_and_closing_answer_at_once_while_a_poll_is_held() {
    let server = FakeServer::new();
    server.polls_together();
    server.always(POLL_MANY, Act::Stall);
    let listening = server.listen().unwrap();
    let service = listening.client().timeouts(|it| it.poll = HOUR).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let (first, second) = (sample(&sampler), sample(&sampler));
    eventually("the poll is held", || !server.requests_to(POLL_MANY).is_empty());
    let before = Instant::now();
    first.cancel();
    assert!(first.wait().unwrap_err().is_cancelled());
    sampler.close();
    assert!(second.wait().unwrap_err().is_closed());
    assert!(before.elapsed() < HOUR / 4);
}

#[test]
fn closing_reports_fetched_samples_that_no_poll_has_reported() {
    let server = FakeServer::new();
    server.polls_together();
    let listening = server.listen().unwrap();
    // At a close, the client may spend an eighth of `Timeouts::close` on its last report.
    let service =
        listening.client().timeouts(|it| (it.close, it.finish) = (TEST_TIMEOUT / 4, HOUR)).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let other = json!({"state": "finished", "request_id": "request-1"});
    server.next(POLL_MANY, Act::json(json!({"completions": [other], "cursor": 1})));
    server.next(POLL_MANY, Act::Stall);
    // The first poll finishes one sample. The second poll stalls while it waits for the other sample, so that only the
    // close can report the finished one. Either sample may have the id request-1.
    let (done, first) = crossbeam_channel::unbounded();
    (0..2).for_each(|it| sample(&sampler).on_done(it, done.clone()));
    first.recv_timeout(TEST_TIMEOUT).unwrap().1.unwrap();
    service.close(CloseStatus::Success).unwrap();
    let last = server.requests();
    let finish = last.iter().position(|it| it.path.ends_with("/finish")).unwrap();
    let told = |it: &Seen| {
        it.path == POLL_MANY && it.json().unwrap()["retrieved_request_ids"] == json!(["request-1"])
    };
    assert!(last[..finish].iter().any(told));
}

#[test]
fn samples_in_flight_need_no_thread_each() {
    alone("poll_many::samples_in_flight_need_no_thread_each", || {
        let (server, service, sampler) = in_memory();
        let held = hold(&server);
        let pending: Vec<_> = (0..1500).map(|_| sample(&sampler)).collect();
        eventually("all are submitted", || server.requests_to("/api/v1/asample").len() == 1500);
        held.cancel();
        let mut most = BTreeMap::new();
        for it in pending {
            let names = client_threads();
            most.insert(names.len(), names);
            it.wait().unwrap();
        }
        let (n, names) = most.last_key_value().unwrap();
        // Usually there are about 80 threads. On a busy machine there may be up to 449 threads that send samples and
        // 257 that fetch results.
        assert!(*n < 750, "{names:?}");
        assert!(names.iter().all(|it| !it.starts_with("tk-result")), "{names:?}");
        service.close(CloseStatus::Success).unwrap();
    });
}

#[test]
fn no_polls_are_sent_while_no_sample_waits_even_if_the_cursor_changes() {
    let (server, _service, sampler) = in_memory();
    let cursor = AtomicU64::new(1000);
    server.always_altered(POLL_MANY, move |answer| {
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
        body["cursor"] = cursor.fetch_add(1, Ordering::Relaxed).into();
        Act::json(body)
    });
    sample(&sampler).wait().unwrap();
    let before = server.requests_to(POLL_MANY).len();
    // In this time a client that polled without need would send thousands of requests, because pauses of the client
    // take no real time here.
    std::thread::sleep(Duration::from_millis(300));
    let n_more = server.requests_to(POLL_MANY).len() - before;
    assert!(n_more <= 5, "{n_more} requests although nobody waits");
}
