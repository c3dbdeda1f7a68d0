//! Tests of `AdminClient`: audit log, billing usage and checkpoint storage.

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AuditEventType, Day, UsageKind};
use tinkex::{AdminClient, ErrorKind};

use crate::util::path_of;

fn admin() -> (FakeServer, AdminClient) {
    let server = FakeServer::new();
    let admin = server.in_memory().build().unwrap().create_admin_client();
    (server, admin)
}

#[test]
fn the_audit_log_is_requested_by_kind_and_day() {
    let (server, admin) = admin();
    let day: Day = "2026-11-20".parse().unwrap();
    let path = "/api/v1/audit?event_type=checkpoints&day=2026-11-20";
    server.next(
        path,
        Act::json(json!({"entries": [
            {"timestamp": "2026-11-20T13:00:00Z", "event": "checkpoint.deleted", "event_details": {"n": 1}, "new": 2},
            {},
        ]})),
    );
    let entries = admin.get_audit_log(AuditEventType::Checkpoints, Some(&day)).unwrap();
    assert_eq!((entries.len(), entries[0].event.as_str()), (2, "checkpoint.deleted"));
    assert_eq!(entries[0].event_details["n"], 1);
    assert!(entries[1].timestamp.is_none() && entries[1].event_details.is_empty());
    assert!(admin.get_audit_log(AuditEventType::All, None).unwrap().is_empty());
    let seen = server.requests_to("/api/v1/audit?event_type=all");
    assert_eq!(seen[0].header("x-sdk-method"), Some("AdminClient.get_audit_log"));
    assert!("2026-11-31".parse::<Day>().is_err() && "2026-1-1".parse::<Day>().is_err());
}

#[test]
fn usage_is_requested_in_full_hours_of_at_most_fourteen_days() {
    let (server, admin) = admin();
    for (from, to, path) in [
        ("2026-11-20T00:30:00Z", "2026-11-21T00:00:00Z", "starting_on"),
        ("2026-11-20T00:00:00Z", "2026-11-20T01:00:00.5Z", "ending_before"),
        ("2026-11-20T00:00:00+05:30", "2026-11-21T00:00:00Z", "starting_on"),
        ("2026-11-20T00:00:00Z", "2026-11-20T00:00:00Z", "ending_before"),
        ("2026-11-20T00:00:00Z", "2026-11-19T00:00:00Z", "ending_before"),
        ("2026-11-01T00:00:00Z", "2026-11-15T01:00:00Z", "ending_before"),
        ("yesterday", "2026-11-15T01:00:00Z", "time"),
    ] {
        assert_eq!(path_of(&admin.get_billing_usage(from, to).unwrap_err()), path, "{from} {to}");
    }
    assert!(server.requests().is_empty());
    admin.get_billing_usage("2026-11-01T02:00:00+02:00", "2026-11-15T00:00:00Z").unwrap();
    let path =
        "/api/v1/billing/usage/events?starting_on=2026-11-01T00:00:00Z&ending_before=2026-11-15T00:00:00Z";
    assert_eq!(server.requests_to(path).len(), 1);
}

#[test]
fn every_kind_of_usage_is_parsed_and_an_unknown_one_kept() {
    let (server, admin) = admin();
    let path =
        "/api/v1/billing/usage/events?starting_on=2026-11-20T00:00:00Z&ending_before=2026-11-21T00:00:00Z";
    let event = |info: serde_json::Value| json!({"bucket_start": "2026-11-20T00:00:00Z", "event_info": info});
    server.next(
        path,
        Act::json(json!({
            "data": [
                event(json!({"type": "training", "token_count": 12.0})),
                event(json!({"type": "sampling_prefill", "cached": true, "token_count": 3})),
                event(json!({"type": "sampling_sample", "token_count": 4})),
                event(json!({"type": "checkpoint", "count": 5})),
                event(json!({"type": "storage", "gigabyte_hours": 1})),
                event(json!({"type": "espresso", "cups": 2})),
                {"estimated_cost_usd": 1, "user_id": null, "session_id": "s"},
            ],
            "sessions": {"s": {"user_metadata": {"a": "b"}}, "t": {}},
            "cost_data_through": "2026-11-20T12:00:00Z",
        })),
    );
    let usage = admin.get_billing_usage("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z").unwrap();
    let kinds: Vec<&UsageKind> = usage.events.iter().map(|it| &it.event_info).collect();
    assert_eq!(kinds[0], &UsageKind::Training { token_count: 12 });
    assert_eq!(kinds[1], &UsageKind::SamplingPrefill { cached: true, token_count: 3 });
    assert_eq!(kinds[2], &UsageKind::SamplingSample { token_count: 4 });
    assert_eq!(kinds[3], &UsageKind::Checkpoint { count: 5 });
    assert_eq!(kinds[4], &UsageKind::Storage { free: false, gigabyte_hours: 1.0 });
    let UsageKind::Other(kept) = kinds[5] else { panic!("{:?}", kinds[5]) };
    assert_eq!((&kept["type"], &kept["cups"]), (&json!("espresso"), &json!(2)));
    assert_eq!((usage.events[6].estimated_cost_usd, usage.events[6].user_id.as_ref()), (Some(1.0), None));
    assert_eq!(usage.sessions["s"].user_metadata["a"], "b");
    assert!(usage.cost_data_through.unwrap().to_system_time().is_some());
}

#[test]
fn storage_usage_is_parsed_from_integers_and_floats() {
    let (server, admin) = admin();
    let path = "/api/v1/billing/usage/checkpoints/current";
    server.next(
        &format!("{path}?project_id=p"),
        Act::json(json!({"effective_rate_usd_per_gigabyte_month": 2, "data": [
            {"project_id": "p", "checkpoint_count": 3.0, "size_bytes": 1500000000.5, "size_gigabytes": 1},
            {},
        ]})),
    );
    let usage = admin.get_current_checkpoint_storage_usage(Some("p")).unwrap();
    assert_eq!(usage.effective_rate_usd_per_gigabyte_month, Some(2.0));
    let first = &usage.entries[0];
    assert_eq!((first.checkpoint_count, first.size_bytes, first.size_gigabytes), (3, 1_500_000_001, 1.0));
    assert_eq!(usage.entries[1].checkpoint_count, 0);
    admin.get_current_checkpoint_storage_usage(None).unwrap();
    assert_eq!(server.requests_to(path).len(), 1);
}

#[test]
fn a_missing_role_and_a_missing_endpoint_are_different_errors() {
    let (server, admin) = admin();
    server.script(|it| it.path.contains("/billing/").then(|| Act::status(403, r#"{"detail":"no role"}"#)));
    let error = admin.get_current_checkpoint_storage_usage(None).unwrap_err();
    assert_eq!((error.kind(), error.is_user_error()), (&ErrorKind::Permission, true));
    server
        .script(|it| (!it.path.contains("/client/")).then(|| Act::status(404, r#"{"detail":"Not Found"}"#)));
    let all = || {
        [
            admin.get_current_checkpoint_storage_usage(None).unwrap_err(),
            admin.get_billing_usage("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z").unwrap_err(),
            admin.get_audit_log(AuditEventType::All, None).unwrap_err(),
        ]
    };
    for error in all().into_iter().chain(all()) {
        assert_eq!(error.kind(), &ErrorKind::Incompatible, "{error}");
    }
    assert_eq!(server.requests().len(), 2 + 1 + 3);
    let error = admin.get_current_checkpoint_storage_usage(Some("p")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Incompatible, "the endpoint is known to be missing");
}
