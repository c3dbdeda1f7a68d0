//! One request → one classified answer.
//!
//! [`Http`] adds what every request needs (credential, headers, idempotency key), sends it over the transport and
//! repeats it as [`policy::retry`](crate::policy::retry) decides. Nothing above this floor sees a status code that is
//! not a success, except the poll loop, which wants each answer raw.

pub(crate) mod auth;
mod breakers;
pub(crate) mod headers;
mod lanes;
pub mod transport;
mod ureq;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Phase, Result, Sent};
use crate::event::{Retry, TraceContext};
use crate::metrics::name;
use crate::pending::Progress;
use crate::policy::retry::{Failure, Limits, Retries};
use crate::policy::verdict::Verdict;
use crate::sync::clock::Clock;
use crate::sync::{CancelToken, Mutex};
use crate::wire::json;

pub(crate) use self::ureq::Ureq;
use auth::Auth;
use breakers::Breakers;
pub(crate) use transport::{Answer, Branch, Broken, Exchange, Lane, Transport};

/// The most that any answer may measure: far above every real one, far below what would hurt the machine.
const LARGEST_ANSWER: u64 = 1 << 30;

/// One logical call: what is asked, and how hard to try.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) lane: Lane,
    pub(crate) method: &'static str,
    /// Such as `/api/v1/create_session`.
    pub(crate) path: String,
    pub(crate) body: Body,
    /// Ask for protobuf; JSON is accepted all the same.
    pub(crate) protobuf: bool,
    /// How long one attempt may take; the default is `Timeouts::exchange`.
    pub(crate) timeout: Option<Duration>,
    /// How long all attempts may take; the default is `Timeouts::submit`.
    pub(crate) budget: Option<Duration>,
    /// Headers of this endpoint only.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The public method that this belongs to, such as `TrainingClient.forward_backward`.
    pub(crate) sdk_method: Option<&'static str>,
    /// The caller itself deals with a server that is too busy.
    pub(crate) leaves_429: bool,
    /// Sent whatever the circuit breaker says, and unknown to it.
    pub(crate) passes_breaker: bool,
    /// Goes over a transport of its own.
    pub(crate) branch: Option<Branch>,
    /// Its place in a distributed trace.
    pub(crate) trace: Option<Arc<TraceContext>>,
}

/// What a request carries.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Empty,
    Json(Bytes),
    /// As it goes over the wire, compressed already if `zstd`.
    Protobuf {
        bytes: Bytes,
        zstd: bool,
    },
}

impl Body {
    /// A JSON body.
    pub(crate) fn json(value: &impl Serialize) -> Result<Self> {
        match serde_json::to_vec(value) {
            Ok(json) => Ok(Body::Json(json.into())),
            Err(error) => {
                Err(Error::new(ErrorKind::System, format!("the request could not be written: {error}")))
            }
        }
    }

    /// A protobuf body, compressed if asked for and possible: one zstd frame of level 3 with the content size in its
    /// header (PROTOCOL §1.8).
    pub(crate) fn protobuf(bytes: Vec<u8>, compress: bool) -> Self {
        #[cfg(feature = "zstd")]
        if compress {
            match zstd::bulk::compress(&bytes, 3) {
                Ok(small) => return Body::Protobuf { bytes: small.into(), zstd: true },
                Err(error) => log::warn!(target: "tinkex::http", "sent uncompressed: {error}"),
            }
        }
        let _only_with_the_feature = compress;
        Body::Protobuf { bytes: bytes.into(), zstd: false }
    }

    fn bytes(&self) -> Bytes {
        match self {
            Body::Empty => Bytes::new(),
            Body::Json(bytes) | Body::Protobuf { bytes, .. } => bytes.clone(),
        }
    }
}

impl Call {
    pub(crate) fn get(lane: Lane, path: impl Into<String>) -> Self {
        Call::new(lane, "GET", path, Body::Empty)
    }

    /// A POST of a JSON body.
    pub(crate) fn post(lane: Lane, path: impl Into<String>, body: &impl Serialize) -> Result<Self> {
        Ok(Call::new(lane, "POST", path, Body::json(body)?))
    }

    pub(crate) fn new(lane: Lane, method: &'static str, path: impl Into<String>, body: Body) -> Self {
        Call {
            lane,
            method,
            path: path.into(),
            body,
            protobuf: false,
            timeout: None,
            budget: None,
            headers: Vec::new(),
            sdk_method: None,
            leaves_429: false,
            passes_breaker: false,
            branch: None,
            trace: None,
        }
    }

