//! What is asked of a server: one request, whoever carries it and however often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::{Branch, Lane, Room};
use crate::error::{Error, ErrorKind, Result};
use crate::event::TraceContext;
use crate::pending::Progress;

/// One logical call: what is asked, and how hard to try.
#[derive(Clone)]
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
    /// The operation that this belongs to, which counts its attempts.
    pub(crate) progress: Option<Progress>,
    /// When the operation gives up that this belongs to.
    pub(crate) deadline: Option<Instant>,
    /// Sent whatever the circuit breaker says, and unknown to it.
    pub(crate) passes_breaker: bool,
    /// Goes over a transport of its own.
    pub(crate) branch: Option<Branch>,
    /// Its place in a distributed trace.
    pub(crate) trace: Option<Arc<TraceContext>>,
    /// Answers of these statuses are final, whatever they mean elsewhere.
    pub(crate) final_on: &'static [u16],
    /// An answer that points elsewhere is a success. It is never followed.
    pub(crate) takes_redirect: bool,
    /// Carries the credential itself, even where a token stands for it.
    pub(crate) raw_credential: bool,
    /// The idempotency key; without one, each call gets a new one.
    pub(crate) key: Option<String>,
    /// Its one attempt goes over a new connection.
    pub(crate) fresh: bool,
    /// How large its answer may be, if what is usual for the lane is not right.
    pub(crate) room: Option<Room>,
}

impl std::fmt::Debug for Call {
    /// Without headers: one of them may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("lane", &self.lane)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
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

    pub(super) fn bytes(&self) -> Bytes {
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
        self.deadline = progress.deadline();
        self.progress = Some(progress.clone());
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

    /// Its answer may be so large.
    pub(crate) fn answered_within(mut self, room: Room) -> Self {
        self.room = Some(room);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
