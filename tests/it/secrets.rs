//! Nothing that must not be seen is ever seen: not in an error, a `Debug`, an event, a number's name, a report or a log.
//!
//! Every verb of every client meets servers that behave and servers that repeat whatever they were told, over real sockets and through a
//! proxy, while a logger keeps everything at every level. Only the records of `ureq_proto` are not looked at: at TRACE
//! that crate writes the bytes of every request, which the documentation says.

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
use tinkex::{CircuitBreaker, CloseStatus, Error, ServiceClient, ServiceClientBuilder};

use crate::faults::verbs::{Clients, verbs};
use crate::matrix::{self, rows};
use crate::util::alone_with;
use crate::util::datum;
use crate::util::proxy::Proxy;

const KEY: &str = "tml-SECRET-KEY-0123456789";
const PRINTED: &str = "tml-SECRET-PRINTED-0123456789";
const CLOUDFLARE: &str = "SECRET-CLOUDFLARE-0123456789";
const PASSWORD: &str = "SECRET\"PASSWORD@0123456789";
const OVERRIDE: &str = "SECRET-OVERRIDE-0123456789";
/// An owner's permission to read weights, in the header of one verb and in the body of another.
const ACCESS: &str = "SECRET-ACCESS-0123456789";
const STATE: &str = "tinker://model-1/weights/x";

const CONFIG: &str = "/api/v1/client/config";
const TOKEN: &str = "/api/v1/auth/token";
const RETRIEVE: &str = "/api/v1/retrieve_future";

