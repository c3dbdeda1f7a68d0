//! Iteration over paged lists.

use super::*;

/// Creates a server that answers requests for the list of sessions with these bodies, one after the other. The last
/// body is repeated.
fn sessions(pages: Vec<Value>) -> (FakeServer, RestClient) {
    let (server, rest) = rest();
    let last = pages.len() - 1;
    let n_requests = std::sync::atomic::AtomicUsize::new(0);
    server.script(move |seen| {
        seen.path.starts_with("/api/v1/sessions?").then(|| {
            let n = n_requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Act::json(pages[n.min(last)].clone())
        })
    });
    (server, rest)
}

fn n_pages(server: &FakeServer) -> usize {
    server.requests().iter().filter(|it| it.path.starts_with("/api/v1/sessions?")).count()
}

#[test]
fn a_long_list_is_fetched_page_by_page_on_demand() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    for _ in 0..5 {
        service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    }
    let mut runs = service.create_rest_client().list_training_runs().page_size(2);
    let sent = || {
        let all = server.requests();
        all.iter()
            .filter(|it| it.path.contains("training_runs"))
            .map(|it| it.path.clone())
            .collect::<Vec<_>>()
    };
    assert!(sent().is_empty() && runs.total_count().is_none());
    let ids: Vec<String> = runs.by_ref().take(3).map(|it| it.unwrap().training_run_id).collect();
    assert_eq!(ids, ["model-5", "model-4", "model-3"]);
    assert_eq!((runs.total_count(), runs.offset()), (Some(5), 4));
    assert_eq!(sent().len(), 2);
    let rest: Vec<String> = runs.by_ref().map(|it| it.unwrap().training_run_id).collect();
    assert_eq!(rest, ["model-2", "model-1"]);
    assert_eq!(
        sent(),
        [0, 2, 4].map(|it| format!("/api/v1/training_runs?limit=2&offset={it}&access_scope=owned"))
    );
    assert!(runs.next().is_none());
    let page = runs.page(2, 1).unwrap();
    assert_eq!((page.items.len(), page.cursor.unwrap().offset), (2, 1));
    let tail = service.create_rest_client().list_training_runs().start_at(4);
    assert_eq!(tail.count(), 1);
}

#[test]
fn deleting_checkpoints_while_they_are_listed_skips_none() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    for step in 0..10 {
        training.save_state(&format!("step-{step}"), Ttl::Never).wait().unwrap();
    }
    let rest = service.create_rest_client();
    let mut n = 0;
    for checkpoint in rest.list_user_checkpoints().page_size(4) {
        rest.delete_checkpoint_from_tinker_path(checkpoint.unwrap().path().unwrap()).unwrap();
        n += 1;
    }
    assert_eq!((n, rest.list_user_checkpoints().count()), (10, 0));
}

#[test]
fn lists_end_for_every_count_that_the_server_reports() {
    let ids = |range: std::ops::Range<u32>| range.map(|it| format!("s-{it}")).collect::<Vec<_>>();
    let counted = |range, total| json!({"sessions": ids(range), "cursor": {"total_count": total}});
    let plain = |range| json!({ "sessions": ids(range) });
    for (name, pages, entries, requests) in [
        ("nothing at all", vec![json!({})], 0, 1),
        ("an empty list", vec![plain(0..0)], 0, 1),
        ("a null list", vec![json!({"sessions": null, "cursor": null})], 0, 1),
        ("a short page without a cursor", vec![plain(0..2)], 2, 1),
        ("full pages without a cursor", vec![plain(0..3), plain(3..6), plain(6..7)], 7, 3),
        ("a count", vec![counted(0..3, 5), counted(3..5, 5)], 5, 2),
        (
            "a count as a float",
            vec![json!({"sessions": ids(0..3), "cursor": {"total_count": 3.0, "limit": 3.0}})],
            3,
            1,
        ),
        ("short pages before the count is reached", vec![counted(0..1, 2), counted(1..2, 2)], 2, 2),
        ("a list that shrank", vec![counted(0..3, 9), counted(0..0, 9)], 3, 2),
        ("a list that grew", vec![counted(2..5, 5), counted(4..7, 7), counted(7..8, 7)], 6, 3),
        ("a server that repeats a page for ever", vec![plain(0..3)], 3, 2),
        ("a server that always sends more than requested", vec![plain(0..9)], 9, 2),
    ] {
        let (server, rest) = sessions(pages);
        let all: Vec<String> = rest.list_sessions().page_size(3).map(|it| it.unwrap()).collect();
        let unique: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!((all.len(), unique.len(), n_pages(&server)), (entries, entries, requests), "{name}");
    }
}

#[test]
fn a_repeated_page_before_the_reported_count_is_an_error() {
    let (server, rest) = sessions(vec![
        json!({"sessions": ["a", "b", "c"], "cursor": {"offset": 0, "limit": 3, "total_count": 9}}),
    ]);
    let all: Vec<_> = rest.list_sessions().page_size(3).collect();
    assert_eq!((all.len(), n_pages(&server)), (4, 2));
    let error = all[3].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (&ErrorKind::Decode, Some("list_sessions")));
}

#[test]
fn a_list_ends_after_an_error_and_another_can_start_at_its_offset() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    for _ in 0..4 {
        service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    }
    let rest = service.create_rest_client();
    let second = "/api/v1/training_runs?limit=2&offset=2&access_scope=owned";
    server.next(second, Act::status(403, r#"{"detail":"not now"}"#));
    let mut runs = rest.list_training_runs().page_size(2);
    let results: Vec<bool> = runs.by_ref().map(|it| it.is_ok()).collect();
    assert_eq!(results, [true, true, false]);
    assert!(runs.next().is_none());
    assert_eq!(rest.list_training_runs().start_at(runs.offset()).count(), 2);
}

#[test]
fn sessions_are_searched_page_by_page() {
    let (server, rest) = rest();
    let path = "/api/v1/sessions/search";
    let cursor = json!({"last_created_at": "2026-11-20T13:00:00Z", "last_session_id": "b"});
    server.next(
        path,
        Act::json(json!({"sessions": [{"session_id": "a"}, {"session_id": "b"}], "next_cursor": cursor})),
    );
    server.next(path, Act::json(json!({"sessions": [{"session_id": "c"}], "next_cursor": null})));
    let ids: Vec<String> =
        rest.search_sessions(Default::default()).map(|it| it.unwrap().session_id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let sent: Vec<Value> = server.requests_to(path).iter().map(|it| it.json().unwrap()).collect();
    assert_eq!(sent[0], json!({"user_metadata": {}, "owner": {"type": "own"}, "limit": 50}));
    assert_eq!(sent[1]["cursor"], cursor);
}

#[test]
fn a_repeated_cursor_of_a_search_is_an_error() {
    let (server, rest) = rest();
    let cursor = json!({"last_created_at": "2026-11-20T13:00:00Z", "last_session_id": "a"});
    let page = json!({"sessions": [{"session_id": "a"}], "next_cursor": cursor});
    server.always("/api/v1/sessions/search", Act::json(page));
    let all: Vec<_> = rest.search_sessions(Default::default()).collect();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].as_ref().unwrap_err().kind(), &ErrorKind::Decode);
    assert_eq!(server.requests_to("/api/v1/sessions/search").len(), 2);
}
