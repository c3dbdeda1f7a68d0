//! `tinkex doctor`: the examination of a connection.

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer, Listening};

use crate::util::{Folder, run, tinkex};

/// A key whose value must not be shown.
const KEY: &str = "tml-do-not-show-me";

/// Examines a server with a key; returns the status and the findings.
fn examine(home: &Folder, url: &str) -> (i32, Value) {
    let output = tinkex(home)
        .env("TINKER_API_KEY", KEY)
        .args(["doctor", "--base-url", url, "-f", "json"])
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(!stdout.contains(KEY) && !stdout.contains("show-me"), "{stdout}");
    (output.status.code().unwrap(), serde_json::from_str(&stdout).unwrap())
}

/// The finding of a check.
#[track_caller]
fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|it| it["check"] == check).unwrap_or_else(|| panic!("no {check}: {report:#}"))
}

#[track_caller]
fn assert_finding(report: &Value, check: &str, mark: &str, text: &str) {
    let found = finding(report, check);
    assert_eq!(found["mark"], mark, "{found}");
    assert!(found["text"].as_str().unwrap().contains(text), "{found}");
    let has_remedy = found["remedy"].is_string();
    assert_eq!(has_remedy, ["warn", "fail"].contains(&mark), "{found}");
}

fn fake() -> (FakeServer, Listening) {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    (server, listening)
}

