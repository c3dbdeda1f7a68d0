//! Helpers shared by the tests of `sync`.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A test that takes longer than this counts as hanging. Long enough for slow machines.
pub(super) const LONG: Duration = Duration::from_secs(180);

/// [`LONG`], or the number of seconds in `TINKEX_HANG_TIMEOUT`, which `tests/mutants/run.py` sets.
fn time_limit() -> Duration {
    let seconds = std::env::var("TINKEX_HANG_TIMEOUT").ok().and_then(|it| it.parse().ok());
    seconds.map_or(LONG, Duration::from_secs)
}

/// The instant at which a test that hangs fails.
pub(super) fn far_deadline() -> Instant {
    Instant::now() + time_limit()
}

/// Waits until another thread has made a condition true.
#[track_caller]
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = far_deadline();
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a function on a new thread; panics if it does not end within the time limit.
#[track_caller]
pub(super) fn with_time_limit<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = sender.send(body());
    });
    match receiver.recv_timeout(time_limit()) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the body hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(()) => unreachable!("the body ended without a value"),
        },
    }
}

/// Waits until the system lists no thread whose name begins with `prefix`. Checking once is not enough: on Linux a
/// joined thread stays in the list for some milliseconds.
#[track_caller]
pub(super) fn no_threads_named(prefix: &str) {
    eventually("the threads have ended", || threads_named(prefix) == 0);
}

/// Number of threads of this process whose names begin with `prefix`.
#[cfg(target_os = "linux")]
pub(super) fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the listing and the reading of its name; it does not count then.
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

/// Blocks threads until it is opened.
#[derive(Clone)]
pub(super) struct Latch {
    opener: std::sync::Arc<super::Mutex<Option<crossbeam_channel::Sender<()>>>>,
    opened: crossbeam_channel::Receiver<()>,
}

impl Latch {
    pub(super) fn new() -> Self {
        let (sender, opened) = crossbeam_channel::bounded(0);
        Latch { opener: std::sync::Arc::new(super::Mutex::new(Some(sender))), opened }
    }

    pub(super) fn open(&self) {
        drop(self.opener.lock().take());
    }

    #[track_caller]
    pub(super) fn wait(&self) {
        let outcome = self.opened.recv_timeout(time_limit());
        assert_eq!(
            outcome,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected),
            "the latch was not opened"
        );
    }
}
