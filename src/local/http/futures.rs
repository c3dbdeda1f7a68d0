//! Endpoints that wait for results.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use crate::wire::json::*;
use crate::wire::{sample, train};

use super::super::connections::Sending;
use super::super::futures::{Found, Outcome};
use super::super::reply::{Refusal, Reply};
use super::bodies::{LARGE, run_blocking, with_permit};
use super::{App, Context, PROTOBUF, mentions, ok, payload, refusal, unreadable};

/// Cancels a sample.
pub(super) fn cancel(app: &App, request: CancelFutureRequest, _: u64) -> Reply<serde_json::Value> {
    app.state.futures.cancel(&request.request_id);
    Ok(json!({}))
}

/// Waits for `work`, but not longer than the client sends; `None` if the client stops sending.
async fn while_sending<T>(sending: &Sending, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut ended) = (pin!(work), pin!(sending.ended()));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(it) => Poll::Ready(Some(it)),
        Poll::Pending => ended.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Waits for the result of one request.
pub(super) async fn retrieve(
    Shared(app): Context,
    Extension(sending): Extension<Sending>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let wanted: RetrieveFutureRequest = match request(&body) {
        Ok(it) => it,
        Err(error) => return unreadable(&error),
    };
    drop(body);
    let id = &wanted.request_id;
    app.state.note_poll(id);
    let found = match while_sending(&sending, app.state.futures.wait(id, app.long_poll)).await {
        Some(it) => it,
        None => app.state.futures.wait(id, Duration::ZERO).await,
    };
    let outcome = match found {
        Found::Unknown => return refusal(404, &format!("request {id} does not exist")),
        Found::Expired => return refusal(410, &format!("the result of request {id} is no longer kept")),
        Found::Pending(position) => {
            let missing = position.and_then(|position| Some((app.state.waits_for(&position)?, position)));
            let reason = missing.map(|(next, position)| {
                let (model_id, seq_id) = (position.model_id, position.seq_id);
                format!(
                    "request {seq_id} of model {model_id} waits for request {next}, which has not arrived"
                )
            });
            let pending = PendingFuture {
                request_id: Some(id.as_str().into()),
                queue_state: Some("active".into()),
                queue_state_reason: reason,
            };
            return ok(&pending);
        }
        Found::Done(outcome) => outcome,
    };
    if wanted.allow_metadata_only && app.announce_above < outcome.len() {
        let size = outcome.len();
        return ok(&json!({ "status": "complete_metadata", "response_payload_size": size }));
    }
    app.state.futures.fetched(id);
    let takes_protobuf = mentions(&headers, header::ACCEPT, PROTOBUF);
    if takes_protobuf || outcome.len() <= LARGE {
        return finished(outcome, takes_protobuf, None);
    }
    // Reserve memory first: the result is several times larger as JSON, and each request for it gets its own copy.
    match app.bodies.reserve_answer(outcome.len()).await {
        Some(room) => run_blocking(app, true, move |_| finished(outcome, false, Some(room))).await,
        None => refusal(503, "the server is busy with other results"),
    }
}

/// Waits for completed samples of one client of a sampler.
pub(super) async fn retrieve_many(
    Shared(app): Context,
    Extension(sending): Extension<Sending>,
    body: Bytes,
) -> Response {
    let wanted: RetrieveFuturesRequest = match request(&body) {
        Ok(it) => it,
        Err(error) => return unreadable(&error),
    };
    // Release the memory that is reserved for the body.
    drop(body);
    let timeout = match wanted.timeout {
        None => app.long_poll,
        Some(it) => match Duration::try_from_secs_f64(it) {
            Ok(it) => it.min(app.long_poll),
            Err(_) => return refusal(422, &format!("timeout: {it} is not a valid time in seconds")),
        },
    };
    let feed = match app.state.feed(&wanted.target) {
        Ok(it) => it,
        Err(Refusal { status, detail }) => return refusal(status, &detail),
    };
    for id in &wanted.retrieved_request_ids {
        app.state.futures.fetched(id);
    }
    let waited = while_sending(&sending, feed.clone().wait(wanted.prev_cursor, timeout)).await;
    let (completions, cursor) = match waited {
        Some(it) => it,
        None => feed.wait(wanted.prev_cursor, Duration::ZERO).await,
    };
    ok(&RetrieveFuturesResponse { completions, cursor: Some(cursor) })
}

/// Response with the result of a request. It is protobuf if the result has that format and the client accepts it,
/// otherwise JSON. `room` is the memory reserved for the JSON, released once the response is sent.
fn finished(outcome: Outcome, takes_protobuf: bool, room: Option<OwnedSemaphorePermit>) -> Response {
    let value = match outcome {
        Outcome::Json(bytes) => return payload(StatusCode::OK, "application/json", bytes),
        Outcome::Failed { error, category } => {
            return ok(&FailedFuture { error, category: Some(category.into()) });
        }
        Outcome::Pass(bytes) | Outcome::Sample(bytes) if takes_protobuf => {
            return payload(StatusCode::OK, PROTOBUF, bytes);
        }
        Outcome::Pass(bytes) => {
            train::decode_forward_backward_output(bytes).map(|it| train::forward_backward_output_to_json(&it))
        }
        Outcome::Sample(bytes) => {
            sample::decode_sample_response(&bytes, &[]).map(|it| sample::sample_response_to_json(&it))
        }
    };
    match (value, room) {
        (Ok(it), None) => ok(&it),
        (Ok(it), Some(room)) => match serde_json::to_vec(&it) {
            Ok(bytes) => payload(StatusCode::OK, "application/json", with_permit(bytes, room)),
            Err(error) => refusal(500, &error.to_string()),
        },
        (Err(error), _) => refusal(500, error.message()),
    }
}
