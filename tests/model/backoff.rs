//! The backoff window, during which no sample is submitted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::thread;

use super::{holds, notices};
use crate::policy::backoff::Window;
use crate::sync::Mutex;
use crate::sync::fault::Fault;

/// Three threads extend the window to 5, 3 and 1 seconds from now, in any order. The window then ends after 5 seconds,
/// and a concurrent reader never sees it become shorter.
fn the_window_keeps_the_latest_end() {
    let (now, window) = (Instant::now(), Arc::new(Mutex::new(Window::default())));
    let refused = [5, 3, 1].map(|seconds| {
        let window = window.clone();
        thread::spawn(move || window.lock().extend(now + Duration::from_secs(seconds)))
    });
    let reader = thread::spawn({
        let window = window.clone();
        move || {
            let readings = [(); 3].map(|()| window.lock().remaining(now));
            assert!(readings.is_sorted(), "{readings:?}");
        }
    });
    refused.into_iter().for_each(|thread| thread.join().unwrap());
    reader.join().unwrap();
    assert_eq!(window.lock().remaining(now), Some(Duration::from_secs(5)));
}

#[test]
fn a_window_only_extends() {
    holds(the_window_keeps_the_latest_end);
    notices(Fault::ShortensTheWindow, the_window_keeps_the_latest_end);
}
