//! Bodies that a request's handler has not read to their end, for example because the request was refused.
//!
//! Some clients read the answer only after they have sent the whole body. Therefore the rest of a body is read and
//! discarded, within limits. If something of it remains, the answer says that the connection is closed: the remaining
//! bytes would be taken for the next request.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::bodies::MAX_PASS;

/// Limit of the bytes that are discarded of a body that is too large, or for which the server is too busy. Only clients
/// that have the key get these answers.
const MAX_REFUSED: usize = 1 << 30;
/// Limit of the bytes that are discarded of any other body.
const MAX_OTHER: usize = MAX_PASS;
/// Time limit of discarding a body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that discarding waits for the next bytes. A client that sends nothing more waits for the answer.
const DISCARD_STALL: Duration = Duration::from_secs(1);

/// A body that is given back when it is dropped before its end.
struct Returned {
    body: Body,
    ended: bool,
    unread: Arc<Mutex<Option<Body>>>,
}

impl HttpBody for Returned {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // Nothing can be read after an error.
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            *self.unread.lock() = Some(std::mem::take(&mut self.body));
        }
    }
}

/// Discards the rest of a body that was not read, or has the connection closed after the answer.
pub(super) async fn discard_or_close(request: Request, next: Next) -> Response {
    // Such a client has not sent its body.
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let unread: Arc<Mutex<Option<Body>>> = Arc::default();
    let kept = unread.clone();
    let request = request.map(|body| Body::new(Returned { body, ended: false, unread: kept }));
    let mut response = next.run(request).await;
    let Some(body) = unread.lock().take() else { return response };
    let limit = match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::SERVICE_UNAVAILABLE => MAX_REFUSED,
        // The body did not arrive in time.
        StatusCode::REQUEST_TIMEOUT => 0,
        _ => MAX_OTHER,
    };
    let is_read = !expects_continue
        && limit != 0
        && timeout(DISCARD_TIMEOUT, discard(body, limit)).await.is_ok_and(|it| it);
    if !is_read {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads a body; returns `true` if this reached its end.
async fn discard(mut body: Body, mut left: usize) -> bool {
    loop {
        let frame = timeout(DISCARD_STALL, poll_fn(|it| Pin::new(&mut body).poll_frame(it))).await;
        let size = match frame {
            Ok(None) => return true,
            Ok(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            Ok(Some(Err(_))) | Err(_) => return false,
        };
        match left.checked_sub(size) {
            Some(it) => left = it,
            None => return false,
        }
    }
}
