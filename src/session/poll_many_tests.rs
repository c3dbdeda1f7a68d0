//! Tests of what the poller does with those who wait.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::config::Settings;
use crate::config::env::Env;
use crate::credentials::Secret;
use crate::sync::clock::Clock;
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::spawn::RefusedThreads;
use crate::transport::{self, Exchange, Transport};

const LONG: Duration = Duration::from_secs(60);

/// Never answers.
struct Silent(CancelToken);

impl Transport for Silent {
    fn exchange(&self, exchange: &Exchange) -> std::result::Result<transport::Answer, Broken> {
        self.0.wait_timeout(exchange.timeout);
        Err(Broken::Closed)
    }

    fn shutdown(&self) {
        self.0.cancel();
    }
}

fn poller() -> Arc<Poller> {
    let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
    let config = settings.resolve(&Env::empty()).unwrap();
    let session = Session::new(config, Arc::new(Silent(CancelToken::new())), Clock::default());
    let cancel = session.cancel.child();
    Poller::new(&session, "s", 0, cancel)
}

/// Says how it ends, and whether the poller's lock was held when it was dropped.
struct Someone {
    poller: Arc<Poller>,
    progress: Progress,
    cancel: CancelToken,
    reply: Option<Reply<()>>,
    was_locked: Arc<AtomicBool>,
}

impl Someone {
    fn waits(poller: &Arc<Poller>, request_id: &str) -> (Slot<()>, Arc<AtomicBool>) {
        let (reply, slot) = oneshot();
        let was_locked = Arc::new(AtomicBool::new(false));
        let someone = Someone {
            poller: poller.clone(),
            progress: Progress::new("SamplingClient.sample", Instant::now(), None),
            cancel: poller.session.cancel.child(),
            reply: Some(reply),
            was_locked: was_locked.clone(),
        };
        poller.register(request_id, Box::new(someone));
        (slot, was_locked)
    }
}

impl Waiter for Someone {
    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    fn fetch(self: Box<Self>, _: Option<usize>, _: Option<Fetching>) {}

    fn look(self: Box<Self>, _: Fetching) {}

    fn fail(mut self: Box<Self>, error: Error) {
        self.reply.take().unwrap().send(Err(error));
    }
}

impl Drop for Someone {
    fn drop(&mut self) {
        self.was_locked.fetch_or(self.poller.state.try_lock().is_none(), Ordering::SeqCst);
    }
}

#[track_caller]
fn failure(slot: &Slot<()>) -> Error {
    slot.wait(Some(Instant::now() + LONG)).expect("an answer").unwrap_err()
}

#[test]
fn samples_whose_poller_gets_no_thread_fail_and_the_next_one_tries_again() {
    let poller = poller();
    let refused = RefusedThreads::named("tk-many");
    for id in ["a", "b"] {
        let error = failure(&Someone::waits(&poller, id).0);
        assert!(error.message().starts_with("no thread could be started"), "{error}");
        assert!(!poller.state.lock().running);
    }
    drop(refused);
    let (slot, _) = Someone::waits(&poller, "c");
    assert!(poller.state.lock().running);
    poller.session.end();
    assert!(failure(&slot).is_closed());
}

#[test]
fn a_sample_whose_id_the_server_gives_to_another_one_is_told_so() {
    let poller = poller();
    let (first, was_locked) = Someone::waits(&poller, "same");
    let (second, _) = Someone::waits(&poller, "same");
    let error = failure(&first);
    assert!(error.message().contains("the request id same to two samples"), "{error}");
    assert!(!was_locked.load(Ordering::SeqCst), "the first one was dropped under the poller's lock");
    assert!(!second.is_settled());
    poller.session.end();
    assert!(failure(&second).is_closed());
}
