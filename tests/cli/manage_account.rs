//! `tinkex auth`, `billing`, `audit`, `model` and `version`.

use serde_json::{Value, json};
use tinkex::testing::Act;

use crate::manage_site::{Site, outcome};
use crate::util::{Folder, run};

fn key_info() -> Act {
    let details = json!({ "org_details": { "name": "Lab" }, "user_details": { "email": "a@example.com" } });
    Act::json(json!({ "key_id": 7, "name": "laptop", "note": null, "details": details }))
}

fn stored(site: &Site) -> Value {
    let file = site.home.join(".tinker/credentials.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_key_from_a_pipe_is_checked_and_stored_and_used_and_removed() {
    let site = Site::new("login");
    site.server.always("/api/v1/auth/apikey/me", key_info());
    let (status, stdout, stderr) = site.run_with_input(&["auth", "login"], "tml-secret\n");
    assert_eq!(
        (status, stderr.as_str()),
        (0, "TINKER_API_KEY is set and is used instead of the stored key\n")
    );
    assert_eq!(
        stdout,
        "Logged in as a@example.com (Lab). Stored API key 'laptop' as the default credential.\n"
    );
    assert_eq!(stored(&site)["keys"]["7"]["key"], "tml-secret");
    let (status, _, stderr) = site.run_with_input(&["auth", "login"], "tml-other\n");
    assert!(status == 1 && stderr.contains("already logged in") && stderr.contains("logout"), "{stderr}");

    let mut without_variable = site.command(&["auth", "status", "-f", "json"]);
    let (status, stdout, _) = outcome(without_variable.env_remove("TINKER_API_KEY"));
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, shown), (0, json!({ "credentials_available": true, "tinker_accessible": true })));

    let (status, stdout, _) = site.run(&["auth", "logout"]);
    assert_eq!(status, 0);
    assert_eq!(stdout, "Removed credential 'laptop'. The API key is still active.\n");
    assert_eq!(stored(&site)["keys"], json!({}));
    assert_eq!(site.run(&["auth", "logout"]).0, 1);
}

#[test]
fn logging_out_deletes_a_generated_key_on_the_server_if_it_can() {
    let site = Site::new("logout-generated");
    let folder = site.home.join(".tinker");
    std::fs::create_dir_all(&folder).unwrap();
    let keys = json!({ "5": { "type": "generated", "key": "tml-generated", "name": "old" } });
    let file = json!({ "version": 1, "default": "5", "keys": keys }).to_string();
    let logout = |status: u16| {
        std::fs::write(folder.join("credentials.json"), &file).unwrap();
        site.server.always("/api/v1/auth/apikey/me", Act::status(status, "{}"));
        site.run(&["auth", "logout", "-f", "json"])
    };
    let (status, stdout, _) = logout(200);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, shown), (0, json!({ "key_id": "5", "name": "old", "revoked": true })));
    let request = site.server.requests().pop().unwrap();
    assert_eq!((request.method.as_str(), request.header("x-api-key")), ("DELETE", Some("tml-generated")));
    let (status, stdout, stderr) = logout(403);
    assert!(status == 0 && stdout.contains("false") && stderr.contains("could not delete"), "{stderr}");
    assert_eq!(stored(&site)["keys"], json!({}));
}

