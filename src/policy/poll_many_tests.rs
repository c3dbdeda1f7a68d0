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

/// Carries out the machine's next request, which the server answers.
#[track_caller]
fn answer(machine: &mut Machine, status: u16, body: &str) -> (Step<&'static str>, Duration) {
    let turn = machine.next().unwrap();
    machine.on(&turn, Event::Answer(facts(status, body)), at(0))
}

/// As `answer`, with a success that tells of some samples.
#[track_caller]
fn tell(machine: &mut Machine, cursor: u64, ids: &[&str]) -> Step<&'static str> {
    let completion =
        |id: &&str| json!({"state": "finished", "request_id": id, "response_payload_uncompressed_size": 5});
    let body = json!({"completions": ids.iter().map(completion).collect::<Vec<_>>(), "cursor": cursor});
    answer(machine, 200, &body.to_string()).0
}

fn turn(prev_cursor: u64, long: bool, retrieved: &[&str]) -> Option<Turn> {
    Some(Turn { prev_cursor, long, retrieved: retrieved.iter().map(|it| it.to_string()).collect() })
}

#[test]
fn nothing_is_asked_while_nobody_waits_and_there_is_nothing_to_report() {
    let mut machine = machine(&[]);
    assert_eq!((machine.next(), machine.last_words()), (None, None));
    machine.register("a", "a", Duration::ZERO);
    assert_eq!(machine.next(), turn(0, true, &[]));
    assert_eq!(machine.forget("a"), Some("a"));
    assert_eq!((machine.next(), machine.forget("a")), (None, None));
}

#[test]
fn a_finished_sample_is_handed_back_once_and_reported_when_it_has_been_fetched() {
    let mut machine = machine(&["a"]);
    match tell(&mut machine, 7, &["a"]) {
        Step::Ready(ready) => assert_eq!((ready.len(), ready[0].1, ready[0].2.size()), (1, "a", Some(5))),
        other => panic!("{other:?}"),
    }
    // While it is fetched there is nothing to say, unless it is the last word.
    assert_eq!((machine.next(), machine.last_words()), (None, turn(7, false, &[])));
    machine.fetched("a".into(), true);
    assert_eq!(machine.next(), turn(7, false, &["a"]));
    assert!(matches!(tell(&mut machine, 7, &[]), Step::Nothing));
    assert_eq!(machine.next(), None);
}

