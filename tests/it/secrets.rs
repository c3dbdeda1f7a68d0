//! No secret is ever shown in an error, a `Debug` output, an event, a metric, telemetry or a log line.
//!
//! Every verb of every client runs against well-behaved servers, and against servers that repeat the received secrets
//! in their answers, over sockets and through a proxy. A logger collects every record, except those of the HTTP crate
//! `ureq_proto`: at level TRACE it logs the bytes of every request, which its documentation states.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tinkex::event::{
    Backoff, BillingPause, BreakerChange, Dropped, HeartbeatTrouble, Observer, QueueStateChange, Retry,
};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::transport::Answer;
use tinkex::types::{
    AccessToken, AdamParams, CopyOptions, CustomLoss, Datum, FromStateOptions, ModelInput, SamplingParams,
    Ttl,
};
use tinkex::{CloseStatus, Error, ServiceClient, ServiceClientBuilder};

use crate::faults::verbs::{Clients, verbs};
use crate::matrix::{self, rows};
use crate::util::alone_with;
use crate::util::datum;
use crate::util::proxy::Proxy;

const KEY: &str = "tml-SECRET-KEY-0123456789";
/// The key that the credential command prints.
const PRINTED: &str = "tml-SECRET-PRINTED-0123456789";
const CLOUDFLARE: &str = "SECRET-CLOUDFLARE-0123456789";
/// The password of the proxy.
const PASSWORD: &str = "SECRET\"PASSWORD@0123456789";
/// The value of a header that the caller sets.
const OVERRIDE: &str = "SECRET-OVERRIDE-0123456789";
/// The access token for weights, sent in a header by one verb and in the body by another.
const ACCESS: &str = "SECRET-ACCESS-0123456789";
const STATE: &str = "tinker://model-1/weights/x";

const CONFIG: &str = "/api/v1/client/config";
const TOKEN: &str = "/api/v1/auth/token";
const RETRIEVE: &str = "/api/v1/retrieve_future";

