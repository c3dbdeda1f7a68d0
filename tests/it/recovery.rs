//! Recovery of training runs that the server reports as corrupted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tinkex::event::{Observer, RecoveryEvent, RecoveryStep};
use tinkex::recovery::{
    FollowedRun, Recovery, RecoveryCheckpoint, RecoveryHooks, RecoveryMonitor, RecoveryPolicy, RecoveryStatus,
};
use tinkex::testing::{Act, FakeServer, RefusedThreads, VirtualClock};
use tinkex::types::Ttl;
use tinkex::{CloseStatus, Error, ServiceClient, TrainingClient};

use crate::util::{HOUR, TEST_TIMEOUT, alone, eventually, in_time, path_of};

const LOAD: &str = "/api/v1/load_weights";

/// What the observer and the hooks were told, as lines.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    panics: bool,
}

impl Log {
    fn add(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        assert!(!self.panics, "a panic of the caller's code");
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }
}

impl Observer for Log {
    fn on_recovery(&self, event: &RecoveryEvent) {
        let attempt = event.attempt;
        self.add(match &event.step {
            RecoveryStep::CheckFailed { .. } => "check failed".into(),
            RecoveryStep::Detected => format!("detected {}", event.run_id),
            RecoveryStep::Started { checkpoint } => format!("started {attempt} {}", checkpoint.name()),
            RecoveryStep::Recovered { checkpoint, .. } => {
                format!("recovered {attempt} {}", checkpoint.name())
            }
            RecoveryStep::Failed { pause, .. } => format!("failed {attempt}, pause {pause:?}"),
            RecoveryStep::GaveUp { .. } => format!("gave up {attempt}"),
            other => format!("{other:?}"),
        });
    }
}

impl RecoveryHooks for Log {
    fn on_recovery(&self, recovery: &Recovery) {
        self.add(format!("hook {} -> {}", recovery.previous.model_id(), recovery.current.model_id()));
    }

    fn on_failure(&self, training: &TrainingClient, error: &Error) {
        self.add(format!("hook failure {} {:?}", training.model_id(), error.kind()));
    }
}

/// What the server answers to checks.
#[derive(Default)]
struct Health {
    corrupted: BTreeSet<String>,
    all_are_corrupted: bool,
    refuses_checks: bool,
}

/// A server, a client with one model, and a monitor.
struct Scene {
    server: FakeServer,
    time: VirtualClock,
    service: ServiceClient,
    training: TrainingClient,
    health: Arc<Mutex<Health>>,
    log: Arc<Log>,
}

impl Scene {
    fn new() -> Self {
        Scene::with(Log::default())
    }

    fn with(log: Log) -> Self {
        let (server, time, log) = (FakeServer::new(), VirtualClock::new(), Arc::new(log));
        let health = Arc::new(Mutex::new(Health::default()));
        let service = server.in_memory_at(time.clone()).observer(log.clone()).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let scene = Scene { server, time, service, training, health, log };
        scene.answer_loads(|| None);
        scene
    }

