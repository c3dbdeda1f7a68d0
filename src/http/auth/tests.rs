use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::config::Settings;
use crate::env::Env;
use crate::error::{ErrorKind, Sent};
use crate::sync::clock::VirtualClock;

const TIMEOUT: Duration = Duration::from_secs(60);

fn jwt(seconds_left: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64;
    let claims = format!(r#"{{"iat":{now},"exp":{}}}"#, now + seconds_left);
    format!("eyJ.{}.sig", URL_SAFE_NO_PAD.encode(claims))
}

fn auth(key: &str) -> Auth {
    let settings = Settings { api_key: Some(Secret::new(key)), ..Default::default() };
    Auth::new(&settings.resolve(&Env::empty()).expect("good settings"))
}

fn auth_with_tokens() -> Auth {
    let auth = auth("tml-x");
    auth.adapt(true, false).expect("a key is enough");
    auth
}

fn refused() -> Broken {
    Broken::Token(Error::new(ErrorKind::Auth, "refused").with(|it| it.status = Some(401)))
}

fn gone() -> Broken {
    Broken::Token(Error::new(ErrorKind::Connection { sent: Sent::No }, "gone"))
}

#[test]
fn the_raw_credential_is_used_until_the_server_wants_tokens() {
    let (auth, clock) = (auth("tml-x"), Clock::default());
    let raw = auth.credential(&clock, TIMEOUT, |_| panic!("nothing to fetch")).expect("raw");
    assert_eq!(raw.expose(), "tml-x");
    auth.adapt(true, false).expect("a key is enough");
    let fetched = Cell::new(0);
    let fetch = |raw: &str| {
        assert_eq!(raw, "tml-x");
        fetched.set(fetched.get() + 1);
        Ok(jwt(3600))
    };
    let token = auth.credential(&clock, TIMEOUT, fetch).expect("a token");
    assert_eq!(auth.credential(&clock, TIMEOUT, fetch).expect("a token"), token);
    assert_eq!(fetched.get(), 1);
}

#[test]
fn a_token_about_to_expire_is_renewed_and_kept_if_that_fails() {
    let (auth, clock) = (auth_with_tokens(), Clock::default());
    let first = auth.credential(&clock, TIMEOUT, |_| Ok(jwt(50))).expect("a token");
    let kept = auth.credential(&clock, TIMEOUT, |_| Err(gone())).expect("the old one");
    assert_eq!(kept, first);
    let next = jwt(3600);
    let renewed = auth.credential(&clock, TIMEOUT, |_| Ok(next.clone())).expect("a new one");
    assert_eq!(renewed.expose(), next);
}

#[test]
fn a_refused_credential_is_an_error_even_while_the_old_token_is_valid() {
    let (auth, clock) = (auth_with_tokens(), Clock::default());
    auth.credential(&clock, TIMEOUT, |_| Ok(jwt(50))).expect("a token");
    let broken = auth.credential(&clock, TIMEOUT, |_| Err(refused())).expect_err("refused");
    assert!(matches!(broken, Broken::Token(it) if it.http_status() == Some(401)));
}

#[test]
fn an_expired_token_is_not_used_after_a_failed_fetch() {
    let time = VirtualClock::new();
    let (auth, clock) = (auth_with_tokens(), time.clock());
    auth.credential(&clock, TIMEOUT, |_| Ok(jwt(50))).expect("a token");
    time.advance(Duration::from_secs(51));
    assert!(auth.credential(&clock, TIMEOUT, |_| Err(gone())).is_err());
}

#[test]
fn a_rejected_token_is_dropped_once() {
    let clock = Clock::default();
    assert!(!auth("tml-x").drop_rejected(&Secret::new("tml-x")), "a raw credential cannot be renewed");
    let auth = auth_with_tokens();
    let first = auth.credential(&clock, TIMEOUT, |_| Ok(jwt(3600))).expect("a token");
    assert!(auth.drop_rejected(&first));
    let second = auth.credential(&clock, TIMEOUT, |_| Ok(jwt(7200))).expect("a token");
    assert!(auth.drop_rejected(&first), "a late rejection of the old token keeps the new one");
    assert_eq!(auth.credential(&clock, TIMEOUT, |_| panic!("not again")).expect("a token"), second);
}

/// Runs one fetch with the given outcome while 15 other threads ask for a token. The fetch ends only when all of them
/// wait for it. Returns the number of fetches and the results of all threads.
fn concurrent_fetches(outcome: fn() -> Result<String, Broken>) -> (usize, Vec<Result<Secret, Broken>>) {
    const OTHERS: usize = 15;
    const HOUR: Duration = Duration::from_secs(3600);
    let (auth, clock, n) = (auth_with_tokens(), Clock::default(), AtomicUsize::new(0));
    let (fetching, begun) = crossbeam_channel::bounded(1);
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    let credential = || {
        auth.credential(&clock, HOUR, |_| {
            n.fetch_add(1, Ordering::Relaxed);
            outcome()
        })
    };
    let results = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            auth.credential(&clock, HOUR, |_| {
                n.fetch_add(1, Ordering::Relaxed);
                fetching.send(()).expect("the receiver lives");
                // Returns when `end` is dropped.
                let _ = ended.recv();
                outcome()
            })
        });
        begun.recv().expect("a fetch that begins");
        let others: Vec<_> = (0..OTHERS).map(|_| scope.spawn(credential)).collect();
        while auth.fetching.waiting() + others.iter().filter(|it| it.is_finished()).count() < OTHERS {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(end);
        [first].into_iter().chain(others).map(|it| it.join().expect("no panic")).collect()
    });
    (n.into_inner(), results)
}