#[test]
fn nothing_fails_at_the_engine_and_no_session_is_made() {
    let home = Folder::new("doctor-engine");
    let local = format!("--local={}", home.join("engine").display());
    let (status, stdout, stderr) = run(&home, &["doctor", &local]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    for line in [
        "mark\tcheck\tresult\tremedy\n",
        "ok\tcredential\tof the engine in this process\t\n",
        "ok\tclock\tas the server's\t\n",
        "ok\tkey\taccepted\t\n",
        "ok\tmodels\ttinkex/nano (the engine of tinkex)\t\n",
        "skip\tTLS\t",
        "custom_loss_server_side",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    assert!(!stdout.contains("\nfail\t"), "{stdout}");
    let (_, table, _) = run(&home, &["doctor", &local, "-f", "table"]);
    assert!(table.starts_with("ok    credential  of the engine in this process\n"), "{table}");
    assert_eq!(run(&home, &["model", "list", &local]).0, 0);
    // An examination makes no folder, and says that there is none.
    assert!(!home.join("engine").exists());
    assert!(table.contains("ok    folder      ") && table.contains("no engine is in it yet"), "{table}");
    drop(crate::util::engine(&home));
    let mistyped = format!("--local={}", home.join("engin").display());
    let (_, table, _) = run(&home, &["doctor", &mistyped, "-f", "table"]);
    assert!(table.contains("warn  folder") && table.contains("try: did you mean --local="), "{table}");
}

#[test]
fn a_server_that_answers_is_examined_with_requests_that_make_nothing() {
    let home = Folder::new("doctor-fake");
    let (server, listening) = fake();
    let (status, report) = examine(&home, &listening.url());
    assert_eq!((status, &report["n_fail"]), (0, &json!(0)), "{report:#}");
    assert_finding(&report, "credential", "ok", "TINKER_API_KEY, an API key");
    assert_finding(&report, "round trip", "ok", "median of 5");
    assert_finding(&report, "clock", "skip", "no time");
    let made: Vec<String> =
        server.requests().into_iter().map(|it| format!("{} {}", it.method, it.path)).collect();
    let is_free = |it: &String| ["healthz", "client/", "capabilities"].iter().any(|part| it.contains(part));
    assert!(made.iter().all(is_free), "{made:?}");
}

#[test]
fn a_dead_address_a_wrong_key_and_a_wrong_clock_are_told_apart() {
    let home = Folder::new("doctor-faults");
    let (_server, listening) = fake();
    listening.refuse();
    let (status, report) = examine(&home, &listening.url());
    assert_eq!(status, 1);
    assert_finding(&report, "connection", "fail", "refused");
    assert!(report["findings"].as_array().unwrap().iter().all(|it| it["check"] != "key"));

    let (server, listening) = fake();
    server.always("/api/v1/get_server_capabilities", Act::status(401, r#"{"detail":"who are you?"}"#));
    let (status, report) = examine(&home, &listening.url());
    assert_eq!(status, 1);
    assert_finding(&report, "key", "fail", "who are you?");

    let (server, listening) = fake();
    let healthy = Act::json(json!({ "status": "ok" }));
    server.always("/api/v1/healthz", healthy.with_header("Date", "Thu, 01 Jan 2026 00:00:00 GMT"));
    let (status, report) = examine(&home, &listening.url());
    assert_eq!(status, 1);
    assert_finding(&report, "clock", "fail", "s ahead of the server's");

    let (server, listening) = fake();
    server.always("/api/v1/healthz", Act::status(404, r#"{"detail":"Not Found"}"#));
    let (status, report) = examine(&home, &listening.url());
    assert_eq!(status, 1);
    assert_finding(&report, "server", "fail", "404");

    let (server, listening) = fake();
    server.always("/api/v1/healthz", Act::Garbage("SSH-2.0-OpenSSH_9.2\r\n".into()));
    let (status, report) = examine(&home, &listening.url());
    assert_eq!(status, 1);
    assert_finding(&report, "answer", "fail", "");
}

#[test]
fn without_a_key_the_network_is_examined_all_the_same() {
    let home = Folder::new("doctor-no-key");
    let (_server, listening) = fake();
    let (status, stdout, stderr) = run(&home, &["doctor", "--base-url", &listening.url(), "-f", "json"]);
    assert_eq!((status, stderr.as_str()), (1, ""));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_finding(&report, "credential", "fail", "none");
    assert!(finding(&report, "credential")["remedy"].as_str().unwrap().contains("tinkex auth login"));
    assert_finding(&report, "round trip", "ok", "median");
}

#[test]
fn proxies_and_passwords_in_addresses_are_named_without_their_values() {
    let home = Folder::new("doctor-proxy");
    let mut command = tinkex(&home);
    command.env("TINKER_API_KEY", KEY).env("HTTPS_PROXY", "http://me:hidden-word@127.0.0.1:9");
    let output =
        command.args(["doctor", "--base-url", "https://example.invalid", "-f", "json"]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!stdout.contains("hidden-word"), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_finding(&report, "proxy", "ok", "used: HTTPS_PROXY");
    assert_finding(&report, "DNS", "skip", "proxy");
}

#[test]
fn the_methods_are_examined_only_on_demand_and_after_a_question() {
    let home = Folder::new("doctor-verbs");
    let (server, listening) = fake();
    let url = listening.url();
    let call = |more: &[&str]| {
        let mut command = tinkex(&home);
        command.env("TINKER_API_KEY", KEY).args(["doctor", "--verbs", "--base-url", &url]).args(more);
        command.output().unwrap()
    };
    let asked = call(&[]);
    assert_eq!(asked.status.code(), Some(2));
    assert!(String::from_utf8(asked.stderr).unwrap().contains("--yes"));
    assert!(server.requests_to("/api/v1/create_model").is_empty());
    let output = call(&["--yes", "-f", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["n_broken"]), (Some(0), &json!(0)), "{report:#}");
    let methods = report["methods"].as_array().unwrap();
    assert!(methods.iter().any(|it| it["method"] == "forward_backward, ppo" || it["method"] == "optim_step"));
    assert!(methods.iter().all(|it| it["mark"] != "broken"));
}

#[test]
fn a_certificate_that_is_not_trusted_is_named_with_a_remedy_that_works() {
    let home = Folder::new("doctor-tls");
    let url = crate::tls::server();
    let (status, report) = examine(&home, &url);
    assert_eq!(status, 1);
    assert_finding(&report, "TLS", "fail", "certificate");
    let remedy = finding(&report, "TLS")["remedy"].as_str().unwrap();
    assert!(remedy.contains("SSL_CERT_FILE=authority.pem"), "{remedy}");
    let output = tinkex(&home)
        .env("TINKER_API_KEY", KEY)
        .env("SSL_CERT_FILE", crate::tls::data("ca.pem"))
        .args(["doctor", "--base-url", &url, "-f", "json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_finding(&report, "TLS", "ok", "the certificate is trusted");
    assert_finding(&report, "key", "ok", "accepted");
}
