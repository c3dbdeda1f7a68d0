//! One request → one classified answer.
//!
//! [`Http`] adds what every request needs (credential, headers, idempotency key), sends it over the transport and
//! repeats it as [`policy::retry`](crate::policy::retry) decides. Nothing above this floor sees a status code that is
//! not a success, except the poll loop, which wants each answer raw.

pub(crate) mod auth;
pub(crate) mod breakers;
mod call;
mod command;
pub(crate) mod headers;
mod lanes;
mod offered;
mod redact;
mod room;
pub mod transport;
mod ureq;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Phase, Result, Sent, words};
use crate::event::{BillingPause, Retry};
use crate::metrics::name;
use crate::policy::billing::{self, Billing};
use crate::policy::endpoints::Endpoints;
use crate::policy::retry::{Failure, FirstContact, Limits, Retries};
use crate::policy::verdict::Verdict;
use crate::secret::Secret;
use crate::sync::clock::Clock;
use crate::sync::process::{Process, forked};
use crate::sync::{CancelToken, Mutex};
use crate::wire::json;

pub(crate) use self::ureq::Ureq;
use auth::Auth;
use breakers::Breakers;
pub(crate) use call::{Body, Call};
pub(crate) use offered::Endpoint;
pub(crate) use room::Room;
pub(crate) use transport::{Answer, Branch, Broken, Exchange, Lane, Transport};

/// A call that has taken so long is worth a warning at each retry.
const LONG: Duration = Duration::from_secs(5);

/// The least time that an attempt is given.
const MOMENT: Duration = Duration::from_millis(1);

/// Whether a server has answered anything by itself.
#[derive(Clone)]
pub(crate) struct Served {
    served: Arc<AtomicBool>,
    config: Arc<Config>,
}

impl Served {
    pub(crate) fn yet(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// The server's address.
    pub(crate) fn by(&self) -> &str {
        &self.config.base_url
    }
}

/// Which attempt at a call this is.
#[derive(Clone, Copy, Default)]
struct Try {
    /// So many were made before.
    retry: u32,
    /// Over a new connection.
    fresh: bool,
}

/// Sends calls. Cheap to share; everything above holds it by reference.
pub(crate) struct Http {
    transport: Arc<dyn Transport>,
    config: Arc<Config>,
    clock: Clock,
    auth: Auth,
    breakers: Option<Breakers>,
    billing: Mutex<Billing>,
    offered: Mutex<Endpoints>,
    /// The server, or a proxy before it, answered at least once.
    reached: AtomicBool,
    /// The server itself did: with something else than 5xx.
    served: Arc<AtomicBool>,
    /// The one whose connections these are.
    process: Process,
    last_contact: Mutex<Option<Instant>>,
}

impl Http {
    pub(crate) fn new(transport: Arc<dyn Transport>, config: Arc<Config>, clock: Clock) -> Self {
        let auth = Auth::new(&config);
        let breakers =
            config.circuit_breaker.map(|it| Breakers::new(it, clock.clone(), config.seeing.clone()));
        Http {
            breakers,
            billing: Mutex::new(Billing::new()),
            offered: Mutex::new(Endpoints::default()),
            transport,
            config,
            clock,
            auth,
            reached: AtomicBool::new(false),
            served: Arc::default(),
            process: Process::this(),
            last_contact: Mutex::new(None),
        }
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Keeps a secret of one call, which the server may repeat, out of sight.
    pub(crate) fn hide(&self, secret: &Secret) {
        self.auth.redactor().hide(secret);
    }

    /// The server itself has answered, with whatever else than 5xx.
    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Whether the server itself has answered, now and later.
    pub(crate) fn served(&self) -> Served {
        Served { served: self.served.clone(), config: self.config.clone() }
    }

    /// An error of this client as it may leave it: without any part of a secret.
    pub(crate) fn without_secrets(&self, error: Error) -> Error {
        self.auth.redactor().error(error)
    }

    /// An address that the server names, for whoever has it to read from.
    ///
    /// # Errors
    /// It is none of http or https, or less safe than the server's own.
    pub(crate) fn named_address(&self, url: &str) -> Result<String> {
        self.config.server.named(url).map_err(|problem| {
            let text = format!("the server names an address that is not to be used: {problem}");
            self.without_secrets(Error::decode(text))
        })
    }

    /// The credential that the next request would carry, which may have to be fetched.
    pub(crate) fn credential(&self) -> Result<Secret> {
        let timeout = self.config.timeouts.exchange;
        let credential = self.auth.credential(&self.clock, timeout, |it| self.exchange_token(it, timeout));
        credential.map_err(|it| self.without_secrets(it.error(&self.config.timeouts)))
    }

    /// When the server last answered anything.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        *self.last_contact.lock()
    }