/// A JWT, of the caller's or of the server's.
fn jwt(number: u32) -> String {
    let claims = json!({"iat": 1_700_000_000u32, "exp": 4_000_000_000u32, "jti": format!("SECRET-{number}")});
    format!("eyJhbGciOiJub25lIn0.{}.SECRET-SIGNATURE", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// All of them, in the forms in which they travel.
fn secrets() -> Vec<String> {
    let basic = STANDARD.encode(format!("user:{PASSWORD}"));
    let mut all: Vec<String> =
        [KEY, PRINTED, CLOUDFLARE, PASSWORD, OVERRIDE, ACCESS].map(str::to_string).into();
    all.extend((0..2).map(jwt));
    all.extend([basic, PASSWORD.replace('"', "%22").replace('@', "%40")]);
    all
}

/// A text in other writings, in which whoever sees it can read it all the same: escaped as in JSON, twice so, as in an
/// address, in upper case, and cut.
fn writings(text: &str) -> Vec<String> {
    let json: String = text.encode_utf16().map(|it| format!("\\u{it:04x}")).collect();
    let percent = text.bytes().map(|it| format!("%{it:02X}")).collect();
    let cut = text.chars().take(text.chars().count() - 2).skip(2).collect();
    vec![json.replace('\\', "\\\\"), json, percent, text.to_uppercase(), cut]
}

/// What anybody could have seen.
static SEEN: Mutex<String> = Mutex::new(String::new());

fn see(text: &str) {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push_str(text);
    seen.push('\n');
}

struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if !record.target().starts_with("ureq_proto") {
            see(&format!("{} {} {}", record.level(), record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

struct Watcher;

impl Observer for Watcher {
    fn on_queue_state(&self, it: &QueueStateChange) {
        see(&format!("{it:?}"));
    }

    fn on_retry(&self, it: &Retry) {
        see(&format!("{it:?} {}", it.error));
    }

    fn on_backoff(&self, it: &Backoff) {
        see(&format!("{it:?}"));
    }

    fn on_heartbeat_trouble(&self, it: &HeartbeatTrouble) {
        see(&format!("{it:?} {}", it.error));
    }

    fn on_billing_pause(&self, it: &BillingPause) {
        see(&format!("{it:?} {}", it.error));
    }

    fn on_breaker(&self, it: &BreakerChange) {
        see(&format!("{it:?}"));
    }

    fn on_drop(&self, it: &Dropped) {
        see(&format!("{it:?}"));
    }
}

fn see_error(error: &Error) {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let _to_memory = write!(text, "{error} {error:?} {error:#?} {:?} {:?} ", error.kind(), error.url());
        next = error.cause();
    }
    see(&text);
}

fn see_debug(it: &impl Debug) {
    see(&format!("{it:?} {it:#?}"));
}

/// How the caller proves who he is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Means {
    Key,
    Jwt,
    Command,
}

impl Means {
    fn give(self, builder: ServiceClientBuilder) -> ServiceClientBuilder {
        match self {
            Means::Key => builder.api_key(KEY),
            Means::Jwt => builder.api_key(jwt(0)),
            Means::Command => builder.credential_command(format!("echo '{PRINTED}'")),
        }
    }
}

/// Everything that a server was told, in the ways in which servers talk.
fn echo(means: Means, tokens: bool) -> String {
    let mut told = secrets();
    told.retain(|it| match means {
        _ if *it == jwt(1) => tokens,
        _ if *it == jwt(0) => means == Means::Jwt,
        _ if it == KEY => means == Means::Key,
        _ if it == PRINTED => means == Means::Command,
        // Told by the verbs that carry it alone.
        _ if it == ACCESS => false,
        _ => true,
    });
    told.join(" and ")
}

fn talkative(status: u16, echo: &str, body: String) -> Act {
    let header = echo.replace(|it: char| !it.is_ascii_graphic(), " ");
    Act::status(status, body)
        .with_header("x-deprecation-note", &header)
        .with_header("x-deprecation-level", "error")
        .with_header("retry-after", &header)
}

/// What a bad server does.
fn faults(echo: &str) -> Vec<Act> {
    let statuses = [400, 401, 402, 403, 404, 408, 409, 410, 413, 422, 425, 429, 500, 503];
    let mut acts: Vec<Act> = Vec::new();
    for status in statuses {
        acts.push(talkative(status, echo, json!({"detail": echo, "queue_state_reason": echo}).to_string()));
    }
    let listed = json!({"detail": [{"loc": ["body", echo], "msg": echo, "type": "x"}]});
    acts.push(talkative(422, echo, listed.to_string()));
    acts.push(talkative(500, echo, format!("<html>{}</html>", echo)));
    let base64 = STANDARD.encode(echo);
    let echoes: Vec<String> = echo.split(" and ").flat_map(writings).chain([base64]).collect();
    // The escapes stand in the text as they are.
    let body = format!(r#"{{"detail":"{}"}}"#, echoes.join(" , ").replace('"', r#"\""#));
    acts.push(talkative(400, echo, body));
    acts.push(
        talkative(401, echo, json!({"detail": echo}).to_string())
            .with_header("www-authenticate", "Bearer error=\"invalid_token\""),
    );
    // Successes that are none.
    acts.push(talkative(200, echo, echo.into()));
    acts.push(talkative(
        200,
        echo,
        json!({"error": echo, "category": "user", "request_id": [echo]}).to_string(),
    ));
    let paused = json!({"type": "try_again", "queue_state": echo, "queue_state_reason": echo});
    acts.push(talkative(200, echo, paused.to_string()));
    acts.push(Act::Garbage(echo.to_string().into()));
    acts.push(Act::Reset);
    let headers = vec![("x-note".into(), "n".into())];
    acts.push(Act::Truncate(Answer { status: 200, headers, body: echo.to_string().into() }));
    acts
}

/// A server, a proxy before it, and the settings of a client that tells it every secret.
struct Scene {
    server: FakeServer,
    _listening: tinkex::testing::Listening,
    builder: ServiceClientBuilder,
    _proxy: Proxy,
}

impl Scene {
    fn new(means: Means, tokens: bool) -> Self {
        let server = FakeServer::new();
        server.always(CONFIG, Act::json(json!({"pjwt_auth_enabled": tokens})));
        server.always(TOKEN, Act::json(json!({"jwt": jwt(1)})));
        let listening = server.listen().unwrap();
        let proxy = Proxy::start(&listening.url(), 200);
        let builder = Scene::client(means, &listening.url(), &proxy);
        see_debug(&builder);
        Scene { server, _listening: listening, builder, _proxy: proxy }
    }

    fn client(means: Means, url: &str, proxy: &Proxy) -> ServiceClientBuilder {
        let login = format!("user:{}", PASSWORD.replace('"', "%22").replace('@', "%40"));
        means
            .give(ServiceClient::builder())
            .base_url(url)
            .proxy(format!("http://{login}@{}", proxy.address()))
            .default_headers_overrides([("X-Gateway-Token", OVERRIDE)])
            .observer(Arc::new(Watcher))
            .telemetry(true)
            .circuit_breaker(CircuitBreaker { failures: 1000, ..CircuitBreaker::default() })
            .clock(VirtualClock::new().clock())
            .timeouts(|it| {
                let s = Duration::from_secs;
                (it.submit, it.silence, it.operation) = (s(2), s(2), s(2));
                (it.connect, it.exchange, it.poll, it.close) = (s(60), s(60), s(60), s(20));
            })
    }

    /// What the server was told in bodies, which are the client's own words.
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

/// Every verb with one act where it is submitted and then where its result is asked for.
fn every_verb(means: Means, tokens: bool, act: Option<&Act>) {
    let scene = Scene::new(means, tokens);
    let Scene { server, builder, .. } = scene;
    let clients = Clients::new(builder.build().unwrap());
    see_debug(&(&clients.service, &clients.training, &clients.sampling));
    for verb in verbs().iter().filter(|it| it.name != "close") {
        for path in [verb.path, RETRIEVE] {
            if let Some(act) = act {
                server.always(path, act.clone());
            }
            if let Err(error) = (verb.run)(&clients) {
                assert!(act.is_some(), "{}: {error:?}", verb.name);
                see_error(&error);
            }
            server.behave(path);
        }
    }
    let pending = clients.training.optim_step(AdamParams::default());
    see_debug(&pending);
    see_debug(&pending.status());
    if let Err(error) = pending.wait() {
        see_error(&error);
    }
    see_debug(&clients.service.dump());
    see(&clients.service.dump().to_string());
    see_debug(clients.service.metrics());
    see_debug(&clients.service.metrics().snapshot());
    see_debug(&clients.service.telemetry());
    if let Err(error) = clients.service.close(CloseStatus::Errored) {
        see_error(&error);
    }
    Scene::check_bodies(&server);
}

/// The verbs of the clients without a session, the handles of samplers, and what else is not among the verbs above, with one
/// act for whatever they ask. The server may also repeat the access tokens.
fn every_other_verb(means: Means, tokens: bool, acts: Option<(&Act, &Act)>) {
    let Scene { server, builder, _listening, _proxy } = Scene::new(means, tokens);
    let clock = VirtualClock::new();
    let service = builder.clock(clock.clock()).build().unwrap();
    let clients = Clients::new(service.clone());
    let (rest, admin) = (service.create_rest_client(), service.create_admin_client());
    see_debug(&(&rest, &admin));
    rest.healthz().unwrap();
    let handle = clients.sampling.get_sampler_handle();
    see_debug(&handle);
    see(&handle.to_string());
    let scene = matrix::Scene { service, rest, admin, server: server.clone(), clock };
    let misbehave = |act: Option<&Act>| {
        let Some(act) = act.cloned() else { return };
        // What a client needs at its beginning is as it should be; that is another test.
        let beginning = [CONFIG, TOKEN, "/api/v1/client/dynamic_config", "/api/v1/create_session"];
        server.script(move |seen| (!beginning.contains(&seen.path.as_str())).then(|| act.clone()));
    };
    let tell = |name: &str, result: Result<(), Error>| {
        if let Err(error) = result {
            see(name);
            see_error(&error);
        }
    };
    let options = CopyOptions {
        destination_project_id: Some("p".into()),
        weights_access_token: Some(AccessToken::new(ACCESS)),
        ..CopyOptions::default()
    };
    see_debug(&options);
    // The token has to be told before anybody can repeat it.
    tell("copy_weights", scene.rest.copy_weights(STATE, &options).map(drop));
    misbehave(acts.map(|it| it.1));
    tell("copy_weights", scene.rest.copy_weights(STATE, &options).map(drop));
    let options =
        FromStateOptions { weights_access_token: Some(AccessToken::new(ACCESS)), ..Default::default() };
    see_debug(&options);
    tell("from_state", scene.service.create_training_client_from_state_with(STATE, &options).map(drop));
    for row in rows().iter().filter(|it| matches!(it.client, "REST" | "admin")) {
        tell(row.verb, (row.run)(&scene));
    }
    tell("whoami", scene.rest.whoami().map(|it| see_debug(&it)));
    tell(
        "save_weights_external",
        clients.training.save_weights_external("x", Ttl::Never, &[]).wait().map(drop),
    );
    let sum = |_: &[Datum], logprobs: &[&[f32]]| -> Result<CustomLoss, Error> {
        Ok(CustomLoss::new(0.0, logprobs.iter().map(|it| vec![1.0; it.len()]).collect()))
    };
    tell("custom", clients.training.forward_backward_custom(vec![datum()], sum).wait().map(drop));
    // Last of this client's, because it ends the key.
    tell("revoke_api_key", scene.rest.revoke_api_key());
    // Another client, which the server was told no access token by.
    misbehave(acts.map(|it| it.0));
    let clone = Scene::client(means, &_listening.url(), &_proxy).from_sampler_handle(&handle).map(|it| {
        see_debug(&it);
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        it.sample(&ModelInput::from_ints([1]), 1, &params).wait()
    });
    tell("from_sampler_handle", clone.and_then(|it| it).map(drop));
    server.script(|_| None);
    see_debug(&scene.service.dump());
    if let Err(error) = scene.service.close(CloseStatus::Errored) {
        see_error(&error);
    }
    Scene::check_bodies(&server);
}

/// A client whose very beginning goes wrong.
fn every_start(means: Means, tokens: bool, act: &Act) {
    for path in [
        CONFIG,
        TOKEN,
        "/api/v1/client/dynamic_config",
        "/api/v1/create_session",
        "/api/v1/session_heartbeat",
    ] {
        let Scene { server, builder, _listening, _proxy } = Scene::new(means, tokens);
        server.always(path, act.clone());
        let service = builder.build().unwrap();
        if let Err(error) = service.create_lora_training_client("fake/model", Default::default()) {
            see_error(&error);
        }
        see_debug(&service.dump());
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
        log::set_logger(&Keeper).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let ways = [(Means::Key, false), (Means::Key, true), (Means::Jwt, false), (Means::Command, true)];
        for (means, tokens) in ways {
            every_verb(means, tokens, None);
            every_other_verb(means, tokens, None);
        }
        std::thread::scope(|scope| {
            for (means, tokens) in ways {
                scope.spawn(move || {
                    for act in faults(&echo(means, tokens)) {
                        every_verb(means, tokens, Some(&act));
                    }
                    let echo_of_all = format!("{} and {ACCESS}", echo(means, tokens));
                    for acts in faults(&echo(means, tokens)).iter().zip(&faults(&echo_of_all)) {
                        every_other_verb(means, tokens, Some(acts));
                    }
                    // At its start a client does not know the token yet.
                    for act in faults(&echo(means, false)) {
                        every_start(means, tokens, &act);
                    }
                });
            }
        });
        for bad in [KEY.replace("tml", "sk"), format!("{KEY} "), format!("{KEY}\n{KEY}")] {
            see_error(&ServiceClient::builder().api_key(bad).build().unwrap_err());
        }
        let builder = ServiceClient::builder().api_key(KEY).default_headers_overrides([("X Bad", OVERRIDE)]);
        see_error(&builder.build().unwrap_err());
        let seen = SEEN.lock().unwrap();
        for expected in ["TRACE tinkex::http", "DEBUG ureq::", "***", "queue_state", "through the proxy"] {
            assert!(seen.contains(expected), "nothing was kept of {expected}");
        }
        for secret in secrets() {
            if let Some(at) = seen.find(&secret) {
                let from = (at.saturating_sub(600)..=at).find(|it| seen.is_char_boundary(*it)).unwrap();
                panic!("{secret} was seen: {}", &seen[from..at + secret.len()]);
            }
        }
        assert!(!seen.contains("SECRET"), "a part of a secret was seen");
        for secret in secrets() {
            for written in writings(&secret).into_iter().chain([STANDARD.encode(&secret)]) {
                // The end of what is in base64 depends on what comes after it.
                let written = written.trim_end_matches('=');
                let written = &written[..written.len() - 4];
                assert!(!seen.contains(written), "{secret} was seen as {written}");
            }
        }
    });
}