/// Makes a JWT. Number 0 is the caller's credential, number 1 the token that the server issues.
fn jwt(number: u32) -> String {
    let claims = json!({"iat": 1_700_000_000u32, "exp": 4_000_000_000u32, "jti": format!("SECRET-{number}")});
    format!("eyJhbGciOiJub25lIn0.{}.SECRET-SIGNATURE", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// All secrets, in the forms in which they are sent.
fn secrets() -> Vec<String> {
    let basic = STANDARD.encode(format!("user:{PASSWORD}"));
    let mut all: Vec<String> =
        [KEY, PRINTED, CLOUDFLARE, PASSWORD, OVERRIDE, ACCESS].map(str::to_string).into();
    all.extend((0..2).map(jwt));
    all.extend([basic, PASSWORD.replace('"', "%22").replace('@', "%40")]);
    all
}

/// Other forms in which a secret could be shown: JSON escapes, doubled JSON escapes, percent encoding, upper case, and
/// without its first and last two characters.
fn encodings(text: &str) -> Vec<String> {
    let json: String = text.encode_utf16().map(|it| format!("\\u{it:04x}")).collect();
    let percent = text.bytes().map(|it| format!("%{it:02X}")).collect();
    let cut = text.chars().take(text.chars().count() - 2).skip(2).collect();
    vec![json.replace('\\', "\\\\"), json, percent, text.to_uppercase(), cut]
}

/// All output that a user could see, collected for the check at the end.
static SEEN: Mutex<String> = Mutex::new(String::new());

fn collect(text: &str) {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push_str(text);
    seen.push('\n');
}

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if !record.target().starts_with("ureq_proto") {
            collect(&format!("{} {} {}", record.level(), record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

struct Events;

impl Observer for Events {
    fn on_queue_state(&self, it: &QueueStateChange) {
        collect(&format!("{it:?}"));
    }

    fn on_retry(&self, it: &Retry) {
        collect(&format!("{it:?} {}", it.error));
    }

    fn on_backoff(&self, it: &Backoff) {
        collect(&format!("{it:?}"));
    }

    fn on_heartbeat_trouble(&self, it: &HeartbeatTrouble) {
        collect(&format!("{it:?} {}", it.error));
    }

    fn on_billing_pause(&self, it: &BillingPause) {
        collect(&format!("{it:?} {}", it.error));
    }

    fn on_breaker(&self, it: &BreakerChange) {
        collect(&format!("{it:?}"));
    }

    fn on_drop(&self, it: &Dropped) {
        collect(&format!("{it:?}"));
    }
}

fn collect_error(error: &Error) {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{error} {error:?} {error:#?} {:?} {:?} ", error.kind(), error.url());
        next = error.cause();
    }
    collect(&text);
}

fn collect_debug(it: &impl Debug) {
    collect(&format!("{it:?} {it:#?}"));
}

/// Kind of the caller's credential.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Credential {
    Key,
    Jwt,
    Command,
}

impl Credential {
    fn set(self, builder: ServiceClientBuilder) -> ServiceClientBuilder {
        match self {
            Credential::Key => builder.api_key(KEY),
            Credential::Jwt => builder.api_key(jwt(0)),
            Credential::Command => builder.credential_command(format!("echo '{PRINTED}'")),
        }
    }
}

/// Joins the secrets that a client sends to the server. `tokens` is true if the client exchanges its credential for a
/// token.
fn echo(credential: Credential, tokens: bool) -> String {
    let mut sent = secrets();
    sent.retain(|secret| match credential {
        _ if *secret == jwt(1) => tokens,
        _ if *secret == jwt(0) => credential == Credential::Jwt,
        _ if secret == KEY => credential == Credential::Key,
        _ if secret == PRINTED => credential == Credential::Command,
        // Only few verbs send the access token. `no_secret_is_ever_shown` adds it for these verbs.
        _ if secret == ACCESS => false,
        _ => true,
    });
    sent.join(" and ")
}

fn echoing(status: u16, echo: &str, body: String) -> Act {
    let header = echo.replace(|it: char| !it.is_ascii_graphic(), " ");
    Act::status(status, body)
        .with_header("x-deprecation-note", &header)
        .with_header("x-deprecation-level", "error")
        .with_header("retry-after", &header)
}

/// Answers of a bad server, which repeat the secrets in `echo`.
fn faults(echo: &str) -> Vec<Act> {
    let statuses = [400, 401, 402, 403, 404, 408, 409, 410, 413, 422, 425, 429, 500, 503];
    let mut acts: Vec<Act> = Vec::new();
    for status in statuses {
        acts.push(echoing(status, echo, json!({"detail": echo, "queue_state_reason": echo}).to_string()));
    }
    let listed = json!({"detail": [{"loc": ["body", echo], "msg": echo, "type": "x"}]});
    acts.push(echoing(422, echo, listed.to_string()));
    acts.push(echoing(500, echo, format!("<html>{}</html>", echo)));
    let base64 = STANDARD.encode(echo);
    let echoes: Vec<String> = echo.split(" and ").flat_map(encodings).chain([base64]).collect();
    // Build the JSON text by hand: `json!` would escape the backslashes of the encodings.
    let body = format!(r#"{{"detail":"{}"}}"#, echoes.join(" , ").replace('"', r#"\""#));
    acts.push(echoing(400, echo, body));
    acts.push(
        echoing(401, echo, json!({"detail": echo}).to_string())
            .with_header("www-authenticate", "Bearer error=\"invalid_token\""),
    );
    // Answers with status 200 that are no valid results.
    acts.push(echoing(200, echo, echo.into()));
    acts.push(echoing(
        200,
        echo,
        json!({"error": echo, "category": "user", "request_id": [echo]}).to_string(),
    ));
    let paused = json!({"type": "try_again", "queue_state": echo, "queue_state_reason": echo});
    acts.push(echoing(200, echo, paused.to_string()));
    acts.push(Act::Garbage(echo.to_string().into()));
    acts.push(Act::Reset);
    acts.push(Act::Truncate(Answer::new(200).with_header("x-note", "n").with_body(echo.to_string())));
    acts
}

/// A server, a proxy in front of the server, and the builder of a client that sends its secrets to both of them.
struct Scene {
    server: FakeServer,
    _listening: tinkex::testing::Listening,
    builder: ServiceClientBuilder,
    _proxy: Proxy,
}

impl Scene {
    fn new(credential: Credential, tokens: bool) -> Self {
        let server = FakeServer::new();
        server.always(CONFIG, Act::json(json!({"pjwt_auth_enabled": tokens})));
        server.always(TOKEN, Act::json(json!({"jwt": jwt(1)})));
        let listening = server.listen().unwrap();
        let proxy = Proxy::start(&listening.url(), 200);
        let builder = Scene::client(credential, &listening.url(), &proxy);
        collect_debug(&builder);
        Scene { server, _listening: listening, builder, _proxy: proxy }
    }

    fn client(credential: Credential, url: &str, proxy: &Proxy) -> ServiceClientBuilder {
        let login = format!("user:{}", PASSWORD.replace('"', "%22").replace('@', "%40"));
        credential
            .set(ServiceClient::builder())
            .base_url(url)
            .proxy(format!("http://{login}@{}", proxy.address()))
            .default_headers_overrides([("X-Gateway-Token", OVERRIDE)])
            .observer(Arc::new(Events))
            .telemetry(true)
            .circuit_breaker(|it| it.failures = 1000)
            .clock(VirtualClock::new().clock())
            .timeouts(|timeouts| {
                let s = Duration::from_secs;
                (timeouts.submit, timeouts.silence, timeouts.operation) = (s(2), s(2), s(2));
                (timeouts.connect, timeouts.exchange, timeouts.poll, timeouts.close) =
                    (s(60), s(60), s(60), s(20));
            })
    }

    /// Checks that no request body has a secret, except the access token in `load_weights`.
    fn check_bodies(server: &FakeServer) {
        for seen in server.requests() {
            let mut body = String::from_utf8_lossy(&seen.body).into_owned();
            if seen.path == "/api/v1/load_weights" {
                body = body.replace(ACCESS, "");
            }
            assert!(!secrets().iter().any(|it| body.contains(it)), "{} {body}", seen.path);
        }
    }
}

/// Runs every verb twice: first its submission is answered with `act`, then the poll for its result. Without an act,
/// the server behaves well.
fn every_verb(credential: Credential, tokens: bool, act: Option<&Act>) {
    let scene = Scene::new(credential, tokens);
    let Scene { server, builder, .. } = scene;
    let clients = Clients::new(builder.build().unwrap());
    collect_debug(&(&clients.service, &clients.training, &clients.sampling));
    for verb in verbs().iter().filter(|it| it.name != "close") {
        for path in [verb.path, RETRIEVE] {
            if let Some(act) = act {
                server.always(path, act.clone());
            }
            if let Err(error) = (verb.run)(&clients) {
                assert!(act.is_some(), "{}: {error:?}", verb.name);
                collect_error(&error);
            }
            server.behave(path);
        }
    }
    let pending = clients.training.optim_step(AdamParams::default());
    collect_debug(&pending);
    collect_debug(&pending.status());
    if let Err(error) = pending.wait() {
        collect_error(&error);
    }
    collect_debug(&clients.service.dump());
    collect(&clients.service.dump().to_string());
    collect_debug(clients.service.metrics());
    collect_debug(&clients.service.metrics().snapshot());
    collect_debug(&clients.service.telemetry());
    if let Err(error) = clients.service.close(CloseStatus::Errored) {
        collect_error(&error);
    }
    Scene::check_bodies(&server);
}

/// Runs the verbs that [`every_verb`] does not run: those of the REST and admin clients, of sampler handles, and
/// others. If acts are given, the server misbehaves: as soon as the client has sent the access token, the server
/// answers with the second act, which repeats this token too. Another client, which has not sent the token, gets the
/// first act.
fn every_other_verb(credential: Credential, tokens: bool, acts: Option<(&Act, &Act)>) {
    let Scene { server, builder, _listening, _proxy } = Scene::new(credential, tokens);
    let clock = VirtualClock::new();
    let service = builder.clock(clock.clock()).build().unwrap();
    let clients = Clients::new(service.clone());
    let (rest, admin) = (service.create_rest_client(), service.create_admin_client());
    collect_debug(&(&rest, &admin));
    rest.healthz().unwrap();
    let handle = clients.sampling.get_sampler_handle();
    collect_debug(&handle);
    collect(&handle.to_string());
    let scene = matrix::Scene { service, rest, admin, server: server.clone(), clock };
    let misbehave = |act: Option<&Act>| {
        let Some(act) = act.cloned() else { return };
        // The requests at the start of a client succeed here; `every_start` makes them fail.
        let start = [CONFIG, TOKEN, "/api/v1/client/dynamic_config", "/api/v1/create_session"];
        server.script(move |seen| (!start.contains(&seen.path.as_str())).then(|| act.clone()));
    };
    let note = |name: &str, result: Result<(), Error>| {
        if let Err(error) = result {
            collect(name);
            collect_error(&error);
        }
    };
    let options = CopyOptions {
        destination_project_id: Some("p".into()),
        weights_access_token: Some(AccessToken::new(ACCESS)),
        ..CopyOptions::default()
    };
    collect_debug(&options);
    // Send the access token once, before the server begins to repeat it: the client masks this secret only after it has
    // sent it.
    note("copy_weights", scene.rest.copy_weights(STATE, &options).map(drop));
    misbehave(acts.map(|it| it.1));
    note("copy_weights", scene.rest.copy_weights(STATE, &options).map(drop));
    let options =
        FromStateOptions { weights_access_token: Some(AccessToken::new(ACCESS)), ..Default::default() };
    collect_debug(&options);
    note("from_state", scene.service.create_training_client_from_state_with(STATE, &options).map(drop));
    for row in rows().iter().filter(|it| matches!(it.client, "REST" | "admin")) {
        note(row.verb, (row.run)(&scene));
    }
    note("whoami", scene.rest.whoami().map(|it| collect_debug(&it)));
    note(
        "save_weights_external",
        clients.training.save_weights_external("x", Ttl::Never, &[]).wait().map(drop),
    );
    let sum = |_: &[Datum], logprobs: &[&[f32]]| -> Result<CustomLoss, Error> {
        Ok(CustomLoss::new(0.0, logprobs.iter().map(|it| vec![1.0; it.len()]).collect()))
    };
    note("custom", clients.training.forward_backward_custom(vec![datum()], sum).wait().map(drop));
    // The last call of this client, because it revokes the key.
    note("revoke_api_key", scene.rest.revoke_api_key());
    // Another client, which has not sent the access token: use the first act.
    misbehave(acts.map(|it| it.0));
    let clone =
        Scene::client(credential, &_listening.url(), &_proxy).from_sampler_handle(&handle).map(|sampler| {
            collect_debug(&sampler);
            let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
            sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait()
        });
    note("from_sampler_handle", clone.and_then(|it| it).map(drop));
    server.script(|_| None);
    collect_debug(&scene.service.dump());
    if let Err(error) = scene.service.close(CloseStatus::Errored) {
        collect_error(&error);
    }
    Scene::check_bodies(&server);
}

/// A new client sends several kinds of requests. For each kind, starts a client and answers this kind with the act.
fn every_start(credential: Credential, tokens: bool, act: &Act) {
    for path in [
        CONFIG,
        TOKEN,
        "/api/v1/client/dynamic_config",
        "/api/v1/create_session",
        "/api/v1/session_heartbeat",
    ] {
        let Scene { server, builder, _listening, _proxy } = Scene::new(credential, tokens);
        server.always(path, act.clone());
        let service = builder.build().unwrap();
        if let Err(error) = service.create_lora_training_client("fake/model", Default::default()) {
            collect_error(&error);
        }
        collect_debug(&service.dump());
        drop(service);
        Scene::check_bodies(&server);
    }
}

#[cfg(unix)]
#[test]
fn no_secret_is_ever_shown() {
    let environment = [
        ("CLOUDFLARE_ACCESS_CLIENT_ID", "an-id-of-cloudflare"),
        ("CLOUDFLARE_ACCESS_CLIENT_SECRET", CLOUDFLARE),
        ("TINKER_API_KEY", ""),
        ("TINKER_CREDENTIAL_CMD", ""),
    ];
    alone_with("secrets::no_secret_is_ever_shown", &environment, || {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let ways = [
            (Credential::Key, false),
            (Credential::Key, true),
            (Credential::Jwt, false),
            (Credential::Command, true),
        ];
        for (credential, tokens) in ways {
            every_verb(credential, tokens, None);
            every_other_verb(credential, tokens, None);
        }
        std::thread::scope(|scope| {
            for (credential, tokens) in ways {
                scope.spawn(move || {
                    for act in faults(&echo(credential, tokens)) {
                        every_verb(credential, tokens, Some(&act));
                    }
                    let echo_of_all = format!("{} and {ACCESS}", echo(credential, tokens));
                    for acts in faults(&echo(credential, tokens)).iter().zip(&faults(&echo_of_all)) {
                        every_other_verb(credential, tokens, Some(acts));
                    }
                    // At its start, a client has no token of the server yet, so the server cannot repeat one.
                    for act in faults(&echo(credential, false)) {
                        every_start(credential, tokens, &act);
                    }
                });
            }
        });
        for bad in [KEY.replace("tml", "sk"), format!("{KEY} "), format!("{KEY}\n{KEY}")] {
            collect_error(&ServiceClient::builder().api_key(bad).build().unwrap_err());
        }
        let builder = ServiceClient::builder().api_key(KEY).default_headers_overrides([("X Bad", OVERRIDE)]);
        collect_error(&builder.build().unwrap_err());
        let seen = SEEN.lock().unwrap();
        for expected in ["TRACE tinkex::http", "DEBUG ureq::", "***", "queue_state", "through the proxy"] {
            assert!(seen.contains(expected), "no output has {expected}");
        }
        for secret in secrets() {
            if let Some(at) = seen.find(&secret) {
                let from = (at.saturating_sub(600)..=at).find(|it| seen.is_char_boundary(*it)).unwrap();
                panic!("{secret} was shown: {}", &seen[from..at + secret.len()]);
            }
        }
        assert!(!seen.contains("SECRET"), "a part of a secret was shown");
        for secret in secrets() {
            for written in encodings(&secret).into_iter().chain([STANDARD.encode(&secret)]) {
                // Compare without the last base64 digits: they depend on the text that follows the secret.
                let written = written.trim_end_matches('=');
                let written = &written[..written.len() - 4];
                assert!(!seen.contains(written), "{secret} was shown as {written}");
            }
        }
    });
}
