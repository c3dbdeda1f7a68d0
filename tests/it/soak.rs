//! The soak test: thousands of operations from many threads, with injected faults, callbacks that panic, and clients
//! that are closed during use. Each operation must end exactly once: with the result of this operation, or with an
//! error that an injected fault explains. The fake server checks that the requests of each model arrive in order. After
//! each round, the numbers of threads and descriptors must be as before the first round, and memory must not grow.
//!
//! Parts: `chaos` defines the faults, `clients` the clients of a round, `request` decodes requests, `server` is the
//! fake server with its checks, `work` runs the operations, `tally` counts their outcomes and checks the errors.
//!
//! Environment variables:
//! - `TINKEX_SOAK_OPERATIONS`: number of operations, 10 000 by default;
//! - `TINKEX_SOAK_SECONDS`: time after which no more operations are submitted, 180 by default. The checks cover all
//!   operations submitted until then;
//! - `TINKEX_SOAK_SEED`: seed of the random generator. It determines faults and operations, but not the order in which
//!   threads run.

mod chaos;
mod clients;

mod request;
mod server;
mod tally;
mod work;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use fastrand::Rng;
use tinkex::testing::FakeServer;
use tinkex::{CloseStatus, ServiceClient};

use crate::util::{alone_with, eventually};
use clients::{ON_PURPOSE, Service};
use server::{Books, Counts, THREADS};
use tally::Tally;
use work::{Round, Worker};

const NAME: &str = "soak::each_operation_under_faults_ends_once_and_leaks_nothing";
const ROUNDS: u32 = 10;
const SERVICES: usize = 4;
/// Number of operations before the first measurement, so that objects made once per process do not count as leaks.
const WARM_UP: u32 = 500;
/// Maximum growth of memory in bytes, see [`check_memory`]. With 50 000 operations, a leak of less than about 600 bytes
/// per operation is not detected. On a busy machine the measurement varies by ± 5 MiB.
const SLACK: usize = 12 << 20;
/// Maximum growth of memory if a round ended early at its time limit. The early rounds may then be small, so that
/// memory grows in a later, larger round without a leak.
const SLACK_IF_CUT_SHORT: usize = 48 << 20;

/// Number of panics whose payload is not [`ON_PURPOSE`]. They are bugs.
static ACCIDENTS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn each_operation_under_faults_ends_once_and_leaks_nothing() {
    // Make glibc return freed memory to the system, so that resident memory shows leaks.
    let tunables =
        "glibc.pthread.stack_cache_size=0:glibc.malloc.arena_max=2:glibc.malloc.trim_threshold=65536";
    let written = alone_with(NAME, &[("GLIBC_TUNABLES", tunables)], soak);
    // The first line may begin with the test runner's output: drop everything before "soak: ".
    let lines = written.iter().flat_map(|output| output.lines());
    for line in lines.filter_map(|line| Some(&line[line.find("soak: ")?..])) {
        say(line);
    }
}

fn soak() {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")),
        Err(_) => default,
    };
    let n = u32::try_from(number("TINKEX_SOAK_OPERATIONS", 10_000)).unwrap();
    let bound = Duration::from_secs(number("TINKEX_SOAK_SECONDS", 180));
    let seed = number("TINKEX_SOAK_SEED", fastrand::u64(..));
    count_other_panics();
    let (started, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let watch = Watch::start(bound + Duration::from_secs(180), seed);
    let mut done = 0;
    let mut tally = Tally::default();
    let mut counts = Counts::default();
    run(&mut rng, &watch, 0, WARM_UP, started + bound);
    let before = Figures::now();
    let (mut memory, mut slack) = (Vec::new(), SLACK);
    for round in 0..ROUNDS {
        // Distribute the remaining operations, including those that a slow round did not submit, over the remaining
        // rounds.
        let share = (n - done) / (ROUNDS - round);
        let until = started + bound * (round + 1) / ROUNDS;
        let begun = Instant::now();
        let (outcome, counted, submitted) = run(&mut rng, &watch, WARM_UP + done, share, until);
        done += submitted;
        if submitted < share {
            slack = SLACK_IF_CUT_SHORT;
        }
        tally.add(outcome);
        counts.add(counted);
        before.is_back(round);
        memory.push(resident());
        let (took, kib) = (begun.elapsed(), memory[memory.len() - 1] >> 10);
        say(&format!("soak: round {round}: {submitted} operations, {took:.1?}, {kib} KiB resident"));
    }
    say(&format!("soak: {done} of {n} operations in {:.1?}, seed {seed}", started.elapsed()));
    say(&format!("soak: {counts:?}"));
    say(&format!("soak: succeeded {:?}", tally.succeeded));
    say(&format!("soak: failed {:?}, dropped {}", tally.failed, tally.dropped));
    drop(watch);
    let shown: Vec<_> = tally.violations.iter().take(20).collect();
    assert!(shown.is_empty(), "seed {seed}: {} violations: {shown:#?}", tally.violations.len());
    assert_eq!(tally.total(), u64::from(done), "seed {seed}: operations answered, and operations submitted");
    assert_eq!(ACCIDENTS.load(Ordering::SeqCst), 0, "seed {seed}: panics that were not on purpose");
    check_memory(&memory, slack, seed);
}

