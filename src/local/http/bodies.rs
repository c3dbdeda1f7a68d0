//! Limits for the bodies of requests and of large responses: the size of one body, the memory of all bodies together,
//! and the time to transfer one.
//!
//! A body is read only after memory for its full size was reserved in a budget (a semaphore that counts bytes). Small
//! and large bodies have separate budgets, so that large uploads that stall do not block small requests. A large body
//! keeps its reservation until it has been converted (parsed). Large bodies are converted on a blocking thread, one at
//! a time.

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

use super::super::reply::{Refusal, Reply, refuse};
use super::{App, Context, mentions, refusal};

/// Largest body of a training pass, both compressed and decompressed. Clients send their data in parts of about 5 MB.
pub(super) const MAX_PASS: usize = 16 << 20;
/// Largest body of the endpoints for samples, custom losses, telemetry and lists of results (`retrieve_futures`).
const MAX_MIDDLING: usize = 4 << 20;
/// Largest body of all other endpoints.
const MAX_SMALL: usize = 256 << 10;
/// Bodies with more bytes than this count as large.
pub(super) const LARGE: usize = 64 << 10;
/// Budget of all large bodies, in bytes.
const ALL_LARGE: usize = 20 << 20;
/// Budget of all small bodies, in bytes.
const ALL_SMALL: usize = 4 << 20;
/// Budget of the results that are being converted to JSON, in bytes before the conversion.
const ALL_ANSWERS: usize = 8 << 20;
/// Limit of the downloads that are read or sent at a time, because each holds a whole file or archive in memory.
const MAX_DOWNLOADS: usize = 4;
/// Limit of the values in a JSON body, because a parsed value takes more memory than its text. It is 1024 times the
/// length of the model's context: as much as the tokens and the targets of 512 datums that fill the context.
const MAX_VALUES: usize = 2 << 20;
/// Time limit of a whole body, as a multiple of the stall timeout.
const MAX_STALLS: u32 = 10;

/// Budgets for bodies, shared by all connections.
pub(in crate::local) struct Bodies {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    /// Semaphore with one permit, held while a large body is converted.
    conversion: Arc<Semaphore>,
    /// Time that a body may wait for its next bytes, or for its reservation.
    stall: Duration,
}

/// A body with its reservation in a budget.
struct BodyWithPermit {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Bytes with a reservation in a budget, which is released when the bytes are dropped.
pub(super) fn with_permit(bytes: Vec<u8>, room: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(BodyWithPermit { bytes, _room: room })
}

impl AsRef<[u8]> for BodyWithPermit {
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
            downloads: room(MAX_DOWNLOADS),
            conversion: room(1),
            stall,
        }
    }

    /// Waits until no other large body is being converted. Always returns `Some`, because the semaphore is never
    /// closed.
    pub(super) async fn conversion_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.conversion.clone().acquire_owned().await.ok()
    }

    /// Reserves memory for a result that is converted to JSON. A result larger than the whole budget reserves all of
    /// it. `None` if the memory is not free within the stall timeout.
    pub(super) async fn reserve_answer(&self, size: usize) -> Option<OwnedSemaphorePermit> {
        let room = self.answers.clone().acquire_many_owned(size.min(ALL_ANSWERS) as u32);
        timeout(self.stall, room).await.ok()?.ok()
    }

    /// Waits until few enough other downloads are being sent. `None` if that takes longer than the stall timeout.
    pub(super) async fn download_turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(self.stall, self.downloads.clone().acquire_owned()).await.ok()?.ok()
    }

    async fn read(&self, body: &mut Body, max: usize) -> Reply<Bytes> {
        let announced = body.size_hint().exact().map(|it| usize::try_from(it).unwrap_or(usize::MAX));
        let too_large = || refuse(413, format!("the body is too large: at most {max} bytes are taken here"));
        let size = match announced {
            Some(0) => return Ok(Bytes::new()),
            Some(it) if max < it => return too_large(),
            other => other.unwrap_or(max),
        };
        let room = if size <= LARGE { &self.small } else { &self.large };
        let room = timeout(self.stall, room.clone().acquire_many_owned(size as u32)).await;
        let Ok(Ok(room)) = room else {
            return refuse(503, "the server is busy with the bodies of other requests");
        };
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0));
        // Limit the time of the whole body, too: otherwise a client could send one byte from time to time without end.
        let end = Instant::now().checked_add(self.stall.saturating_mul(MAX_STALLS));
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
                    if max < bytes.len() + part.len() {
                        return too_large();
                    }
                    bytes.extend_from_slice(&part);
                }
            }
        }
        let body = if bytes.len() <= LARGE { bytes.into() } else { with_permit(bytes, room) };
        Ok(body)
    }
}

/// Largest body of an endpoint.
fn max_body(path: &str) -> usize {
    match path.strip_prefix("/api/v1/").unwrap_or_default() {
        "forward_backward" | "forward" => MAX_PASS,
        "asample" | "create_custom_loss" | "telemetry" | "retrieve_futures" => MAX_MIDDLING,
        _ => MAX_SMALL,
    }
}

/// Reads the body of a request before the request is handled.
pub(super) async fn read_body(Shared(app): Context, request: Request, next: Next) -> Response {
    let (parts, mut body) = request.into_parts();
    match app.bodies.read(&mut body, max_body(parts.uri.path())).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(Refusal { status, detail }) => {
            let mut response = refusal(status, &detail);
            if status == 503 {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

/// Runs slow work on a blocking thread. If `large`, the work converts a large body, and first waits until no other one
/// is being converted.
pub(super) async fn run_blocking(
    app: Arc<App>,
    large: bool,
    work: impl FnOnce(&App) -> Response + Send + 'static,
) -> Response {
    let turn = if large { app.bodies.conversion_turn().await } else { None };
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&app)
    });
    done.await.unwrap_or_else(|error| refusal(500, &format!("the engine failed at this request: {error}")))
}

/// Refuses JSON with more values than [`MAX_VALUES`], estimated by the number of commas.
pub(super) fn check_values(body: &[u8]) -> Reply<()> {
    if body.len() <= MAX_VALUES || body.iter().filter(|it| **it == b',').count() < MAX_VALUES {
        return Ok(());
    }
    refuse(413, format!("the body lists more than {MAX_VALUES} values"))
}

/// Decompresses a body if its headers name zstd.
pub(super) fn decompress(headers: &HeaderMap, body: Bytes) -> Reply<Bytes> {
    use std::io::Read;
    if !mentions(headers, header::CONTENT_ENCODING, "zstd") {
        return Ok(body);
    }
    let mut out = Vec::new();
    let read = zstd::stream::read::Decoder::with_buffer(&body[..]).and_then(|mut it| {
        // Refuse a body whose frame header asks for a larger window, because the decoder would allocate that window.
        it.window_log_max(MAX_PASS.ilog2())?;
        it.take(MAX_PASS as u64 + 1).read_to_end(&mut out)
    });
    match read {
        Ok(_) if MAX_PASS < out.len() => {
            refuse(413, format!("the body is too large: at most {MAX_PASS} bytes are taken here"))
        }
        Ok(_) => Ok(out.into()),
        Err(error) => refuse(400, format!("the body is not zstd: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_download_waits_for_others_and_is_given_up_after_the_stall_timeout() {
        let bodies = Bodies::new(Duration::from_millis(10));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut turns = Vec::new();
            for _ in 0..MAX_DOWNLOADS {
                turns.push(bodies.download_turn().await.expect("a turn"));
            }
            assert!(bodies.download_turn().await.is_none());
            turns.pop();
            assert!(bodies.download_turn().await.is_some());
        });
    }
}
