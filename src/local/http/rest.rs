//! Endpoints for lists, checkpoints, sessions and the account (PROTOCOL §3.5, §3.6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use serde_json::json;

use crate::clock_text::rfc3339;
use crate::http_date;
use crate::wire::json::*;

use super::super::reply::Refusal;
use super::super::state::{Window, query};
use super::access::AskedHost;
use super::bodies::{run_blocking, with_permit};
use super::ranges::{self, Part, Version};
use super::segments::Segments;
use super::{App, Context, ok, refusal, reply, slow_call, unreadable};

pub(super) fn routes() -> Router<Arc<App>> {
    const CHECKPOINT: &str = "/api/v1/training_runs/{id}/checkpoints/{kind}/{name}";
    let of = |action: &str| format!("{CHECKPOINT}/{action}");
    Router::new()
        .route("/api/v1/training_runs", get(training_runs))
        .route("/api/v1/training_runs/{id}", get(training_run))
        .route("/api/v1/training_runs/{id}/checkpoints", get(checkpoints_of))
        .route(CHECKPOINT, delete(delete_checkpoint))
        .route(&of("ttl"), put(set_checkpoint_ttl))
        .route(&of("publish"), post(publish).delete(unpublish))
        .route(&of("archive"), get(archive))
        .route(&of("external_weights_urls"), get(external_weights))
        .route("/api/v1/copy_weights", post(copy_weights))
        .route("/api/v1/checkpoints", get(checkpoints))
        .route("/api/v1/sessions", get(sessions))
        .route("/api/v1/sessions/search", slow_call(|app, it, _| app.state.search_sessions(&it)))
        .route("/api/v1/sessions/{id}", get(session))
        .route("/api/v1/sessions/{id}/project", put(assign_project))
        .route("/api/v1/sessions/{id}/trace_export", get(export_trace))
        .route("/api/v1/billing/usage/events", get(usage))
        .route("/api/v1/billing/usage/checkpoints/current", get(storage))
}

async fn training_run(Shared(app): Context, Segments(id): Segments<String>) -> Response {
    run_blocking(app, false, move |app| reply(app.state.training_run(&id))).await
}

async fn training_runs(Shared(app): Context, uri: Uri) -> Response {
    run_blocking(app, false, move |app| {
        let asked = uri.query().unwrap_or_default();
        reply(Window::read(asked, 20).map(|window| {
            let project_id = query(asked, "project_id");
            app.state.training_runs(window, project_id.as_deref())
        }))
    })
    .await
}

async fn checkpoints(Shared(app): Context, uri: Uri) -> Response {
    run_blocking(app, false, move |app| {
        let window = Window::read(uri.query().unwrap_or_default(), 100);
        reply(window.map(|window| app.state.checkpoints(window)))
    })
    .await
}

async fn checkpoints_of(Shared(app): Context, Segments(id): Segments<String>) -> Response {
    run_blocking(app, false, move |app| reply(app.state.checkpoints_of(&id))).await
}

/// Run id, kind and name of a checkpoint.
type CheckpointParts = Segments<(String, String, String)>;

async fn delete_checkpoint(Shared(app): Context, Segments((run, kind, name)): CheckpointParts) -> Response {
    run_blocking(app, false, move |app| match app.state.delete_checkpoint(&run, &kind, &name) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(Refusal { status, detail }) => refusal(status, &detail),
    })
    .await
}

async fn set_checkpoint_ttl(
    Shared(app): Context,
    Segments((run, kind, name)): CheckpointParts,
    body: Bytes,
) -> Response {
    run_blocking(app, false, move |app| match request::<CheckpointTtlRequest>(&body) {
        Ok(it) => reply(app.state.set_checkpoint_ttl(&run, &kind, &name, it.ttl_seconds).map(|()| json!({}))),
        Err(error) => unreadable(&error),
    })
    .await
}

async fn publish(Shared(app): Context, Segments((run, kind, name)): CheckpointParts) -> Response {
    run_blocking(app, false, move |app| {
        reply(app.state.publish_checkpoint(&run, &kind, &name, true).map(|()| json!({})))
    })
    .await
}

async fn unpublish(Shared(app): Context, Segments((run, kind, name)): CheckpointParts) -> Response {
    run_blocking(app, false, move |app| {
        reply(app.state.publish_checkpoint(&run, &kind, &name, false).map(|()| json!({})))
    })
    .await
}

