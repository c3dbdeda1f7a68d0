//! Sends requests to the server: takes a [`Call`] and returns one [`Answer`] or one classified error.
//!
//! [`Http`] adds the credential, the headers and the idempotency key, sends the request over the transport and repeats
//! it as [`policy::retry`](crate::policy::retry) decides. Callers see a failure status only as an error. The poll loop
//! is the exception: it gets each answer as it came, from [`Http::raw`].
//!
//! | module | content |
//! |---|---|
//! | `call`, `endpoint` | a request before it is sent; the endpoints of the API |
//! | `headers`, `auth`, `command` | the headers; the credential; the command that prints a credential |
//! | `transport`, `ureq`, `lanes` | the trait that carries requests; the default one (sockets); sizes for lanes |
//! | `breakers`, `offered` | circuit breakers; endpoints that a server may lack |
//! | `redact`, `room` | removes secrets from answers; limits of the size of answers |

pub(crate) mod auth;
pub(crate) mod breakers;
mod call;
mod command;
pub(crate) mod endpoint;
pub(crate) mod headers;
mod lanes;
mod offered;
pub(crate) mod redact;
mod room;
pub mod transport;
mod ureq;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::credentials::Secret;
use crate::error::{Error, ErrorKind, Phase, Result, Sent, words};
use crate::event::{BillingPause, Retry};
use crate::metrics::name;
use crate::pending::Served;
use crate::policy::billing::{self, Billing};
use crate::policy::endpoints::Endpoints;
use crate::policy::retry::{self, Failure, FirstContact, Retries};
use crate::policy::verdict::Verdict;
use crate::sync::clock::Clock;
use crate::sync::process::{Process, forked};
use crate::sync::{CancelToken, Mutex};
use crate::wire::json;

pub(crate) use self::ureq::{Stream, Ureq};
use auth::Auth;
use breakers::Breakers;
pub(crate) use call::{Body, Call};
pub(crate) use endpoint::Endpoint;
pub(crate) use room::Room;
use transport::head_timeout;
pub(crate) use transport::{Answer, Branch, Broken, Exchange, Lane, Limits, Transport};

/// If a call has lasted this long, its retries are logged as warnings. Earlier retries are logged as debug messages.
const WARN_AFTER: Duration = Duration::from_secs(5);

/// Shortest time limit of an attempt.
const SHORTEST: Duration = Duration::from_millis(1);

/// The number and kind of an attempt.
#[derive(Clone, Copy, Default)]
struct Attempt {
    /// Number of earlier attempts.
    retry: u32,
    /// Uses a new connection.
    fresh: bool,
}

/// Sends calls.
pub(crate) struct Http {
    transport: Arc<dyn Transport>,
    config: Arc<Config>,
    clock: Clock,
    auth: Auth,
    breakers: Option<Breakers>,
    billing: Mutex<Billing>,
    offered: Mutex<Endpoints>,
    /// The server or a proxy in front of it has answered.
    reached: AtomicBool,
    /// The server itself has answered: with another status than 5xx.
    served: Arc<AtomicBool>,
    /// The process that owns the connections.
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

    /// Adds a secret of one call to the secrets that are removed from texts of the server.
    pub(crate) fn hide(&self, secret: &Secret) {
        self.auth.redactor().hide(secret);
    }

    /// Returns whether the server itself has answered, with another status than 5xx.
    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns a handle that tells at any later time whether the server itself has answered.
    pub(crate) fn served(&self) -> Served {
        Served::new(self.served.clone(), self.config.clone())
    }

    /// Removes secrets and parts of them from an error.
    pub(crate) fn without_secrets(&self, error: Error) -> Error {
        self.auth.redactor().error(error)
    }

    /// Checks a URL that the server returned, such as that of a download.
    ///
    /// # Errors
    /// The URL is neither http nor https, or it is http while the server is reached over https.
    pub(crate) fn named_address(&self, url: &str) -> Result<String> {
        self.config.server.named(url).map_err(|problem| {
            let text = format!("the server returned an unusable URL: {problem}");
            self.without_secrets(Error::decode(text))
        })
    }

