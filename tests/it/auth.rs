//! Authentication: the sources of the credential (the caller's API key or token, a command, a stored key), and the
//! tokens. If the server's flag `pjwt_auth_enabled` is set, the client exchanges its credential for a token, a JWT that
//! expires, and sends the token with its requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tinkex::credentials::{CredentialStore, StoredCredentials, StoredKey};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::{CloseStatus, ErrorKind, ServiceClient};

use crate::util::{HOUR, TEST_TIMEOUT, alone, alone_with, client_threads, eventually};

const CONFIG: &str = "/api/v1/client/config";
const TOKEN: &str = "/api/v1/auth/token";
const MODELS: &str = "/api/v1/get_server_capabilities";

/// A server with the flag `pjwt_auth_enabled`: clients must exchange their credential for a token.
fn server() -> FakeServer {
    let server = FakeServer::new();
    server.always(CONFIG, Act::json(json!({"pjwt_auth_enabled": true})));
    server
}

/// A JWT with the subject `number` that expires in `seconds`.
fn jwt(number: usize, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iat": now, "exp": now + seconds, "sub": number.to_string()});
    format!("eyJhbGciOiJub25lIn0.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn token(number: usize, seconds: u64) -> Act {
    Act::json(json!({"jwt": jwt(number, seconds)}))
}

/// The header `X-API-Key` of each request to `path`, in order of arrival.
fn keys(server: &FakeServer, path: &str) -> Vec<String> {
    server.requests_to(path).iter().map(|it| it.header("x-api-key").unwrap().to_string()).collect()
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tinkex-auth-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn an_expired_token_of_the_caller_is_refused_before_anything_is_sent() {
    let old = format!("eyJ.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"exp":1000}"#));
    let server = FakeServer::new();
    let error = server.in_memory().api_key(&old).build().unwrap_err();
    assert!(*error.kind() == ErrorKind::Auth && error.message().contains("expired"), "{error}");
    assert!(!format!("{error} {error:?}").contains(&old));
}

#[cfg(unix)]
#[test]
fn the_command_is_run_each_time_a_credential_is_needed() {
    let dir = folder("command");
    let count = dir.join("count");
    let server = server();
    server.next(TOKEN, token(1, 3600));
    let service = server.in_memory().api_key("not-a-key").credential_command(format!(
        "echo >> {0}; printf ' tml-printed-%s\\n' $(wc -l < {0} | tr -d ' ')",
        count.display()
    ));
    let service = service.build().unwrap();
    for _ in 0..3 {
        service.get_server_capabilities().unwrap();
    }
    assert_eq!(keys(&server, CONFIG), ["tml-printed-1"]);
    assert_eq!(keys(&server, TOKEN), ["tml-printed-2"]);
    assert_eq!(keys(&server, MODELS).len(), 3);
    assert!(keys(&server, MODELS).iter().all(|it| it.starts_with("eyJ")));
    std::fs::remove_dir_all(dir).unwrap();
}

#[cfg(unix)]
#[test]
fn if_the_server_requires_the_credential_command_it_must_be_set() {
    let requiring_the_command = || {
        let server = FakeServer::new();
        let flags = json!({"pjwt_auth_enabled": true, "credential_default_source": "credential_cmd"});
        server.always(CONFIG, Act::json(flags));
        server.always(TOKEN, token(1, 3600));
        server
    };
    let server = requiring_the_command();
    let service = server.in_memory().credential_command("echo tml-printed").build().unwrap();
    service.get_server_capabilities().unwrap();
    assert_eq!(keys(&server, CONFIG), ["tml-test"]);
    assert_eq!(keys(&server, TOKEN), ["tml-printed"]);
    let server = requiring_the_command();
    let error = server.in_memory().build().unwrap().get_server_capabilities().unwrap_err();
    assert!(error.message().contains("TINKER_CREDENTIAL_CMD"), "{error}");
    assert!(server.requests_to(TOKEN).is_empty());
    // If the caller sets a token as the API key, the client uses that token and not the command.
    let server = requiring_the_command();
    let given = jwt(7, 3600);
    server.in_memory().api_key(&given).build().unwrap().get_server_capabilities().unwrap();
    assert_eq!(keys(&server, TOKEN), [given]);
}

#[cfg(unix)]
#[test]
fn a_command_alone_is_an_error_on_a_server_without_tokens() {
    let server = FakeServer::new();
    let service =
        server.in_memory().api_key("no-key").credential_command("echo tml-printed").build().unwrap();
    let error = service.get_server_capabilities().unwrap_err();
    assert!(*error.kind() == ErrorKind::Config && error.message().contains("command"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_command_that_hangs_or_prints_no_credential_is_an_error_within_its_timeout() {
    let old = format!("eyJ.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"exp":1000}"#));
    for (line, problem) in [
        ("sleep 1000", "within 500.0ms"),
        ("exit 1", "printed nothing"),
        ("echo 'password: hunter2'", "white space"),
        ("echo hunter2", "must start with"),
        (&format!("echo {old}"), "expired"),
    ] {
        let server = server();
        let builder = server.in_memory().api_key("no-key").credential_command(line);
        // Only the command that hangs gets the short timeout: on a busy machine the other commands may need longer to
        // start.
        let time = if line.starts_with("sleep") { Duration::from_millis(500) } else { TEST_TIMEOUT };
        let service = builder.timeouts(|timeouts| timeouts.credential_command = time).build().unwrap();
        let begun = Instant::now();
        let error = service.get_server_capabilities().unwrap_err();
        assert!(error.to_string().contains(problem), "{line}: {error}");
        assert!(
            !format!("{error} {error:?}").contains("hunter2") && begun.elapsed() < TEST_TIMEOUT,
            "{error}"
        );
        assert!(server.requests().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn closing_the_client_does_not_wait_for_a_command() {
    let server = server();
    let service = server.in_memory().api_key("no-key").credential_command("sleep 1000").build().unwrap();
    let request = std::thread::spawn({
        let service = service.clone();
        move || service.get_server_capabilities()
    });
    eventually("the request is in flight", || !service.dump().operations.is_empty());
    let begun = Instant::now();
    service.close(CloseStatus::Success).unwrap();
    let error = request.join().unwrap().unwrap_err();
    assert!(error.is_closed() && begun.elapsed() < TEST_TIMEOUT, "{error}");
}

#[test]
fn without_any_other_credential_the_stored_default_key_is_used() {
    const TEST: &str = "auth::without_any_other_credential_the_stored_default_key_is_used";
    let home = folder("home");
    let mut stored = StoredCredentials::default();
    stored.insert("5", StoredKey::new("tml-stored-key"));
    stored.set_default("5");
    CredentialStore::at(home.join(".tinker/credentials.json")).save(&stored).unwrap();
    let environment =
        [("HOME", home.to_str().unwrap()), ("TINKER_API_KEY", ""), ("TINKER_CREDENTIAL_CMD", "")];
    alone_with(TEST, &environment, || {
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        let builder = || ServiceClient::builder().base_url(listening.url());
        builder().build().unwrap().get_server_capabilities().unwrap();
        builder().api_key("tml-given-key").build().unwrap().get_server_capabilities().unwrap();
        assert_eq!(keys(&server, MODELS), ["tml-stored-key", "tml-given-key"]);
        let store = CredentialStore::of_user().unwrap();
        let mut stored = store.load().unwrap();
        stored.set_default("6");
        store.save(&stored).unwrap();
        let error = builder().build().unwrap_err();
        assert!(error.message().contains("no API key"), "{error}");
    });
    std::fs::remove_dir_all(home).unwrap();
}

#[test]
fn a_token_is_renewed_at_half_of_its_life_even_without_requests() {
    let (server, time) = (server(), VirtualClock::new());
    for number in 1..=2 {
        server.next(TOKEN, token(number, 3600));
    }
    // The server refuses to issue a third token.
    server.always(TOKEN, Act::status(503, "no more"));
    let service = server.in_memory_at(time.clone()).build().unwrap();
    service.get_server_capabilities().unwrap();
    let fetched = || server.requests_to(TOKEN).len();
    assert_eq!(fetched(), 1);
    let begun = service.dump();
    assert!(begun.pools.iter().any(|it| it.name == "tk-refresh"));
    let mut passed = 0;
    eventually("the token is renewed", || {
        time.advance(Duration::from_secs(100));
        passed += 100;
        fetched() == 2
    });
    assert!(1600 <= passed, "renewed after {passed} s");
    // Two requests for flags, two for tokens, one by the test: the token was renewed although no request needed it. No
    // heartbeat was sent, because no session is open.
    assert_eq!(server.requests().len(), 5);
    // The fake server counts the exchange before the client has stored the new token, so the next request may still
    // carry the old token.
    eventually("requests use the new token", || {
        service.get_server_capabilities().unwrap();
        let keys = keys(&server, MODELS);
        keys.first() != keys.last()
    });
}

#[test]
fn a_failed_token_renewal_is_retried_and_requests_go_on() {
    let (server, time) = (server(), VirtualClock::new());
    server.next(TOKEN, token(1, 36_000));
    server.next(TOKEN, Act::status(503, "busy"));
    server.next(TOKEN, Act::Reset);
    server.next(TOKEN, token(2, 36_000));
    let service = server.in_memory_at(time.clone()).build().unwrap();
    service.get_server_capabilities().unwrap();
    let mut passed = 0;
    eventually("the token is renewed after two failures", || {
        time.advance(Duration::from_secs(50));
        passed += 50;
        service.get_server_capabilities().unwrap();
        server.requests_to(TOKEN).len() == 4
    });
    // The fake server counts the exchange before the client has stored the new token, so the next request may still
    // carry the old token.
    eventually("requests use the new token", || {
        service.get_server_capabilities().unwrap();
        let keys = keys(&server, MODELS);
        keys.first() != keys.last()
    });
    assert!(passed < 36_000, "renewed only after it had expired");
}

#[test]
fn many_requests_with_a_rejected_token_cost_one_exchange() {
    const THREADS: usize = 12;
    let server = server();
    let first = jwt(1, 3600);
    server.next(TOKEN, Act::json(json!({"jwt": first})));
    server.always(TOKEN, token(2, 3600));
    let service = server.in_memory().build().unwrap();
    service.get_server_capabilities().unwrap();
    // From now on the server rejects the first token. It holds the rejections until all threads have sent a request
    // with that token.
    let gate = Arc::new(std::sync::Barrier::new(THREADS));
    server.script(move |seen| {
        let rejected = seen.path == MODELS && seen.header("x-api-key") == Some(&first);
        rejected.then(|| {
            gate.wait();
            Act::status(401, "{}").with_header("www-authenticate", "Bearer error=\"invalid_token\"")
        })
    });
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| service.get_server_capabilities().unwrap());
        }
    });
    assert_eq!(server.requests_to(TOKEN).len(), 2);
    assert_eq!(server.requests_to(MODELS).len(), 1 + 2 * THREADS);
}

#[test]
fn a_rejection_of_the_renewed_token_is_an_auth_error() {
    let server = server();
    server.always(TOKEN, token(1, 3600));
    let rejected = Act::status(401, "{}").with_header("www-authenticate", "Bearer error=\"invalid_token\"");
    server.always(MODELS, rejected);
    let error = server.in_memory().build().unwrap().get_server_capabilities().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Auth);
    assert_eq!((server.requests_to(MODELS).len(), server.requests_to(TOKEN).len()), (2, 2));
}

#[test]
fn a_failed_token_exchange_is_reported_with_its_own_error() {
    let refusing = server();
    refusing.always(TOKEN, Act::status(403, r#"{"detail":"key revoked"}"#));
    let error = refusing.in_memory().build().unwrap().get_server_capabilities().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Permission);
    assert!(
        error.url().unwrap().ends_with("/auth/token") && error.message().contains("key revoked"),
        "{error}"
    );
    assert_eq!(refusing.requests_to(TOKEN).len(), 1);
    // If the exchange fails and the failure is retryable, the client retries the exchange within the timeout of the
    // request that needs the token.
    let busy = server();
    busy.next(TOKEN, Act::status(503, "busy"));
    busy.next(TOKEN, Act::Reset);
    busy.always(TOKEN, token(1, 3600));
    busy.in_memory().build().unwrap().get_server_capabilities().unwrap();
    assert_eq!(busy.requests_to(TOKEN).len(), 3);
    for malformed in ["{}", r#"{"jwt":""}"#, r#"{"jwt":"eyJ a"}"#, "<html>"] {
        let server = server();
        server.always(TOKEN, Act::status(200, malformed.to_string()));
        let error = server.in_memory().build().unwrap().get_server_capabilities().unwrap_err();
        assert!(
            *error.kind() == ErrorKind::Decode && error.message().contains("token"),
            "{malformed}: {error}"
        );
    }
}

#[test]
fn an_outage_of_the_token_endpoint_does_not_lose_a_promised_result() {
    let (server, time) = (server(), VirtualClock::new());
    server.always(TOKEN, token(1, 3600));
    let service = server.in_memory_at(time.clone()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let rejected = Act::status(401, "{}").with_header("www-authenticate", "Bearer error=\"invalid_token\"");
    server.next("/api/v1/retrieve_future", rejected);
    for _ in 0..3 {
        server.next(TOKEN, Act::status(503, "busy"));
    }
    let update = training.optim_step(tinkex::types::AdamParams::default());
    assert_eq!(update.wait().unwrap().metrics["grad_norm"], 1.0);
}

#[test]
fn the_threads_that_renew_flags_and_tokens_end_with_the_session() {
    alone("auth::the_threads_that_renew_flags_and_tokens_end_with_the_session", || {
        let server = server();
        server.always(TOKEN, token(1, 3600));
        server.always("/api/v1/client/dynamic_config", Act::json(json!({"refresh_interval_sec": 300})));
        // With this idle time, idle threads end only when the session ends.
        let service = server.in_memory().threads(|threads| threads.idle = HOUR).build().unwrap();
        let _training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let renewing = || client_threads().iter().filter(|it| it.starts_with("tk-refresh")).count();
        eventually("both threads run", || renewing() == 2);
        service.close(CloseStatus::Success).unwrap();
        // The kernel still lists a thread for some milliseconds after it was joined.
        eventually("both threads end", || renewing() == 0);
    });
}
