//! What the tests of this floor share.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for every machine; it only stops a test that would otherwise hang.
pub(super) const LONG: Duration = Duration::from_secs(180);

/// As [`LONG`], unless `TINKEX_HANG_TIMEOUT` says how many seconds: `tests/mutants/run.py` sets it.
fn hang_timeout() -> Duration {
    let seconds = std::env::var("TINKEX_HANG_TIMEOUT").ok().and_then(|it| it.parse().ok());
    seconds.map_or(LONG, Duration::from_secs)
}

/// The instant at which a hanging test gives up.
pub(super) fn late() -> Instant {
    Instant::now() + hang_timeout()
}

/// Waits until a condition that another thread brings about holds.
#[track_caller]
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = late();
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a body in a thread of its own and fails, rather than hangs, if it does not end.
#[track_caller]
pub(super) fn in_time<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = sender.send(body());
    });
    match receiver.recv_timeout(hang_timeout()) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the body hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(()) => unreachable!("the body ended without a value"),
        },
    }
}

/// Waits until the system lists no thread whose name begins like this. Linux wakes whoever joins a thread some
/// milliseconds before it takes the thread off the list, so that looking once would fail now and then.
#[track_caller]
pub(super) fn no_threads_named(prefix: &str) {
    eventually("the threads are gone", || threads_named(prefix) == 0);
}

/// How many threads of this process have a name that begins like this.
#[cfg(target_os = "linux")]
pub(super) fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the listing and the reading of its name; then it does not count.
    tasks
        .filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("comm")).ok())
        .filter(|it| it.starts_with(prefix))
        .count()
}

/// Holds threads until it is opened.
#[derive(Clone)]
pub(super) struct Door {
    opener: std::sync::Arc<super::Mutex<Option<crossbeam_channel::Sender<()>>>>,
    shut: crossbeam_channel::Receiver<()>,
}

impl Door {
    pub(super) fn shut() -> Self {
        let (sender, shut) = crossbeam_channel::bounded(0);
        Door { opener: std::sync::Arc::new(super::Mutex::new(Some(sender))), shut }
    }

    pub(super) fn open(&self) {
        drop(self.opener.lock().take());
    }

    #[track_caller]
    pub(super) fn pass(&self) {
        let outcome = self.shut.recv_timeout(hang_timeout());
        assert_eq!(outcome, Err(crossbeam_channel::RecvTimeoutError::Disconnected), "the door stayed shut");
    }
}
