//! `tinkex session`.

use serde_json::json;
use tinkex::testing::Act;

use crate::manage_site::Site;

#[test]
fn sessions_are_listed_shown_and_moved_to_a_project() {
    let site = Site::new("sessions");
    site.react(|seen| {
        let session = json!({
            "training_run_ids": ["s:train:0", "s:train:1"], "sampler_ids": [], "user_metadata": { "a": "b" },
            "display_name": "night run",
        });
        let path = seen.path.split('?').next()?;
        match (seen.method.as_str(), path) {
            ("GET", "/api/v1/sessions") => Some(Act::json(json!({ "sessions": ["s", "t"] }))),
            ("GET", "/api/v1/sessions/s") => Some(Act::json(session)),
            ("PUT", "/api/v1/sessions/s/project") => Some(Act::json(json!({}))),
            _ => None,
        }
    });
    // This server has no search, which would tell more.
    let (_, tsv, _) = site.run(&["session", "list"]);
    assert_eq!(tsv, "session_id\tname\tstatus\tcreated\tcheckpoints\ns\t\t\t\t\nt\t\t\t\t\n");
    assert_eq!(site.run(&["session", "list", "-f", "table"]).1, "SESSION ID\ns\nt\n");
    assert_eq!(site.json(&["session", "list", "--limit", "1"]), json!({ "sessions": ["s"] }));
    let shown = site.json(&["session", "info", "s"]);
    assert_eq!((&shown["display_name"], &shown["session_id"]), (&json!("night run"), &json!("s")));
    let (_, tsv, _) = site.run(&["session", "info", "s"]);
    assert_eq!(tsv.matches("Training Run\ts:train:").count(), 2, "{tsv}");
    let said = "s is in the project p\n".to_owned();
    assert_eq!(site.run(&["session", "assign", "s", "p"]), (0, said, String::new()));
    assert_eq!(site.server.requests().pop().unwrap().json(), Some(json!({ "project_id": "p" })));
}

#[test]
fn a_list_of_sessions_has_their_names_and_times_after_their_ids() {
    let site = Site::new("session-details");
    site.react(|seen| {
        let found = |id: &str, name: &str| {
            json!({
                "session_id": id, "display_name": name, "status": { "type": "active" }, "checkpoints_count": 2,
                "created_at": "2026-02-01 00:00:00+00:00",
            })
        };
        // The newest one has begun since the ids were listed, and another one is not found.
        let sessions = json!({ "sessions": [found("new", "x"), found("t", "tea"), found("s", "sea")] });
        match seen.path.split('?').next()? {
            "/api/v1/sessions" => Some(Act::json(json!({ "sessions": ["t", "gone", "s"] }))),
            "/api/v1/sessions/search" => Some(Act::json(sessions)),
            _ => None,
        }
    });
    let (_, tsv, _) = site.run(&["session", "list"]);
    let lines: Vec<&str> = tsv.lines().skip(1).collect();
    let known = "active\t2026-02-01T00:00:00Z\t2";
    assert_eq!(lines, [format!("t\ttea\t{known}"), "gone\t\t\t\t".into(), format!("s\tsea\t{known}")]);
    assert_eq!(site.json(&["session", "list"]), json!({ "sessions": ["t", "gone", "s"] }));
}