    /// A transport for requests that have to be interrupted without all others.
    pub(crate) fn branch(&self) -> Option<Branch> {
        Branch::of(&*self.transport)
    }

    /// Interrupts everything that is being sent or received, and refuses whatever comes later.
    pub(crate) fn shutdown(&self) {
        self.auth.shutdown();
        self.transport.shutdown();
    }

    /// Sends a call until it succeeds, fails for good, or its budget is spent, and returns the answer's body.
    pub(crate) fn send(&self, call: &Call, cancel: &CancelToken) -> Result<Answer> {
        let started = self.clock.now();
        let budget = call.budget.unwrap_or(self.config.timeouts.submit);
        let key = call.key.clone().unwrap_or_else(headers::idempotency_key);
        let mut retries = Retries::default();
        let mut sent = Sent::No;
        let mut last = None;
        let latest = started.checked_add(self.config.timeouts.operation);
        // Waiting for payment is not counted as trying.
        let mut begun = started;
        loop {
            let elapsed = self.clock.now().saturating_duration_since(begun);
            // No attempt outlasts the operation; one is made in any case.
            let to_deadline =
                call.deadline.map_or(Duration::MAX, |it| it.saturating_duration_since(begun).max(MOMENT));
            let budget = budget.min(to_deadline);
            if cancel.is_cancelled() {
                return Err(self.explain(Error::cancelled(), call, retries.taken(), elapsed, sent));
            }
            let left = (!budget.is_zero()).then(|| budget.saturating_sub(elapsed));
            let nth = Try { retry: retries.taken(), fresh: retries.needs_new_connection() };
            let outcome = self.attempt(call, &key, nth, left);
            let elapsed = self.clock.now().saturating_duration_since(begun);
            let (failure, error, reached) = match outcome {
                Ok(answer) if answer.facts().verdict() == Verdict::Success => match answer.is_page() {
                    // No endpoint answers so: it is a proxy's, or that of a place where somebody has to log in.
                    true => (Failure::Fatal, self.unexpected_page(&answer), Some(Sent::Maybe)),
                    false => {
                        if let Some(progress) = call.progress.as_ref().filter(|_| last.is_some()) {
                            progress.recovered();
                        }
                        return Ok(answer);
                    }
                },
                Ok(answer) if call.takes_redirect && (300..400).contains(&answer.status) => {
                    return Ok(answer);
                }
                Ok(answer) => {
                    // What is sent only once is not sent again for payment either, and samples wait together.
                    let waits = !budget.is_zero() && !call.leaves_429 && billing::is_waited_out(&call.path);
                    let paused = match waits {
                        true => self.pause_for_payment(&answer, call.deadline.or(latest), cancel),
                        false => Ok(false),
                    };
                    match paused {
                        Ok(true) => {
                            begun += billing::PAUSE;
                            continue;
                        }
                        Ok(false) => self.refused(call, &answer),
                        Err(cancelled) => (Failure::Fatal, cancelled, None),
                    }
                }
                Err(broken) => {
                    let error = broken.error(&self.config.timeouts);
                    // An attempt that was cut short, or not made, says less than the one before it.
                    let cut = self.timeout(call, left) < self.timeout(call, None);
                    let error = match (&broken, last.take()) {
                        (Broken::CircuitOpen { .. }, Some(cause)) => error.caused_by(cause),
                        (Broken::Timeout(_), Some(cause)) if cut => error.caused_by(cause),
                        _ => error,
                    };
                    let failure = broken.failure();
                    let is_strange = matches!(failure, Failure::WrongPeer { .. }) && !self.has_served();
                    let error = if is_strange { error.adding("; is the base URL right?") } else { error };
                    (failure, error, Some(broken.sent()).filter(|it| *it == Sent::Maybe))
                }
            };
            // Whether any attempt may have reached the server decides what a training client may conclude.
            sent = reached.unwrap_or(sent);
            // Looked at after each attempt, because another call may have reached the server meanwhile.
            let first_contact = self.first_contact();
            let limits = Limits { budget, first_contact };
            let Some(pause) = retries.next(failure, elapsed, limits, fastrand::f64()) else {
                return Err(self.explain(error, call, retries.taken() + 1, elapsed, sent));
            };
            self.say_retry(call, &error, retries.taken(), elapsed, pause);
            self.config.seeing.metrics.increment(name::RETRIES, 1);
            let (path, attempts) = (call.path.clone(), retries.taken());
            self.config.seeing.observed.tell(|it| {
                it.on_retry(&Retry { path, attempts, error: error.clone(), pause });
            });
            if let Some(progress) = &call.progress {
                progress.failed(error.clone());
            }
            last = Some(error);
            if let Err(error) = self.clock.pause(pause, cancel) {
                return Err(self.explain(error, call, retries.taken(), elapsed, sent));
            }
        }
    }