    /// Answers checks as `health` says, and requests to load a checkpoint as the function does.
    fn answer_loads(&self, load: impl Fn() -> Option<Act> + Send + Sync + 'static) {
        let health = self.health.clone();
        self.server.script(move |seen| {
            if seen.path == LOAD {
                return load();
            }
            let run = seen.path.strip_prefix("/api/v1/training_runs/")?.split('?').next()?;
            let run = run.replace("%3A", ":");
            if run.contains('/') {
                return None;
            }
            let health = health.lock().unwrap();
            if health.refuses_checks {
                return Some(Act::status(403, r#"{"detail": "not now"}"#));
            }
            let is_corrupted = health.all_are_corrupted || health.corrupted.contains(&run);
            let metadata = json!({"recipe": "pig latin"});
            is_corrupted.then(|| {
                Act::json(json!({"training_run_id": run, "corrupted": true, "user_metadata": metadata}))
            })
        });
    }

    fn monitor(&self, policy: RecoveryPolicy) -> RecoveryMonitor {
        RecoveryMonitor::start_with(&self.service, &policy, self.log.clone()).unwrap()
    }

    fn save(&self, name: &str) {
        self.training.save_state(name, Ttl::Never).wait().unwrap();
    }

    fn corrupt(&self, training: &TrainingClient) {
        self.health.lock().unwrap().corrupted.insert(training.model_id().into());
    }

    /// Corrupts the current run, and returns the client that replaces it.
    fn recovered(&self, run: &FollowedRun) -> TrainingClient {
        let previous = run.current();
        self.corrupt(&previous);
        run.check_now();
        run.wait_for_replacement(&previous, TEST_TIMEOUT).unwrap().expect("not recovered in time")
    }

    /// Bodies of the requests to load a checkpoint.
    fn loads(&self) -> Vec<serde_json::Value> {
        self.server.requests_to(LOAD).iter().map(|seen| seen.json().unwrap()).collect()
    }

    /// Lets the virtual time pass until the run is followed no longer, and returns its error.
    fn failure(&self, run: &FollowedRun) -> Error {
        let mut failure = None;
        eventually("the run has failed", || {
            self.time.advance(Duration::from_secs(1));
            if let RecoveryStatus::Failed(error) = run.status() {
                failure = Some(error);
            }
            failure.is_some()
        });
        failure.unwrap()
    }
}

fn is_stopped(run: &FollowedRun) -> bool {
    matches!(run.status(), RecoveryStatus::Stopped)
}

#[test]
fn a_corrupted_run_continues_from_its_last_checkpoint_with_its_optimizer_and_metadata() {
    let scene = Scene::new();
    scene.save("first");
    scene.save("second");
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    let current = scene.recovered(&run);
    assert_eq!(run.current().model_id(), current.model_id());
    assert_eq!(run.recoveries(), 1);
    let loads = scene.loads();
    assert_eq!(loads.len(), 1);
    assert_eq!(loads[0]["path"], format!("tinker://{}/weights/second", scene.training.model_id()));
    assert_eq!(loads[0]["optimizer"], true);
    assert_eq!(loads[0]["user_metadata"]["recipe"], "pig latin");
    monitor.close();
    let (old, new) = (scene.training.model_id(), current.model_id());
    let hook = format!("hook {old} -> {new}");
    let expected = [&format!("detected {old}"), "started 1 second", "recovered 1 second", &hook];
    assert_eq!(scene.log.lines(), expected);
}

#[test]
fn a_given_checkpoint_is_loaded_without_the_optimizer_if_the_policy_says_so() {
    let scene = Scene::new();
    scene.save("last");
    let path = "tinker://other/weights/best".parse().unwrap();
    let checkpoint = RecoveryCheckpoint::Path(path);
    let monitor =
        scene.monitor(RecoveryPolicy { checkpoint, restore_optimizer: false, ..Default::default() });
    scene.recovered(&monitor.follow(&scene.training).unwrap());
    assert_eq!(scene.loads()[0]["path"], "tinker://other/weights/best");
    assert_ne!(scene.loads()[0]["optimizer"], true);
}

#[test]
fn a_healthy_run_is_checked_in_each_interval_and_left_alone() {
    let scene = Scene::new();
    scene.save("last");
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    let checks = || {
        let seen = scene.server.requests();
        seen.iter().filter(|it| it.path.starts_with("/api/v1/training_runs/")).count()
    };
    let interval = RecoveryPolicy::default().poll_interval;
    let mut quarters = 0;
    eventually("the run was checked three times", || {
        // The monitor may look at the clock at any moment, so that it may see several steps as one.
        assert!(checks() <= quarters / 4, "{} checks in {quarters} quarters of the interval", checks());
        scene.time.advance(interval / 4);
        quarters += 1;
        3 <= checks()
    });
    assert!(matches!(run.status(), RecoveryStatus::Following));
    assert!(scene.loads().is_empty() && scene.log.lines().is_empty());
}

#[test]
fn a_recovered_run_is_followed_and_can_be_recovered_again() {
    let scene = Scene::new();
    scene.save("last");
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    scene.recovered(&run);
    // The new run has not saved a checkpoint yet: it continues from the one that it began with.
    scene.recovered(&run);
    assert_eq!(run.recoveries(), 2);
    let loads = scene.loads();
    assert_eq!(loads.len(), 2);
    assert_eq!(loads[0]["path"], loads[1]["path"]);
}

#[test]
fn runs_that_are_corrupted_again_and_again_are_given_up() {
    let scene = Scene::new();
    scene.save("last");
    scene.health.lock().unwrap().all_are_corrupted = true;
    let monitor = scene.monitor(RecoveryPolicy { max_attempts: 4, ..Default::default() });
    let run = monitor.follow(&scene.training).unwrap();
    let error = scene.failure(&run);
    assert!(error.to_string().contains("no attempt"), "{error}");
    assert_eq!(scene.loads().len(), 4);
}

#[test]
fn an_attempt_that_hangs_ends_at_its_time_limit_and_the_run_can_be_followed_again() {
    let scene = Scene::new();
    scene.save("last");
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    scene.answer_loads(move || {
        let _ = released.recv();
        None
    });
    let attempt_timeout = Duration::from_millis(1);
    let policy = RecoveryPolicy { attempt_timeout, max_attempts: 2, ..Default::default() };
    let monitor = scene.monitor(policy);
    let run = monitor.follow(&scene.training).unwrap();
    scene.corrupt(&scene.training);
    run.check_now();
    let error = scene.failure(&run);
    assert!(error.is_timeout() && error.to_string().contains("attempt_timeout"), "{error}");
    assert_eq!(scene.log.count("started"), 2);
    let again = monitor.follow(&scene.training).unwrap();
    assert!(matches!(again.status(), RecoveryStatus::Following | RecoveryStatus::Recovering { .. }));
    drop(release);
}

#[test]
fn closing_cancels_an_attempt_that_hangs_and_ends_the_thread() {
    in_time(|| {
        let scene = Scene::new();
        scene.save("last");
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        scene.answer_loads(move || {
            let _ = released.recv();
            None
        });
        let monitor = scene.monitor(RecoveryPolicy { attempt_timeout: HOUR, ..Default::default() });
        let run = monitor.follow(&scene.training).unwrap();
        scene.corrupt(&scene.training);
        run.check_now();
        eventually("the attempt has begun", || !scene.loads().is_empty());
        monitor.close();
        // The thread sets this status at its end.
        assert!(is_stopped(&run));
        assert!(!scene.service.dump().clients.iter().any(|client| client.name == "tk-recover"));
        assert!(run.wait_for_replacement(&scene.training, HOUR).unwrap_err().is_closed());
        assert!(monitor.follow(&scene.training).unwrap_err().is_closed());
        drop(release);
    });
}

#[test]
fn failed_attempts_are_repeated_with_growing_pauses_and_end_with_the_error() {
    let scene = Scene::new();
    scene.save("last");
    scene.server.always(LOAD, Act::json(json!({"error": "the disk is full", "category": "server"})));
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    scene.corrupt(&scene.training);
    run.check_now();
    let error = scene.failure(&run);
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert!(error.to_string().contains("3 attempts"), "{error}");
    let waited = run.wait_for_replacement(&scene.training, HOUR).unwrap_err();
    assert_eq!(waited.to_string(), error.to_string());
    assert_eq!(run.current().model_id(), scene.training.model_id());
    monitor.close();
    let told = scene.log.lines();
    let failed: Vec<_> = told.iter().filter(|line| line.starts_with("failed")).collect();
    assert_eq!(failed, ["failed 1, pause 5s", "failed 2, pause 10s"]);
    assert_eq!(scene.log.count("gave up 3"), 1);
    assert_eq!(scene.log.count("hook failure"), 1);
}

#[test]
fn a_run_without_a_checkpoint_fails_at_once_and_says_what_to_do() {
    let scene = Scene::new();
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    scene.corrupt(&scene.training);
    run.check_now();
    let error = scene.failure(&run);
    assert!(error.is_not_found() && error.to_string().contains("save_state"), "{error}");
    assert!(scene.loads().is_empty());
}

#[test]
fn panics_of_the_observer_and_of_hooks_do_not_end_the_monitor() {
    let scene = Scene::with(Log { panics: true, ..Default::default() });
    scene.save("last");
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    scene.recovered(&run);
    scene.recovered(&run);
    monitor.close();
    assert_eq!(scene.log.count("hook"), 2);
}

#[test]
fn a_check_that_is_refused_is_told_and_the_run_is_still_followed() {
    let scene = Scene::new();
    scene.save("last");
    let monitor = scene.monitor(RecoveryPolicy::default());
    let run = monitor.follow(&scene.training).unwrap();
    scene.health.lock().unwrap().refuses_checks = true;
    run.check_now();
    eventually("the failed check was told", || 0 < scene.log.count("check failed"));
    assert!(matches!(run.status(), RecoveryStatus::Following));
    scene.health.lock().unwrap().refuses_checks = false;
    scene.recovered(&run);
}

#[test]
fn following_a_run_twice_gives_one_run_which_is_recovered_once() {
    let scene = Scene::new();
    scene.save("last");
    let monitor = scene.monitor(RecoveryPolicy::default());
    let [first, second] = [(); 2].map(|()| monitor.follow(&scene.training).unwrap());
    let current = scene.recovered(&first);
    assert_eq!(second.current().model_id(), current.model_id());
    // Checks the new run, which is healthy: after it, a second recovery of the old run would have begun.
    let third = monitor.follow(&current).unwrap();
    third.stop();
    assert!(is_stopped(&first) && is_stopped(&second));
    monitor.close();
    assert_eq!(scene.loads().len(), 1);
}

#[test]
fn the_end_of_the_session_ends_the_monitor_and_its_waiters_with_an_error() {
    in_time(|| {
        let scene = Scene::new();
        let monitor = scene.monitor(RecoveryPolicy::default());
        let run = monitor.follow(&scene.training).unwrap();
        let waiter = {
            let (run, training) = (run.clone(), scene.training.clone());
            std::thread::spawn(move || run.wait_for_replacement(&training, HOUR))
        };
        scene.service.close(CloseStatus::Success).unwrap();
        assert!(waiter.join().unwrap().unwrap_err().is_closed());
        assert!(matches!(run.status(), RecoveryStatus::Failed(error) if error.is_closed()));
        let policy = RecoveryPolicy::default();
        assert!(RecoveryMonitor::start(&scene.service, &policy).unwrap_err().is_closed());
    });
}

#[test]
fn a_monitor_may_be_dropped_by_its_own_hook() {
    struct Drops(Mutex<Option<RecoveryMonitor>>);
    impl RecoveryHooks for Drops {
        fn on_recovery(&self, _: &Recovery) {
            drop(self.0.lock().unwrap().take());
        }
    }
    in_time(|| {
        let scene = Scene::new();
        scene.save("last");
        let hooks = Arc::new(Drops(Mutex::default()));
        let policy = RecoveryPolicy::default();
        let monitor = RecoveryMonitor::start_with(&scene.service, &policy, hooks.clone()).unwrap();
        let run = monitor.follow(&scene.training).unwrap();
        *hooks.0.lock().unwrap() = Some(monitor);
        scene.recovered(&run);
        eventually("the run is stopped", || is_stopped(&run));
    });
}

#[test]
fn unusable_settings_and_a_refused_thread_are_errors() {
    alone("recovery::unusable_settings_and_a_refused_thread_are_errors", || {
        let scene = Scene::new();
        let policy = RecoveryPolicy { max_attempts: 0, ..Default::default() };
        let error = RecoveryMonitor::start(&scene.service, &policy).unwrap_err();
        assert_eq!(path_of(&error), "max_attempts");
        let refused = RefusedThreads::named("tk-recover");
        assert!(RecoveryMonitor::start(&scene.service, &RecoveryPolicy::default()).is_err());
        drop(refused);
        assert!(RecoveryMonitor::start(&scene.service, &RecoveryPolicy::default()).is_ok());
    });
}
