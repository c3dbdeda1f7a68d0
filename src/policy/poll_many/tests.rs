use serde_json::json;

use super::*;

const SILENCE: Duration = Duration::from_secs(300);

type Machine = PollMany<&'static str>;

fn machine(waiters: &[&'static str]) -> Machine {
    let mut machine = PollMany::new(SILENCE);
    for id in waiters {
        assert!(matches!(machine.register(id, *id, Duration::ZERO), Registered::Waiting));
    }
    machine
}

fn at(seconds: u64) -> Times {
    let now = Duration::from_secs(seconds);
    Times { sent: now, now, contact: Duration::ZERO }
}

fn facts(status: u16, body: &str) -> Facts<'_> {
    Facts {
        status,
        body: body.as_bytes(),
        retry_after_ms: None,
        retry_after: None,
        should_retry: None,
        location: None,
        at: None,
    }
}

/// Answers the next request of the machine.
#[track_caller]
fn answer(machine: &mut Machine, status: u16, body: &str) -> (Step<&'static str>, Duration) {
    let turn = machine.next().unwrap();
    machine.on(&turn, Event::Answer(facts(status, body)), at(0))
}

/// As `answer`, with a success that announces samples.
#[track_caller]
fn announce(machine: &mut Machine, cursor: u64, ids: &[&str]) -> Step<&'static str> {
    let completion =
        |id: &&str| json!({"state": "finished", "request_id": id, "response_payload_uncompressed_size": 5});
    let body = json!({"completions": ids.iter().map(completion).collect::<Vec<_>>(), "cursor": cursor});
    answer(machine, 200, &body.to_string()).0
}

fn turn(prev_cursor: u64, holds: bool, retrieved: &[&str]) -> Option<Turn> {
    Some(Turn { prev_cursor, holds, retrieved: retrieved.iter().map(|it| it.to_string()).collect() })
}

#[test]
fn without_a_waiter_and_a_report_there_is_no_request() {
    let mut machine = machine(&[]);
    assert_eq!((machine.next(), machine.final_report()), (None, None));
    machine.register("a", "a", Duration::ZERO);
    assert_eq!(machine.next(), turn(0, true, &[]));
    assert_eq!(machine.forget("a"), Some("a"));
    assert_eq!((machine.next(), machine.forget("a")), (None, None));
}

#[test]
fn a_finished_sample_is_returned_once_and_reported_after_it_was_fetched() {
    let mut machine = machine(&["a"]);
    match announce(&mut machine, 7, &["a"]) {
        Step::Ready(ready) => assert_eq!((ready.len(), ready[0].1, ready[0].2.size()), (1, "a", Some(5))),
        other => panic!("{other:?}"),
    }
    // A report waits until the fetch has ended; the final report does not.
    assert_eq!((machine.next(), machine.final_report()), (None, turn(7, false, &[])));
    machine.fetched("a".into(), true);
    assert_eq!(machine.next(), turn(7, false, &["a"]));
    assert!(matches!(announce(&mut machine, 7, &[]), Step::Nothing));
    assert_eq!(machine.next(), None);
}

