//! The fake server of the replay. For each request it finds the recorded exchange, gives the recorded answer, and adds
//! each difference to a list of problems.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tinkex::ServiceClientBuilder;
use tinkex::testing::{Act, FakeServer, Seen, VirtualClock};

use super::exceptions::{Exception, How};
use super::recording::{self, Class, Exchange, HEARTBEAT, TELEMETRY};
use super::{compare, message};
use crate::util::eventually;

/// The interval of heartbeats.
const BEAT: Duration = Duration::from_secs(10);

type Hook = Box<dyn FnOnce() + Send>;

/// A recording, the fake server that replays it, and the virtual clock of the clients.
pub(crate) struct Replay {
    clock: VirtualClock,
    server: FakeServer,
    state: Arc<Mutex<State>>,
}

struct State {
    exchanges: Vec<Exchange>,
    exceptions: &'static [Exception],
    /// For each exchange, the number of requests of this crate that were matched with it.
    arrived: Vec<usize>,
    /// Request ids of the promises that were sent to the client so far.
    promised: HashSet<String>,
    /// All idempotency keys so far.
    keys: HashSet<String>,
    /// Idempotency key of the latest request of class `Call`.
    last_key: Option<String>,
    /// Messages of the received telemetry.
    telemetry: Vec<Value>,
    /// Exchanges for which the program called [`Replay::not_sent`].
    not_sent: BTreeSet<u64>,
    /// Hooks of [`Replay::before_answering`].
    hooks: HashMap<u64, Hook>,
    problems: Vec<String>,
}

impl Replay {
    pub(crate) fn of(exchanges: Vec<Exchange>, exceptions: &'static [Exception]) -> Self {
        let arrived = vec![0; exchanges.len()];
        let state = Arc::new(Mutex::new(State {
            exchanges,
            exceptions,
            arrived,
            promised: HashSet::new(),
            keys: HashSet::new(),
            last_key: None,
            telemetry: Vec::new(),
            not_sent: BTreeSet::new(),
            hooks: HashMap::new(),
            problems: Vec::new(),
        }));
        let server = FakeServer::new();
        server.script({
            let state = state.clone();
            move |seen| Some(act(&state, seen))
        });
        Replay { clock: VirtualClock::new(), server, state }
    }