#[test]
fn concurrent_requests_fetch_one_token() {
    let (n, results) = concurrent_fetches(|| Ok(jwt(3600)));
    assert!(n == 1 && results.iter().all(Result::is_ok));
}

#[test]
fn a_failed_fetch_fails_for_all_threads_that_waited_for_it_and_not_for_later_ones() {
    let (n, results) = concurrent_fetches(|| Err(gone()));
    assert!(n == 1 && results.iter().all(Result::is_err));
    let (auth, clock) = (auth_with_tokens(), Clock::default());
    assert!(auth.credential(&clock, TIMEOUT, |_| Err(gone())).is_err());
    assert!(auth.credential(&clock, TIMEOUT, |_| Ok(jwt(3600))).is_ok());
}

#[test]
fn a_request_during_a_fetch_uses_the_old_token_while_it_is_valid() {
    let (auth, clock) = (auth_with_tokens(), Clock::default());
    let old = auth.credential(&clock, TIMEOUT, |_| Ok(jwt(50))).expect("a token");
    let new = auth.credential(&clock, TIMEOUT, |_| {
        let meanwhile = auth.credential(&clock, TIMEOUT, |_| panic!("one at a time")).expect("the old one");
        assert_eq!(meanwhile, old);
        Ok(jwt(3600))
    });
    assert_ne!(new.expect("a token"), old);
}

#[test]
fn the_command_is_required_only_if_the_server_requires_it() {
    let adapt = |key: Option<&str>, command: Option<&str>, uses_tokens, command_only| {
        let settings = Settings {
            api_key: key.map(Secret::new),
            credential_command: command.map(Secret::new),
            ..Default::default()
        };
        let auth = Auth::new(&settings.resolve(&Env::empty()).expect("good settings"));
        auth.adapt(uses_tokens, command_only).map(|()| auth.raw().expect("a credential"))
    };
    let (key, command) = (Some("tml-key"), Some("echo tml-printed"));
    assert_eq!(adapt(key, command, true, false).expect("a key").expose(), "tml-key");
    assert_eq!(adapt(key, command, false, true).expect("only where tokens are used").expose(), "tml-key");
    assert_eq!(adapt(key, command, true, true).expect("the command").expose(), "tml-printed");
    assert_eq!(adapt(None, command, true, false).expect("the command").expose(), "tml-printed");
    let error = adapt(None, command, false, false).expect_err("a key is needed");
    assert!(error.message().contains("only a credential command"), "{error}");
    let error = adapt(key, None, true, true).expect_err("a command is needed");
    assert!(error.message().contains("TINKER_CREDENTIAL_CMD"), "{error}");
}