    /// The budgets for a server that has not answered yet.
    fn first_contact(&self) -> Option<FirstContact> {
        let timeouts = &self.config.timeouts;
        if self.has_served() {
            return None;
        }
        let is_reached = self.reached.load(Ordering::Relaxed);
        let connection = if is_reached { timeouts.first_contact } else { timeouts.connect };
        Some(FirstContact { connection, answer: timeouts.first_contact })
    }

    /// Retries are said quietly, until they have taken long.
    fn say_retry(&self, call: &Call, error: &Error, attempts: u32, elapsed: Duration, pause: Duration) {
        let level = if elapsed + pause < LONG { log::Level::Debug } else { log::Level::Warn };
        log::log!(
            target: "tinkex::http", level,
            "{} {}: {error}; attempt {attempts} after {elapsed:.1?}, again in {pause:.1?}", call.method, call.path
        );
    }

    fn unexpected_page(&self, answer: &Answer) -> Error {
        let page = words::excerpt(&answer.body);
        Error::decode(format!("the server answered with {page} instead of the answer of an API"))
            .with(|it| it.status = Some(answer.status))
    }

    /// How long the server wants clients to wait for payment.
    pub(crate) fn set_billing_window(&self, window: Duration) {
        self.billing.lock().set_window(window);
    }

    /// If an answer is a refusal for want of payment that is to be waited out, waits and says so.
    pub(crate) fn pause_for_payment(
        &self,
        answer: &Answer,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<bool> {
        if answer.status != 402 || !self.waits_for_payment(&answer.facts().error(), deadline) {
            return Ok(false);
        }
        self.clock.pause(billing::PAUSE, cancel)?;
        Ok(true)
    }

    /// Whether a refusal for want of payment is to be waited out, for [`billing::PAUSE`] at least.
    pub(crate) fn waits_for_payment(&self, refusal: &Error, deadline: Option<Instant>) -> bool {
        let now = self.clock.now();
        let decision = self.billing.lock().refused(now, self.config.pause_policy, deadline);
        let billing::Decision::Wait { warn } = decision else { return false };
        if let Some(lasted) = warn {
            let error = refusal.clone();
            log::warn!(target: "tinkex", "waiting for the account to be settled, for {lasted:.0?} now: {error}");
            self.config.seeing.observed.tell(|it| it.on_billing_pause(&BillingPause { lasted, error }));
        }
        true
    }

    /// What an answer that is no success means for a call, and what it says, if anything, about whether the server took
    /// this attempt or an earlier one.
    fn refused(&self, call: &Call, answer: &Answer) -> (Failure, Error, Option<Sent>) {
        let facts = answer.facts();
        let is_final = call.final_on.contains(&facts.status) || call.leaves_429 && facts.status == 429;
        let failure = match is_final {
            true => Failure::Fatal,
            false => Failure::Answer { verdict: facts.verdict(), hint: facts.hint() },
        };
        // Of a request that the server took too long over or failed at, nobody knows what became.
        let unknown = facts.status == 408 || 500 <= facts.status;
        let sent = if unknown { Some(Sent::Maybe) } else { facts.refuses_content().then_some(Sent::No) };
        (failure, facts.error(), sent)
    }

    /// As [`send`](Http::send), for an endpoint that answers in JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, call: &Call, cancel: &CancelToken) -> Result<T> {
        let answer = self.send(call, cancel)?;
        self.decode(call, &answer)
    }