    /// Builder of a client of this server, with the API key of the recorded program.
    pub(crate) fn client(&self) -> ServiceClientBuilder {
        self.server.in_memory_at(self.clock.clone()).api_key("tml-dummy")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The numbers of the exchanges with a path, in recorded order.
    pub(crate) fn numbers(&self, path: &str) -> Vec<u64> {
        self.state().exchanges.iter().filter(|it| it.path == path).map(|it| it.n).collect()
    }

    /// Message, status and response of an exchange. Panics with the problems so far if there are any, because the
    /// caller would otherwise report a difference that these problems caused.
    #[track_caller]
    pub(crate) fn exchange(&self, n: u64) -> (Value, u16, Value) {
        let state = self.state();
        assert!(state.problems.is_empty(), "{}", state.problems.join("\n"));
        let exchange = &state.exchanges[state.index(n)];
        (exchange.message.clone(), exchange.answer.status, exchange.response.clone())
    }

    /// Number of the exchange whose answer is the result of exchange `n`: the last poll of the promise that `n`
    /// returned.
    pub(crate) fn result_of(&self, n: u64) -> u64 {
        let state = self.state();
        let id = state.exchanges[state.index(n)].promised_id();
        let last = state.exchanges.iter().rfind(|exchange| id.is_some() && exchange.polled_id() == id);
        last.unwrap_or_else(|| panic!("exchange {n} has no result")).n
    }

    /// Runs a hook before exchange `n` is answered.
    pub(crate) fn before_answering(&self, n: u64, hook: impl FnOnce() + Send + 'static) {
        self.state().hooks.insert(n, Box::new(hook));
    }

    /// To be called if the program made the call of exchange `n` and the crate refused the call without sending
    /// anything. `message` is the message that the crate would have sent; if given, it must be the recorded one.
    #[track_caller]
    pub(crate) fn not_sent(&self, n: u64, message: Option<Value>) {
        let mut state = self.state();
        let recorded = &state.exchanges[state.index(n)].message;
        if let Some(message) = message {
            assert_eq!(&message, recorded, "exchange {n}");
        }
        state.not_sent.insert(n);
    }

    /// Advances the clock until the client has sent a heartbeat.
    pub(crate) fn heartbeat(&self) {
        let beats = || self.server.requests_to(HEARTBEAT).len();
        let before = beats();
        eventually("a heartbeat", || {
            self.clock.advance(BEAT);
            before < beats()
        });
    }

    /// The bodies of the recorded telemetry and of the received telemetry.
    pub(crate) fn telemetry(&self) -> (Vec<Value>, Vec<Value>) {
        let state = self.state();
        let recorded = state.exchanges.iter().filter(|it| it.path == TELEMETRY);
        (recorded.map(|it| it.message.clone()).collect(), state.telemetry.clone())
    }

    /// Lists all problems, including missing exchanges. To be called after the program.
    pub(crate) fn problems(&self) -> Vec<String> {
        let state = self.state();
        let mut problems = state.problems.clone();
        for (exchange, arrived) in state.exchanges.iter().zip(&state.arrived) {
            let n = exchange.n;
            let expected = match (state.how(n), exchange.class()) {
                (Some(How::NotSent), _) => 0..=0,
                (_, Class::Timer) => 1..=usize::MAX,
                _ => 1..=1,
            };
            if !expected.contains(arrived) {
                problems.push(format!("exchange {n} to {} was sent {arrived} times", exchange.path));
            }
            if let Some(Exception { how: How::NotSent, why, .. }) = state.exception(n)
                && !state.not_sent.contains(&n)
            {
                problems.push(format!("exchange {n}: the program did not assert the exception ({why})"));
            }
        }
        problems
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Ignore poisoning: the state is consistent even if a check panicked.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn act(state: &Mutex<State>, seen: &Seen) -> Act {
    let (answer, hook) = {
        let mut state = lock(state);
        let Some(i) = state.find(seen) else {
            return Act::status(418, r#"{"detail":"nothing like this was recorded"}"#);
        };
        state.arrived[i] += 1;
        state.check(i, seen);
        let state = &mut *state;
        let exchange = &state.exchanges[i];
        state.promised.extend(exchange.promised_id().map(String::from));
        (exchange.answer.clone(), state.hooks.remove(&exchange.n))
    };
    // Run the hook outside the lock, because it may send requests to this server.
    hook.into_iter().for_each(|hook| hook());
    Act::Answer(answer)
}

impl State {
    fn index(&self, n: u64) -> usize {
        self.exchanges.iter().position(|it| it.n == n).unwrap_or_else(|| panic!("no exchange {n}"))
    }

    fn exception(&self, n: u64) -> Option<&'static Exception> {
        self.exceptions.iter().find(|it| it.of.contains(&n))
    }

    fn how(&self, n: u64) -> Option<How> {
        self.exception(n).map(|it| it.how)
    }

    /// Finds the exchange that belongs to a request of this crate.
    fn find(&mut self, seen: &Seen) -> Option<usize> {
        let found = match recording::class(&seen.path) {
            Class::Call => self.next_call(seen),
            Class::Poll => self.next_poll(seen),
            Class::Timer => {
                if seen.path == TELEMETRY {
                    self.telemetry.push(message::of(seen));
                }
                let same = |i: &usize| self.exchanges[*i].path == seen.path;
                let all: Vec<usize> = (0..self.exchanges.len()).filter(same).collect();
                // If more virtual time passes than in the recording, timers send more requests than were recorded:
                // match the additional ones with the last exchange.
                all.iter().copied().find(|it| self.arrived[*it] == 0).or(all.last().copied())
            }
        };
        if found.is_none() {
            let body = String::from_utf8_lossy(&seen.body);
            let place = "not recorded at this place";
            self.problems.push(format!("{place}: {} {} {body:.300}", seen.method, seen.path));
        }
        found
    }

    /// The next exchange of class `Call` in recorded order. If this exchange is in a group with `AnyOrder`, returns the
    /// exchange of the group with the same message as the request instead.
    fn next_call(&self, seen: &Seen) -> Option<usize> {
        let is_left = |i: &usize| {
            let exchange = &self.exchanges[*i];
            let is_sent = !matches!(self.how(exchange.n), Some(How::NotSent));
            exchange.class() == Class::Call && self.arrived[*i] == 0 && is_sent
        };
        let mut left = (0..self.exchanges.len()).filter(is_left);
        let next = left.next().filter(|i| self.exchanges[*i].path == seen.path)?;
        let n = self.exchanges[next].n;
        match self.exception(n) {
            Some(Exception { of, how: How::AnyOrder, .. }) => {
                let message = message::of(seen);
                let mut group = left.take_while(|i| of.contains(&self.exchanges[*i].n));
                let same = |i: &usize| self.exchanges[*i].message == message;
                Some(next).filter(same).or_else(|| group.find(same))
            }
            _ => Some(next),
        }
    }

    /// The next poll of a promise, in the recorded order of its polls.
    fn next_poll(&self, seen: &Seen) -> Option<usize> {
        let message = message::of(seen);
        let id = message["request_id"].as_str().filter(|it| self.promised.contains(*it))?;
        let next =
            |(exchange, arrived): (&Exchange, &usize)| *arrived == 0 && exchange.polled_id() == Some(id);
        self.exchanges.iter().zip(&self.arrived).position(next)
    }

    /// Records the differences between a request and its exchange.
    fn check(&mut self, i: usize, seen: &Seen) {
        let exchange = &self.exchanges[i];
        let mut found = compare::differences(seen, exchange, self.how(exchange.n));
        // All attempts of one request have the same key, and two different requests have different keys.
        if let Some(key) = seen.header("x-idempotency-key") {
            let again = exchange.header("x-stainless-retry-count") != Some("0");
            let known = !self.keys.insert(key.into());
            if known != again || (again && self.last_key.as_deref() != Some(key)) {
                found.push("its idempotency key is not that of its earlier attempts alone".into());
            }
            if exchange.class() == Class::Call {
                self.last_key = Some(key.into());
            }
        }
        let why = self.exception(exchange.n).map(|it| format!(" ({})", it.why)).unwrap_or_default();
        let place = format!("exchange {} to {}{why}", exchange.n, exchange.path);
        self.problems.extend(found.into_iter().map(|it| format!("{place}: {it}")));
    }
}
