//! Tests of results, from submission to expiry.

use super::*;

fn futures() -> Futures {
    Futures::new(7)
}

fn poll(futures: &Futures, id: &str) -> Found {
    futures.now(id)
}

#[test]
fn a_result_can_be_fetched_again_and_the_first_result_stays() {
    let futures = futures();
    let position = Position { model_id: "m".into(), seq_id: 3 };
    let ticket = futures.create(Some(position.clone()), None);
    assert!(matches!(poll(&futures, &ticket.id), Found::Pending(Some(it)) if it == position));
    futures.finish(&ticket.id, Outcome::Json("1".into()));
    futures.finish(&ticket.id, Outcome::user("late"));
    futures.fetched(&ticket.id);
    assert!(matches!(poll(&futures, &ticket.id), Found::Done(Outcome::Json(it)) if it == "1"));
}

#[test]
fn ids_of_other_runs_and_ids_not_issued_yet_are_unknown() {
    let futures = futures();
    let other = Futures::new(8).create(None, None);
    for id in [other.id.as_str(), "req-00000007-0", "", "x", "req-00000007--1"] {
        assert!(matches!(poll(&futures, id), Found::Unknown), "{id}");
    }
}

#[test]
fn cancelling_ends_the_request_and_sets_the_flag_of_its_worker() {
    let futures = futures();
    let (training, ticket) = (futures.create(None, None), futures.create_cancellable(Some("s"), None, None));
    futures.cancel(&training.id);
    assert!(matches!(poll(&futures, &training.id), Found::Pending(None)), "training is never cancelled");
    futures.cancel(&ticket.id);
    assert!(ticket.cancelled.load(Ordering::Relaxed));
    assert!(matches!(poll(&futures, &ticket.id), Found::Done(Outcome::Failed { category: "user", .. })));
}

#[test]
fn the_end_of_a_session_cancels_its_samples_and_no_other_request() {
    let futures = futures();
    let position = Position { model_id: "s:train:0".into(), seq_id: 1 };
    let (pass, sample) =
        (futures.create(Some(position), None), futures.create_cancellable(Some("s"), None, None));
    let other = futures.create_cancellable(Some("t"), None, None);
    assert_eq!([&pass, &other].map(|it| futures.session(&it.id)), [Some("s".into()), Some("t".into())]);
    futures.cancel_samples_of("s", "over");
    assert!(sample.cancelled.load(Ordering::Relaxed) && !other.cancelled.load(Ordering::Relaxed));
    assert!(
        matches!(poll(&futures, &sample.id), Found::Done(Outcome::Failed { error, .. }) if error == "over")
    );
    assert!(matches!(poll(&futures, &pass.id), Found::Pending(Some(_))));
    assert!(matches!(poll(&futures, &other.id), Found::Pending(None)));
}

#[test]
fn after_close_pending_and_new_requests_fail() {
    let futures = futures();
    let early = futures.create(None, None);
    futures.close("gone");
    for ticket in [early, futures.create(None, None)] {
        let found = poll(&futures, &ticket.id);
        assert!(
            matches!(found, Found::Done(Outcome::Failed { error, category: "server" }) if error == "gone")
        );
    }
}

#[test]
fn old_results_expire_and_pending_requests_do_not() {
    let futures = futures();
    let (pending, fetched, unfetched) =
        (futures.create(None, None), futures.create(None, None), futures.create(None, None));
    futures.finish(&fetched.id, Outcome::Json("1".into()));
    futures.finish(&unfetched.id, Outcome::Json("2".into()));
    futures.fetched(&fetched.id);
    let later = |it| Instant::now() + it + Duration::from_secs(1);
    futures.inner.lock().sweep(later(KEEP_FETCHED));
    assert!(matches!(poll(&futures, &fetched.id), Found::Expired));
    assert!(matches!(poll(&futures, &unfetched.id), Found::Done(_)));
    futures.inner.lock().sweep(later(KEEP_UNFETCHED));
    assert!(matches!(poll(&futures, &unfetched.id), Found::Expired));
    assert!(matches!(poll(&futures, &pending.id), Found::Pending(None)));
}

#[test]
fn results_are_bounded_in_bytes_and_the_fetched_ones_go_first() {
    let futures = futures();
    let large = Bytes::from(vec![0; MAX_BYTES / 2 - ENTRY_BYTES]);
    let ids: Vec<_> = (0..4).map(|_| futures.create(None, None).id).collect();
    for (i, id) in ids.iter().enumerate() {
        futures.finish(id, Outcome::Json(large.clone()));
        if i == 1 {
            futures.fetched(id);
        }
    }
    let kept: Vec<bool> = ids.iter().map(|it| matches!(poll(&futures, it), Found::Done(_))).collect();
    assert_eq!(kept, [false, false, true, true]);
}
