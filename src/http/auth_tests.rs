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

const PATIENCE: Duration = Duration::from_secs(60);

fn jwt(seconds_left: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64;
    let claims = format!(r#"{{"iat":{now},"exp":{}}}"#, now + seconds_left);
    format!("eyJ.{}.sig", URL_SAFE_NO_PAD.encode(claims))
}

fn auth(key: &str) -> Auth {
    let settings = Settings { api_key: Some(Secret::new(key)), ..Default::default() };
    Auth::new(&settings.resolve(&Env::empty()).expect("good settings"))
}

fn with_tokens() -> Auth {
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
    let raw = auth.credential(&clock, PATIENCE, |_| panic!("nothing to fetch")).expect("raw");
    assert_eq!(raw.expose(), "tml-x");
    auth.adapt(true, false).expect("a key is enough");
    let fetched = Cell::new(0);
    let fetch = |raw: &str| {
        assert_eq!(raw, "tml-x");
        fetched.set(fetched.get() + 1);
        Ok(jwt(3600))
    };
    let token = auth.credential(&clock, PATIENCE, fetch).expect("a token");
    assert_eq!(auth.credential(&clock, PATIENCE, fetch).expect("a token"), token);
    assert_eq!(fetched.get(), 1);
}

#[test]
fn a_token_about_to_expire_is_renewed_and_kept_if_that_fails() {
    let (auth, clock) = (with_tokens(), Clock::default());
    let first = auth.credential(&clock, PATIENCE, |_| Ok(jwt(50))).expect("a token");
    let kept = auth.credential(&clock, PATIENCE, |_| Err(gone())).expect("the old one");
    assert_eq!(kept, first);
    let next = jwt(3600);
    let renewed = auth.credential(&clock, PATIENCE, |_| Ok(next.clone())).expect("a new one");
    assert_eq!(renewed.expose(), next);
}

#[test]
fn a_credential_that_is_refused_is_said_to_be_even_while_the_old_token_lives() {
    let (auth, clock) = (with_tokens(), Clock::default());
    auth.credential(&clock, PATIENCE, |_| Ok(jwt(50))).expect("a token");
    let broken = auth.credential(&clock, PATIENCE, |_| Err(refused())).expect_err("refused");
    assert!(matches!(broken, Broken::Token(it) if it.http_status() == Some(401)));
}

#[test]
fn a_token_that_has_expired_does_not_outlive_a_failure() {
    let time = VirtualClock::new();
    let (auth, clock) = (with_tokens(), time.clock());
    auth.credential(&clock, PATIENCE, |_| Ok(jwt(50))).expect("a token");
    time.advance(Duration::from_secs(51));
    assert!(auth.credential(&clock, PATIENCE, |_| Err(gone())).is_err());
}

#[test]
fn a_rejected_token_is_forgotten_once() {
    let clock = Clock::default();
    assert!(!auth("tml-x").renew(&Secret::new("tml-x")), "a raw credential cannot be renewed");
    let auth = with_tokens();
    let first = auth.credential(&clock, PATIENCE, |_| Ok(jwt(3600))).expect("a token");
    assert!(auth.renew(&first));
    let second = auth.credential(&clock, PATIENCE, |_| Ok(jwt(7200))).expect("a token");
    assert!(auth.renew(&first), "a late rejection of the old token keeps the new one");
    assert_eq!(auth.credential(&clock, PATIENCE, |_| panic!("not again")).expect("a token"), second);
}

/// One thread fetches a token, and many more want one before that fetch ends with this outcome: how many fetched, and what
/// all of them got. Nothing depends on how soon a thread starts: the fetch ends when all the others wait for it.
fn crowd(outcome: fn() -> Result<String, Broken>) -> (usize, Vec<Result<Secret, Broken>>) {
    const OTHERS: usize = 15;
    const HOUR: Duration = Duration::from_secs(3600);
    let (auth, clock, n) = (with_tokens(), Clock::default(), AtomicUsize::new(0));
    let (fetching, begun) = crossbeam_channel::bounded(1);
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    let wants = || {
        auth.credential(&clock, HOUR, |_| {
            n.fetch_add(1, Ordering::Relaxed);
            outcome()
        })
    };
    let results = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            auth.credential(&clock, HOUR, |_| {
                n.fetch_add(1, Ordering::Relaxed);
                fetching.send(()).expect("somebody who counts");
                let _dropped = ended.recv();
                outcome()
            })
        });
        begun.recv().expect("a fetch that begins");
        let others: Vec<_> = (0..OTHERS).map(|_| scope.spawn(wants)).collect();
        while auth.fetching.waiting() + others.iter().filter(|it| it.is_finished()).count() < OTHERS {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(end);
        [first].into_iter().chain(others).map(|it| it.join().expect("no panic")).collect()
    });
    (n.into_inner(), results)
}

#[test]
fn many_who_want_a_token_fetch_one() {
    let (n, results) = crowd(|| Ok(jwt(3600)));
    assert!(n == 1 && results.iter().all(Result::is_ok));
}

#[test]
fn a_fetch_that_fails_fails_for_all_who_waited_for_it_and_not_for_those_who_come_later() {
    let (n, results) = crowd(|| Err(gone()));
    assert!(n == 1 && results.iter().all(Result::is_err));
    let (auth, clock) = (with_tokens(), Clock::default());
    assert!(auth.credential(&clock, PATIENCE, |_| Err(gone())).is_err());
    assert!(auth.credential(&clock, PATIENCE, |_| Ok(jwt(3600))).is_ok());
}

#[test]
fn who_needs_a_token_while_another_is_fetched_uses_the_old_one_as_long_as_it_lives() {
    let (auth, clock) = (with_tokens(), Clock::default());
    let old = auth.credential(&clock, PATIENCE, |_| Ok(jwt(50))).expect("a token");
    let new = auth.credential(&clock, PATIENCE, |_| {
        let meanwhile = auth.credential(&clock, PATIENCE, |_| panic!("one at a time")).expect("the old one");
        assert_eq!(meanwhile, old);
        Ok(jwt(3600))
    });
    assert_ne!(new.expect("a token"), old);
}

#[test]
fn the_command_is_wanted_only_where_the_server_wants_it() {
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