#[test]
fn fetched_samples_are_reported_sorted_and_dropped_only_after_a_poll_that_succeeded() {
    let mut machine = machine(&["b", "a", "c"]);
    assert!(matches!(tell(&mut machine, 2, &["b", "a"]), Step::Ready(it) if it.len() == 2));
    machine.fetched("b".into(), true);
    machine.fetched("a".into(), true);
    assert_eq!(machine.next(), turn(2, true, &["a", "b"]));
    answer(&mut machine, 503, "busy");
    let sent = machine.next().unwrap();
    assert_eq!(Some(sent.clone()), turn(2, true, &["a", "b"]));
    // What is fetched while the poll is under way goes with the next one.
    machine.fetched("z".into(), true);
    machine.on(&sent, Event::Answer(facts(200, r#"{"cursor":2.0,"completions":null}"#)), at(0));
    assert_eq!(machine.next(), turn(2, true, &["z"]));
}

#[test]
fn a_fetch_that_did_not_settle_the_sample_is_not_reported() {
    let mut machine = machine(&["a"]);
    tell(&mut machine, 1, &["a"]);
    machine.fetched("a".into(), false);
    assert_eq!(machine.next(), turn(1, false, &[]));
}

#[test]
fn a_completion_that_overtakes_its_waiter_is_kept_for_it() {
    let mut machine = machine(&["a"]);
    assert!(matches!(tell(&mut machine, 1, &["b"]), Step::Nothing));
    assert!(
        matches!(machine.register("b", "b", Duration::ZERO), Registered::Ready("b", it) if it.request_id == "b")
    );
    assert!(matches!(machine.register("b", "b", Duration::ZERO), Registered::Waiting), "it was consumed");
}

#[test]
fn what_nobody_waits_for_any_more_is_not_kept_nor_is_what_is_told_twice() {
    let mut machine = machine(&["a", "b", "c"]);
    machine.forget("a");
    assert!(matches!(tell(&mut machine, 1, &["a", "b"]), Step::Ready(it) if it.len() == 1));
    assert!(matches!(tell(&mut machine, 1, &["b"]), Step::Nothing));
    machine.fetched("b".into(), true);
    assert!(matches!(tell(&mut machine, 1, &["b"]), Step::Nothing));
    assert!(machine.finished.entries.is_empty() && machine.forgotten.entries.is_empty());
}

#[test]
fn a_result_without_a_size_or_a_failure_is_fetched_the_usual_way() {
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
fn what_may_pass_is_repeated_after_a_second_for_ever() {
    let mut machine = machine(&["a"]);
    for status in [408, 409, 425, 429, 500, 502, 503, 504, 408, 429] {
        let (step, after) = answer(&mut machine, status, "busy");
        assert!(matches!(step, Step::Nothing) && after == AFTER_FAILURE, "{status}: {step:?}");
    }
    let (step, after) = answer(&mut machine, 400, "");
    assert!(matches!(step, Step::Nothing) && after == AFTER_FAILURE, "a proxy dropped it: {step:?}");
    let turn = machine.next().unwrap();
    let patient = Facts { retry_after: Some("7"), ..facts(429, "") };
    assert_eq!(machine.on(&turn, Event::Answer(patient), at(0)).1, Duration::from_secs(7));
}

#[test]
fn silence_fails_those_who_wait_and_not_those_who_come_later() {
    let mut machine = machine(&["a"]);
    let turn = machine.next().unwrap();
    let broken = || Event::Broken(Error::closed("reset"));
    assert_eq!(machine.on(&turn, broken(), at(299)).1, Duration::from_secs(1));
    let beating = Times { contact: Duration::from_secs(200), ..at(400) };
    assert!(matches!(machine.on(&turn, broken(), beating).0, Step::Nothing));
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
        let fail = |machine: &mut Machine| match panics {
            true => machine.on(&machine.next().unwrap(), Event::Panicked(Error::closed("x")), at(0)),
            false => answer(machine, 400, r#"{"detail":"bad"}"#),
        };
        for _ in 0..3 {
            assert!(matches!(fail(&mut machine), (Step::Nothing, AFTER_FAILURE)));
        }
        tell(&mut machine, 1, &["c"]);
        for _ in 0..3 {
            assert!(matches!(fail(&mut machine).0, Step::Nothing));
        }
        assert!(matches!(fail(&mut machine).0, Step::Fail(it, _) if it.len() == 2));
        // The end: later waiters fail too, except those whose sample is known to be finished.
        assert_eq!((machine.next(), machine.last_words()), (None, None));
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
fn an_unpaid_bill_fails_those_who_wait_and_not_those_who_come_later() {
    let mut machine = machine(&["a"]);
    assert!(
        matches!(answer(&mut machine, 402, "pay").0, Step::Fail(_, it) if *it.kind() == ErrorKind::Billing)
    );
    assert!(matches!(machine.register("b", "b", Duration::ZERO), Registered::Waiting));
}

#[test]
fn a_server_without_the_endpoint_sends_everybody_to_wait_alone() {
    for status in [404, 405, 501] {
        let mut machine = machine(&["a", "b"]);
        assert!(matches!(answer(&mut machine, status, "x").0, Step::Alone(it) if it.len() == 2));
        assert!(matches!(machine.register("c", "c", Duration::ZERO), Registered::Alone("c")));
        assert_eq!(machine.next(), None);
    }
}

#[test]
fn polls_are_spaced_so_that_a_server_that_never_holds_them_is_not_flooded() {
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

fn ids(doubted: Vec<(String, &'static str)>) -> Vec<&'static str> {
    doubted.into_iter().map(|it| it.1).collect()
}

#[test]
fn a_sample_without_news_is_looked_up_ever_more_seldom() {
    let mut machine = machine(&["a"]);
    let mut now = Duration::ZERO;
    for wait in [60, 120, 240, 480, 960, 960] {
        assert!(machine.doubted(now + s(wait - 1)).is_empty(), "{wait}");
        now += s(wait);
        assert_eq!(ids(machine.doubted(now)), ["a"], "{wait}");
        // While it is looked up there is nobody to ask for.
        assert_eq!(machine.next(), None);
        assert!(matches!(machine.register("a", "a", now), Registered::Waiting));
    }
    assert_eq!(machine.next(), turn(0, true, &[]));
}

#[test]
fn few_samples_are_looked_up_at_once_and_the_next_ones_when_those_are_done() {
    let mut machine = machine(&["a", "b", "c", "d", "e", "f"]);
    let first = ids(machine.doubted(s(60)));
    assert_eq!((first.len(), machine.doubted(s(70)).len()), (LOOKS, 0));
    machine.fetched(first[0].into(), true);
    assert!(matches!(machine.register(first[1], first[1], s(70)), Registered::Waiting));
    assert_eq!(machine.doubted(s(70)).len(), 2);
    assert_eq!(machine.next(), turn(0, true, &[first[0]]));
}

#[test]
fn an_announcement_that_comes_while_a_sample_is_looked_up_is_not_lost() {
    let mut machine = machine(&["a", "b"]);
    assert_eq!(machine.doubted(s(60)).len(), 2);
    assert!(matches!(machine.register("b", "b", s(61)), Registered::Waiting));
    assert!(matches!(tell(&mut machine, 1, &["a"]), Step::Nothing));
    assert!(matches!(machine.register("a", "a", s(61)), Registered::Ready("a", _)));
    machine.fetched("a".into(), true);
    assert!(machine.finished.entries.is_empty());
}

#[test]
fn what_nobody_asks_for_fills_no_memory() {
    let mut machine = machine(&["a"]);
    for i in 0..2 * MOST_REMEMBERED {
        tell(&mut machine, 1, &[&format!("stranger-{i}")]);
        let id = format!("given-up-{i}");
        machine.register(&id, "x", Duration::ZERO);
        machine.forget(&id);
    }
    for recent in [machine.finished.entries.len(), machine.forgotten.entries.len()] {
        assert_eq!(recent, MOST_REMEMBERED);
    }
    let last = format!("stranger-{}", 2 * MOST_REMEMBERED - 1);
    assert!(matches!(machine.register(&last, "x", Duration::ZERO), Registered::Ready(..)));
}

#[test]
fn a_cursor_that_moves_without_news_is_not_reported_back() {
    let mut machine = machine(&["a"]);
    assert!(matches!(tell(&mut machine, 7, &["a"]), Step::Ready(_)));
    machine.fetched("a".into(), true);
    assert_eq!(machine.next(), turn(7, false, &["a"]));
    tell(&mut machine, 1000, &[]);
    assert_eq!(machine.next(), None);
    // It is the one to go on from all the same.
    machine.register("b", "b", Duration::ZERO);
    assert_eq!(machine.next(), turn(1000, true, &[]));
}

#[test]
fn a_server_that_always_has_news_for_others_is_asked_once_a_second_while_nobody_waits() {
    let mut machine = machine(&["a"]);
    tell(&mut machine, 1, &["a"]);
    machine.fetched("a".into(), true);
    let news = |i: u64| {
        json!({"completions": [{"state": "finished", "request_id": format!("stranger-{i}")}], "cursor": i})
            .to_string()
    };
    let pauses: Vec<Duration> = (2..8).map(|i| answer(&mut machine, 200, &news(i)).1).collect();
    assert_eq!(pauses[..3], [Duration::ZERO; 3]);
    assert_eq!(pauses[3..], [AFTER_FAILURE; 3]);
    // Whoever waits is polled for at the usual pace.
    machine.register("b", "b", Duration::ZERO);
    assert_eq!(answer(&mut machine, 200, &news(8)).1, FLOOR_EMPTY);
}

#[test]
fn of_two_who_wait_for_the_same_id_the_first_is_handed_back() {
    let mut machine = machine(&["a"]);
    assert!(matches!(machine.register("a", "again", Duration::ZERO), Registered::Replaces("a")));
    assert!(matches!(tell(&mut machine, 1, &["a"]), Step::Ready(it) if it.len() == 1 && it[0].1 == "again"));
}

#[test]
fn what_is_remembered_anew_is_as_young_as_anything() {
    let mut recent = Recent::new();
    recent.insert("a", 1);
    recent.remove("a");
    for i in 0..MOST_REMEMBERED - 2 {
        recent.insert(&format!("{i}"), 0);
    }
    recent.insert("a", 2);
    recent.insert("z", 0);
    assert_eq!((recent.remove("a"), recent.order.len()), (Some(2), MOST_REMEMBERED));
}
