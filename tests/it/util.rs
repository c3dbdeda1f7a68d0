//! Helpers that the tests share.

#[cfg(feature = "local")]
pub(crate) mod engine;
#[cfg(feature = "local")]
pub(crate) mod folder;
#[cfg(all(feature = "local", target_os = "linux"))]
pub(crate) mod memory;
pub(crate) mod proxy;
#[cfg(feature = "local")]
pub(crate) mod raw_http;
pub(crate) mod recorded;
pub(crate) mod relay;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tinkex::testing::{FakeServer, Seen};
use tinkex::types::Datum;
use tinkex::{Error, ServiceClient, TrainingClient};

/// Timeout for waits that are much shorter if the test passes.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for waits that the code under test must end early. It is longer than the time limit of every test: if the
/// code under test does not end the wait, the test fails instead of passing after the timeout.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Time limit of [`eventually`] and [`in_time`]: 180 s, because the machine may be busy. `tests/mutants/run.py` runs
/// the tests against mutants (copies of the crate with one deliberate bug), where most of these waits time out. It sets
/// `TINKEX_HANG_TIMEOUT` to fewer seconds.
fn hang_timeout() -> Duration {
    let seconds = std::env::var("TINKEX_HANG_TIMEOUT").ok().and_then(|it| it.parse().ok());
    Duration::from_secs(seconds.unwrap_or(180))
}

/// A datum with four targets.
pub(crate) fn datum() -> Datum {
    Datum::cross_entropy(&[1, 2, 3], &[4, 5])
}

/// Creates a fake server in memory, its client, and a training client with a new model.
pub(crate) fn training() -> (FakeServer, ServiceClient, TrainingClient) {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    (server, service, training)
}

/// Returns the path of the invalid value that an error names, such as `data[0].model_input`.
#[track_caller]
pub(crate) fn path_of(error: &Error) -> String {
    error.violation().unwrap_or_else(|| panic!("no path in {error:?}")).path.clone()
}

/// Returns the sequence ids of the training requests that a server got, in the order of arrival.
pub(crate) fn seq_ids(server: &FakeServer) -> Vec<u64> {
    server.requests().iter().filter_map(seq_id).collect()
}

/// Returns the sequence id of a training request, and `None` for other requests.
pub(crate) fn seq_id(seen: &Seen) -> Option<u64> {
    match seen.path.as_str() {
        // A protobuf message: field 1 is the model id (tag, length, text), field 2 the sequence id (tag 0x10, varint).
        "/api/v1/forward_backward" => {
            let model_id_length = usize::from(seen.body[1]);
            assert_eq!(seen.body[2 + model_id_length], 0x10, "no sequence id after the model id");
            let mut value = 0;
            for (i, byte) in seen.body[3 + model_id_length..].iter().enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * i);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            Some(value)
        }
        "/api/v1/optim_step"
        | "/api/v1/save_weights"
        | "/api/v1/save_weights_for_sampler"
        | "/api/v1/save_weights_external"
        | "/api/v1/load_weights" => seen.json()?["seq_id"].as_u64(),
        _ => None,
    }
}

/// Returns the sorted names of all threads that clients run in this process. These names begin with `tk-`.
pub(crate) fn client_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("comm")).ok());
    let mut names: Vec<String> =
        names.map(|it| it.trim().to_string()).filter(|it| it.starts_with("tk-")).collect();
    names.sort();
    names
}

/// Waits until a condition holds. Panics with the text `what` after [`hang_timeout`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + hang_timeout();
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the body of a test on a separate thread. Panics if the body does not end within [`hang_timeout`]; the thread
/// then continues to run.
#[track_caller]
pub(crate) fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        // The send fails if the test has timed out, which drops the receiver.
        let _ = done.send(());
    });
    match ended.recv_timeout(hang_timeout()) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs"),
        // The body panicked: fail this test with the same panic.
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(()) => unreachable!("the body ended without sending"),
        },
    }
}

/// Runs a test in a child process that runs no other test, for tests that change or measure the whole process, such as
/// its memory or its threads. The child is this test binary with `name`, the full name of the test, as its only test.
#[track_caller]
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    alone_with(name, &[], test);
}

/// As [`alone`], for a test that measures: prints what the child wrote after the name of the test's module and a colon.
#[track_caller]
#[cfg(all(feature = "local", target_os = "linux"))]
#[expect(clippy::print_stdout, reason = "the figures are worth reading, not only their limits")]
pub(crate) fn alone_with_figures(name: &str, test: impl FnOnce()) {
    let mark = format!("{}: ", name.split("::").next().unwrap_or_default());
    let output = alone_with(name, &[], test).unwrap_or_default();
    // The test harness has written the name of the test at the beginning of the first line.
    output.lines().filter_map(|line| line.get(line.find(&mark)?..)).for_each(|it| println!("{it}"));
}

/// As [`alone`], with environment variables for the child. Returns the child's output in the parent, `None` in the
/// child.
#[track_caller]
pub(crate) fn alone_with(name: &str, environment: &[(&str, &str)], test: impl FnOnce()) -> Option<String> {
    const MARK: &str = "TINKEX_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        test();
        return None;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1", "--nocapture"])
        .envs(environment.iter().copied())
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{name} did not run alone: {text}");
    Some(text.into_owned())
}