    pub(crate) fn once(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.budget = Some(Duration::ZERO);
        self
    }

    pub(crate) fn by(mut self, sdk_method: &'static str) -> Self {
        self.sdk_method = Some(sdk_method);
        self
    }

    /// A request of an operation.
    pub(crate) fn of(mut self, progress: &Progress) -> Self {
        self.sdk_method = Some(progress.sdk_method());
        self.trace = progress.trace().cloned();
        self
    }

    pub(crate) fn leaving_429(mut self) -> Self {
        self.leaves_429 = true;
        self
    }

    /// Is sent whatever the circuit breaker says.
    pub(crate) fn passing_breaker(mut self) -> Self {
        self.passes_breaker = true;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Sends calls. Cheap to share; everything above holds it by reference.
pub(crate) struct Http {
    transport: Arc<dyn Transport>,
    config: Arc<Config>,
    clock: Clock,
    auth: Auth,
    breakers: Option<Breakers>,
    /// The server answered at least once.
    reached: AtomicBool,
    last_contact: Mutex<Option<Instant>>,
}

impl Http {
    pub(crate) fn new(transport: Arc<dyn Transport>, config: Arc<Config>, clock: Clock) -> Self {
        let auth = Auth::new(config.api_key.clone());
        let breakers =
            config.circuit_breaker.map(|it| Breakers::new(it, clock.clone(), config.seeing.clone()));
        Http {
            breakers,
            transport,
            config,
            clock,
            auth,
            reached: AtomicBool::new(false),
            last_contact: Mutex::new(None),
        }
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.auth
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
        self.transport.shutdown();
    }

    /// Sends a call until it succeeds, fails for good, or its budget is spent, and returns the answer's body.
    pub(crate) fn send(&self, call: &Call, cancel: &CancelToken) -> Result<Answer> {
        let started = self.clock.now();
        let limits = Limits {
            budget: call.budget.unwrap_or(self.config.timeouts.submit),
            first_contact: (!self.reached.load(Ordering::Relaxed)).then_some(self.config.timeouts.connect),
        };
        let key = headers::idempotency_key();
        let mut retries = Retries::default();
        // Whether any attempt may have reached the server decides what a training client may conclude.
        let mut sent = Sent::No;
        let mut last = None;
        loop {
            let elapsed = self.clock.now().saturating_duration_since(started);
            if cancel.is_cancelled() {
                return Err(self.explain(Error::cancelled(), call, retries.taken(), elapsed, sent));
            }
            let left = limits.budget.saturating_sub(elapsed);
            let outcome =
                self.attempt(call, &key, retries.taken(), (!limits.budget.is_zero()).then_some(left));
            let elapsed = self.clock.now().saturating_duration_since(started);
            let (failure, error) = match outcome {
                Ok(answer) if answer.facts().verdict() == Verdict::Success => return Ok(answer),
                Ok(answer) => {
                    let facts = answer.facts();
                    // Of a request that the server took too long over or failed at, nobody knows what became.
                    if facts.status == 408 || 500 <= facts.status {
                        sent = Sent::Maybe;
                    }
                    let failure = match call.leaves_429 && facts.status == 429 {
                        true => Failure::Fatal,
                        false => Failure::Answer { verdict: facts.verdict(), hint: facts.hint() },
                    };
                    (failure, facts.error())
                }
                Err(broken) => {
                    if broken.sent() == Sent::Maybe {
                        sent = Sent::Maybe;
                    }
                    let error = broken.error(&self.config.timeouts);
                    let error = match (&broken, last.take()) {
                        (Broken::CircuitOpen { .. }, Some(cause)) => error.caused_by(cause),
                        _ => error,
                    };
                    (broken.failure(), error)
                }
            };
            let Some(pause) = retries.next(failure, elapsed, limits, fastrand::f64()) else {
                return Err(self.explain(error, call, retries.taken() + 1, elapsed, sent));
            };
            log::debug!(target: "tinkex::http", "{} {}: {error}; again in {pause:.1?}", call.method, call.path);
            self.config.seeing.metrics.increment(name::RETRIES, 1);
            let (path, attempts) = (call.path.clone(), retries.taken());
            self.config.seeing.observed.tell(|it| {
                it.on_retry(&Retry { path, attempts, error: error.clone(), pause });
            });
            last = Some(error);
            if let Err(error) = self.clock.pause(pause, cancel) {
                return Err(self.explain(error, call, retries.taken(), elapsed, sent));
            }
        }
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
        json::response(body).map_err(|it| it.with(|it| it.url = Some(self.url(call))))
    }

    /// One attempt whose answer is wanted whatever its status: what polling needs.
    pub(crate) fn raw(&self, call: &Call) -> Result<Answer, Broken> {
        self.attempt(call, &headers::idempotency_key(), 0, None)
    }

    /// One attempt, if the circuit breaker allows it.
    fn attempt(&self, call: &Call, key: &str, retry: u32, left: Option<Duration>) -> Result<Answer, Broken> {
        let Some(breakers) = self.breakers.as_ref().filter(|_| !call.passes_breaker) else {
            return self.renewed(call, key, retry, left);
        };
        let trial = breakers.admit(call.lane)?;
        let result = self.renewed(call, key, retry, left);
        trial.record(&result);
        result
    }

    /// One attempt, repeated once if the server says that the token is no longer valid.
    fn renewed(&self, call: &Call, key: &str, retry: u32, left: Option<Duration>) -> Result<Answer, Broken> {
        let timeout = self.timeout(call, left);
        let credential = || self.auth.credential(&self.clock, timeout, |it| self.exchange_token(it, timeout));
        let first = credential()?;
        let answer = self.exchange(call, key, retry, timeout, first.expose())?;
        if !headers::rejects_token(&answer) || !self.auth.renew(&first) {
            return Ok(answer);
        }
        self.exchange(call, key, retry, timeout, credential()?.expose())
    }

    /// How long one attempt may take: no longer than what is left of the call's budget.
    fn timeout(&self, call: &Call, left: Option<Duration>) -> Duration {
        let timeout = call.timeout.unwrap_or(self.config.timeouts.exchange);
        left.map_or(timeout, |it| timeout.min(it.max(Duration::from_millis(1))))
    }

    /// PROTOCOL §1.4: trades the raw credential for a short-lived token.
    fn exchange_token(&self, raw: &str, timeout: Duration) -> Result<String, Broken> {
        let body = Body::json(&json::AuthTokenRequest {}).map_err(Broken::Token)?;
        let call = Call::new(Lane::Session, "POST", "/api/v1/auth/token", body);
        let answer = self.exchange(&call, &headers::idempotency_key(), 0, timeout, raw)?;
        if answer.facts().verdict() != Verdict::Success {
            return Err(Broken::Token(answer.facts().error()));
        }
        let reply: json::AuthTokenResponse = json::response(&answer.body).map_err(Broken::Token)?;
        Ok(reply.jwt.0)
    }

    fn exchange(
        &self,
        call: &Call,
        key: &str,
        retry: u32,
        timeout: Duration,
        credential: &str,
    ) -> Result<Answer, Broken> {
        let exchange = Exchange {
            lane: call.lane,
            method: call.method,
            url: self.url(call),
            headers: headers::all(call, &self.config, key, retry, timeout, credential),
            body: call.body.bytes(),
            connect_timeout: self.config.timeouts.connect.min(timeout),
            timeout,
            largest_answer: LARGEST_ANSWER,
        };
        log::trace!(target: "tinkex::http", "{} {} ({} bytes)", exchange.method, call.path, exchange.body.len());
        let sent = self.clock.now();
        let transport = call.branch.as_ref().map_or(&*self.transport, Branch::transport);
        let result = transport.exchange(&exchange);
        let success = result.as_ref().is_ok_and(|it| it.facts().verdict() == Verdict::Success);
        self.config.seeing.metrics.request(success, self.clock.now().saturating_duration_since(sent));
        if let Ok(answer) = &result {
            self.reached.store(true, Ordering::Relaxed);
            *self.last_contact.lock() = Some(self.clock.now());
            headers::log_deprecation(answer, &call.path);
            log::trace!(target: "tinkex::http", "{} ← {} ({} bytes)", call.path, answer.status, answer.body.len());
        }
        result
    }

    fn url(&self, call: &Call) -> String {
        format!("{}{}", self.config.base_url, call.path)
    }

    fn explain(&self, error: Error, call: &Call, attempts: u32, elapsed: Duration, sent: Sent) -> Error {
        let error = error.with(|it| {
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
