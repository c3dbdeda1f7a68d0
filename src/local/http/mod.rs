//! The HTTP endpoints (PROTOCOL §3, §4). They read requests, call the engine's [`State`] and write responses.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;

use crate::error::Error;
use crate::wire::json::*;
use crate::wire::train;

use super::age::Recipient;
use super::checkpoint::Kind;
use super::examples::Pass;
use super::hosts::Hosts;
use super::job::{Save, Work};
use super::nn::Adam;
use super::reply::{Refusal, Reply};
use super::state::State;
use super::tokens::Tokens;

mod access;
mod bodies;
mod futures;
mod ranges;
mod rest;
mod segments;
mod unread;
mod unreadable;

pub(super) use bodies::Bodies;
use bodies::{LARGE, check_values, decompress, run_blocking};
use segments::Segments;

const PROTOBUF: &str = "application/x-protobuf";

/// Shared data of all requests.
pub(super) struct App {
    pub(super) state: State,
    /// Flags sent to clients.
    pub(super) flags: ClientConfig,
    pub(super) dynamic_flags: DynamicConfig,
    /// Whether a stand-in may be computed for a loss whose formula is not public.
    pub(super) stands_in: bool,
    pub(super) api_key: String,
    /// Key for programs that can read the data folder.
    pub(super) local_key: String,
    /// Every key is accepted.
    pub(super) any_key: bool,
    /// The hosts that requests may name.
    pub(super) hosts: Hosts,
    pub(super) bodies: Bodies,
    pub(super) tokens: Tokens,
    /// Time that a request waits for a result before the client has to poll again.
    pub(super) long_poll: Duration,
    /// If a result has more bytes than this and the client allows it, the first response tells only the result's size.
    pub(super) announce_above: usize,
}

type Context = Shared<Arc<App>>;

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/v1/client/config", call(|app, _: ClientConfigRequest, _| Ok(app.flags.clone())))
        .route(
            "/api/v1/client/dynamic_config",
            call(|app, _: ClientConfigRequest, _| Ok(app.dynamic_flags.clone())),
        )
        .route(
            "/api/v1/get_server_capabilities",
            get(|app: Context| async move { ok(&app.state.capabilities()) }),
        )
        .route("/api/v1/auth/token", call(access::token))
        .route("/api/v1/auth/apikey/me", get(access::key_info))
        .route("/api/v1/create_session", post(create_session))
        .route(
            "/api/v1/session_heartbeat",
            call(|app, it: SessionHeartbeatRequest, _| app.state.heartbeat(&it.session_id)),
        )
        .route("/api/v1/sessions/{id}/finish", post(finish_session))
        .route("/api/v1/create_model", call(|app, it, fingerprint| app.state.create_model(it, fingerprint)))
        .route("/api/v1/get_info", call(|app, it: GetInfoRequest, _| app.state.get_info(&it.model_id)))
        .route("/api/v1/forward_backward", post(forward_backward))
        .route("/api/v1/forward", post(forward))
        .route("/api/v1/optim_step", call(optim_step))
        .route("/api/v1/save_weights", call(save_weights))
        .route("/api/v1/save_weights_external", call(save_weights_external))
        .route(
            "/api/v1/load_weights",
            slow_call(|app, it, fingerprint| app.state.load_weights(it, fingerprint)),
        )
        .route(
            "/api/v1/save_weights_for_sampler",
            call(|app, it, fingerprint| app.state.save_for_sampler(it, fingerprint)),
        )
        .route(
            "/api/v1/create_custom_loss",
            call(|app, it, fingerprint| app.state.create_custom_loss(it, fingerprint)),
        )
        .route(
            "/api/v1/unload_model",
            call(|app, it: UnloadModelRequest, _| app.state.unload_model(&it.model_id)),
        )
        .route(
            "/api/v1/create_sampling_session",
            slow_call(|app, it, fingerprint| app.state.create_sampler(it, fingerprint)),
        )
        .route("/api/v1/join_sampling_session", call(|app, it, _| app.state.join_sampler(it)))
        .route("/api/v1/samplers/{id}", get(sampler))
        .route("/api/v1/asample", call(|app, it, fingerprint| app.state.sample(it, fingerprint)))
        .route("/api/v1/cancel_future", call(futures::cancel))
        .route("/api/v1/retrieve_future", post(futures::retrieve))
        .route("/api/v1/retrieve_futures", post(futures::retrieve_many))
        .merge(rest::routes())
        .route(
            "/api/v1/weights_info",
            slow_call(|app, it: WeightsInfoRequest, _| app.state.weights_info(&it.tinker_path)),
        )
        .route(
            "/api/v1/telemetry",
            call(|_, _: IgnoredAny, _| Ok(TelemetryResponse { status: "accepted".into() })),
        )
        .fallback(|| async { refusal(404, "Not Found") })
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), bodies::read_body))
        .layer(middleware::from_fn_with_state(app.clone(), access::check_credentials))
        // Needs no key: the token in the address grants access.
        .route("/download/{token}/{file}", get(rest::download))
        // Needs no key, because the response reveals nothing. A program that has started the server can poll this
        // endpoint until the server answers.
        .route("/api/v1/healthz", get(|| async { ok(&HealthzResponse { status: "ok".into() }) }))
        // A second time, for the two routes that were added since.
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), access::check_host))
        .layer(middleware::from_fn(unread::discard_or_close))
        .with_state(app)
}

