//! `tinkex checkpoint`, except for deletions.

use serde_json::{Value, json};
use snapbox::{IntoData, assert_data_eq, str};
use tinkex::testing::{Act, Seen};

use crate::manage_site::{Site, outcome};

#[test]
fn a_thousand_checkpoints_are_listed_over_pages_as_tsv_with_whole_paths() {
    let site = Site::with_checkpoints("list-1000", 1000);
    let (status, stdout, stderr) = site.run(&["checkpoint", "list", "--limit", "0"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 1001);
    assert_eq!(lines[0], "checkpoint_id\ttype\tsize\tpublic\tcreated\texpires\tpath");
    assert_eq!(
        lines[2],
        "weights/step-0001\ttraining\t1000000000\tYes\t2026-02-27T08:00:00Z\t\t\
         tinker://0f0e0d0c-0000-4000-8000-000000000000:train:0/weights/step-0001"
    );
    let is_list = |it: &&Seen| it.path.starts_with("/api/v1/checkpoints");
    assert_eq!(site.server.requests().iter().filter(is_list).count(), 3);
}

#[test]
fn a_program_gets_all_checkpoints_and_a_person_is_told_how_many_there_are() {
    let site = Site::with_checkpoints("list-all", 137);
    let (_, stdout, stderr) = site.run(&["checkpoint", "list"]);
    assert_eq!((stdout.lines().count(), stderr.as_str()), (138, ""));
    assert_eq!(site.json(&["checkpoint", "list"])["checkpoints"].as_array().unwrap().len(), 137);
    let (_, table, stderr) =
        outcome(site.command(&["checkpoint", "list", "-f", "table"]).env("COLUMNS", "150"));
    assert_eq!(table.lines().count(), 21);
    assert_eq!(stderr, "note: 20 of 137 checkpoints; --limit 0 lists all\n");
    let (_, stdout, stderr) = site.run(&["checkpoint", "list", "--type", "sampler", "--limit", "5"]);
    assert_eq!(stdout.lines().count(), 6);
    assert_eq!(stderr, "note: 5 of 45 checkpoints; --limit 0 lists all\n");
    let (_, stdout, stderr) = site.run(&["checkpoint", "list", "--limit", "137"]);
    assert_eq!((stdout.lines().count(), stderr.as_str()), (138, ""));
}

#[test]
fn a_list_shows_what_a_deletion_with_the_same_options_is_about() {
    let site = Site::with_checkpoints("list-selection", 250);
    for options in [
        &["--before", "2026-02-20"][..],
        &["--older-than", "30d", "--type", "training"],
        &["--after", "2025-12-01", "--before", "2026-02-01"],
        &["--keep-last", "2"],
        &["--run-id", "0f0e0d0c-0000-4000-8000-000000000001:train:0", "--keep-last", "1"],
    ] {
        let listed = site.json(&[&["checkpoint", "list"], options].concat())["checkpoints"].take();
        let delete = ["checkpoint", "delete", "--dry-run", "--include-public"];
        let deleted = site.json(&[&delete, options].concat())["delete"].take();
        let paths = |list: &Value| {
            let paths = list.as_array().unwrap().iter().map(|it| it["tinker_path"].to_string());
            paths.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(paths(&listed), paths(&deleted), "{options:?}");
        assert!((1..250).contains(&paths(&listed).len()), "{options:?}");
    }
}

#[test]
fn a_table_shows_whole_paths_at_any_width() {
    let site = Site::with_checkpoints("list-table", 2);
    let table = |columns: &str| {
        outcome(site.command(&["checkpoint", "list", "-f", "table"]).env("COLUMNS", columns)).1
    };
    assert_data_eq!(
        table("80"),
        str![[r#"
tinker://0f0e0d0c-0000-4000-8000-000000000000:train:0/weights/step-0000
  Type: training  Size: 1.0 GB  Public: No  Created: 2026-02-28  Expires: Never
tinker://0f0e0d0c-0000-4000-8000-000000000000:train:0/weights/step-0001
  Type: training  Size: 1.0 GB  Public: Yes  Created: 2026-02-27  Expires: Never

"#]]
        .raw()
    );
    assert_data_eq!(table("120"), str![[r#"
TYPE      SIZE    PUBLIC  CREATED     EXPIRES  PATH
training  1.0 GB  No      2026-02-28  Never    tinker://0f0e0d0c-0000-4000-8000-000000000000:train:0/weights/step-0000
training  1.0 GB  Yes     2026-02-27  Never    tinker://0f0e0d0c-0000-4000-8000-000000000000:train:0/weights/step-0001

"#]].raw());
}

#[test]
fn lists_are_json_with_the_keys_of_the_official_command_and_jsonl() {
    let site = Site::with_checkpoints("list-json", 3);
    let all = site.json(&["checkpoint", "list"]);
    assert_eq!(
        all["checkpoints"][0],
        json!({
            "checkpoint_id": "weights/step-0000", "checkpoint_type": "training", "time": "2026-02-28T08:00:00Z",
            "tinker_path": "tinker://0f0e0d0c-0000-4000-8000-000000000000:train:0/weights/step-0000",
            "size_bytes": 1_000_000_000, "public": false, "user_metadata": {}, "expires_at": null,
        })
    );
    assert_eq!(all.get("run_id"), None);
    let run = "0f0e0d0c-0000-4000-8000-000000000000:train:0";
    let of_run = site.json(&["checkpoint", "list", "--run-id", run, "--type", "sampler"]);
    assert_eq!((&of_run["run_id"], of_run["checkpoints"].as_array().unwrap().len()), (&json!(run), 1));
    let (_, lines, _) = site.run(&["checkpoint", "list", "-f", "jsonl", "--type", "weights"]);
    let lines: Vec<Value> = lines.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["checkpoint_id"], "weights/step-0001");
}

#[test]
fn lists_are_sorted_by_size_or_time_before_they_are_cut() {
    let site = Site::new("list-sorted");
    let checkpoint = |name: &str, size: u64, day: u32| {
        json!({
            "checkpoint_id": format!("weights/{name}"), "checkpoint_type": "training", "size_bytes": size,
            "time": format!("2026-11-{day:02}T00:00:00Z"), "tinker_path": format!("tinker://r/weights/{name}"),
        })
    };
    let list =
        json!({ "checkpoints": [checkpoint("a", 5, 1), checkpoint("b", 9, 3), checkpoint("c", 7, 2)] });
    site.react(move |seen| seen.path.starts_with("/api/v1/checkpoints").then(|| Act::json(list.clone())));
    let names = |sort: &str| {
        let list = site.json(&["checkpoint", "list", "--sort", sort, "--limit", "2"]);
        let names = list["checkpoints"].as_array().unwrap().iter().map(|it| it["checkpoint_id"].to_string());
        names.collect::<Vec<_>>().join(" ").replace("weights/", "").replace('"', "")
    };
    assert_eq!((names("size").as_str(), names("time").as_str()), ("b c", "b c"));
    assert_eq!(site.json(&["checkpoint", "list", "--sort", "size"])["checkpoints"][2]["size_bytes"], 5);
}

#[test]
fn a_server_that_cannot_list_all_checkpoints_is_asked_for_those_of_each_run() {
    let site = Site::with_checkpoints("list-runs", 150);
    site.react(|seen| {
        let run = |i: usize| json!({ "training_run_id": format!("0f0e0d0c-0000-4000-8000-{i:012}:train:0") });
        if seen.path.starts_with("/api/v1/checkpoints") {
            return Some(Act::status(404, r#"{"detail":"Not Found"}"#));
        }
        let is_list = seen.path.starts_with("/api/v1/training_runs?");
        is_list.then(|| Act::json(json!({ "training_runs": [run(0), run(1)] })))
    });
    let list = |limit: &str| site.json(&["checkpoint", "list", "--limit", limit])["checkpoints"].take();
    assert_eq!((list("0").as_array().unwrap().len(), list("5").as_array().unwrap().len()), (150, 5));
    let deleted = site.json(&["checkpoint", "delete", "--type", "sampler", "-y"]);
    assert_eq!(deleted["deleted_count"], 50);
}

#[test]
fn the_reader_of_a_list_may_leave_early() {
    let site = Site::with_checkpoints("list-head", 1000);
    let mut shell = std::process::Command::new("bash");
    let program = site.command(&[]);
    shell.env_clear();
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let script = format!(
        "set -o pipefail; PATH=/usr/bin:/bin; {} checkpoint list --limit 0 | head -n 1",
        env!("CARGO_BIN_EXE_tinkex")
    );
    let (status, stdout, stderr) = outcome(shell.args(["-c", &script]));
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(stdout.lines().count(), 1);
}

#[test]
fn one_checkpoint_is_shown_with_its_run() {
    let site = Site::with_checkpoints("info", 3);
    site.react(|seen| {
        let is_run = seen.path.contains("/training_runs/") && !seen.path.contains("checkpoints");
        is_run.then(|| {
            Act::json(json!({ "training_run_id": "r", "base_model": "a/b", "is_lora": true, "lora_rank": 8 }))
        })
    });
    let path = site.paths()[2].clone();
    let shown = site.json(&["checkpoint", "info", &path]);
    assert_eq!((&shown["tinker_path"], &shown["lora_rank"]), (&json!(path), &json!(8)));
    assert_eq!((&shown["is_lora"], &shown["checkpoint_type"]), (&json!(true), &json!("sampler")));
    let (_, tsv, _) = site.run(&["checkpoint", "info", &path]);
    assert!(tsv.starts_with("property\tvalue\nCheckpoint ID\tsampler_weights/step-0002\n"), "{tsv}");
    let unknown = path.replace("0002", "0009");
    let (status, _, stderr) = site.run(&["checkpoint", "info", &unknown]);
    assert!(status == 1 && stderr.contains("has no checkpoint") && stderr.contains("try:"), "{stderr}");
    // For a program it is an answer 404, as that of a server which says so itself.
    let (status, stdout, stderr) = site.run(&["checkpoint", "info", &unknown, "-f", "json"]);
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert_eq!((&error["error"]["kind"], &error["error"]["code"]), (&json!("NotFound"), &json!(404)));
}

#[test]
fn a_program_reads_one_line_about_the_only_checkpoint_that_could_not_be_changed() {
    let site = Site::with_checkpoints("only-one", 3);
    let gone = site.paths()[2].replace("0002", "0009");
    let detail = format!(r#"{{"detail":"{gone} does not exist"}}"#);
    site.react(move |seen| {
        matches!(seen.method.as_str(), "DELETE" | "PUT").then(|| Act::status(404, detail.clone()))
    });
    for words in [
        &["checkpoint", "delete", "--yes"][..],
        &["checkpoint", "delete", "--dry-run"],
        &["checkpoint", "set-ttl", "--ttl", "1d"],
    ] {
        let (status, stdout, stderr) = site.run(&[words, &[&gone, "-f", "json"]].concat());
        assert_eq!(status, 1, "{stderr}");
        assert!(serde_json::from_str::<Value>(&stdout).is_ok_and(|it| it.is_object()), "{stdout}");
        let error: Value = serde_json::from_str(&stderr).unwrap_or_else(|_| panic!("{stderr}"));
        let error = &error["error"];
        assert_eq!((&error["path"], &error["code"]), (&json!(gone), &json!(404)), "{stderr}");
        // A person reads it once, and what to do.
        let (status, _, stderr) = site.run(&[words, &[gone.as_str()]].concat());
        assert_eq!((status, stderr.matches("error: ").count()), (1, 1), "{stderr}");
        assert!(stderr.contains(&gone) && !stderr.contains("1 of 1"), "{stderr}");
    }
}

#[test]
fn a_list_leaves_public_checkpoints_out_or_has_them_alone() {
    let site = Site::with_checkpoints("visibility", 20);
    let listed = |words: &[&str]| {
        let shown = site.json(&[&["checkpoint", "list", "--limit", "0"][..], words].concat());
        shown["checkpoints"].as_array().unwrap().clone()
    };
    let all = listed(&[]);
    let public = listed(&["--visibility", "public"]);
    let private = listed(&["--visibility", "private"]);
    assert!(!public.is_empty() && public.iter().all(|it| it["public"] == true));
    assert!(!private.is_empty() && private.iter().all(|it| it["public"] == false));
    assert_eq!(public.len() + private.len(), all.len());
}

#[test]
fn a_malformed_path_is_an_error_of_usage() {
    let site = Site::new("bad-path");
    for words in [&["info"][..], &["publish"], &["delete", "-y"], &["set-ttl", "--remove"], &["copy"]] {
        let (status, stdout, stderr) = site.run(&[&["checkpoint"], words, &["weights/x"]].concat());
        assert_eq!((status, stdout.as_str()), (2, ""), "{words:?} {stderr}");
    }
    assert_eq!(site.server.requests().len(), 0);
}

#[test]
fn publishing_says_what_it_did_and_can_be_repeated() {
    let site = Site::new("publish");
    let path = "tinker://r/weights/x";
    site.react(|seen| seen.path.ends_with("/publish").then(|| Act::status(204, "")));
    let said = format!("{path} is public\n");
    assert_eq!(site.run(&["checkpoint", "publish", path]), (0, said, String::new()));
    assert_eq!(
        site.json(&["checkpoint", "unpublish", path]),
        json!({ "tinker_path": path, "public": false, "updated_count": 1, "already_count": 0, "failed": [] })
    );
    let methods: Vec<String> = site.server.requests().into_iter().map(|it| it.method).collect();
    assert!(methods.contains(&"POST".to_owned()) && methods.contains(&"DELETE".to_owned()), "{methods:?}");
    site.react(|seen| {
        seen.path.ends_with("/publish").then(|| Act::status(409, r#"{"detail":"already public"}"#))
    });
    let shown = site.json(&["checkpoint", "publish", path]);
    assert_eq!((&shown["updated_count"], &shown["already_count"]), (&json!(0), &json!(1)));
    let said = format!("{path} is public already\n");
    assert_eq!(site.run(&["checkpoint", "publish", path]), (0, said, String::new()));
}

#[test]
fn the_lifetime_of_several_checkpoints_is_set_or_removed() {
    let site = Site::new("set-ttl");
    site.react(|seen| {
        let fails = seen.path.contains("/bad/");
        let act = if fails {
            Act::status(404, r#"{"detail":"no such checkpoint"}"#)
        } else {
            Act::status(200, "{}")
        };
        seen.path.ends_with("/ttl").then_some(act)
    });
    let (good, bad) = ("tinker://r/weights/good", "tinker://r/weights/bad");
    let other = "tinker://r/weights/other";
    let (status, stdout, _) = site.run(&["checkpoint", "set-ttl", good, other, good, "--ttl", "30d"]);
    assert!(status == 0 && stdout.starts_with("2 checkpoints expire at 2"), "{stdout}");
    let sent = |site: &Site| site.server.requests().last().unwrap().json().unwrap();
    assert_eq!(sent(&site), json!({ "ttl_seconds": 2_592_000 }));
    assert_eq!(site.run(&["checkpoint", "set-ttl", good, "--ttl", "7200"]).0, 0);
    assert_eq!(sent(&site), json!({ "ttl_seconds": 7200 }));
    let said = format!("{good} is kept until it is deleted\n");
    assert_eq!(site.run(&["checkpoint", "set-ttl", good, "--remove"]), (0, said, String::new()));
    assert_eq!(sent(&site), json!({ "ttl_seconds": null }));
    let (status, stdout, stderr) = site.run(&["checkpoint", "set-ttl", good, bad, "--remove", "-f", "json"]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, &shown["updated_count"]), (3, &json!(1)));
    assert_eq!(shown["failed"][0]["tinker_path"], bad);
    let errors: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((errors.len(), &errors[0]["error"]["path"]), (2, &json!(bad)), "{stderr}");
    assert!(errors[0]["error"]["message"].as_str().unwrap().contains("no such checkpoint"), "{stderr}");
    assert!(errors[1]["error"]["try"].as_str().unwrap().contains("--ignore-missing"), "{stderr}");
    assert_eq!(site.run(&["checkpoint", "set-ttl", bad, "--remove"]).0, 1);
    let never = ["checkpoint", "set-ttl", good, bad, "--ttl", "never", "--ignore-missing"];
    let (status, stdout, stderr) = site.run(&never);
    assert_eq!((status, stdout.as_str()), (0, "1 of 2 checkpoints is kept until it is deleted\n"));
    assert_eq!(stderr, "note: 1 of 2 checkpoints did not exist\n");
    assert_eq!(sent(&site), json!({ "ttl_seconds": null }));
    assert_eq!(site.json(&never)["missing"], json!([bad]));
    for wrong in [&["--ttl", "5m"][..], &["--ttl", "1h", "--remove"], &[]] {
        assert_eq!(site.run(&[&["checkpoint", "set-ttl", good], wrong].concat()).0, 2, "{wrong:?}");
    }
}

/// The server of checkpoints that can also be changed, of which the second one is public.
fn changing(name: &str) -> Site {
    let site = Site::with_checkpoints(name, 6);
    site.react(|seen| {
        let is_change =
            seen.method != "GET" && (seen.path.ends_with("/ttl") || seen.path.ends_with("/publish"));
        is_change.then(|| Act::status(200, "{}"))
    });
    site
}

/// The names of the checkpoints that were changed with requests of this method, in their order.
fn changed(site: &Site, method: &str) -> Vec<String> {
    let requests = site.server.requests();
    let changes = requests.iter().filter(|it| it.method == method && it.path.contains("step-"));
    let mut names: Vec<String> =
        changes.map(|it| it.path.split('/').nth_back(1).unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn lifetimes_are_set_of_the_checkpoints_that_a_list_with_the_same_options_shows() {
    let site = changing("set-ttl-filters");
    let words = ["checkpoint", "set-ttl", "--type", "training", "--ttl", "30d"];
    let (status, _, stderr) = site.run(&words);
    assert!(status == 2 && stderr.contains("--dry-run to see what would be changed"), "{stderr}");
    let (status, _, stderr) = site.run(&["checkpoint", "set-ttl", "--ttl", "30d"]);
    assert!(status == 2 && stderr.contains("no checkpoint is chosen"), "{stderr}");
    let (status, stdout, stderr) = site.run(&[&words[..], &["--dry-run"]].concat());
    assert_eq!((status, stdout.lines().count()), (0, 4));
    let left_out = "note: without 1 public checkpoint; --include-public sets their lifetime, too\n";
    let would = format!("{left_out}would set the lifetime of 3 checkpoints, 3.0 GB, until 20");
    assert!(stderr.starts_with(&would) && stderr.ends_with("Z\n"), "{stderr}");
    let plan = site.json(&[&words[..], &["--dry-run"]].concat());
    assert_eq!((plan["checkpoints"].as_array().unwrap().len(), &plan["ttl_seconds"]), (3, &json!(2_592_000)));
    assert!(plan["would_expire_at"].as_str().unwrap().starts_with("20"), "{plan}");
    assert_eq!(changed(&site, "PUT"), Vec::<String>::new());
    let (status, stdout, _) = site.run(&[&words[..], &["--yes"]].concat());
    assert!(status == 0 && stdout.starts_with("3 checkpoints expire at 2"), "{stdout}");
    assert_eq!(changed(&site, "PUT"), ["step-0000", "step-0003", "step-0004"]);
    let mut set = site.json(&[&words[..], &["--yes", "--include-public"]].concat());
    assert!(set["expires_at"].take().as_str().unwrap().starts_with("20"), "{set}");
    assert_eq!(
        set,
        json!({
            "updated_count": 4, "failed": [], "skipped_public_count": 0, "ttl_seconds": 2_592_000, "expires_at": null,
        })
    );
    let none = ["checkpoint", "set-ttl", "--remove", "--before", "2020-01-01", "-y"];
    let said = "no lifetime was set: no checkpoint matches\n".to_owned();
    assert_eq!(site.run(&none), (0, said, String::new()));
}

#[test]
fn those_that_are_public_or_private_already_are_not_published_or_unpublished_by_filters() {
    let site = changing("publish-filters");
    let publish = ["checkpoint", "publish", "--type", "training"];
    let (status, _, stderr) = site.run(&publish);
    assert!(status == 2 && stderr.contains("cannot ask whether to publish"), "{stderr}");
    let (_, stdout, stderr) = site.run(&[&publish[..], &["--dry-run"]].concat());
    assert_eq!((stdout.lines().count(), stderr.as_str()), (4, "would publish 3 checkpoints, 3.0 GB\n"));
    // The second one is public.
    let named = site.paths();
    let named = ["checkpoint", "publish", "--dry-run", &named[0], &named[1]];
    let already = "note: 1 checkpoint is published already\n";
    assert_eq!(site.run(&named).2, format!("would publish 1 checkpoint, 1.0 GB\n{already}"));
    let only = [&named[..3], &named[4..]].concat();
    assert_eq!(site.run(&only), (0, site.run(&only).1, already.to_owned()));
    let done = site.run(&[&publish[..], &["-y"]].concat());
    assert_eq!(done, (0, "3 checkpoints are public\n".to_owned(), String::new()));
    assert_eq!(changed(&site, "POST"), ["step-0000", "step-0003", "step-0004"]);
    let shown = site.json(&["checkpoint", "unpublish", "--after", "2020-01-01", "--yes"]);
    assert_eq!((&shown["updated_count"], &shown["public"]), (&json!(1), &json!(false)));
    assert_eq!(changed(&site, "DELETE"), ["step-0001"]);
    let paths = site.paths();
    let (status, stdout, _) = site.run(&["checkpoint", "unpublish", &paths[0], &paths[2]]);
    assert_eq!((status, stdout.as_str()), (0, "2 checkpoints are private\n"));
}

#[test]
fn a_copy_goes_into_a_project_and_its_path_is_printed() {
    let site = Site::new("copy");
    site.react(|seen| {
        let copy = json!({ "tinker_path": "tinker://copy/weights/x" });
        seen.path.ends_with("/copy_weights").then(|| Act::json(copy))
    });
    std::fs::write(site.home.join("token"), "of-the-owner\n").unwrap();
    let words = ["checkpoint", "copy", "tinker://r/weights/x"];
    let (status, _, stderr) = site.run(&words);
    assert!(status == 2 && stderr.contains("--project"), "{stderr}");
    let more = ["--project", "p", "--ttl", "7d", "--access-token-file", "token"];
    let (status, stdout, stderr) = site.run(&[&words[..], &more].concat());
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "tinker://copy/weights/x\n", ""));
    let request = site.server.requests().pop().unwrap();
    assert_eq!(
        request.json().unwrap(),
        json!({ "destination_project_id": "p", "source_path": "tinker://r/weights/x", "ttl_seconds": 604_800 })
    );
    assert_eq!(request.header("x-tinker-weights-access-token"), Some("of-the-owner"));
}

#[test]
fn push_hf_prints_the_commands_that_upload_a_checkpoint() {
    let site = Site::new("push-hf");
    let words = ["checkpoint", "push-hf", "tinker://r/sampler_weights/x", "-r", "me/model", "--public"];
    let (status, stdout, _) = site.run(&words);
    assert_eq!(status, 0);
    assert_data_eq!(
        stdout,
        str![[r#"
tinkex checkpoint download tinker://r/sampler_weights/x -o . && \
  hf upload me/model r_sampler_weights_x .

"#]]
        .raw()
    );
    let shown = site.json(&words);
    assert_eq!((&shown["repo_id"], &shown["public"]), (&json!("me/model"), &json!(true)));
    assert_eq!(site.server.requests().len(), 0);
}
