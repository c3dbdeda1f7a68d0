//! The window in which nobody sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::thread;

use super::{holds, notices};
use crate::policy::backoff::Window;
use crate::sync::Mutex;
use crate::sync::fault::Fault;

/// Two refusals and a success in any order: what is left is the longest of those refusals that the success did not
/// know of.
fn the_longest_unknown_refusal_stands() {
    let (now, window) = (Instant::now(), Arc::new(Mutex::new(Window::default())));
    let refused: Vec<_> = [5, 3]
        .into_iter()
        .map(|it| {
            let window = window.clone();
            thread::spawn(move || {
                let pause = Duration::from_secs(it);
                let mut window = window.lock();
                window.extend(now + pause);
                (window.generation(), pause)
            })
        })
        .collect();
    let sender = thread::spawn({
        let window = window.clone();
        move || {
            let known = window.lock().generation();
            thread::yield_now();
            window.lock().clear(known).then_some(known)
        }
    });
    let refused: Vec<_> = refused.into_iter().map(|it| it.join().unwrap()).collect();
    let cleared = sender.join().unwrap().unwrap_or(0);
    let expected = refused.into_iter().filter(|it| cleared < it.0).map(|it| it.1).max();
    assert_eq!(window.lock().remaining(now), expected);
}

#[test]
fn a_window_only_extends_and_outlives_an_earlier_success() {
    holds(the_longest_unknown_refusal_stands);
    notices(Fault::Shortens, the_longest_unknown_refusal_stands);
    notices(Fault::ClearsUnconditionally, the_longest_unknown_refusal_stands);
}
