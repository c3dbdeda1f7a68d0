//! Operations while the system refuses to start threads, which `RefusedThreads` simulates.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use tinkex::testing::{Act, FakeServer, RefusedThreads, VirtualClock};
use tinkex::types::{AdamParams, ModelInput, SampleResponse, SamplingParams};
use tinkex::{ErrorKind, Pending};

use crate::util::{TEST_TIMEOUT, alone, client_threads, eventually, training};

/// Submits 20 samples with each of eight clients while threads whose names begin with `prefix` are refused. The first
/// `together` refusals happen at the same time. Each sample must end, with a result or with a `System` error, and all
/// clients must work after threads can start again.
fn samples_while_refused(server: &FakeServer, prefix: &str, together: usize) {
    let service = server.in_memory().clock(tinkex::sync::Clock::default()).build().unwrap();
    let samplers: Vec<_> = (0..8).map(|_| service.create_sampling_client("fake/model").unwrap()).collect();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let start = Barrier::new(8);
    let refused = RefusedThreads::together(prefix, together);
    let pending: Vec<Pending<SampleResponse>> = std::thread::scope(|scope| {
        let threads: Vec<_> = samplers
            .iter()
            .map(|sampler| {
                let (start, params) = (&start, &params);
                scope.spawn(move || {
                    start.wait();
                    (0..20)
                        .map(|_| sampler.sample(&ModelInput::from_ints([1]), 1, params))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    eventually("threads were refused", || together <= refused.count());
    drop(refused);
    let deadline = Instant::now() + TEST_TIMEOUT;
    for mut it in pending {
        match it.wait_deadline(deadline) {
            Ok(sample) => assert!(sample.is_some(), "not answered: {}", service.dump()),
            Err(error) => assert_eq!(*error.kind(), ErrorKind::System, "{error}\n{}", service.dump()),
        }
    }
    for sampler in &samplers {
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    }
}

#[test]
fn samples_are_answered_although_the_threads_that_send_them_were_refused() {
    alone("refused_threads::samples_are_answered_although_the_threads_that_send_them_were_refused", || {
        samples_while_refused(&FakeServer::new(), "tk-post", 8);
    });
}

#[test]
fn samples_are_answered_although_their_pollers_were_refused() {
    alone("refused_threads::samples_are_answered_although_their_pollers_were_refused", || {
        let server = FakeServer::new();
        server.polls_together();
        samples_while_refused(&server, "tk-poll", 2);
    });
}

#[test]
fn samples_are_answered_although_the_threads_that_wait_for_them_were_refused() {
    alone(
        "refused_threads::samples_are_answered_although_the_threads_that_wait_for_them_were_refused",
        || {
            samples_while_refused(&FakeServer::new(), "tk-result", 8);
        },
    );
}

#[test]
fn samples_whose_poller_gets_no_thread_fail_and_the_next_sample_tries_again() {
    alone(
        "refused_threads::samples_whose_poller_gets_no_thread_fail_and_the_next_sample_tries_again",
        || {
            let server = FakeServer::new();
            server.polls_together();
            let service = server.in_memory().clock(tinkex::sync::Clock::default()).build().unwrap();
            let sampler = service.create_sampling_client("fake/model").unwrap();
            let sample = || {
                let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
                sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait()
            };
            let refused = RefusedThreads::named("tk-poll");
            for _ in 0..2 {
                let error = sample().unwrap_err();
                assert_eq!(*error.kind(), ErrorKind::System, "{error}");
                assert!(error.message().starts_with("no thread could be started"), "{error}");
            }
            assert_eq!(refused.count(), 2);
            drop(refused);
            sample().unwrap();
        },
    );
}

#[test]
fn a_result_for_a_full_channel_is_not_lost_when_there_is_no_thread() {
    alone("refused_threads::a_result_for_a_full_channel_is_not_lost_when_there_is_no_thread", || {
        let (server, clock) = (FakeServer::new(), VirtualClock::new());
        let service = server.in_memory_at(clock.clone()).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let (sender, receiver) = crossbeam_channel::bounded(1);
        training.optim_step(AdamParams::default()).on_done(0, sender.clone());
        eventually("the channel is full", || sender.is_full());
        let refused = RefusedThreads::named("tk-done");
        let pending = training.optim_step(AdamParams::default());
        eventually("it is done", || pending.is_done());
        pending.on_done(7, sender);
        assert_eq!(refused.count(), 1);
        // Drop all handles: the session must still deliver the result.
        drop((training, service));
        drop(refused);
        eventually("the next heartbeat finds a thread", || {
            clock.advance(Duration::from_secs(10));
            client_threads().iter().any(|it| it == "tk-done")
        });
        let tags: Vec<i32> = receiver.iter().map(|it| it.1.map(|_| it.0).unwrap()).collect();
        assert_eq!(tags, [0, 7]);
        eventually("all threads are gone", || client_threads().is_empty());
    });
}

#[test]
fn a_thousand_results_for_a_full_channel_take_one_thread() {
    alone("refused_threads::a_thousand_results_for_a_full_channel_take_one_thread", || {
        let (_server, service, training) = training();
        let (sender, receiver) = crossbeam_channel::bounded(1);
        for tag in 0..1000 {
            training.optim_step(AdamParams::default()).on_done(tag, sender.clone());
        }
        eventually("all are done", || service.dump().operations.is_empty());
        // A new thread sets its own name a short time after its start: wait for the name.
        let waiting = || client_threads().iter().filter(|it| *it == "tk-done").count();
        eventually("a thread waits", || waiting() != 0);
        assert_eq!(waiting(), 1);
        drop(sender);
        let mut tags: Vec<i32> = receiver.iter().map(|it| it.1.map(|_| it.0).unwrap()).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..1000).collect::<Vec<_>>());
    });
}

#[test]
fn a_channel_that_nobody_reads_holds_up_no_other_one() {
    alone("refused_threads::a_channel_that_nobody_reads_holds_up_no_other_one", || {
        let (_server, _service, training) = training();
        // Three channels with different types of tags: `stuck` is read only at the end, `narrow` has the capacity 0,
        // and `lonely` loses its receiver.
        let (stuck, unread) = crossbeam_channel::bounded(1);
        let (narrow, reader) = crossbeam_channel::bounded(0);
        let (lonely, gone) = crossbeam_channel::bounded(1);
        for tag in 0..3_u8 {
            training.optim_step(AdamParams::default()).on_done(u64::from(tag), stuck.clone());
            training.optim_step(AdamParams::default()).on_done("narrow", narrow.clone());
            training.optim_step(AdamParams::default()).on_done((), lonely.clone());
        }
        drop((narrow, lonely));
        drop(gone);
        let tags: Vec<_> = reader.iter().map(|it| it.0).collect();
        assert_eq!(tags, ["narrow"; 3]);
        drop(stuck);
        let tags: Vec<_> = unread.iter().map(|it| it.0).collect();
        assert_eq!(tags.len(), 3);
        eventually("the thread has ended", || !client_threads().iter().any(|it| it == "tk-done"));
    });
}

#[test]
fn flags_are_kept_fresh_although_their_thread_was_refused_at_first() {
    alone("refused_threads::flags_are_kept_fresh_although_their_thread_was_refused_at_first", || {
        const FLAGS: &str = "/api/v1/client/dynamic_config";
        let (server, clock) = (FakeServer::new(), VirtualClock::new());
        server.always(FLAGS, Act::json(serde_json::json!({"refresh_interval_sec": 300})));
        let service = server.in_memory_at(clock.clone()).build().unwrap();
        let refused = RefusedThreads::named("tk-refresh");
        service.create_lora_training_client("fake/model", Default::default()).unwrap();
        assert!(1 <= refused.count());
        let before = server.requests_to(FLAGS).len();
        drop(refused);
        eventually("the flags are asked for again", || {
            clock.advance(Duration::from_secs(10));
            before < server.requests_to(FLAGS).len()
        });
    });
}
