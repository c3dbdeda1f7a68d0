//! A call: one logical request, which may take several attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::{Branch, Endpoint, Lane, Room};
use crate::error::{Error, ErrorKind, Result};
use crate::event::TraceContext;
use crate::pending::Progress;
use crate::policy::endpoints::Names;

/// A request to an endpoint, and the rules for sending it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) lane: Lane,
    pub(crate) endpoint: &'static Endpoint,
    /// The endpoint's path with its ids and the query, such as `/api/v1/create_session`.
    pub(crate) path: String,
    /// The object that a 404 may refer to. Default: that of the endpoint.
    pub(crate) names: Names,
    pub(crate) body: Body,
    /// Asks for protobuf. JSON is accepted as well.
    pub(crate) protobuf: bool,
    /// Time limit of one attempt. Default: `Timeouts::exchange`.
    pub(crate) timeout: Option<Duration>,
    /// Time limit of all attempts together. Default: `Timeouts::submit`.
    pub(crate) budget: Option<Duration>,
    /// Additional headers.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The public method that makes the call, such as `TrainingClient.forward_backward`.
    pub(crate) sdk_method: Option<&'static str>,
    /// After a 429: if true, the caller gets the error, waits and retries; if false, `Http::send` waits and retries.
    /// The same holds for a missing payment (402).
    pub(crate) leaves_429: bool,
    /// The operation to which the call belongs; it counts the attempts.
    pub(crate) progress: Option<Progress>,
    /// The deadline of the operation.
    pub(crate) deadline: Option<Instant>,
    /// Bypasses the circuit breaker.
    pub(crate) passes_breaker: bool,
    /// Uses this branch of the transport.
    pub(crate) branch: Option<Branch>,
    /// The context of the operation in a distributed trace.
    pub(crate) trace: Option<Arc<TraceContext>>,
    /// Statuses that are not retried.
    pub(crate) final_on: &'static [u16],
    /// Counts a redirect as success. It is never followed.
    pub(crate) takes_redirect: bool,
    /// Sends the raw credential even if the client uses tokens.
    pub(crate) raw_credential: bool,
    /// The idempotency key. Default: a new one.
    pub(crate) key: Option<String>,
    /// Uses a new connection. Has an effect only in `Http::raw`.
    pub(crate) fresh: bool,
    /// Limits of the answer's size. Default: the limits of the lane.
    pub(crate) room: Option<Room>,
}

impl std::fmt::Debug for Call {
    /// Without headers: one of them may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("lane", &self.lane)
            .field("method", &self.endpoint.method())
            .field("path", &self.path)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// The body of a request.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Empty,
    Json(Bytes),
    /// The bytes on the wire, already compressed if `zstd`.
    Protobuf {
        bytes: Bytes,
        zstd: bool,
    },
}

impl Body {
    /// Encodes a JSON body.
    pub(crate) fn json(value: &impl Serialize) -> Result<Self> {
        match serde_json::to_vec(value) {
            Ok(json) => Ok(Body::Json(json.into())),
            Err(error) => {
                Err(Error::new(ErrorKind::System, format!("the request cannot be encoded as JSON: {error}")))
            }
        }
    }

    /// Makes a protobuf body. With `compress` and the feature `zstd` the body is one zstd frame of level 3 with the
    /// content size in its header (PROTOCOL §1.8).
    pub(crate) fn protobuf(bytes: Vec<u8>, compress: bool) -> Self {
        #[cfg(feature = "zstd")]
        if compress {
            match zstd::bulk::compress(&bytes, 3) {
                Ok(small) => return Body::Protobuf { bytes: small.into(), zstd: true },
                Err(error) => {
                    log::warn!(target: "tinkex::http", "compression failed, the body is sent uncompressed: {error}")
                }
            }
        }
        #[cfg(not(feature = "zstd"))]
        let _ = compress;
        Body::Protobuf { bytes: bytes.into(), zstd: false }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Body::Empty => 0,
            Body::Json(bytes) | Body::Protobuf { bytes, .. } => bytes.len(),
        }
    }

    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Body::Empty => Bytes::new(),
            Body::Json(bytes) | Body::Protobuf { bytes, .. } => bytes.clone(),
        }
    }
}

impl Call {
    /// A call without a body.
    pub(crate) fn get(lane: Lane, endpoint: &'static Endpoint) -> Self {
        Call::new(lane, endpoint, Body::Empty)
    }

    /// A call with a JSON body.
    pub(crate) fn post(lane: Lane, endpoint: &'static Endpoint, body: &impl Serialize) -> Result<Self> {
        Ok(Call::new(lane, endpoint, Body::json(body)?))
    }

    pub(crate) fn new(lane: Lane, endpoint: &'static Endpoint, body: Body) -> Self {
        Call {
            lane,
            endpoint,
            path: endpoint.path(),
            names: endpoint.names,
            body,
            protobuf: false,
            timeout: None,
            budget: None,
            headers: Vec::new(),
            sdk_method: None,
            leaves_429: false,
            deadline: None,
            passes_breaker: false,
            branch: None,
            trace: None,
            final_on: &[],
            takes_redirect: false,
            raw_credential: false,
            key: None,
            fresh: false,
            progress: None,
            room: None,
        }
    }

    /// Sets the path, for an endpoint with ids or a query.
    pub(crate) fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Limits the call to one attempt.
    pub(crate) fn once(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.budget = Some(Duration::ZERO);
        self
    }

    pub(crate) fn by(mut self, sdk_method: &'static str) -> Self {
        self.sdk_method = Some(sdk_method);
        self
    }

    /// Makes the call part of an operation.
    pub(crate) fn of(mut self, progress: &Progress) -> Self {
        self.sdk_method = Some(progress.sdk_method());
        self.trace = progress.trace().cloned();
        self.deadline = progress.deadline();
        self.progress = Some(progress.clone());
        self
    }

    pub(crate) fn leaving_429(mut self) -> Self {
        self.leaves_429 = true;
        self
    }

    /// Bypasses the circuit breaker.
    pub(crate) fn passing_breaker(mut self) -> Self {
        self.passes_breaker = true;
        self
    }

    /// Limits the size of the answer.
    pub(crate) fn answered_within(mut self, room: Room) -> Self {
        self.room = Some(room);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
