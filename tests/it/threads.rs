//! The threads of a session and its mailboxes. `ServiceClient::dump` lists every thread. A mailbox is the bounded queue
//! of a client's operations that wait to be sent; it limits the number of samples in memory.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, CustomLoss, Datum, LossFn, ModelInput, SamplingParams};
use tinkex::{CloseStatus, Error};

use crate::util::{alone, client_threads, datum, eventually};

const SAMPLE: &str = "/api/v1/asample";

fn one_token() -> SamplingParams {
    SamplingParams { max_tokens: Some(1), ..Default::default() }
}

/// Resident memory of this process in KiB.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Holds requests to `path` until the returned sender is dropped.
fn held(server: &FakeServer, path: &'static str) -> crossbeam_channel::Sender<()> {
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    server.script(move |seen| {
        if seen.path == path {
            let _ = released.recv();
        }
        None
    });
    release
}

#[cfg(target_os = "linux")]
#[test]
fn samples_for_a_server_that_does_not_answer_take_bounded_memory() {
    alone("threads::samples_for_a_server_that_does_not_answer_take_bounded_memory", || {
        const PERMITS: usize = 400;
        const MAILBOX: usize = 1024;
        // 400 samples have a permit to be sent. One sample has left the mailbox and waits for a permit, and the caller
        // of one sample waits until the mailbox has space.
        const MOST: usize = MAILBOX + PERMITS + 2;
        let server = FakeServer::new();
        let release = held(&server, SAMPLE);
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        // Each prompt takes 4 KB: without a limit, 100 000 samples would take more than 400 MB.
        let prompt = ModelInput::from_ints(vec![7; 1000]);
        let before = resident();
        let (sender, answers) = mpsc::channel();
        let submitter = std::thread::spawn(move || {
            for _ in 0..100_000 {
                if sender.send(sampler.sample(&prompt, 1, &one_token())).is_err() {
                    return;
                }
            }
        });
        let in_flight = || service.dump().operations.len();
        eventually("the mailbox is full", || MOST <= in_flight());
        // Without a limit, the submitter would submit more samples during this time.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(in_flight(), MOST);
        let queued: usize = service.dump().clients.iter().map(|client| client.queued).sum();
        assert_eq!(queued, MAILBOX);
        let grown = resident().saturating_sub(before) / 1024;
        assert!(grown < 100, "{MOST} samples of 100 000 took {grown} MiB");
        // `close` ends all submitted samples, and refuses later ones.
        service.close(CloseStatus::Interrupted).unwrap();
        drop(release);
        let mut n_answered = 0;
        for pending in answers {
            assert!(pending.wait().unwrap_err().is_closed());
            n_answered += 1;
        }
        assert_eq!(n_answered, 100_000);
        submitter.join().unwrap();
    });
}