#[test]
fn fetched_samples_are_reported_sorted_and_dropped_only_after_a_poll_that_succeeded() {
    let mut machine = machine(&["b", "a", "c"]);
    assert!(matches!(announce(&mut machine, 2, &["b", "a"]), Step::Ready(it) if it.len() == 2));
    machine.fetched("b".into(), true);
    machine.fetched("a".into(), true);
    assert_eq!(machine.next(), turn(2, true, &["a", "b"]));
    answer(&mut machine, 503, "busy");
    let sent = machine.next().unwrap();
    assert_eq!(Some(sent.clone()), turn(2, true, &["a", "b"]));
    // A sample that is fetched while the request is in flight is reported with the next one.
    machine.fetched("z".into(), true);
    machine.on(&sent, Event::Answer(facts(200, r#"{"cursor":2.0,"completions":null}"#)), at(0));
    assert_eq!(machine.next(), turn(2, true, &["z"]));
}

#[test]
fn a_fetch_that_does_not_settle_the_sample_is_not_reported() {
    let mut machine = machine(&["a"]);
    announce(&mut machine, 1, &["a"]);
    machine.fetched("a".into(), false);
    assert_eq!(machine.next(), turn(1, false, &[]));
}

#[test]
fn a_completion_that_arrives_before_its_waiter_is_kept() {
    let mut machine = machine(&["a"]);
    assert!(matches!(announce(&mut machine, 1, &["b"]), Step::Nothing));
    assert!(
        matches!(machine.register("b", "b", Duration::ZERO), Registered::Ready("b", it) if it.request_id == "b")
    );
    assert!(
        matches!(machine.register("b", "b", Duration::ZERO), Registered::Waiting),
        "the completion was taken"
    );
}

#[test]
fn completions_of_forgotten_samples_and_repeated_completions_are_not_kept() {
    let mut machine = machine(&["a", "b", "c"]);
    machine.forget("a");
    assert!(matches!(announce(&mut machine, 1, &["a", "b"]), Step::Ready(it) if it.len() == 1));
    assert!(matches!(announce(&mut machine, 1, &["b"]), Step::Nothing));
    machine.fetched("b".into(), true);
    assert!(matches!(announce(&mut machine, 1, &["b"]), Step::Nothing));
    assert!(machine.finished.entries.is_empty() && machine.forgotten.entries.is_empty());
}

#[test]
fn a_failed_sample_and_a_result_without_a_size_have_no_size() {
    let table = [
        (json!({"state": "finished", "request_id": "a", "response_payload_uncompressed_size": 9}), Some(9)),
        (json!({"state": "finished", "request_id": 12, "response_payload_uncompressed_size": 0}), None),
        (json!({"state": "finished", "request_id": "a", "response_payload_uncompressed_size": null}), None),
        (json!({"state": "failed", "request_id": "a", "response_payload_uncompressed_size": 9}), None),
        (json!({"request_id": "a"}), None),
    ];
    for (value, size) in table {
        let completion: Completion = json::response_value(value.clone()).unwrap();
        assert_eq!(completion.size(), size, "{value}");
    }
}

#[test]
fn transient_failures_are_repeated_after_a_second_without_limit() {
    let mut machine = machine(&["a"]);
    for status in [408, 409, 425, 429, 500, 502, 503, 504, 408, 429] {
        let (step, after) = answer(&mut machine, status, "busy");
        assert!(matches!(step, Step::Nothing) && after == AFTER_FAILURE, "{status}: {step:?}");
    }
    let (step, after) = answer(&mut machine, 400, "");
    assert!(matches!(step, Step::Nothing) && after == AFTER_FAILURE, "a proxy dropped it: {step:?}");
    let turn = machine.next().unwrap();
    let with_hint = Facts { retry_after: Some("7"), ..facts(429, "") };
    assert_eq!(machine.on(&turn, Event::Answer(with_hint), at(0)).1, Duration::from_secs(7));
}

#[test]
fn silence_fails_the_current_waiters_and_not_later_ones() {
    let mut machine = machine(&["a"]);
    let turn = machine.next().unwrap();
    let broken = || Event::Broken(Error::closed("reset"));
    assert_eq!(machine.on(&turn, broken(), at(299)).1, Duration::from_secs(1));
    let with_heartbeat = Times { contact: Duration::from_secs(200), ..at(400) };
    assert!(matches!(machine.on(&turn, broken(), with_heartbeat).0, Step::Nothing));
    match machine.on(&turn, broken(), at(300)).0 {
        Step::Fail(waiters, error) => {
            assert_eq!(waiters, ["a"]);
            assert!(matches!(error.kind(), ErrorKind::Stuck { .. }), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.next(), None);
    assert!(matches!(machine.register("b", "b", Duration::ZERO), Registered::Waiting));
}

#[test]
fn malformed_requests_and_panics_are_repeated_three_times_and_any_success_resets_that() {
    for panics in [false, true] {
        let mut machine = machine(&["a", "b"]);
        let fail = |machine: &mut Machine| {
            if panics {
                machine.on(&machine.next().unwrap(), Event::Panicked(Error::closed("x")), at(0))
            } else {
                answer(machine, 400, r#"{"detail":"bad"}"#)
            }
        };
        for _ in 0..3 {
            assert!(matches!(fail(&mut machine), (Step::Nothing, AFTER_FAILURE)));
        }
        announce(&mut machine, 1, &["c"]);
        for _ in 0..3 {
            assert!(matches!(fail(&mut machine).0, Step::Nothing));
        }
        assert!(matches!(fail(&mut machine).0, Step::Fail(it, _) if it.len() == 2));
        // Polling has ended: later waiters fail too, except those of a sample that is known to be finished.
        assert_eq!((machine.next(), machine.final_report()), (None, None));
        assert!(matches!(machine.register("d", "d", Duration::ZERO), Registered::Refused("d", _)));
        assert!(matches!(machine.register("c", "c", Duration::ZERO), Registered::Ready("c", _)));
    }
}

#[test]
fn each_final_status_ends_the_session_with_its_own_error() {
    let table = [
        (401, ErrorKind::Auth),
        (403, ErrorKind::Permission),
        (410, ErrorKind::Status { code: 410 }),
        (413, ErrorKind::Status { code: 413 }),
        (422, ErrorKind::Status { code: 422 }),
    ];
    for (status, kind) in table {
        let mut machine = machine(&["a"]);
        match answer(&mut machine, status, "x").0 {
            Step::Fail(waiters, error) => assert_eq!((waiters.len(), error.kind()), (1, &kind)),
            other => panic!("{status}: {other:?}"),
        }
        assert!(matches!(machine.register("b", "b", Duration::ZERO), Registered::Refused(..)));
    }
}

#[test]
fn a_lack_of_payment_fails_the_current_waiters_and_not_later_ones() {
    let mut machine = machine(&["a"]);
    assert!(
        matches!(answer(&mut machine, 402, "pay").0, Step::Fail(_, it) if *it.kind() == ErrorKind::Billing)
    );
    assert!(matches!(machine.register("b", "b", Duration::ZERO), Registered::Waiting));
}

#[test]
fn without_the_endpoint_each_waiter_polls_alone() {
    for status in [404, 405, 501] {
        let mut machine = machine(&["a", "b"]);
        assert!(matches!(answer(&mut machine, status, "x").0, Step::PollAlone(it) if it.len() == 2));
        assert!(matches!(machine.register("c", "c", Duration::ZERO), Registered::PollAlone("c")));
        assert_eq!(machine.next(), None);
    }
}

#[test]
fn polls_of_a_server_that_does_not_hold_them_have_a_shortest_interval() {
    let mut machine = machine(&["a", "b"]);
    let empty = r#"{"completions":[],"cursor":0}"#;
    assert_eq!(answer(&mut machine, 200, empty).1, FLOOR_EMPTY);
    let held = Times { now: Duration::from_secs(30), ..at(0) };
    let turn = machine.next().unwrap();
    assert_eq!(machine.on(&turn, Event::Answer(facts(200, empty)), held).1, Duration::ZERO);
    let one = r#"{"completions":[{"state":"finished","request_id":"a"}],"cursor":1}"#;
    assert_eq!(answer(&mut machine, 200, one).1, FLOOR);
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ids(looks: Vec<(String, &'static str)>) -> Vec<&'static str> {
    looks.into_iter().map(|it| it.1).collect()
}

#[test]
fn looks_at_a_sample_without_an_announcement_become_rarer() {
    let mut machine = machine(&["a"]);
    let mut now = Duration::ZERO;
    for wait in [60, 120, 240, 480, 960, 960] {
        assert!(machine.take_due_looks(now + s(wait - 1)).is_empty(), "{wait}");
        now += s(wait);
        assert_eq!(ids(machine.take_due_looks(now)), ["a"], "{wait}");
        // During the look there is no waiter to poll for.
        assert_eq!(machine.next(), None);
        assert!(matches!(machine.register("a", "a", now), Registered::Waiting));
    }
    assert_eq!(machine.next(), turn(0, true, &[]));
}

#[test]
fn the_number_of_concurrent_looks_is_limited() {
    let mut machine = machine(&["a", "b", "c", "d", "e", "f"]);
    let first = ids(machine.take_due_looks(s(60)));
    assert_eq!((first.len(), machine.take_due_looks(s(70)).len()), (MAX_LOOKS, 0));
    machine.fetched(first[0].into(), true);
    assert!(matches!(machine.register(first[1], first[1], s(70)), Registered::Waiting));
    assert_eq!(machine.take_due_looks(s(70)).len(), 2);
    assert_eq!(machine.next(), turn(0, true, &[first[0]]));
}

#[test]
fn an_announcement_during_a_look_is_not_lost() {
    let mut machine = machine(&["a", "b"]);
    assert_eq!(machine.take_due_looks(s(60)).len(), 2);
    assert!(matches!(machine.register("b", "b", s(61)), Registered::Waiting));
    assert!(matches!(announce(&mut machine, 1, &["a"]), Step::Nothing));
    assert!(matches!(machine.register("a", "a", s(61)), Registered::Ready("a", _)));
    machine.fetched("a".into(), true);
    assert!(machine.finished.entries.is_empty());
}

#[test]
fn ids_without_a_waiter_take_bounded_memory() {
    let mut machine = machine(&["a"]);
    for i in 0..2 * MAX_REMEMBERED {
        announce(&mut machine, 1, &[&format!("unknown-{i}")]);
        let id = format!("given-up-{i}");
        machine.register(&id, "x", Duration::ZERO);
        machine.forget(&id);
    }
    for recent in [machine.finished.entries.len(), machine.forgotten.entries.len()] {
        assert_eq!(recent, MAX_REMEMBERED);
    }
    let last = format!("unknown-{}", 2 * MAX_REMEMBERED - 1);
    assert!(matches!(machine.register(&last, "x", Duration::ZERO), Registered::Ready(..)));
}

#[test]
fn a_cursor_that_moves_without_completions_is_not_acknowledged() {
    let mut machine = machine(&["a"]);
    assert!(matches!(announce(&mut machine, 7, &["a"]), Step::Ready(_)));
    machine.fetched("a".into(), true);
    assert_eq!(machine.next(), turn(7, false, &["a"]));
    announce(&mut machine, 1000, &[]);
    assert_eq!(machine.next(), None);
    // The next poll still uses the new cursor.
    machine.register("b", "b", Duration::ZERO);
    assert_eq!(machine.next(), turn(1000, true, &[]));
}

#[test]
fn reports_to_a_server_that_always_moves_its_cursor_are_slowed_down() {
    let mut machine = machine(&["a"]);
    announce(&mut machine, 1, &["a"]);
    machine.fetched("a".into(), true);
    let body = |i: u64| {
        json!({"completions": [{"state": "finished", "request_id": format!("unknown-{i}")}], "cursor": i})
            .to_string()
    };
    let pauses: Vec<Duration> = (2..8).map(|i| answer(&mut machine, 200, &body(i)).1).collect();
    assert_eq!(pauses[..3], [Duration::ZERO; 3]);
    assert_eq!(pauses[3..], [AFTER_FAILURE; 3]);
    // With a waiter, polling has its usual interval.
    machine.register("b", "b", Duration::ZERO);
    assert_eq!(answer(&mut machine, 200, &body(8)).1, FLOOR_EMPTY);
}

#[test]
fn a_second_waiter_of_an_id_replaces_the_first() {
    let mut machine = machine(&["a"]);
    assert!(matches!(machine.register("a", "again", Duration::ZERO), Registered::Replaces("a")));
    assert!(
        matches!(announce(&mut machine, 1, &["a"]), Step::Ready(it) if it.len() == 1 && it[0].1 == "again")
    );
}

#[test]
fn an_id_that_is_inserted_again_counts_as_new() {
    let mut recent = Recent::new();
    recent.insert("a", 1);
    recent.remove("a");
    for i in 0..MAX_REMEMBERED - 2 {
        recent.insert(&format!("{i}"), 0);
    }
    recent.insert("a", 2);
    recent.insert("z", 0);
    assert_eq!((recent.remove("a"), recent.order.len()), (Some(2), MAX_REMEMBERED));
}
