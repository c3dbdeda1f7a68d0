//! Compares this crate with the official Python SDK. The HTTP traffic of a program that uses the SDK was recorded in
//! `tests/data/wire`: a list of exchanges, each a request with its answer. The module `program` is the same program
//! with this crate. It runs against a fake server (module `server`) that gives the recorded answers. The crate must
//! send the recorded messages in the recorded order and return the recorded results.
//!
//! The server answers a long operation immediately with a promise: a request id. The client then polls for the result.
//!
//! The replay compares:
//! - each request with its recorded exchange: method, path, the headers that servers read, and the decoded message. The
//!   message includes sequence ids, so that one additional or missing training request changes the later messages;
//! - the number of requests: the crate sends the request of each exchange exactly once. If a call needed several
//!   attempts, the recording has one exchange for each attempt, with the number of the attempt in
//!   `x-stainless-retry-count` or `x-tinker-request-iteration`. The attempts of one call share an idempotency key,
//!   which no other call uses;
//! - the order: requests other than polls, heartbeats and telemetry arrive in the recorded order. The polls for the
//!   result of one promise arrive after the server sent the promise, in the recorded order; polls for different
//!   promises may overlap;
//! - heartbeats and telemetry, which timers send: heartbeats have the recorded message and arrive at least as often as
//!   recorded; telemetry has the recorded fields, but may have other texts;
//! - the results of the calls: values, or the kind and the message of the error.
//!
//! The module `exceptions` lists the permitted differences.

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
            // The replay of the program checks that this crate does not send the request. Here we check that the
            // recorded program did send it: the recording has the server's answer.
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
    // The first three exchanges of the recording: two requests for flags, and `get_server_capabilities`.
    let first_exchanges =
        || Replay::of(recording::read("sdk-0.38.0.jsonl").into_iter().take(3).collect(), &[]);
    let run = |replay: &Replay| drop(replay.client().build().unwrap().get_server_capabilities());

    let replay = first_exchanges();
    assert_eq!(replay.problems().len(), 3, "all are missing");
    run(&replay);
    assert_no_problems(&replay);
    run(&replay);
    assert!(replay.problems()[0].contains("not recorded"), "the flags again");

    let replay = first_exchanges();
    drop(replay.client().api_key("tml-other").build().unwrap().get_server_capabilities());
    assert!(replay.problems()[0].contains("x-api-key is tml-other"));

    let replay = first_exchanges();
    drop(replay.client().sdk_version("0.1").build().unwrap().get_server_capabilities());
    assert!(
        replay.problems().iter().any(|problem| problem.contains("sdk_version of the message is")),
        "another version in the body"
    );

    let mut swapped: Vec<_> = recording::read("sdk-0.38.0.jsonl").into_iter().take(3).collect();
    swapped.swap(0, 2);
    let replay = Replay::of(swapped, &[]);
    run(&replay);
    assert!(replay.problems()[0].contains("not recorded at this place"));
}