/// The callback runs on the thread that takes samples from the mailbox. If the callback waited for space in the
/// mailbox, the thread would wait for itself. Therefore a sample of the callback fails immediately.
#[test]
fn a_callback_that_samples_while_the_mailbox_is_full_is_refused_at_once() {
    use std::sync::{Arc, Mutex};
    use tinkex::SamplingClient;
    use tinkex::event::{Backoff, Observer};

    #[derive(Default)]
    struct Sampling {
        sampler: Mutex<Option<SamplingClient>>,
        errors: Mutex<Vec<Error>>,
    }

    impl Observer for Sampling {
        fn on_backoff(&self, _: &Backoff) {
            let sampler = self.sampler.lock().unwrap().clone();
            let Some(sampler) = sampler else { return };
            if let Some(Err(error)) = sampler.sample(&ModelInput::from_ints([1]), 1, &one_token()).try_wait()
            {
                self.errors.lock().unwrap().push(error);
            }
        }
    }

    let server = FakeServer::new();
    let observer = Arc::new(Sampling::default());
    let (release_first, first_released) = crossbeam_channel::bounded::<()>(0);
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let n_seen = std::sync::atomic::AtomicUsize::new(0);
    server.script(move |seen| {
        if seen.path != SAMPLE {
            return None;
        }
        let number = n_seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let door = if number == 0 { &first_released } else { &released };
        let _ = door.recv();
        (number == 0).then(|| Act::status(429, "too many"))
    });
    let service =
        server.in_memory().threads(|threads| threads.mailbox = 1).observer(observer.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    *observer.sampler.lock().unwrap() = Some(sampler.clone());
    // 400 samples are being sent, one waits for a permit, one is in the mailbox, and one waits for space in the
    // mailbox.
    let submitter = std::thread::spawn(move || {
        let prompt = ModelInput::from_ints([1]);
        (0..403).map(|_| sampler.sample(&prompt, 1, &one_token())).collect::<Vec<_>>()
    });
    eventually("the mailbox is full", || service.dump().operations.len() == 403);
    // The sample that gets the 429 keeps its permit, so that the mailbox stays full while the observer is called.
    drop(release_first);
    eventually("the callback was refused", || !observer.errors.lock().unwrap().is_empty());
    drop(release);
    let all = submitter.join().unwrap();
    tinkex::wait_all(all).unwrap();
    let errors = observer.errors.lock().unwrap();
    assert!(errors.iter().all(Error::is_timeout), "{errors:?}");
    *observer.sampler.lock().unwrap() = None;
}

#[test]
fn each_thread_of_a_session_is_in_its_dump() {
    alone("threads::each_thread_of_a_session_is_in_its_dump", || {
        let server = FakeServer::new();
        server.polls_together();
        server.always("/api/v1/client/dynamic_config", Act::json(json!({"refresh_interval_sec": 10.0})));
        let service = server.in_memory().telemetry(true).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
        let data: Vec<Datum> = (0..3000).map(|_| datum()).collect();
        training.forward_backward(data, LossFn::CrossEntropy).wait().unwrap();
        let zeros = |_: &[Datum], all: &[&[f32]]| {
            Ok::<_, Error>(CustomLoss::new(0.0, all.iter().map(|one| vec![0.0; one.len()]).collect()))
        };
        training.forward_backward_custom(vec![datum()], zeros).wait().unwrap();
        // Delay the answers to polls, so that the threads of the poller still run when they are listed.
        let release = held(&server, "/api/v1/retrieve_futures");
        let samples: Vec<_> =
            (0..4).map(|_| sampler.sample(&ModelInput::from_ints([1]), 1, &one_token())).collect();
        eventually("the samples are polled", || server.requests_to("/api/v1/retrieve_futures").len() == 1);
        let missing = || {
            let dump = service.dump();
            let known: BTreeSet<String> = (dump.pools.iter().filter(|pool| 0 < pool.threads))
                .map(|pool| pool.name.to_string())
                .chain(dump.clients.iter().map(|client| client.name.clone()))
                .collect();
            let is_known = |name: &String| {
                let class = name.rsplit_once('-').map_or(name.as_str(), |(class, _)| class);
                known.contains(name) || known.contains(class)
            };
            client_threads().into_iter().filter(|name| !is_known(name)).collect::<Vec<_>>()
        };
        // Wait: the system lists a thread for some milliseconds after its end.
        eventually("each thread is in the dump", || missing().is_empty());
        let names = client_threads();
        for class in ["tk-serv", "tk-train", "tk-samp", "tk-wait", "tk-send", "tk-loss", "tk-post", "tk-poll"]
        {
            assert!(names.iter().any(|name| name.starts_with(class)), "no {class} in {names:?}");
        }
        let text = service.dump().to_string();
        for name in ["tk-loss", "tk-tele", "tk-grow", "tk-samp-"] {
            assert!(text.contains(name), "{text}");
        }
        drop(release);
        tinkex::wait_all(samples).unwrap();
        service.close(CloseStatus::Success).unwrap();
        assert!(service.dump().clients.is_empty(), "{}", service.dump());
    });
}

#[test]
fn a_mailbox_that_is_too_small_or_too_large_is_refused_before_anything_is_allocated() {
    for mailbox in [0, (1 << 20) + 1, usize::MAX] {
        let builder = FakeServer::new().in_memory().threads(|threads| threads.mailbox = mailbox);
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), &tinkex::ErrorKind::Config, "{mailbox}: {error}");
    }
}

#[cfg(all(target_os = "linux", feature = "local"))]
#[test]
fn signals_of_the_process_reach_no_thread_of_the_library() {
    alone("threads::signals_of_the_process_reach_no_thread_of_the_library", || {
        /// Signals that each thread of the library must block. These are all signals except ABRT, BUS, FPE, ILL, SEGV,
        /// SYS and TRAP, which a thread causes itself, KILL and STOP, which cannot be blocked, and 32 and 33, which the
        /// C library uses itself and never blocks.
        const EXPECTED: u64 = {
            let (mut mask, mut signal) = (0, 1);
            while signal <= 64 {
                if !matches!(signal, 4 | 5 | 6 | 7 | 8 | 9 | 11 | 19 | 31 | 32 | 33) {
                    mask |= 1 << (signal - 1);
                }
                signal += 1;
            }
            mask
        };
        let server = tinkex::local::Server::start(Default::default()).unwrap();
        let service = tinkex::ServiceClient::builder()
            .base_url(server.url())
            .api_key(server.api_key())
            .build()
            .unwrap();
        let training = service.create_lora_training_client("tinkex/nano", Default::default()).unwrap();
        training.forward_backward(vec![datum(); 64], LossFn::CrossEntropy).wait().unwrap();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let statuses = tasks.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("status")).ok());
        let mut n_threads = 0;
        for status in statuses {
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim().to_string()
            };
            let name = field("Name:");
            if !name.starts_with("tk-") && !name.starts_with("tinkex-") {
                continue;
            }
            let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
            assert_eq!(blocked & EXPECTED, EXPECTED, "{name} blocks {blocked:x}");
            n_threads += 1;
        }
        assert!(5 < n_threads, "{n_threads} threads");
    });
}