/// Runs one round of `n` operations with a new server and new clients, until the time `until` at the latest. `first` is
/// the number of the first operation. Returns the outcomes, the server's counts and the number of submitted operations.
fn run(rng: &mut Rng, watch: &Watch, first: u32, n: u32, until: Instant) -> (Tally, Counts, u32) {
    let server = FakeServer::new();
    let books = Books::new(rng.fork());
    books.script(&server);
    let listening = server.listen().unwrap();
    let services: Vec<_> = (0..SERVICES).map(|number| Service::new(number, &listening)).collect();
    watch.observe(services.iter().map(|service| service.client.clone()).collect());
    let (elsewhere, jobs) = crossbeam_channel::unbounded::<Box<dyn FnOnce() + Send>>();
    let taken = AtomicU32::new(0);
    let round = Round { services, books: books.clone(), first, n, taken, until, elsewhere };
    let mut tally = Tally::default();
    let helper = std::thread::spawn(move || jobs.iter().for_each(|job| job()));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let worker = Worker { round: &round, thread, rng: rng.fork(), tally: Tally::default() };
                scope.spawn(move || worker.run())
            })
            .collect();
        for worker in workers {
            tally.add(worker.join().unwrap());
        }
    });
    let Round { services, elsewhere, taken, .. } = round;
    drop(elsewhere);
    helper.join().unwrap();
    for service in &services {
        service.closed.store(true, Ordering::SeqCst);
        // Ignore errors: faults are injected into the requests of the close, too.
        drop(service.client.close(CloseStatus::Success));
    }
    let counted = || services.iter().map(Service::counted);
    eventually("nothing is in flight", || counted().all(|(in_flight, _)| in_flight == 0.0));
    let (submitted, seen) = (taken.into_inner().min(n), counted().map(|it| it.1).sum::<u64>());
    assert_eq!(seen, u64::from(submitted), "operations by the clients' own count, and those submitted");
    watch.observe(Vec::new());
    drop(services);
    tally.violations.extend(books.violations());
    drop(listening);
    // Break the reference cycle between the server and its script.
    server.script(|_| None);
    (tally, books.counts(), submitted)
}

/// Numbers of threads and descriptors of the process.
struct Figures {
    threads: usize,
    descriptors: usize,
}

impl Figures {
    fn now() -> Self {
        let count = |folder| std::fs::read_dir(folder).unwrap().count();
        Figures { threads: count("/proc/self/task"), descriptors: count("/proc/self/fd") }
    }

    /// Waits until both numbers are at most those in `self`.
    #[track_caller]
    fn is_back(&self, round: u32) {
        eventually(&format!("no thread stays after round {round}"), || {
            Figures::now().threads <= self.threads
        });
        let what = format!("no descriptor stays after round {round}");
        eventually(&what, || Figures::now().descriptors <= self.descriptors);
    }
}

/// Resident memory in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() << 10
}

/// Checks that memory did not grow by more than `slack` bytes from the first four rounds (their maximum) to the last
/// three (their minimum). The first rounds may grow without a leak, because they fill the allocator's caches.
fn check_memory(memory: &[usize], slack: usize, seed: u64) {
    let early = memory[..4].iter().max().unwrap();
    let late = memory[memory.len() - 3..].iter().min().unwrap();
    assert!(
        late.saturating_sub(*early) <= slack,
        "seed {seed}: memory grows: {memory:?} bytes after the rounds, {slack} more are allowed"
    );
}

/// Watchdog: if the soak hangs, the watchdog prints the operations in flight and ends the process. A drop of this value
/// stops the watchdog.
struct Watch {
    services: Arc<Mutex<Vec<ServiceClient>>>,
    _done: crossbeam_channel::Sender<()>,
}

impl Watch {
    fn start(limit: Duration, seed: u64) -> Self {
        let services = Arc::<Mutex<Vec<ServiceClient>>>::default();
        let (done, waiting) = crossbeam_channel::bounded(0);
        let observed = services.clone();
        std::thread::spawn(move || {
            if let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(limit) {
                say(&format!("soak: hangs, seed {seed}: not finished after {limit:?}"));
                for service in observed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    say(&service.dump().to_string());
                }
                std::process::exit(101);
            }
        });
        Watch { services, _done: done }
    }

    /// Sets the clients whose operations are printed.
    fn observe(&self, services: Vec<ServiceClient>) {
        let before = {
            let mut all = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *all, services)
        };
        drop(before);
    }
}

/// Installs a panic hook that ignores panics with the payload [`ON_PURPOSE`], and counts and prints all others.
fn count_other_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&ON_PURPOSE) {
            ACCIDENTS.fetch_add(1, Ordering::SeqCst);
            usual(info);
        }
    }));
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.exchanges += other.exchanges;
        self.faults += other.faults;
        self.repeats += other.repeats;
        self.accepted += other.accepted;
    }
}

/// Prints a line.
#[expect(clippy::print_stdout, reason = "shown with --nocapture, which is how CI runs this")]
fn say(line: &str) {
    println!("{line}");
}