async fn archive(
    Shared(app): Context,
    Extension(host): Extension<AskedHost>,
    Segments((run, kind, name)): CheckpointParts,
) -> Response {
    run_blocking(app, false, move |app| match app.state.archive(&run, &kind, &name) {
        Ok(it) => {
            let headers =
                [(header::LOCATION, host.url(&it.path)), (header::EXPIRES, http_date::write(it.until))];
            (StatusCode::FOUND, headers).into_response()
        }
        Err(Refusal { status, detail }) => refusal(status, &detail),
    })
    .await
}

async fn external_weights(
    Shared(app): Context,
    Extension(host): Extension<AskedHost>,
    Segments((run, kind, name)): CheckpointParts,
) -> Response {
    run_blocking(app, false, move |app| match app.state.external_weights(&run, &kind, &name) {
        Ok((files, it)) => {
            let url = |file: String| (file.clone(), host.url(&format!("{}{file}", it.path)));
            let urls: BTreeMap<String, String> = files.into_iter().map(url).collect();
            ok(&json!({"urls": urls, "expires": rfc3339(it.until)}))
        }
        Err(Refusal { status, detail }) => refusal(status, &detail),
    })
    .await
}

async fn copy_weights(Shared(app): Context, headers: HeaderMap, body: Bytes) -> Response {
    run_blocking(app, false, move |app| {
        let key = headers.get("x-idempotency-key").and_then(|it| it.to_str().ok());
        match request::<CopyWeightsRequest>(&body) {
            Ok(it) => reply(app.state.copy_weights(it, key)),
            Err(error) => unreadable(&error),
        }
    })
    .await
}

async fn sessions(Shared(app): Context, uri: Uri) -> Response {
    run_blocking(app, false, move |app| {
        let window = Window::read(uri.query().unwrap_or_default(), 20);
        reply(window.map(|window| app.state.sessions(window)))
    })
    .await
}

async fn session(Shared(app): Context, Segments(id): Segments<String>) -> Response {
    run_blocking(app, false, move |app| reply(app.state.session_info(&id))).await
}

async fn assign_project(Shared(app): Context, Segments(id): Segments<String>, body: Bytes) -> Response {
    run_blocking(app, false, move |app| match request::<AssignProjectRequest>(&body) {
        Ok(it) => reply(app.state.assign_project(&id, it.project_id).map(|()| json!({}))),
        Err(error) => unreadable(&error),
    })
    .await
}

async fn export_trace(
    Shared(app): Context,
    Extension(host): Extension<AskedHost>,
    Segments(id): Segments<String>,
) -> Response {
    run_blocking(app, false, move |app| {
        let url = |path: &str| json!({"status": "ready", "url": host.url(path)});
        reply(app.state.export_trace(&id).map(|it| url(&it.path)))
    })
    .await
}

/// The engine bills nothing: the list of events is empty, and it covers all time up to now.
async fn usage() -> Response {
    ok(&json!({"data": [], "sessions": {}, "cost_data_through": rfc3339(SystemTime::now())}))
}

async fn storage(Shared(app): Context, uri: Uri) -> Response {
    run_blocking(app, false, move |app| {
        ok(&app.state.storage(query(uri.query().unwrap_or_default(), "project_id").as_deref()))
    })
    .await
}

/// Returns the file that a client requests from a download address, or a part of it. The token in the address grants
/// access.
pub(super) async fn download(
    Shared(app): Context,
    method: Method,
    headers: HeaderMap,
    Segments((token, file)): Segments<(String, String)>,
) -> Response {
    let Some(turn) = app.bodies.download_turn().await else {
        return refusal(503, "the server is busy with other downloads");
    };
    run_blocking(app, false, move |app| match app.state.download(&token, &file) {
        Ok(bytes) => {
            let (version, size) = (Version::of(&bytes), bytes.len());
            let file = [
                (header::ACCEPT_RANGES, "bytes".to_owned()),
                (header::ETAG, version.etag()),
                (header::HeaderName::from_static("repr-digest"), version.digest()),
            ];
            let content_type = [(header::CONTENT_TYPE, "application/octet-stream")];
            let bytes = with_permit(bytes, turn);
            match ranges::asked(&method, &headers, size, &version.etag()) {
                Part::Whole => (StatusCode::OK, file, content_type, Body::from(bytes)).into_response(),
                Part::Range(range) => {
                    let place = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                    let place = [(header::CONTENT_RANGE, place)];
                    let body = Body::from(bytes.slice(range));
                    (StatusCode::PARTIAL_CONTENT, file, content_type, place, body).into_response()
                }
                Part::Unsatisfiable => {
                    let place = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                    (place, refusal(416, &format!("the file has {size} bytes: the range begins behind them")))
                        .into_response()
                }
            }
        }
        Err(Refusal { status, detail }) => refusal(status, &detail),
    })
    .await
}