// ---- reading and writing ----

/// An endpoint with a JSON body. `serve` gets the body and the request's [`fingerprint`]. It runs on the server's
/// thread, or on a blocking thread if the body is large.
fn call<T, R>(serve: fn(&App, T, u64) -> Reply<R>) -> MethodRouter<Arc<App>>
where
    T: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    post(move |Shared(app): Context, uri: Uri, body: Bytes| async move {
        if LARGE < body.len() {
            run_blocking(app, true, move |app| answer(app, &uri, body, serve)).await
        } else {
            answer(&app, &uri, body, serve)
        }
    })
}

/// As [`call`], for endpoints that read or write files: `serve` always runs on a blocking thread.
fn slow_call<T, R>(serve: fn(&App, T, u64) -> Reply<R>) -> MethodRouter<Arc<App>>
where
    T: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    post(move |Shared(app): Context, uri: Uri, body: Bytes| {
        let large = LARGE < body.len();
        run_blocking(app, large, move |app| answer(app, &uri, body, serve))
    })
}

fn answer<T: DeserializeOwned, R: Serialize>(
    app: &App,
    uri: &Uri,
    body: Bytes,
    serve: fn(&App, T, u64) -> Reply<R>,
) -> Response {
    if let Err(Refusal { status, detail }) = check_values(&body) {
        return refusal(status, &detail);
    }
    let fingerprint = fingerprint(uri, &body);
    match request::<T>(&body) {
        Ok(it) => {
            // Release the memory that is reserved for the body.
            drop(body);
            reply(serve(app, it, fingerprint))
        }
        Err(error) => unreadable::answer(&app.state, &error, unreadable::ids_in_json(&body), fingerprint),
    }
}

/// Hash of the path and the body of a request. If two requests have the same sequence number, it shows whether the
/// second one is a repetition of the first or another request.
fn fingerprint(uri: &Uri, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (uri.path(), body).hash(&mut hasher);
    hasher.finish()
}

fn reply<R: Serialize>(reply: Reply<R>) -> Response {
    match reply {
        Ok(it) => ok(&it),
        Err(Refusal { status, detail }) => refusal(status, &detail),
    }
}

fn ok(body: &impl Serialize) -> Response {
    respond(200, body)
}

/// The refusal of a request. After status 500 the same request would fail again, because a file may not be written, or
/// because of a fault of the engine; without the header, clients would repeat it for minutes. What may end by itself
/// has status 503.
fn refusal(status: u16, detail: &str) -> Response {
    let mut response = respond(status, &json!({ "detail": detail }));
    if status == 500 {
        response.headers_mut().insert("x-should-retry", header::HeaderValue::from_static("false"));
    }
    response
}

/// Refusal of an invalid body (status 422), in the format that other servers of the protocol use.
fn unreadable(error: &Error) -> Response {
    respond(422, &json!({ "detail": [{ "loc": ["body"], "msg": error.message(), "type": "value_error" }] }))
}

fn respond(status: u16, body: &impl Serialize) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match serde_json::to_vec(body) {
        Ok(bytes) => payload(status, "application/json", bytes.into()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn payload(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], Body::from(bytes)).into_response()
}

fn mentions(headers: &HeaderMap, name: header::HeaderName, what: &str) -> bool {
    headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(what)))
}

// ---- endpoints of more than one line ----

async fn create_session(Shared(app): Context, headers: HeaderMap, body: Bytes) -> Response {
    run_blocking(app, false, move |app| {
        let key = headers.get("x-idempotency-key").and_then(|it| it.to_str().ok());
        match request::<CreateSessionRequest>(&body) {
            Ok(it) => reply(app.state.create_session(it, key)),
            Err(error) => unreadable(&error),
        }
    })
    .await
}

async fn finish_session(Shared(app): Context, Segments(id): Segments<String>, body: Bytes) -> Response {
    run_blocking(app, false, move |app| match request::<FinishSessionRequest>(&body) {
        Ok(it) => reply(app.state.finish_session(&id, it).map(|()| json!({}))),
        Err(error) => unreadable(&error),
    })
    .await
}

async fn sampler(Shared(app): Context, Segments(id): Segments<String>) -> Response {
    reply(app.state.sampler(&id))
}

async fn not_allowed() -> Response {
    refusal(405, "Method Not Allowed")
}

