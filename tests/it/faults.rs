//! Runs every verb (a method of a client that sends requests) with every fault of the server, over real sockets.
//!
//! `faults::verbs` lists the verbs; `faults::table` lists the faults with the outcomes that they must have. Most faults
//! end a request immediately, such as a status 500 or a lost connection. Their tests use a virtual clock: pauses take
//! no real time, and the expected numbers of requests are exact. The other faults keep the connection open until a
//! timeout. Their tests use the real clock. On a busy machine the client may then send more requests than usual, so the
//! expected numbers of requests are lower bounds.

mod table;
pub(crate) mod verbs;

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tinkex::testing::{Act, Clock, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, LossFn};
use tinkex::{CloseStatus, Error, ErrorKind};

use crate::util::{TEST_TIMEOUT, alone, client_threads, datum, eventually};
use table::{Expect, Fault, Kind, Order, exceptions, faults};
use verbs::{Clients, Verb, verbs};

const RETRIEVE: &str = "/api/v1/retrieve_future";
/// Number of rows that run at the same time. A row is one test case: a verb, a fault, and the requests that meet the
/// fault ([`Place`], [`Times`]).
const WORKERS: usize = 16;

/// The request that meets the fault: the first request of a verb, or the request for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Submit,
    Retrieve,
}

/// The number of requests that meet the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    Always,
}

struct Row<'a> {
    verb: &'a Verb,
    fault: &'a Fault,
    place: Place,
    times: Times,
}

#[test]
fn every_verb_survives_or_reports_every_fault_in_time_and_leaves_nothing_behind() {
    alone("faults::every_verb_survives_or_reports_every_fault_in_time_and_leaves_nothing_behind", || {
        let (verbs, faults) = (verbs(), faults());
        let mut failures = Vec::new();
        // Warm up before the first count: the process opens some file descriptors once and keeps them, such as that of
        // the random source. These must not count as leaks.
        drop(Scene::new(&faults[0]));
        let no_threads = || client_threads().is_empty();
        eventually("no thread stays after the warm-up", no_threads);
        let descriptors = open_descriptors();
        // Rows with slow faults spend most of their time in waits, so all of them run together, in one group.
        let (slow, quick): (Vec<_>, Vec<_>) = faults.iter().partition(|it| it.slow);
        let groups = quick.into_iter().map(|it| vec![it]).chain([slow]);
        let mut n = 0;
        for group in groups {
            let rows = rows(&verbs, &group);
            n += rows.len();
            failures.extend(run_all(&rows));
            let names: Vec<_> = group.iter().map(|it| it.name).collect();
            eventually(&format!("no thread stays after {names:?}"), no_threads);
            eventually(&format!("no descriptor stays after {names:?}"), || open_descriptors() <= descriptors);
        }
        assert!(1000 < n, "the table has only {n} rows");
        assert!(failures.is_empty(), "{} of {n} rows:\n{}", failures.len(), failures.join("\n"));
    });
}

fn rows<'a>(verbs: &'a [Verb], faults: &[&'a Fault]) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for &fault in faults {
        for verb in verbs {
            for times in [Times::Once, Times::Always] {
                rows.push(Row { verb, fault, place: Place::Submit, times });
                if verb.promises {
                    rows.push(Row { verb, fault, place: Place::Retrieve, times });
                }
            }
        }
    }
    rows
}

