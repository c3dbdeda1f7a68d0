//! The window in which nobody sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::thread;

use super::{holds, notices};
use crate::policy::backoff::Window;
use crate::sync::Mutex;
use crate::sync::fault::Fault;

/// Three refusals in any order leave the window of the longest, and somebody who looks meanwhile never sees it shrink.
fn the_longest_refusal_stands() {
    let (now, window) = (Instant::now(), Arc::new(Mutex::new(Window::default())));
    let refused = [5, 3, 1].map(|it| {
        let window = window.clone();
        thread::spawn(move || window.lock().extend(now + Duration::from_secs(it)))
    });
    let sender = thread::spawn({
        let window = window.clone();
        move || {
            let looks = [(); 3].map(|()| window.lock().remaining(now));
            assert!(looks.is_sorted(), "{looks:?}");
        }
    });
    refused.into_iter().for_each(|it| it.join().unwrap());
    sender.join().unwrap();
    assert_eq!(window.lock().remaining(now), Some(Duration::from_secs(5)));
}

#[test]
fn a_window_only_extends() {
    holds(the_longest_refusal_stands);
    notices(Fault::ShortensTheWindow, the_longest_refusal_stands);
}