async fn forward_backward(Shared(app): Context, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let large = LARGE < body.len() || mentions(&headers, header::CONTENT_ENCODING, "zstd");
    let work = move |app: &App| {
        let body = match decompress(&headers, body) {
            Ok(it) => it,
            Err(Refusal { status, detail }) => return refusal(status, &detail),
        };
        let (fingerprint, size) = (fingerprint(&uri, &body), body.len());
        if mentions(&headers, header::CONTENT_TYPE, PROTOBUF) {
            return match train::decode_forward_backward_bytes(body.clone()) {
                Ok(it) => {
                    // Release the memory that is reserved for the body.
                    drop(body);
                    pass(app, it, fingerprint, size)
                }
                Err(error) => {
                    unreadable::answer(&app.state, &error, unreadable::ids_in_protobuf(&body), fingerprint)
                }
            };
        }
        if let Err(Refusal { status, detail }) = check_values(&body) {
            return refusal(status, &detail);
        }
        match train::decode_forward_backward_json(&body, "forward_backward_input") {
            Ok(it) => {
                drop(body);
                pass(app, it, fingerprint, size)
            }
            Err(error) => unreadable::answer(&app.state, &error, unreadable::ids_in_json(&body), fingerprint),
        }
    };
    if large { run_blocking(app, true, work).await } else { work(&app) }
}

async fn forward(Shared(app): Context, uri: Uri, body: Bytes) -> Response {
    let large = LARGE < body.len();
    let work = move |app: &App| {
        if let Err(Refusal { status, detail }) = check_values(&body) {
            return refusal(status, &detail);
        }
        let (fingerprint, size) = (fingerprint(&uri, &body), body.len());
        match train::decode_forward_backward_json(&body, "forward_input") {
            Ok(it) => pass(app, it, fingerprint, size),
            Err(error) => unreadable::answer(&app.state, &error, unreadable::ids_in_json(&body), fingerprint),
        }
    };
    if large { run_blocking(app, true, work).await } else { work(&app) }
}

fn pass(app: &App, call: train::ForwardBackwardCall, fingerprint: u64, size: usize) -> Response {
    // 0 means that the request has no sequence number, which the legacy JSON format allows.
    let seq_id = Some(u64::from(call.seq_id)).filter(|it| 0 < *it);
    let custom = app.state.custom_loss(&call.model_id, &call.loss.loss_fn);
    // Read the data before the request is queued, without holding the lock of the state, because that takes long. Other
    // requests may be queued meanwhile: the sequence numbers, which the client chooses, give the order.
    let served = match app.state.served(&call.model_id) {
        Ok(it) => it,
        Err(refusal) => return reply::<UntypedFuture>(Err(refusal)),
    };
    let read = |it| Pass::new(&call.data, &call.loss, it, !call.forward_only, served.config(), app.stands_in);
    let work = match custom.and_then(read) {
        Ok(pass) => {
            let (model_id, waiting) = (call.model_id.clone(), app.state.count_waiting(2 * size));
            Work::Pass { model_id, pass: Box::new(pass), waiting }
        }
        Err(error) => Work::Refused { error },
    };
    reply(app.state.submit_large(&call.model_id, seq_id, fingerprint, work))
}

fn optim_step(app: &App, request: OptimStepRequest, fingerprint: u64) -> Reply<UntypedFuture> {
    let model_id = request.model_id;
    app.state.submit(&model_id, request.seq_id, fingerprint, |_| {
        if request.optimizer_params.is_some() {
            return Work::Refused { error: "optimizer_params: only adam_params are offered here".into() };
        }
        match Adam::read(&request.adam_params.unwrap_or_default()) {
            Ok(adam) => Work::OptimStep { model_id: model_id.clone(), adam },
            Err(error) => Work::Refused { error },
        }
    })
}

fn save_weights(app: &App, request: SaveWeightsRequest, fingerprint: u64) -> Reply<UntypedFuture> {
    let model_id = request.model_id;
    app.state.submit(&model_id, request.seq_id, fingerprint, |model| {
        let name = request.path.unwrap_or_else(|| format!("state-{fingerprint:016x}"));
        let (ttl, metadata) = (request.ttl_seconds, request.user_metadata);
        match app.state.save(model, &model_id, Kind::Training, &name, ttl, metadata) {
            Ok(mut save) => {
                save.overwrite = request.overwrite;
                Work::Save { model_id: model_id.clone(), save }
            }
            Err(error) => Work::Refused { error },
        }
    })
}

fn save_weights_external(
    app: &App,
    request: SaveWeightsExternalRequest,
    fingerprint: u64,
) -> Reply<UntypedFuture> {
    let model_id = request.model_id;
    app.state.submit(&model_id, request.seq_id, fingerprint, |model| {
        let recipients = Recipient::read_all(&request.age_encryption_recipients.unwrap_or_default());
        let save = recipients.and_then(|recipients| {
            let (kind, ttl) = (Kind::External, request.ttl_seconds);
            let save = app.state.save(model, &model_id, kind, &request.path, ttl, None)?;
            Ok(Save { recipients, ..save })
        });
        match save {
            Ok(save) => Work::SaveSampler { model_id: model_id.clone(), save },
            Err(error) => Work::Refused { error },
        }
    })
}