    /// Reads a JSON answer.
    pub(crate) fn decode<T: DeserializeOwned>(&self, call: &Call, answer: &Answer) -> Result<T> {
        // Endpoints that have nothing to say may answer with nothing at all.
        let body: &[u8] = if answer.body.is_empty() { b"{}" } else { &answer.body };
        json::response(body).map_err(|it| {
            let error = it.with(|it| it.url = Some(self.url(call)));
            self.without_secrets(error)
        })
    }

    /// One attempt whose answer is wanted whatever its status: what polling needs.
    pub(crate) fn raw(&self, call: &Call) -> Result<Answer, Broken> {
        self.attempt(call, &headers::idempotency_key(), Try { retry: 0, fresh: call.fresh }, None)
    }

    /// One attempt, if the circuit breaker allows it.
    fn attempt(&self, call: &Call, key: &str, nth: Try, left: Option<Duration>) -> Result<Answer, Broken> {
        let Some(breakers) = self.breakers.as_ref().filter(|_| !call.passes_breaker) else {
            return self.renewed(call, key, nth, left);
        };
        let trial = breakers.admit(call.lane)?;
        let result = self.renewed(call, key, nth, left);
        trial.record(&result);
        result
    }

    /// One attempt, repeated once if the server says that the token is no longer valid.
    fn renewed(&self, call: &Call, key: &str, nth: Try, left: Option<Duration>) -> Result<Answer, Broken> {
        let timeout = self.timeout(call, left);
        if call.raw_credential {
            let raw = self.auth.raw().map_err(Broken::Token)?;
            return self.exchange(call, key, nth, timeout, raw.expose());
        }
        let credential = || self.auth.credential(&self.clock, timeout, |it| self.exchange_token(it, timeout));
        let first = credential()?;
        let answer = self.exchange(call, key, nth, timeout, first.expose())?;
        if !headers::rejects_token(&answer) || !self.auth.renew(&first) {
            return Ok(answer);
        }
        self.exchange(call, key, nth, timeout, credential()?.expose())
    }

    /// How long one attempt may take without progress: no longer than what is left of the call's budget.
    fn timeout(&self, call: &Call, left: Option<Duration>) -> Duration {
        let timeout = call.timeout.unwrap_or(self.config.timeouts.exchange);
        left.map_or(timeout, |it| timeout.min(it.max(MOMENT)))
    }

    /// Fetches a token before anybody needs it.
    pub(crate) fn replace_token(&self) -> Result<()> {
        let timeout = self.config.timeouts.exchange;
        let replaced = self.auth.replace(&self.clock, |it| self.exchange_token(it, timeout));
        replaced.map_err(|it| self.without_secrets(it.error(&self.config.timeouts)))
    }

    /// PROTOCOL §1.4: trades the raw credential for a short-lived token. A failure is told as what it is, not as one of the
    /// request that the token was for.
    fn exchange_token(&self, raw: &str, timeout: Duration) -> Result<String, Broken> {
        let call = Call::post(Lane::Session, "/api/v1/auth/token", &json::AuthTokenRequest {});
        let call = call.map_err(Broken::Token)?;
        let failed = |it: Error| Broken::Token(it.with(|it| it.url = Some(self.url(&call))));
        let answer =
            match self.exchange_unread(&call, &headers::idempotency_key(), Try::default(), timeout, raw) {
                Ok(answer) => answer,
                Err(Broken::Closed) => return Err(Broken::Closed),
                Err(broken) => {
                    let broken = self.auth.redactor().broken(broken);
                    return Err(failed(broken.error(&self.config.timeouts)));
                }
            };
        if answer.facts().verdict() != Verdict::Success {
            return Err(failed(self.auth.redactor().answer(answer).facts().error()));
        }
        let reply = json::response::<json::AuthTokenResponse>(&answer.body);
        // What the decoder says may repeat what it read.
        let reply = reply.map_err(|_| failed(Error::decode("the server's answer holds no token")))?;
        match reply.jwt.expose().chars().all(|it| it.is_ascii_graphic()) && !reply.jwt.expose().is_empty() {
            true => Ok(reply.jwt.expose().to_string()),
            false => Err(failed(Error::decode("the server's token is empty or no single word"))),
        }
    }

