//! A process forks while it has clients. The child process has none of the clients' threads, and must not use the
//! connections of the parent process.
#![allow(unsafe_code, reason = "fork is not in the standard library")]

use std::time::{Duration, Instant};

use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, ModelInput, SamplingParams};
use tinkex::{CloseStatus, Error};

use crate::util::{TEST_TIMEOUT, alone, eventually};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
    fn kill(pid: i32, signal: i32) -> i32;
}

const WNOHANG: i32 = 1;
const SIGKILL: i32 = 9;

/// Runs `checks` in a forked child process, which exits with the result of `checks`, and returns that result.
fn in_child(checks: impl FnOnce() -> i32) -> i32 {
    // SAFETY: `fork` takes no pointers. The child runs `checks` and exits without running destructors of the parent.
    let child = unsafe { fork() };
    assert!(0 <= child);
    if child == 0 {
        let code = checks();
        // SAFETY: `_exit` takes no pointers and does not return.
        unsafe { _exit(code) }
    }
    let (deadline, mut status) = (Instant::now() + TEST_TIMEOUT, 0);
    // SAFETY: `status` is a local variable that outlives the call.
    while unsafe { waitpid(child, &raw mut status, WNOHANG) } == 0 {
        if deadline < Instant::now() {
            // SAFETY: the process is our child and has not been reaped, so its id is not reused.
            unsafe { kill(child, SIGKILL) };
            panic!("the child hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status & 0x7f, 0, "the child was killed by a signal");
    status >> 8
}

fn says_forked<T>(result: Result<T, Error>) -> bool {
    result.is_err_and(|it| it.is_closed() && it.to_string().contains("forked"))
}

#[test]
fn in_a_forked_child_every_call_fails_at_once_and_the_parent_goes_on() {
    alone("forked::in_a_forked_child_every_call_fails_at_once_and_the_parent_goes_on", || {
        let server = FakeServer::new();
        server.polls_together();
        let listening = server.listen().unwrap();
        let service = listening.client().build().unwrap();
        let rest = service.create_rest_client();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let (prompt, params) = (ModelInput::from_ints([1]), SamplingParams::default());
        // The server does not answer the polls, so their connections are in use while the child inherits them.
        let (open, gate) = crossbeam_channel::bounded::<()>(0);
        for path in ["/api/v1/retrieve_future", "/api/v1/retrieve_futures"] {
            let gate = gate.clone();
            server.always_altered(path, move |answer| {
                // Wait until the test drops `open`. Then `recv_timeout` returns an error, which is ignored.
                let _ = gate.recv_timeout(TEST_TIMEOUT);
                Act::Answer(answer)
            });
        }
        let step = training.optim_step(AdamParams::default());
        let sample = sampler.sample(&prompt, 1, &params);
        eventually("both are polled", || {
            ["/api/v1/retrieve_future", "/api/v1/retrieve_futures"]
                .iter()
                .all(|it| !server.requests_to(it).is_empty())
        });
        // Do not count what the parent goes on to send: heartbeats and polls.
        let is_counted = |path: &str| !path.ends_with("heartbeat") && !path.contains("/retrieve_future");
        let n_requests = || server.requests().iter().filter(|it| is_counted(&it.path)).count();
        let before = n_requests();

        let mut held = Some((step, sample, training, sampler, rest, service));
        let code = in_child(|| {
            let Some((mut step, sample, training, sampler, rest, service)) = held.take() else { return 1 };
            let checks = [
                says_forked(step.wait_timeout(TEST_TIMEOUT)),
                says_forked(step.wait()),
                sample.is_done(),
                says_forked(training.optim_step(AdamParams::default()).wait()),
                says_forked(sampler.sample(&prompt, 1, &params).wait()),
                says_forked(service.get_server_capabilities()),
                says_forked(service.create_lora_training_client("fake/model", Default::default())),
                says_forked(service.create_sampling_client("fake/model")),
                says_forked(rest.get_server_capabilities()),
            ];
            // None of these calls may end an operation of the parent process.
            sample.cancel();
            drop(sample);
            training.close();
            sampler.close();
            let closed = says_forked(service.close(CloseStatus::Success));
            drop((training, sampler, rest, service));
            let failed = checks.iter().chain([&closed]).position(|it| !it);
            failed.map_or(0, |it| 2 + it as i32)
        });
        assert_eq!(code, 0, "the number of the first check that failed, plus two");

        // The child has sent no request.
        assert_eq!(n_requests(), before);
        drop(open);
        let (step, sample, training, sampler, _rest, service) = held.unwrap();
        step.wait().unwrap();
        sample.wait().unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
        sampler.sample(&prompt, 1, &params).wait().unwrap();
        service.close(CloseStatus::Success).unwrap();
    });
}

#[test]
fn a_forked_child_may_make_a_client_of_its_own() {
    alone("forked::a_forked_child_may_make_a_client_of_its_own", || {
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        let service = listening.client().build().unwrap();
        service.get_server_capabilities().unwrap();
        let code = in_child(|| {
            let own = listening.client().build();
            i32::from(!own.is_ok_and(|it| it.get_server_capabilities().is_ok()))
        });
        assert_eq!(code, 0);
        service.get_server_capabilities().unwrap();
    });
}

#[cfg(feature = "local")]
#[test]
fn an_engine_and_its_folder_outlive_a_forked_child_that_drops_it() {
    alone("forked::an_engine_and_its_folder_outlive_a_forked_child_that_drops_it", || {
        let server = tinkex::local::Server::start(Default::default()).unwrap();
        let mut held = Some(server);
        let code = in_child(|| {
            drop(held.take());
            0
        });
        assert_eq!(code, 0);
        let server = held.unwrap();
        assert!(server.data_dir().exists());
        let builder = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key());
        builder.build().unwrap().get_server_capabilities().unwrap();
    });
}