    /// The credential of the next request. Fetches a token if one is needed.
    pub(crate) fn credential(&self) -> Result<Secret> {
        let timeout = self.config.timeouts.exchange;
        let credential = self.auth.credential(&self.clock, timeout, |it| self.exchange_token(it, timeout));
        credential.map_err(|it| self.without_secrets(it.error(&self.config.timeouts)))
    }

    /// Time of the last answer.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        *self.last_contact.lock()
    }

    /// Opens a branch of the transport (see [`Transport::branch`]), for requests that must be interrupted separately.
    pub(crate) fn branch(&self) -> Option<Branch> {
        Branch::of(&*self.transport)
    }

    /// Interrupts all requests in progress and refuses later ones.
    pub(crate) fn shutdown(&self) {
        self.auth.shutdown();
        self.transport.shutdown();
    }

    /// Sends a call. Retries it until it succeeds, fails for good, or has used up its budget of time.
    pub(crate) fn send(&self, call: &Call, cancel: &CancelToken) -> Result<Answer> {
        let started = self.clock.now();
        let budget = call.budget.unwrap_or(self.config.timeouts.submit);
        let key = call.key.clone().unwrap_or_else(headers::idempotency_key);
        let mut retries = Retries::default();
        let mut sent = Sent::No;
        let mut last = None;
        let latest = started.checked_add(self.config.timeouts.operation);
        // The start of the budget. It moves forward by each wait for payment, so that these waits do not use up the
        // budget.
        let mut begun = started;
        loop {
            let elapsed = self.clock.now().saturating_duration_since(begun);
            // The deadline of the operation limits the budget, but at least one attempt is made.
            let to_deadline = call
                .deadline
                .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(begun).max(SHORTEST));
            let budget = budget.min(to_deadline);
            if cancel.is_cancelled() {
                return Err(self.explain(Error::cancelled(), call, retries.taken(), elapsed, sent));
            }
            let left = (!budget.is_zero()).then(|| budget.saturating_sub(elapsed));
            let nth = Attempt { retry: retries.taken(), fresh: retries.needs_new_connection() };
            let limits = self.limits(call, self.timeout(call, left));
            let outcome = self.attempt(call, &key, nth, left);
            let elapsed = self.clock.now().saturating_duration_since(begun);
            let (failure, error, reached) = match outcome {
                // An HTML page comes from a proxy or a login gateway: no endpoint answers with HTML.
                Ok(answer) if answer.facts().verdict() == Verdict::Success && answer.is_page() => {
                    (Failure::Fatal, self.unexpected_page(&answer), Some(Sent::Maybe))
                }
                Ok(answer) if answer.facts().verdict() == Verdict::Success => {
                    if let Some(progress) = call.progress.as_ref().filter(|_| last.is_some()) {
                        progress.recovered();
                    }
                    return Ok(answer);
                }
                Ok(answer) if call.takes_redirect && (300..400).contains(&answer.status) => {
                    return Ok(answer);
                }
                Ok(answer) => {
                    // A call that is limited to one attempt does not wait for payment. Nor does a sample
                    // (`leaves_429`): all samples of a session wait together, see `Dispatch::back_off`.
                    let waits = !budget.is_zero() && !call.leaves_429 && call.endpoint.waits_for_payment;
                    let paused = if waits {
                        self.pause_for_payment(&answer, call.deadline.or(latest), cancel)
                    } else {
                        Ok(false)
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
                    let error = broken.error(limits);
                    // If the breaker refused this attempt, or the timeout of the attempt was shorter than usual, the
                    // error of this attempt tells little. Add the error of the previous attempt as its cause.
                    let cut = self.timeout(call, left) < self.timeout(call, None);
                    let is_late = call.deadline.is_some_and(|deadline| deadline <= self.clock.now());
                    let operation = call.progress.as_ref().filter(|_| is_late);
                    let error = match (&broken, operation, last.take()) {
                        // The deadline of the operation ended this attempt, so the timeout says nothing about the
                        // server. Report that the deadline has passed.
                        (Broken::Timeout(_), Some(operation), cause) => {
                            operation.deadline_error(self.config.timeouts.operation, cause.unwrap_or(error))
                        }
                        (Broken::CircuitOpen { .. }, _, Some(cause)) => error.caused_by(cause),
                        (Broken::Timeout(_), _, Some(cause)) if cut => error.caused_by(cause),
                        _ => error,
                    };
                    let failure = broken.failure();
                    let is_unknown_peer = matches!(failure, Failure::WrongPeer { .. }) && !self.has_served();
                    let error = if is_unknown_peer { error.adding("; check the base URL") } else { error };
                    (failure, error, Some(broken.sent()).filter(|sent| *sent == Sent::Maybe))
                }
            };
            // `sent` tells about all attempts: a training client may reuse a sequence number only if no attempt
            // arrived.
            sent = reached.unwrap_or(sent);
            // Read after each attempt, because another call may have reached the server meanwhile.
            let first_contact = self.first_contact();
            let limits = retry::Limits { budget, first_contact };
            let Some(pause) = retries.next(failure, elapsed, limits, fastrand::f64()) else {
                return Err(self.explain(error, call, retries.taken() + 1, elapsed, sent));
            };
            self.log_retry(call, &error, retries.taken(), elapsed, pause);
            self.config.seeing.metrics.increment(name::RETRIES, 1);
            let (path, attempts) = (call.path.clone(), retries.taken());
            self.config.seeing.observed.tell(|observer| {
                observer.on_retry(&Retry { path, attempts, error: error.clone(), pause });
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

    /// Time limits for retries until the server answers for the first time; `None` after its first answer.
    fn first_contact(&self) -> Option<FirstContact> {
        let timeouts = &self.config.timeouts;
        if self.has_served() {
            return None;
        }
        let is_reached = self.reached.load(Ordering::Relaxed);
        let connection = if is_reached { timeouts.first_contact } else { timeouts.connect };
        Some(FirstContact { connection, answer: timeouts.first_contact })
    }

    fn log_retry(&self, call: &Call, error: &Error, attempts: u32, elapsed: Duration, pause: Duration) {
        let level = if elapsed + pause < WARN_AFTER { log::Level::Debug } else { log::Level::Warn };
        log::log!(
            target: "tinkex::http", level,
            "{} {}: {error}; attempt {attempts} after {elapsed:.1?}, again in {pause:.1?}", call.endpoint.method(), call.path
        );
    }

    fn unexpected_page(&self, answer: &Answer) -> Error {
        let page = words::excerpt(&answer.body);
        Error::decode(format!(
            "the server answered with {page} instead of JSON or protobuf; check the base URL"
        ))
        .with(|it| it.status = Some(answer.status))
    }

    /// Sets the longest time for which this client waits for payment. The server states this time in its flags.
    pub(crate) fn set_billing_window(&self, window: Duration) {
        self.billing.lock().set_window(window);
    }

    /// Pauses once if the answer refuses the request for lack of payment (HTTP 402) and the client is to wait for the
    /// payment. Returns true after a pause: the request is to be repeated.
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

    /// Returns whether to wait for payment after this refusal. If true, the caller must wait for at least
    /// [`billing::PAUSE`] before it repeats the request.
    pub(crate) fn waits_for_payment(&self, refusal: &Error, deadline: Option<Instant>) -> bool {
        let now = self.clock.now();
        let decision = self.billing.lock().refused(now, self.config.pause_policy, deadline);
        let billing::Decision::Wait { warn } = decision else { return false };
        if let Some(lasted) = warn {
            let error = refusal.clone();
            log::warn!(target: "tinkex", "waiting for payment of the account for {lasted:.0?}: {error}");
            self.config
                .seeing
                .observed
                .tell(|observer| observer.on_billing_pause(&BillingPause { lasted, error }));
        }
        true
    }

    /// Classifies an error answer. The third value tells whether the server may have carried out this or an earlier
    /// attempt; `None` if the answer does not tell.
    fn refused(&self, call: &Call, answer: &Answer) -> (Failure, Error, Option<Sent>) {
        let facts = answer.facts();
        let is_final = call.final_on.contains(&facts.status) || call.leaves_429 && facts.status == 429;
        let failure = if is_final {
            Failure::Fatal
        } else {
            Failure::Answer { verdict: facts.verdict(), hint: facts.hint() }
        };
        // After a timeout or a failure of the server it is unknown whether the request was carried out.
        let unknown = facts.status == 408 || 500 <= facts.status;
        let sent = if unknown { Some(Sent::Maybe) } else { facts.refuses_content().then_some(Sent::No) };
        (failure, facts.error(), sent)
    }

    /// Sends a call like [`send`](Http::send) and decodes its JSON answer.
    pub(crate) fn json<T: DeserializeOwned>(&self, call: &Call, cancel: &CancelToken) -> Result<T> {
        let answer = self.send(call, cancel)?;
        self.decode(call, &answer)
    }

    /// Decodes a JSON answer. An empty body counts as `{}`, because some endpoints without results answer with an empty
    /// body.
    pub(crate) fn decode<T: DeserializeOwned>(&self, call: &Call, answer: &Answer) -> Result<T> {
        let body: &[u8] = if answer.body.is_empty() { b"{}" } else { &answer.body };
        json::response(body).map_err(|error| {
            let error = error.with(|context| {
                context.url = Some(self.url(call));
                context.endpoint = Some(call.endpoint.name);
            });
            self.without_secrets(error)
        })
    }

    /// Makes one attempt and returns the answer, whatever its status. Used for polling.
    pub(crate) fn raw(&self, call: &Call) -> Result<Answer, Broken> {
        self.attempt(call, &headers::idempotency_key(), Attempt { retry: 0, fresh: call.fresh }, None)
    }

    /// Makes one attempt if the circuit breaker allows it.
    fn attempt(
        &self,
        call: &Call,
        key: &str,
        nth: Attempt,
        left: Option<Duration>,
    ) -> Result<Answer, Broken> {
        let Some(breakers) = self.breakers.as_ref().filter(|_| !call.passes_breaker) else {
            return self.authorized(call, key, nth, left);
        };
        let trial = breakers.admit(call.lane)?;
        let result = self.authorized(call, key, nth, left);
        trial.record(&result);
        result
    }

    /// Makes one attempt with the credential, and repeats it once with a new token if the server rejects the token.
    fn authorized(
        &self,
        call: &Call,
        key: &str,
        nth: Attempt,
        left: Option<Duration>,
    ) -> Result<Answer, Broken> {
        let timeout = self.timeout(call, left);
        if call.raw_credential {
            let raw = self.auth.raw().map_err(Broken::Token)?;
            return self.exchange(call, key, nth, timeout, raw.expose());
        }
        let credential = || self.auth.credential(&self.clock, timeout, |it| self.exchange_token(it, timeout));
        let first = credential()?;
        let answer = self.exchange(call, key, nth, timeout, first.expose())?;
        if !headers::rejects_token(&answer) || !self.auth.drop_rejected(&first) {
            return Ok(answer);
        }
        self.exchange(call, key, nth, timeout, credential()?.expose())
    }

    /// The longest time for which an attempt may make no progress. At most `left`, the rest of the call's budget.
    fn timeout(&self, call: &Call, left: Option<Duration>) -> Duration {
        let timeout = call.timeout.unwrap_or(self.config.timeouts.exchange);
        left.map_or(timeout, |left| timeout.min(left.max(SHORTEST)))
    }

    /// The time limits of one attempt.
    fn limits(&self, call: &Call, timeout: Duration) -> Limits {
        let now = self.clock.now();
        Limits {
            connect: self.config.timeouts.connect.min(timeout),
            idle: timeout,
            head: head_timeout(timeout, call.body.len()),
            // Requests of an operation carry large bodies and may last until the deadline of the operation. All other
            // requests are small and must end within `timeout`.
            whole: call
                .deadline
                .map_or(timeout, |deadline| deadline.saturating_duration_since(now).max(SHORTEST)),
        }
    }

    /// Fetches a new token ahead of time, before the current one expires.
    pub(crate) fn replace_token(&self) -> Result<()> {
        let timeout = self.config.timeouts.exchange;
        let replaced = self.auth.replace(&self.clock, |it| self.exchange_token(it, timeout));
        replaced.map_err(|it| self.without_secrets(it.error(&self.config.timeouts)))
    }

    /// Exchanges the raw credential for a short-lived token (PROTOCOL §1.4). A failure names the token endpoint, not
    /// the request that needed the token.
    fn exchange_token(&self, raw: &str, timeout: Duration) -> Result<String, Broken> {
        let call = Call::post(Lane::Session, &endpoint::AUTH_TOKEN, &json::AuthTokenRequest {});
        let call = call.map_err(Broken::Token)?;
        let failed = |error: Error| {
            Broken::Token(error.with(|context| {
                context.url = Some(self.url(&call));
                context.endpoint = Some(call.endpoint.name);
            }))
        };
        let key = headers::idempotency_key();
        let limits = self.limits(&call, timeout);
        let answer = match self.exchange_unredacted(&call, &key, Attempt::default(), timeout, raw) {
            Ok(answer) => answer,
            Err(Broken::Closed) => return Err(Broken::Closed),
            Err(broken) => return Err(failed(self.auth.redactor().broken(broken).error(limits))),
        };
        if answer.facts().verdict() != Verdict::Success {
            return Err(failed(self.auth.redactor().answer(answer).facts().error()));
        }
        let reply = json::response::<json::AuthTokenResponse>(&answer.body);
        // Drop the decoder's message: it may contain parts of the token.
        let reply = reply.map_err(|_| failed(Error::decode("the server's answer contains no token")))?;
        let jwt = reply.jwt.expose();
        if jwt.is_empty() || !jwt.chars().all(|c| c.is_ascii_graphic()) {
            let text = "the server's token is empty or contains a character that a header must not contain";
            return Err(failed(Error::decode(text)));
        }
        Ok(jwt.to_string())
    }

    /// Makes one exchange and removes secrets from its outcome.
    fn exchange(
        &self,
        call: &Call,
        key: &str,
        nth: Attempt,
        timeout: Duration,
        credential: &str,
    ) -> Result<Answer, Broken> {
        let redactor = self.auth.redactor();
        if let Some(progress) = &call.progress {
            progress.attempt();
        }
        match self.exchange_unredacted(call, key, nth, timeout, credential) {
            Ok(answer) => {
                let answer = redactor.answer(answer);
                headers::log_deprecation(&answer, &call.path);
                Ok(answer)
            }
            Err(broken) => Err(redactor.broken(broken)),
        }
    }

    fn exchange_unredacted(
        &self,
        call: &Call,
        key: &str,
        nth: Attempt,
        timeout: Duration,
        credential: &str,
    ) -> Result<Answer, Broken> {
        // A forked child must not use its parent's connections.
        if self.process.is_other() {
            return Err(Broken::Token(forked()));
        }
        let room = call.room.unwrap_or(Room::of(call.lane));
        let limits = self.limits(call, timeout);
        let exchange = Exchange {
            lane: call.lane,
            method: call.endpoint.method(),
            url: self.url(call),
            // The header contains the usual timeout, even if less time is left for this attempt.
            headers: headers::all(call, &self.config, key, nth.retry, self.timeout(call, None), credential),
            body: call.body.bytes(),
            connect_timeout: limits.connect,
            timeout,
            limit: limits.whole,
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
        let error = self.without_secrets(error).with(|context| {
            context.url = Some(self.url(call));
            context.endpoint = Some(call.endpoint.name);
            context.attempts = Some(attempts);
            context.elapsed = Some(elapsed);
            context.sent = Some(sent);
        });
        // The last attempt certainly did not arrive, but an earlier one may have: the error must not say that nothing
        // was sent.
        let never_arrived = matches!(
            error.kind(),
            ErrorKind::Connection { sent: Sent::No } | ErrorKind::Timeout(Phase::Resolve | Phase::Connect)
        );
        match (never_arrived, sent) {
            (true, Sent::Maybe) => {
                let text = "an earlier attempt may have reached the server";
                Error::new(ErrorKind::Connection { sent }, text).caused_by(error)
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
