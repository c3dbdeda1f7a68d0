//! The bodies of requests, and of large answers: how large they may be, how much of them is held at once, and how long one may take.
//!
//! No body is read before there is room for all of it. Small ones and large ones have room of their own, so that uploads
//! that stand still keep nobody from asking. A large one keeps its room until it has been read into something else, off the
//! server's thread and one after the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::super::state::{Refusal, Reply, refuse};
use super::{App, Context, mentions, refusal};

/// The largest pass over data, compressed or not. Clients send them in parts of about 5 MB.
pub(super) const MOST_PASS: usize = 16 << 20;
/// The largest sample, custom loss, report or list of results.
const MOST_MIDDLING: usize = 4 << 20;
/// The largest of all other bodies.
const MOST_SMALL: usize = 256 << 10;
/// A body of more bytes counts as large.
pub(super) const LARGE: usize = 64 << 10;
/// How many bytes of large bodies are held at once.
const ALL_LARGE: usize = 20 << 20;
/// How many bytes of others.
const ALL_SMALL: usize = 4 << 20;
/// How many bytes of results, before they are written as JSON, are being sent at once.
const ALL_ANSWERS: usize = 8 << 20;
/// How many values the JSON of one body may list, each of which takes more room when it is read: a thousand data that fill
/// the context.
const MOST_VALUES: usize = 2 << 20;
/// How much of a body that is refused is read all the same, so that its sender lives to read why.
const MOST_DISCARDED: usize = 1 << 30;
/// How long that may take.
const DISCARDING: Duration = Duration::from_secs(5);
/// How often a body may almost stand still.
const STALLS: u32 = 10;

/// The room for bodies, counted over all connections.
pub(in crate::local) struct Bodies {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    /// Whose large body is being read.
    turn: Arc<Semaphore>,
    /// How long a body may stand still, and wait for room.
    stall: Duration,
}

/// A body with the room that it takes.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Bytes that keep their room as long as they live.
pub(super) fn held(bytes: Vec<u8>, room: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Held { bytes, _room: room })
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    pub(in crate::local) fn new(stall: Duration) -> Self {
        let room = |bytes: usize| Arc::new(Semaphore::new(bytes));
        Bodies {
            small: room(ALL_SMALL),
            large: room(ALL_LARGE),
            answers: room(ALL_ANSWERS),
            turn: room(1),
            stall,
        }
    }

    /// Waits until nobody else reads a large body. Never closed, so there always is a turn.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turn.clone().acquire_owned().await.ok()
    }

    /// Room for a result that is written as JSON. One that is larger than all room waits for all of it.
    pub(super) async fn room_for_answer(&self, size: usize) -> Option<OwnedSemaphorePermit> {
        let room = self.answers.clone().acquire_many_owned(size.min(ALL_ANSWERS) as u32);
        timeout(self.stall, room).await.ok()?.ok()
    }

    async fn read(&self, body: &mut Body, most: usize) -> Reply<Bytes> {
        let announced = body.size_hint().exact().map(|it| usize::try_from(it).unwrap_or(usize::MAX));
        let too_large = || refuse(413, format!("the body is too large: at most {most} bytes are taken here"));
        let size = match announced {
            Some(0) => return Ok(Bytes::new()),
            Some(it) if most < it => return too_large(),
            other => other.unwrap_or(most),
        };
        let room = if size <= LARGE { &self.small } else { &self.large };
        let room = timeout(self.stall, room.clone().acquire_many_owned(size as u32)).await;
        let Ok(Ok(room)) = room else {
            return refuse(503, "the server is busy with the bodies of other requests");
        };
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0));
        // Neither silence nor a trickle keeps the room for long.
        let end = Instant::now().checked_add(self.stall.saturating_mul(STALLS));
        loop {
            let frame = timeout(self.stall, poll_fn(|it| Pin::new(&mut *body).poll_frame(it))).await;
            let late = end.is_some_and(|it| it < Instant::now());
            let frame = match frame {
                Ok(it) if !late => it,
                _ => return refuse(408, "the body did not arrive in time"),
            };
            match frame {
                None => break,
                Some(Err(error)) => return refuse(400, format!("the body broke off: {error}")),
                Some(Ok(frame)) => {
                    let part = frame.into_data().unwrap_or_default();
                    if most < bytes.len() + part.len() {
                        return too_large();
                    }
                    bytes.extend_from_slice(&part);
                }
            }
        }
        match bytes.len() <= LARGE {
            true => Ok(bytes.into()),
            false => Ok(held(bytes, room)),
        }
    }
}

/// The largest body of an endpoint.
fn most(path: &str) -> usize {
    match path.strip_prefix("/api/v1/").unwrap_or_default() {
        "forward_backward" | "forward" => MOST_PASS,
        "asample" | "create_custom_loss" | "telemetry" | "retrieve_futures" => MOST_MIDDLING,
        _ => MOST_SMALL,
    }
}

/// Reads the body of a request before anything else is done with it.
pub(super) async fn take(Shared(app): Context, request: Request, next: Next) -> Response {
    let (parts, mut body) = request.into_parts();
    let asks_first = parts.headers.contains_key(header::EXPECT);
    match app.bodies.read(&mut body, most(parts.uri.path())).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(Refusal { status, detail }) => {
            // Whoever asks first has sent nothing yet.
            if matches!(status, 413 | 503) && !asks_first {
                let _ = timeout(DISCARDING, discard(body)).await;
            }
            let mut response = refusal(status, &detail);
            if status == 503 {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

async fn discard(mut body: Body) {
    let mut left = MOST_DISCARDED;
    while let Some(Ok(frame)) = poll_fn(|it| Pin::new(&mut body).poll_frame(it)).await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(it) => left = it,
            None => return,
        }
    }
}

/// Does what takes a while off the server's thread; what reads a large body, when its turn has come.
pub(super) async fn aside(
    app: Arc<App>,
    large: bool,
    work: impl FnOnce(&App) -> Response + Send + 'static,
) -> Response {
    let turn = if large { app.bodies.turn().await } else { None };
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&app)
    });
    done.await.unwrap_or_else(|error| refusal(500, &format!("the engine failed at this request: {error}")))
}

/// Refuses JSON that lists more values than anything here takes.
pub(super) fn check_values(body: &[u8]) -> Reply<()> {
    if body.len() <= MOST_VALUES || body.iter().filter(|it| **it == b',').count() < MOST_VALUES {
        return Ok(());
    }
    refuse(413, format!("the body lists more than {MOST_VALUES} values"))
}

/// The body as it was before compression.
pub(super) fn inflate(headers: &HeaderMap, body: Bytes) -> Reply<Bytes> {
    use std::io::Read;
    if !mentions(headers, header::CONTENT_ENCODING, "zstd") {
        return Ok(body);
    }
    let mut out = Vec::new();
    let read = zstd::stream::read::Decoder::with_buffer(&body[..]).and_then(|mut it| {
        // What a frame says of its size is believed no further than that.
        it.window_log_max(MOST_PASS.ilog2())?;
        it.take(MOST_PASS as u64 + 1).read_to_end(&mut out)
    });
    match read {
        Ok(_) if MOST_PASS < out.len() => {
            refuse(413, format!("the body is too large: at most {MOST_PASS} bytes are taken here"))
        }
        Ok(_) => Ok(out.into()),
        Err(error) => refuse(400, format!("the body is not zstd: {error}")),
    }
}