#[test]
fn a_refused_or_missing_key_is_not_stored() {
    let site = Site::new("login-refused");
    site.server.always("/api/v1/auth/apikey/me", Act::status(401, r#"{"detail":"unknown key"}"#));
    let (status, stdout, stderr) = site.run_with_input(&["auth", "login"], "tml-secret\n");
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("unknown key") && !stderr.contains("tml-secret"), "{stderr}");
    // The page of keys of the service has none for another server.
    assert!(
        stderr.contains("  try: a key that this server knows") && !stderr.contains("https://"),
        "{stderr}"
    );
    assert_eq!(site.run_with_input(&["auth", "login"], "\n").0, 2);
    assert_eq!(site.run(&["auth", "login", "tml-secret"]).0, 2);
    assert!(!site.home.join(".tinker").exists());
}

#[test]
fn the_status_without_a_key_or_with_a_refused_one_is_a_failure() {
    let home = Folder::new("status-none");
    let (status, stdout, stderr) = run(&home, &["auth", "status"]);
    assert_eq!((status, stdout.as_str()), (1, "Credentials available: no\n"));
    assert!(stderr.contains("tinkex auth login"), "{stderr}");
    let site = Site::new("status-refused");
    site.server.always("/api/v1/get_server_capabilities", Act::status(401, r#"{"detail":"expired"}"#));
    let (status, stdout, stderr) = site.run(&["auth", "status"]);
    assert_eq!((status, stdout.as_str()), (1, "Credentials available: yes\nTinker accessible: no\n"));
    assert!(stderr.contains("expired"), "{stderr}");
}

#[test]
fn the_identity_is_read_from_the_token() {
    use base64::Engine;
    let site = Site::new("whoami");
    let claims = json!({
        "exp": 4_000_000_000_u64, "sub": "tml:user:7", "org_id": "9", "email": "a@example.com", "iss": "passport-1",
    });
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    let token = format!("eyJhbGciOiJub25lIn0.{claims}.sig");
    let whoami =
        |format| outcome(site.command(&["auth", "whoami", "-f", format]).env("TINKER_API_KEY", &token));
    let (status, stdout, stderr) = whoami("json");
    assert_eq!((status, stderr.as_str()), (0, ""));
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        shown,
        json!({ "user_urn": "tml:user:7", "org_urn": "tml:organization:9", "email": "a@example.com" })
    );
    let expected =
        "property\tvalue\nEmail\ta@example.com\nUser\ttml:user:7\nOrganization\ttml:organization:9\n";
    assert_eq!(whoami("tsv").1, expected);
    let (status, _, stderr) = site.run(&["auth", "whoami"]);
    assert!(status == 1 && stderr.contains("API key"), "{stderr}");
}

#[test]
fn a_server_that_never_answers_is_given_up_after_the_time_limit() {
    let site = Site::new("manage-timeout");
    site.react(|_| Some(Act::Stall));
    let (status, stdout, stderr) = site.run(&["run", "list", "--timeout", "1s"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    let expected = "error: list training runs did not finish within the time limit (--timeout) (1s)";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn every_command_without_a_key_says_how_to_get_one() {
    let home = Folder::new("manage-no-key");
    for words in [
        &["run", "list"][..],
        &["run", "info", "r"],
        &["checkpoint", "list"],
        &["checkpoint", "delete", "tinker://r/weights/x", "-y"],
        &["session", "list"],
        &["billing", "checkpoint-storage"],
        &["audit", "all"],
        &["auth", "whoami"],
    ] {
        let (status, stdout, stderr) = run(&home, words);
        assert_eq!((status, stdout.as_str()), (1, ""), "{words:?}");
        assert!(stderr.contains("TINKER_API_KEY") && stderr.contains("tinkex auth login"), "{stderr}");
    }
}

#[test]
fn usage_is_shown_as_rows_as_json_and_as_csv() {
    let site = Site::new("usage");
    site.react(|seen| {
        let usage = json!({
            "data": [
                {
                    "bucket_start": "2026-11-20T09:00:00+00:00", "bucket_end": "2026-11-20T10:00:00+00:00",
                    "base_model": "a/model", "session_id": "s", "event_info": { "type": "training", "token_count": 2_500_000 },
                },
                {
                    "bucket_start": "2026-11-20T09:00:00+00:00", "estimated_cost_usd": 1.25, "user_name": "Ann, B.",
                    "event_info": { "type": "storage", "gigabyte_hours": 1.5 },
                },
            ],
            "sessions": { "s": { "user_metadata": { "recipe": "sft" } } },
            "cost_data_through": "2026-11-20T08:00:00Z",
        });
        seen.path.starts_with("/api/v1/billing/usage/events").then(|| Act::json(usage))
    });
    let words = ["billing", "usage", "2026-11-20", "2026-11-21T00:00:00Z"];
    let (status, stdout, stderr) = site.run(&words);
    assert_eq!((status, stderr.as_str(), stdout.lines().count()), (0, "", 3));
    assert!(stdout.contains("2026-11-20T09:00:00Z\ttraining\ta/model\t2500000\t\t"), "{stdout}");
    let (_, table, _) = site.run(&[&words[..], &["-f", "table"]].concat());
    assert!(table.contains("2500000") && table.contains("null"), "{table}");
    let shown = site.json(&words);
    assert_eq!(shown["data"][0]["event_info"]["token_count"], 2_500_000);
    assert_eq!(
        (&shown["data"][0]["estimated_cost_usd"], &shown["cost_data_through"]),
        (&Value::Null, &json!("2026-11-20T08:00:00Z"))
    );
    let (_, csv, _) = site.run(&[&words[..], &["--csv", "-", "--sessions-csv", "sessions.csv"]].concat());
    assert!(csv.starts_with("bucket_start,type,base_model,") && csv.contains("\"Ann, B.\""), "{csv}");
    assert_eq!(
        std::fs::read_to_string(site.home.join("sessions.csv")).unwrap(),
        "session_id,user_metadata\r\ns,\"{\"\"recipe\"\":\"\"sft\"\"}\"\r\n"
    );
    for wrong in
        [["2026-11-20T09:30:00Z", "2026-11-21"], ["2026-11-21", "2026-11-20"], ["2026-01-01", "2026-11-20"]]
    {
        assert_eq!(site.run(&["billing", "usage", wrong[0], wrong[1]]).0, 2, "{wrong:?}");
    }
}

#[test]
fn storage_is_shown_with_its_rate() {
    let site = Site::new("storage");
    site.react(|seen| {
        let usage = json!({ "effective_rate_usd_per_gigabyte_month": 0.1, "data": [{
            "project_id": "p", "user_name": "Ann", "checkpoint_count": 3, "size_bytes": 1_500_000_000,
            "size_gigabytes": 1.5, "estimated_monthly_cost_usd": 0.15,
        }] });
        seen.path.starts_with("/api/v1/billing/usage/checkpoints/current").then(|| Act::json(usage))
    });
    let (_, stdout, _) = site.run(&["billing", "checkpoint-storage", "--project-id", "p"]);
    assert!(stdout.ends_with("\n0.1\tp\t3\t1500000000\t1.5\t0.15\tAnn\t\t\n"), "{stdout}");
    assert!(site.server.requests().pop().unwrap().path.ends_with("?project_id=p"));
    assert_eq!(site.json(&["billing", "checkpoint-storage"])["data"][0]["size_gigabytes"], 1.5);
    let (_, csv, _) = site.run(&["billing", "checkpoint-storage", "--csv", "-"]);
    assert!(csv.contains("\r\n0.1,p,3,1500000000,1.5,0.15,Ann,,\r\n"), "{csv}");
}

#[test]
fn the_audit_log_of_a_day_is_shown() {
    let site = Site::new("audit");
    site.react(|seen| {
        let entries = json!({ "entries": [{
            "timestamp": "2026-11-20 13:00:00+00:00", "event": "checkpoint.read", "event_details": { "n": 1 },
            "tinker_path": "tinker://r/weights/x", "purpose": "sampling",
        }] });
        seen.path.starts_with("/api/v1/audit").then(|| Act::json(entries))
    });
    let (_, stdout, _) = site.run(&["audit", "checkpoints", "--day", "2026-11-20"]);
    assert!(
        stdout.ends_with(
            "2026-11-20T13:00:00Z\tcheckpoint.read\ttinker://r/weights/x\tsampling\t\t{\"n\":1}\n"
        ),
        "{stdout}"
    );
    let path = site.server.requests().pop().unwrap().path;
    assert!(path.contains("event_type=checkpoints") && path.contains("day=2026-11-20"), "{path}");
    assert_eq!(site.json(&["audit", "all"])["entries"][0]["event_details"], json!({ "n": 1 }));
    assert_eq!(site.run(&["audit", "everything"]).0, 2);
    assert_eq!(site.run(&["audit", "all", "--day", "2026-02-30"]).0, 2);
}

#[test]
fn models_are_listed_with_prices_and_unknown_prices_are_said() {
    let site = Site::new("prices");
    let models = json!({ "supported_models": [
        { "model_name": "a/known", "trainable": true, "sampleable": true, "max_context_length": 1024 },
        { "model_name": "a/other", "trainable": false },
    ] });
    site.server.always("/api/v1/get_server_capabilities", Act::json(models));
    let list = json!([
        { "tinker_id": "a/known", "prefill": "$0.10", "cached_prefill": "$0.02", "sample": "$0.3", "train": "$0.40" },
    ]);
    site.react(move |seen| (seen.path == "/models.json").then(|| Act::json(list.clone())));
    let prices = |source: &str, words: &[&str]| {
        let words = [&["model", "list", "--prices"], words].concat();
        outcome(site.command(&words).env("TINKEX_PRICES", source))
    };
    let (status, stdout, stderr) = prices(&site.url("/models.json"), &[]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(
        stdout.contains("\na/known\t1024\tYes\tYes\t0.1\t0.02\t0.3\t0.4\na/other\t\tNo\t\t\t\t\t\n"),
        "{stdout}"
    );
    let (_, stdout, _) = prices(&site.url("/models.json"), &["-f", "json"]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        shown["models"][0]["prices"],
        json!({ "prefill": 0.1, "cached_prefill": 0.02, "sample": 0.3, "train": 0.4 })
    );
    assert_eq!(shown["models"][1]["prices"], Value::Null);
    for source in ["off", "missing.json", &site.url("/other")] {
        let (status, stdout, stderr) = prices(source, &["--trainable"]);
        assert_eq!(status, 0);
        assert!(stdout.ends_with("a/known\t1024\tYes\tYes\t\t\t\t\n"), "{stdout}");
        assert!(stderr.starts_with("price unknown: "), "{stderr}");
    }
    assert_eq!(site.json(&["model", "list"])["models"][0].get("prices"), None);
}

#[test]
fn the_version_is_text_or_json() {
    let home = Folder::new("version");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&home, &["version"]).1, format!("tinkex {version}\n"));
    let (_, stdout, _) = run(&home, &["version", "-f", "json"]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(shown, json!({ "name": "tinkex", "version": version }));
}