#[test]
fn sessions_are_searched_by_all_that_the_server_offers() {
    let site = Site::new("session-search");
    site.react(|seen| {
        let found = json!({ "sessions": [{
            "session_id": "s", "display_name": "night", "status": { "type": "failed", "category": "user" },
            "checkpoints_count": 2, "checkpoint_storage_bytes": 1500, "created_at": "2026-02-01 00:00:00+00:00",
        }] });
        seen.path.ends_with("/sessions/search").then(|| Act::json(found))
    });
    let words = [
        "session",
        "search",
        "night",
        "--metadata",
        "a=b=c",
        "--status",
        "failed",
        "--status",
        "success",
        "--owner",
        "tml:user:1",
        "--project",
        "p",
        "--limit",
        "5",
    ];
    let (status, stdout, _) = site.run(&words);
    assert_eq!(status, 0);
    assert!(stdout.ends_with("s\tnight\tfailed\t2026-02-01T00:00:00Z\t2\t1500\t\t\n"), "{stdout}");
    assert_eq!(
        site.server.requests().pop().unwrap().json().unwrap(),
        json!({
            "project_ids": ["p"], "user_metadata": { "a": "b=c" }, "display_name": "night",
            "owner": { "type": "user", "owner_urns": ["tml:user:1"] }, "limit": 6,
            "statuses": [{ "type": "failed" }, { "type": "client_finished", "reasons": ["success"] }],
        })
    );
    let shown = site.json(&["session", "search"]);
    assert_eq!(shown["sessions"][0]["checkpoint_storage_bytes"], 1500);
    for wrong in [["--metadata", "a"], ["--status", "lost"], ["--owner", "me"]] {
        assert_eq!(site.run(&[&["session", "search"], &wrong[..]].concat()).0, 2, "{wrong:?}");
    }
}

#[test]
fn a_trace_is_saved_to_a_file_or_only_its_address_is_printed() {
    let site = Site::new("trace");
    let address = site.url("/trace?sig=secret");
    let export = json!({ "status": "ready", "url": address });
    site.react(move |seen| match seen.path.as_str() {
        "/api/v1/sessions/s/trace_export" => Some(Act::json(export.clone())),
        "/trace?sig=secret" => Some(Act::status(200, "trace!")),
        _ => None,
    });
    assert_eq!(site.run(&["session", "export-trace", "s", "--url-only"]).1, format!("{address}\n"));
    let (status, stdout, stderr) = site.run(&["session", "export-trace", "s"]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "s.pftrace\n", ""));
    assert_eq!(std::fs::read_to_string(site.home.join("s.pftrace")).unwrap(), "trace!");
    let shown = site.json(&["session", "export-trace", "s", "-o", "other"]);
    assert_eq!(shown, json!({ "session_id": "s", "destination": "other", "file_size_bytes": 6 }));
    let (status, _, stderr) = site.run(&["session", "export-trace", "s", "-o", "no/folder"]);
    assert!(status == 1 && stderr.contains("no/folder") && !stderr.contains("secret"), "{stderr}");
}

#[test]
fn commands_that_read_open_no_session_and_others_end_theirs() {
    let site = Site::with_checkpoints("sessions-end", 3);
    site.react(|seen| {
        let path = seen.path.split('?').next()?;
        // Without archives a download exports the state first.
        path.ends_with("/archive").then(|| Act::status(404, r#"{"detail":"no archives"}"#))
    });
    let paths = site.paths();
    let sessions = |suffix: &str| {
        let requests = site.server.requests();
        requests.iter().filter(|it| it.method == "POST" && it.path.ends_with(suffix)).count()
    };
    for words in [
        &["checkpoint", "list"][..],
        &["checkpoint", "info", &paths[0]],
        &["checkpoint", "delete", &paths[0], "--dry-run"],
        &["run", "list"],
        &["run", "info", "s:train:0"],
        &["session", "list"],
        &["session", "info", "s"],
        &["session", "export-trace", "s"],
        &["session", "export-trace", "s", "--url-only"],
        &["billing", "checkpoint-storage"],
        &["model", "list"],
        &["doctor"],
    ] {
        site.run(words);
        assert_eq!(sessions("/create_session"), 0, "{words:?}");
    }
    assert!(20 < site.server.requests().len());
    for (n, words) in [&["checkpoint", "download", &paths[0]][..], &["sample", "Hi", "-m", "tinkex/nano"]]
        .into_iter()
        .enumerate()
    {
        let (_, _, stderr) = site.run(words);
        assert_eq!((sessions("/create_session"), sessions("/finish")), (n + 1, n + 1), "{words:?} {stderr}");
    }
}
