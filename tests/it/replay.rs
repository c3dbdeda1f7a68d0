//! The recorded exchanges of the official SDK, replayed: its program, written with this crate, sends the same messages in the
//! same order to a server that gives the recorded answers, and makes of them what was recorded.
//!
//! What is compared, and how:
//! - Every request with the exchange that it repeats: method, path, the headers that servers read, the decoded message.
//!   Sequence ids are part of it; they are those of one session that does everything, from its first request to its last.
//! - Every exchange is repeated once. Attempts that follow a failure are exchanges of their own, told apart by their number in
//!   `x-stainless-retry-count` or `x-tinker-request-iteration`, so that as many are made as were recorded; those of one
//!   call share one idempotency key, which nothing else has.
//! - Requests that calls make come in the recorded order. A promise is asked for after it was made, and its polls come in
//!   their order; those of different promises overlap as threads happen to run, as they did in the recording.
//! - Heartbeats and telemetry are sent by clocks. Heartbeats say the same, and come at least as often; of telemetry, whose
//!   words are each client's own, the form is compared.
//! - What the calls return: values, or the kind and the words of the failure.
//!
//! What is not so is listed in `exceptions`.

mod compare;
mod exceptions;
mod message;
mod outcome;
mod program;
mod recording;
mod refusals;
mod rest;
mod sampling;
mod server;
mod telemetry;

use exceptions::How;
use server::Replay;

#[track_caller]
fn assert_no_problems(replay: &Replay) {
    let problems = replay.problems();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_recorded_program_sends_the_same_messages_in_the_same_order() {
    let replay = Replay::of(recording::read("sdk-0.38.0.jsonl"), exceptions::PLAIN);
    program::run(&replay);
    assert_no_problems(&replay);
}

#[cfg(feature = "zstd")]
#[test]
fn the_recorded_program_sends_compressed_passes_if_the_server_wants_them() {
    let replay = Replay::of(recording::read("sdk-0.38.0-zstd.jsonl"), &[]);
    let _open = program::compressed(&replay);
    assert_no_problems(&replay);
}

#[test]
fn the_table_of_exceptions_fits_the_recording() {
    let all = recording::read("sdk-0.38.0.jsonl");
    let of = |n: u64| all.iter().find(|it| it.n == n).unwrap();
    for row in exceptions::PLAIN {
        match row.how {
            // Whether nothing is sent, and whether the field is what the table says, the program shows.
            How::NotSent => assert!(matches!(of(*row.of.start()).answer.status, 200 | 400 | 422)),
            How::Field(field, ours) => {
                assert_ne!(message::number(&of(*row.of.start()).message, field), Some(ours));
            }
            How::AnyOrder => {
                let seq_ids: Vec<_> = row.of.clone().map(|n| of(n).message["seq_id"].as_u64()).collect();
                assert!(row.of.clone().all(|n| of(n).path == "/api/v1/asample"));
                assert!(!seq_ids.is_sorted(), "they were recorded in the order of the calls");
            }
            How::OnlyKey => {
                assert!(of(*row.of.start()).header("user-agent").unwrap().starts_with("Python-urllib"))
            }
        }
    }
}

#[test]
fn a_replay_reports_missing_different_repeated_and_reordered_requests() {
    // The flags, twice, and what the server offers.
    let first = || Replay::of(recording::read("sdk-0.38.0.jsonl").into_iter().take(3).collect(), &[]);
    let ask = |replay: &Replay| drop(replay.client().build().unwrap().get_server_capabilities());

    let replay = first();
    assert_eq!(replay.problems().len(), 3, "all are missing");
    ask(&replay);
    assert_no_problems(&replay);
    ask(&replay);
    assert!(replay.problems()[0].contains("not recorded"), "the flags again");

    let replay = first();
    drop(replay.client().api_key("tml-other").build().unwrap().get_server_capabilities());
    assert!(replay.problems()[0].contains("x-api-key is tml-other"));

    let replay = first();
    drop(replay.client().sdk_version("0.1").build().unwrap().get_server_capabilities());
    assert!(
        replay.problems().iter().any(|it| it.contains("sdk_version of the message is")),
        "another version in the body"
    );

    let mut swapped: Vec<_> = recording::read("sdk-0.38.0.jsonl").into_iter().take(3).collect();
    swapped.swap(0, 2);
    let replay = Replay::of(swapped, &[]);
    ask(&replay);
    assert!(replay.problems()[0].contains("not recorded at this place"));
}
