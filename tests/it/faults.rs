//! Every verb meets every fault, over real sockets.
//!
//! The table of `faults::table` says what each fault must lead to. Faults that are over at once run on a virtual clock,
//! which makes their pauses free and their counts exact; faults that hold the line run on the real one, where a busy
//! machine may add a request, so that their counts are lower bounds.

mod table;
pub(crate) mod verbs;

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tinkex::testing::{Act, Clock, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, LossFn};
use tinkex::{CloseStatus, Error, ErrorKind};

use crate::util::{PATIENCE, alone, client_threads, datum, eventually};
use table::{Expect, Fault, Kind, Order, exceptions, faults};
use verbs::{Clients, Verb, verbs};

const RETRIEVE: &str = "/api/v1/retrieve_future";
/// Rows that run at the same time.
const WORKERS: usize = 16;

/// Which of a verb's requests meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Submit,
    Retrieve,
}

/// How often.
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
        // What is made once per process, such as the system's random source, is no leak.
        drop(Scene::new(&faults[0]));
        let quiet = || client_threads().is_empty();
        eventually("no thread stays after the warm-up", quiet);
        let descriptors = open_descriptors();
        // Faults that hold the line wait most of the time, so they share a group.
        let (slow, quick): (Vec<_>, Vec<_>) = faults.iter().partition(|it| it.slow);
        let groups = quick.into_iter().map(|it| vec![it]).chain([slow]);
        let mut n = 0;
        for group in groups {
            let rows = rows(&verbs, &group);
            n += rows.len();
            failures.extend(run_all(&rows));
            let names: Vec<_> = group.iter().map(|it| it.name).collect();
            eventually(&format!("no thread stays after {names:?}"), quiet);
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
                    if let Err(what) = row.run() {
                        let Row { verb, fault, place, times } = row;
                        let text = format!("{} × {} at {place:?}, {times:?}: {what}", verb.name, fault.name);
                        failures.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// A server of its own for each row, with clients that are well.
struct Scene {
    // Dropped in this order: the clients first, so that what they leave behind is theirs.
    clients: Clients,
    listening: tinkex::testing::Listening,
    server: FakeServer,
    clock: Clock,
}

impl Scene {
    fn new(fault: &Fault) -> Self {
        let server = FakeServer::new();
        // A heartbeat that is answered would be a sign of life at a random moment.
        server.always("/api/v1/session_heartbeat", Act::Reset);
        let listening = server.listen().unwrap();
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let clock = match fault.slow {
            true => Clock::default(),
            false => VirtualClock::new().clock(),
        };
        let service = listening.client().clock(clock.clone()).timeouts(|it| match fault.slow {
            true => {
                (it.exchange, it.poll) = (ms(400), ms(400));
                (it.submit, it.silence, it.operation) = (s(4), s(2), s(12));
            }
            false => {
                (it.exchange, it.poll, it.connect, it.close) = (PATIENCE, PATIENCE, PATIENCE, s(20));
                (it.submit, it.silence, it.operation) = (s(30), s(20), s(fault.operation));
            }
        });
        let clients = Clients::new(service.build().unwrap());
        // A server that has read one pass is not suspected of being unable to (`generations` has those that are).
        clients.training.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        Scene { clients, listening, server, clock }
    }
}

impl Row<'_> {
    fn expected(&self) -> Expect {
        let special = exceptions().into_iter().find(|it| {
            it.fault == self.fault.name
                && it.verbs.contains(&self.verb.name)
                && (it.place, it.times) == (self.place, self.times)
        });
        if let Some(it) = special {
            return it.expect;
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
        (self.fault.tell)(&scene.server, path, self.times == Times::Once);
        let before = scene.server.requests_to(path).len();
        let (real, by_clock) = (Instant::now(), scene.clock.now());
        let outcome = (self.verb.run)(&scene.clients);
        let (real, by_clock) = (real.elapsed(), scene.clock.now() - by_clock);
        let n = scene.server.requests_to(path).len() - before;
        let expected = self.expected();
        check(&outcome, n, &expected, self.fault.slow)?;
        let limit = Duration::from_secs(if self.fault.slow { 20 } else { self.fault.operation });
        if !self.fault.slow && limit < by_clock {
            return Err(format!("took {by_clock:?} of {limit:?}"));
        }
        if PATIENCE < real {
            return Err(format!("took {real:?}"));
        }
        if self.place == Place::Submit && self.verb.trains && outcome.is_err() {
            scene.server.behave(path);
            self.check_order(&scene)?;
        }
        let _told_or_not = scene.clients.service.close(CloseStatus::Errored);
        drop(scene.clients);
        drop(scene.listening);
        Ok(())
    }

    /// After a failed submission the client knows whether its order still holds.
    fn check_order(&self, scene: &Scene) -> Result<(), String> {
        let next = scene.clients.training.optim_step(AdamParams::default()).wait();
        match (self.fault.order, next) {
            (Order::Whole, Ok(_)) => Ok(()),
            (Order::Lost, Err(error)) if *error.kind() == ErrorKind::Poisoned => Ok(()),
            (order, next) => Err(format!("the order is {order:?}, but the next step is {next:?}")),
        }
    }
}

fn check(outcome: &Result<(), Error>, n: usize, expected: &Expect, slow: bool) -> Result<(), String> {
    let at_least = |range: &RangeInclusive<usize>| match slow {
        true => *range.start() <= n,
        false => range.contains(&n),
    };
    let good = match (outcome, expected) {
        (Ok(()), Expect::Works(requests)) => at_least(requests),
        (Err(error), Expect::Fails(kinds, requests)) => {
            kinds.contains(&Kind::of(error)) && at_least(requests)
        }
        _ => false,
    };
    match good {
        true => Ok(()),
        false => Err(format!("{n} requests and {outcome:?}, not {expected:?}")),
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
