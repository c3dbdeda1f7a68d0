//! Pools and pollers when the operating system refuses to start some threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::thread;

use super::{STACK, holds_for, never, notices_for};
use crate::config::Settings;
use crate::credentials::Secret;
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::pending::Progress;
use crate::session::{Fetching, Owner, PolledSample, Poller, Session};
use crate::sync::CancelToken;
use crate::sync::clock::Clock;
use crate::sync::fault::Fault;
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::spawn::refuse_some;
use crate::sync::workers::{Class, Workers};
use crate::transport::{Answer, Broken, Exchange, Transport};

/// Fewer schedules than for other models, because these models start more threads and take longer.
const SCHEDULES: usize = 8_000;

/// Guard: until it is dropped, each start of a thread fails with a probability of one half.
struct Refusing;

impl Refusing {
    fn some() -> Self {
        refuse_some(true);
        Refusing
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        refuse_some(false);
    }
}

/// Returns true if the error says that no thread could be started.
fn is_refusal(error: &Error) -> bool {
    *error.kind() == ErrorKind::System && error.message().starts_with("no thread could be started")
}

/// Three threads submit a job each, while some threads of the pool are refused. A job that `spawn` accepted is done,
/// even if `spawn` relied on a thread that was refused later. A job that `spawn` did not accept is answered with the
/// reason.
fn an_accepted_job_is_done() {
    let _refusing = Refusing::some();
    let pool = Arc::new(Workers::new(Class::new("model", 2, STACK, Duration::from_secs(1)), None));
    let bringers: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<()>();
                let accepted = pool.spawn(move || reply.send(Ok(()))).is_ok();
                (accepted, slot.wait(None).unwrap().err())
            })
        })
        .collect();
    let answers: Vec<_> = bringers.into_iter().map(|it| it.join().unwrap()).collect();
    let n_left = pool.end(never());
    assert_eq!((n_left, pool.n_threads(), pool.n_queued()), (0, 0, 0));
    for answer in answers {
        match answer {
            (true, None) => {}
            (false, Some(error)) if is_refusal(&error) => {}
            other => panic!("accepted, and the error: {other:?}"),
        }
    }
}

/// A class of pool threads that grows answers every job, although any thread may be refused, and does further jobs once
/// threads are no longer refused. The class starts one thread at once ([`Class::eager`]), and adds a second thread if
/// jobs stay queued.
fn a_growing_class_answers_every_job() {
    let refusing = Refusing::some();
    let class = |name, max| Class::new(name, max, STACK, Duration::from_secs(1));
    let growth = Arc::new(Workers::new(class("growth", 1), None));
    let pool = Arc::new(Workers::new(Class { eager: 1, ..class("model", 2) }, Some(growth.clone())));
    let put = |pool: &Workers| {
        let (reply, slot) = oneshot::<()>();
        // If `spawn` fails, it drops the job, and the reply answers with the same error.
        let _ = pool.spawn(move || reply.send(Ok(())));
        slot
    };
    let bringers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || [put(&pool), put(&pool)].map(|slot| slot.wait(None).unwrap().err()))
        })
        .collect();
    let answers: Vec<_> = bringers.into_iter().flat_map(|bringer| bringer.join().unwrap()).collect();
    drop(refusing);
    let afterwards = put(&pool).wait(None).unwrap();
    let n_left = pool.end(never()) + growth.end(never());
    assert!(answers.iter().flatten().all(is_refusal), "{answers:?}");
    assert!(afterwards.is_ok() && n_left == 0, "{afterwards:?}, {n_left}");
}

/// A server that answers each poll with the completion of three samples.
struct Announcing;

impl Transport for Announcing {
    fn exchange(&self, _: &Exchange) -> Result<Answer, Broken> {
        let body = r#"{"completions":[{"state":"finished","request_id":"0"},{"state":"finished","request_id":"1"},
                       {"state":"finished","request_id":"2"}],"cursor":1}"#;
        Ok(Answer { status: 200, headers: Vec::new(), body: body.into() })
    }

    fn shutdown(&self) {}
}

struct Someone {
    progress: Progress,
    cancel: CancelToken,
    reply: Reply<()>,
}

impl PolledSample for Someone {
    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    fn fetch(self: Box<Self>, _: Option<usize>, fetching: Option<Fetching>) {
        if let Some(fetching) = fetching {
            fetching.settle();
        }
        self.reply.send(Ok(()));
    }

    fn check_once(self: Box<Self>, fetching: Fetching) {
        fetching.requeue(self);
    }

    fn fail(self: Box<Self>, error: Error) {
        self.reply.send(Err(error));
    }
}

fn waits(session: &Arc<Session>, poller: &Arc<Poller>, request_id: &str) -> Slot<()> {
    let (reply, slot) = oneshot();
    let progress = Progress::new("SamplingClient.sample", Instant::now(), None);
    poller.register(request_id, Box::new(Someone { progress, cancel: session.cancel.child(), reply }));
    slot
}

/// Each sample is fetched, or fails because no thread could be started. The poller serves another sample once threads
/// are no longer refused.
fn a_poller_answers_every_sample() {
    let refusing = Refusing::some();
    let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
    let config = settings.resolve(&Env::empty()).unwrap();
    let session = Session::new(config, Arc::new(Announcing), Clock::default());
    let poller = Poller::new(&session, "s", 0, session.cancel.child());
    let bringers: Vec<_> = ["0", "1"]
        .into_iter()
        .map(|id| {
            let (session, poller) = (session.clone(), poller.clone());
            thread::spawn(move || waits(&session, &poller, id).wait(None).unwrap().err())
        })
        .collect();
    let answers: Vec<_> = bringers.into_iter().map(|it| it.join().unwrap()).collect();
    drop(refusing);
    let afterwards = waits(&session, &poller, "2").wait(None).unwrap();
    drop(Owner::new(session));
    assert!(answers.iter().flatten().all(is_refusal), "{answers:?}");
    assert!(afterwards.is_ok(), "{afterwards:?}");
}

#[test]
fn a_pool_does_the_jobs_that_it_accepted() {
    holds_for(SCHEDULES, an_accepted_job_is_done);
    notices_for(SCHEDULES, Fault::CountsReservedPlaces, an_accepted_job_is_done);
    notices_for(SCHEDULES, Fault::RefusesWithoutNotify, an_accepted_job_is_done);
}

#[test]
fn a_growing_class_survives_refused_threads() {
    holds_for(SCHEDULES, a_growing_class_answers_every_job);
    notices_for(SCHEDULES, Fault::RefusesWithoutNotify, an_accepted_job_is_done);
}

#[test]
fn a_poller_survives_refused_threads() {
    holds_for(SCHEDULES, a_poller_answers_every_sample);
    notices_for(SCHEDULES, Fault::KeepsRunning, a_poller_answers_every_sample);
}
