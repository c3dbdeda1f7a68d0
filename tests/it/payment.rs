//! Unpaid accounts (HTTP 402, PROTOCOL §1.11): calls that wait for payment, and calls that fail immediately.

use std::time::Duration;

use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::AuditEventType;
use tinkex::{Error, ErrorKind, PausePolicy, ServiceClient};

type Verb = fn(&ServiceClient) -> Result<(), Error>;

fn unpaid() -> Act {
    Act::status(402, r#"{"detail":"no funds"}"#)
}

/// Runs a verb while the first three requests to a path get HTTP 402. Returns its result, the number of requests to the
/// path, and the time that it took.
fn run_with_three_refusals(
    path: &'static str,
    policy: PausePolicy,
    verb: Verb,
) -> (Result<(), Error>, usize, Duration) {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).pause_policy(policy).build().unwrap();
    (0..3).for_each(|_| server.next(path, unpaid()));
    let before = clock.clock().now();
    let result = verb(&service);
    (result, server.requests_to(path).len(), clock.clock().now() - before)
}

#[test]
fn calls_of_all_clients_wait_until_the_account_is_paid() {
    let verbs: [(&str, Verb); 5] = [
        ("/api/v1/audit?event_type=all", |service| {
            service.create_admin_client().get_audit_log(AuditEventType::All, None).map(drop)
        }),
        ("/api/v1/sessions?limit=20&offset=0&access_scope=owned", |service| {
            service.create_rest_client().list_sessions().first_page().map(drop)
        }),
        ("/api/v1/get_info", |it| it.create_lora_training_client("fake/model", Default::default()).map(drop)),
        ("/api/v1/load_weights", |service| {
            service.create_training_client_from_state("tinker://run/weights/a").map(drop)
        }),
        ("/api/v1/samplers/sampler-1", |service| {
            service.create_sampling_client("tinker://run/sampler_weights/a").map(drop)
        }),
    ];
    for (path, verb) in verbs {
        let (result, n, took) = run_with_three_refusals(path, PausePolicy::Wait, verb);
        assert!(result.is_ok(), "{path}: {result:?}");
        assert_eq!((n, took.as_secs()), (4, 15), "{path}");
        let (result, n, _) = run_with_three_refusals(path, PausePolicy::Fail, verb);
        assert_eq!(result.unwrap_err().kind(), &ErrorKind::Billing, "{path}");
        assert_eq!(n, 1, "{path}");
    }
}

#[test]
fn calls_that_begin_the_work_report_an_unpaid_account_at_once() {
    let model: Verb = |it| it.create_lora_training_client("fake/model", Default::default()).map(drop);
    let verbs: [(&str, Verb); 6] = [
        ("/api/v1/client/config", model),
        ("/api/v1/create_session", model),
        ("/api/v1/create_model", model),
        ("/api/v1/create_sampling_session", |it| it.create_sampling_client("fake/model").map(drop)),
        ("/api/v1/get_server_capabilities", |it| it.get_server_capabilities().map(drop)),
        ("/api/v1/get_server_capabilities", |it| it.create_rest_client().get_server_capabilities().map(drop)),
    ];
    for (path, verb) in verbs {
        let (result, n, took) = run_with_three_refusals(path, PausePolicy::Wait, verb);
        let error = result.unwrap_err();
        assert_eq!((error.kind(), n, took.as_secs()), (&ErrorKind::Billing, 1, 0), "{path}: {error}");
    }
}

#[test]
fn a_call_gives_up_waiting_for_payment_before_its_own_deadline() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).timeouts(|it| it.operation = Duration::from_secs(60));
    let rest = service.build().unwrap().create_rest_client();
    server.always("/api/v1/weights_info", unpaid());
    let before = clock.clock().now();
    let error = rest.get_weights_info_by_tinker_path("tinker://run/weights/a").unwrap_err();
    let waited = (clock.clock().now() - before).as_secs();
    assert!(error.kind() == &ErrorKind::Billing && (50..=60).contains(&waited), "{waited} s: {error}");
}