fn run_all(rows: &[Row<'_>]) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(rows.len()) {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(problem) = row.run() {
                        let Row { verb, fault, place, times } = row;
                        let text =
                            format!("{} × {} at {place:?}, {times:?}: {problem}", verb.name, fault.name);
                        failures.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// The server of one row, and its clients, created before the server has the fault.
struct Scene {
    // Drop the clients before the server: a thread or file descriptor that remains then is a leak of the clients.
    clients: Clients,
    listening: tinkex::testing::Listening,
    server: FakeServer,
    clock: Clock,
}

impl Scene {
    fn new(fault: &Fault) -> Self {
        let server = FakeServer::new();
        // Let heartbeats fail: a successful heartbeat would restart the timeout `silence` (no answer of the server) at
        // an unpredictable time.
        server.always("/api/v1/session_heartbeat", Act::Reset);
        let listening = server.listen().unwrap();
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let clock = if fault.slow { Clock::default() } else { VirtualClock::new().clock() };
        let service = listening.client().clock(clock.clone()).timeouts(|timeouts| {
            if fault.slow {
                (timeouts.exchange, timeouts.poll) = (ms(400), ms(400));
                (timeouts.submit, timeouts.silence, timeouts.operation) = (s(4), s(2), s(12));
            } else {
                (timeouts.exchange, timeouts.poll) = (TEST_TIMEOUT, TEST_TIMEOUT);
                (timeouts.connect, timeouts.close) = (TEST_TIMEOUT, s(20));
                (timeouts.submit, timeouts.silence) = (s(30), s(20));
                timeouts.operation = s(fault.operation);
            }
        });
        let clients = Clients::new(service.build().unwrap());
        // Run one pass (a `forward` or `forward_backward` request). After an accepted pass the client knows that the
        // server reads protobuf, so it will not repeat a refused pass as JSON. The module `json_passes` tests such
        // repetitions.
        clients.training.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        Scene { clients, listening, server, clock }
    }
}

impl Row<'_> {
    fn expected(&self) -> Expect {
        let special = exceptions().into_iter().find(|exception| {
            exception.fault == self.fault.name
                && exception.verbs.contains(&self.verb.name)
                && (exception.place, exception.times) == (self.place, self.times)
        });
        if let Some(exception) = special {
            return exception.expect;
        }
        let (once, always) = match (self.verb.name, self.place) {
            ("close", _) => (&self.fault.finish.0, &self.fault.finish.1),
            (_, Place::Submit) => (&self.fault.submit.0, &self.fault.submit.1),
            (_, Place::Retrieve) => (&self.fault.retrieve.0, &self.fault.retrieve.1),
        };
        match self.times {
            Times::Once => once.clone(),
            Times::Always => always.clone(),
        }
    }

    fn run(&self) -> Result<(), String> {
        let scene = Scene::new(self.fault);
        let path = match self.place {
            Place::Submit => self.verb.path,
            Place::Retrieve => RETRIEVE,
        };
        (self.fault.inject)(&scene.server, path, self.times == Times::Once);
        let before = scene.server.requests_to(path).len();
        let (real_start, clock_start) = (Instant::now(), scene.clock.now());
        let outcome = (self.verb.run)(&scene.clients);
        let (real, by_clock) = (real_start.elapsed(), scene.clock.now() - clock_start);
        let n = scene.server.requests_to(path).len() - before;
        let expected = self.expected();
        check(&outcome, n, &expected, self.fault.slow)?;
        let limit = Duration::from_secs(if self.fault.slow { 20 } else { self.fault.operation });
        if !self.fault.slow && limit < by_clock {
            return Err(format!("took {by_clock:?} of {limit:?}"));
        }
        if TEST_TIMEOUT < real {
            return Err(format!("took {real:?}"));
        }
        if self.place == Place::Submit && self.verb.trains && outcome.is_err() {
            scene.server.behave(path);
            self.check_order(&scene)?;
        }
        // Closing may fail because of the fault.
        let _ = scene.clients.service.close(CloseStatus::Errored);
        drop(scene.clients);
        drop(scene.listening);
        Ok(())
    }

    /// To be called after a failed submission. If the server may have accepted the request, the client must be
    /// poisoned, that is, it must refuse the next operation. Otherwise the next operation must work.
    fn check_order(&self, scene: &Scene) -> Result<(), String> {
        let next = scene.clients.training.optim_step(AdamParams::default()).wait();
        match (self.fault.order, next) {
            (Order::Whole, Ok(_)) => Ok(()),
            (Order::Lost, Err(error)) if *error.kind() == ErrorKind::Poisoned => Ok(()),
            (order, next) => Err(format!("the order should be {order:?}, but the next step is {next:?}")),
        }
    }
}

fn check(outcome: &Result<(), Error>, n: usize, expected: &Expect, slow: bool) -> Result<(), String> {
    let fits = |range: &RangeInclusive<usize>| if slow { *range.start() <= n } else { range.contains(&n) };
    let is_expected = match (outcome, expected) {
        (Ok(()), Expect::Works(requests)) => fits(requests),
        (Err(error), Expect::Fails(kinds, requests)) => kinds.contains(&Kind::of(error)) && fits(requests),
        _ => false,
    };
    if is_expected { Ok(()) } else { Err(format!("{n} requests and {outcome:?}, not {expected:?}")) }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
