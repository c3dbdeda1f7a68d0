//! Helpers that the tests share.

#[cfg(feature = "local")]
pub(crate) mod engine;
pub(crate) mod proxy;
pub(crate) mod recorded;
pub(crate) mod relay;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tinkex::testing::{FakeServer, Seen};
use tinkex::types::Datum;
use tinkex::{Error, ServiceClient, TrainingClient};

/// Bound for waits that end early in a test that passes.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for waits that only the mechanism under test may end. It is above every bound of the tests, so that a test
/// fails without its mechanism instead of passing late.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Bound of [`eventually`] and [`in_time`]: 3 minutes, because the machine may be busy. `tests/mutants/run.py` sets
/// `TINKEX_HANG_TIMEOUT` to fewer seconds, because with a mutant most of these waits time out.
fn hang_timeout() -> Duration {
    let seconds = std::env::var("TINKEX_HANG_TIMEOUT").ok().and_then(|it| it.parse().ok());
    Duration::from_secs(seconds.unwrap_or(180))
}

/// A datum with four targets.
pub(crate) fn datum() -> Datum {
    Datum::cross_entropy(&[1, 2, 3], &[4, 5])
}

/// A client of a fake server in memory, and a model to train there.
pub(crate) fn training() -> (FakeServer, ServiceClient, TrainingClient) {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    (server, service, training)
}

/// The path of the value that an error is about.
#[track_caller]
pub(crate) fn path_of(error: &Error) -> String {
    error.violation().unwrap_or_else(|| panic!("no path in {error:?}")).path.clone()
}

/// The sequence ids of the training requests that a server got, in the order of their arrival.
pub(crate) fn seq_ids(server: &FakeServer) -> Vec<u64> {
    server.requests().iter().filter_map(seq_id).collect()
}

/// The sequence id of a training request.
pub(crate) fn seq_id(seen: &Seen) -> Option<u64> {
    match seen.path.as_str() {
        // Field 2 of the message, after the model id: tag 0x10, then a varint.
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

/// The names of this process's threads that belong to clients of the crate.
pub(crate) fn client_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("comm")).ok());
    let mut names: Vec<String> =
        names.map(|it| it.trim().to_string()).filter(|it| it.starts_with("tk-")).collect();
    names.sort();
    names
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + hang_timeout();
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the body of a test on a thread of its own and fails if it does not end. The thread is not stopped then.
#[track_caller]
pub(crate) fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        // The receiver is gone after a timeout.
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

/// Runs a test in a process of its own, because it uses state that all tests of a process share.
#[track_caller]
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    alone_with(name, &[], test);
}

/// As [`alone`], with environment variables. Returns the output of the child process, and `None` inside it.
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