    /// One exchange, from which no secret comes back.
    fn exchange(
        &self,
        call: &Call,
        key: &str,
        nth: Try,
        timeout: Duration,
        credential: &str,
    ) -> Result<Answer, Broken> {
        let redactor = self.auth.redactor();
        if let Some(progress) = &call.progress {
            progress.attempt();
        }
        match self.exchange_unread(call, key, nth, timeout, credential) {
            Ok(answer) => {
                let answer = redactor.answer(answer);
                headers::log_deprecation(&answer, &call.path);
                Ok(answer)
            }
            Err(broken) => Err(redactor.broken(broken)),
        }
    }

    fn exchange_unread(
        &self,
        call: &Call,
        key: &str,
        nth: Try,
        timeout: Duration,
        credential: &str,
    ) -> Result<Answer, Broken> {
        // A forked child must not use its parent's connections.
        if self.process.is_other() {
            return Err(Broken::Token(forked()));
        }
        let room = call.room.unwrap_or(Room::of(call.lane));
        let exchange = Exchange {
            lane: call.lane,
            method: call.method,
            url: self.url(call),
            // What a request is usually given, even if less is left for this attempt.
            headers: headers::all(call, &self.config, key, nth.retry, self.timeout(call, None), credential),
            body: call.body.bytes(),
            connect_timeout: self.config.timeouts.connect.min(timeout),
            timeout,
            // What belongs to an operation may go on as long as that; everything else is small.
            limit: call
                .deadline
                .map_or(timeout, |it| it.saturating_duration_since(self.clock.now()).max(MOMENT)),
            largest_answer: room.bytes,
            fresh: nth.fresh,
        };
        log::trace!(target: "tinkex::http", "{} {} ({} bytes)", exchange.method, call.path, exchange.body.len());
        let sent = self.clock.now();
        let transport = call.branch.as_ref().map_or(&*self.transport, Branch::transport);
        let result = transport.exchange(&exchange).and_then(|it| room.check(it));
        let success = result.as_ref().is_ok_and(|it| it.facts().verdict() == Verdict::Success);
        self.config.seeing.metrics.request(success, self.clock.now().saturating_duration_since(sent));
        if let Ok(answer) = &result {
            self.reached.store(true, Ordering::Relaxed);
            if answer.status < 500 {
                self.served.store(true, Ordering::Relaxed);
            }
            *self.last_contact.lock() = Some(self.clock.now());
            log::trace!(target: "tinkex::http", "{} ← {} ({} bytes)", call.path, answer.status, answer.body.len());
        }
        result
    }

    fn url(&self, call: &Call) -> String {
        format!("{}{}", self.config.base_url, call.path)
    }

    fn explain(&self, error: Error, call: &Call, attempts: u32, elapsed: Duration, sent: Sent) -> Error {
        let error = self.without_secrets(error).with(|it| {
            it.url = Some(self.url(call));
            it.attempts = Some(attempts);
            it.elapsed = Some(elapsed);
            it.sent = Some(sent);
        });
        // A connection that failed last has to be told that an earlier attempt may have arrived.
        let never_arrived = matches!(
            error.kind(),
            ErrorKind::Connection { sent: Sent::No } | ErrorKind::Timeout(Phase::Resolve | Phase::Connect)
        );
        match (never_arrived, sent) {
            (true, Sent::Maybe) => {
                Error::new(ErrorKind::Connection { sent }, "an earlier attempt may have arrived")
                    .caused_by(error)
            }
            _ => error,
        }
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("base_url", &self.config.base_url).finish_non_exhaustive()
    }
}
