//! Memory limits of the client for hostile answers: answers that are large after decompression, announce a huge length,
//! or contain very many values.

#![cfg(target_os = "linux")]

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tinkex::testing::{Act, FakeServer, Listening};
use tinkex::transport::Answer;
use tinkex::types::{AdamParams, LossFn, ModelInput, SamplingParams};
use tinkex::{Error, ErrorKind, ServiceClient};

use crate::util::{alone, datum};

const RETRIEVE: &str = "/api/v1/retrieve_future";
const CAPABILITIES: &str = "/api/v1/get_server_capabilities";
/// Maximum number of bytes that one hostile answer may add to the memory of the process.
const MOST: u64 = 64 << 20;

/// Reads a size from `/proc/self/status`, such as `VmRSS`, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Makes a call and returns the peak memory that it added, with its outcome.
fn cost<T>(call: impl FnOnce() -> Result<T, Error>) -> (u64, Result<(), Error>) {
    // Resets the peak (`VmHWM`) to the present value.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let result = call().map(drop);
    (memory("VmHWM").saturating_sub(before), result)
}

fn gzip(pieces: &[(&[u8], usize)]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for (piece, n) in pieces {
        encoder.write_all(&piece.repeat(*n)).unwrap();
    }
    encoder.finish().unwrap()
}

/// Answers with 256 MiB of white space and a valid body, compressed.
fn bomb(status: u16) -> Act {
    let space = vec![b' '; 1 << 20];
    let spaces: Vec<(&[u8], usize)> = vec![(&space, 1); 256];
    let body = gzip(&[&spaces[..], &[(b"{\"metrics\":{}}", 1)]].concat());
    answer(status, body, true)
}

fn answer(status: u16, body: Vec<u8>, is_gzip: bool) -> Act {
    let answer = Answer::new(status).with_header("content-type", "application/json").with_body(body);
    Act::Answer(if is_gzip { answer.with_header("content-encoding", "gzip") } else { answer })
}

/// Answers with a list of `n + 1` copies of a value. The compressed body has few bytes.
fn repeated(open: &str, value: &str, close: &str, n: usize) -> Act {
    let last = value.trim_end_matches(',').as_bytes();
    answer(200, gzip(&[(open.as_bytes(), 1), (value.as_bytes(), n), (last, 1), (close.as_bytes(), 1)]), true)
}

/// Announces a body of 4 TiB and sends almost nothing.
fn announced() -> Act {
    let length = (1u64 << 42).to_string();
    Act::StallBody(Answer::new(200).with_header("content-length", length).with_body("{}"))
}

fn client(listening: &Listening) -> ServiceClient {
    let brief = Duration::from_secs(2);
    listening.client().timeouts(|it| (it.submit, it.first_contact) = (brief, brief)).build().unwrap()
}

/// Checks that a call failed, that it added at most [`MOST`] bytes, and that its error contains both texts of `sizes`.
fn check(what: &str, cost: (u64, Result<(), Error>), sizes: [&str; 2]) {
    let (bytes, result) = cost;
    assert!(bytes <= MOST, "{what} took {} MiB", bytes >> 20);
    let error = result.expect_err(what);
    assert_eq!(*error.kind(), ErrorKind::Decode, "{what}: {error:?}");
    for size in sizes {
        assert!(error.to_string().contains(size), "{what}: {error}");
    }
}

#[test]
fn answers_of_any_size_cost_bounded_memory() {
    alone("memory_limits::answers_of_any_size_cost_bounded_memory", || {
        let (bomb, refusing) = (bomb(200), bomb(503));
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        // Use the client once, so that its threads and buffers exist before the first measurement.
        let service = client(&listening);
        service.get_server_capabilities().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        training.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();

        // Each lane (class of requests, PROTOCOL §1.7) has a limit for its answers. Sessions: 1 MiB.
        server.next("/api/v1/create_session", bomb.clone());
        let made = cost(|| client(&listening).create_lora_training_client("fake/model", Default::default()));
        check("the answer to a new session", made, ["1048576 bytes", "more than"]);
        // Lists and capabilities: 16 MiB.
        server.next(CAPABILITIES, bomb.clone());
        check("capabilities", cost(|| service.get_server_capabilities()), ["16777216 bytes", "more than"]);
        server.next(CAPABILITIES, announced());
        check("a length", cost(|| service.get_server_capabilities()), ["16777216 bytes", "4398046511104"]);
        server.next(CAPABILITIES, repeated("{\"a\":[", "0,", "]}", 4 << 20));
        check("small values", cost(|| service.get_server_capabilities()), ["4194306 values", "524288"]);
        server.next(CAPABILITIES, repeated("[", "{\"a\":[]},", "]", 1 << 19));
        check("small objects", cost(|| service.get_server_capabilities()), ["values", "524288"]);
        let head = Act::json(json!({})).with_header("x-long", &"x".repeat(1 << 20));
        // The client repeats the request, because a proxy may have caused the long head: send the long head each time.
        server.always(CAPABILITIES, head);
        check("a head", cost(|| service.get_server_capabilities()), ["16383 bytes", "16384 arrived"]);
        // Of an answer with an error status, the client reads only the beginning of the body and reports the status.
        server.always(CAPABILITIES, refusing);
        let (bytes, result) = cost(|| service.get_server_capabilities());
        assert!(bytes <= MOST, "a refusal took {} MiB", bytes >> 20);
        assert_eq!(result.unwrap_err().http_status(), Some(503));
        server.behave(CAPABILITIES);

        // The client computes the size limit of a result from its request, for example from the number of target
        // tokens.
        server.next(RETRIEVE, bomb.clone());
        let step = cost(|| training.optim_step(AdamParams::default()).wait());
        check("a step", step, ["1048576 bytes", "more than"]);
        server.next(RETRIEVE, bomb.clone());
        let pass = cost(|| training.forward(vec![datum()], LossFn::CrossEntropy).wait());
        check("a pass", pass, ["bytes", "more than"]);
        // If the server announces a size above the limit, the client does not fetch the result.
        let large = json!({"status": "complete_metadata", "response_payload_size": 1u64 << 40});
        server.next(RETRIEVE, Act::json(large));
        let pass = cost(|| training.forward(vec![datum()], LossFn::CrossEntropy).wait());
        check("an announcement", pass, ["bytes", "1099511627776"]);
        let small = json!({"status": "complete_metadata", "response_payload_size": 100_000});
        server.next(RETRIEVE, Act::json(small));
        server.next(RETRIEVE, bomb.clone());
        let pass = cost(|| training.forward(vec![datum()], LossFn::CrossEntropy).wait());
        check("another size than announced", pass, ["bytes", "more than"]);
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
        let sample = || sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait();
        server.next("/api/v1/asample", bomb.clone());
        check("a promise of a sample", cost(sample), ["bytes", "more than"]);
        server.next(RETRIEVE, bomb);
        check("a sample", cost(sample), ["bytes", "more than"]);
        sample().unwrap();
    });
}
