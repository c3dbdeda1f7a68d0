//! `tinkex checkpoint delete`.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tinkex::testing::Act;

use crate::manage_site::Site;

const DELETE: [&str; 2] = ["checkpoint", "delete"];

fn refuse(seen: &tinkex::testing::Seen) -> Option<Act> {
    (seen.method == "DELETE").then(|| Act::status(403, r#"{"detail":"not yours"}"#))
}

#[test]
fn without_a_terminal_nothing_is_deleted_unless_yes_is_given() {
    let site = Site::with_checkpoints("delete-ask", 2);
    let path = site.paths()[0].clone();
    for input in ["", "y\n"] {
        for format in ["table", "json"] {
            let words = [&DELETE[..], &[&path, "-f", format]].concat();
            let (status, stdout, stderr) = site.run_with_input(&words, input);
            assert_eq!((status, stdout.as_str()), (2, ""));
            assert!(stderr.contains("--yes"), "{stderr}");
        }
    }
    assert_eq!((site.paths().len(), site.server.requests().len()), (2, 0));
    let (status, stdout, stderr) = site.run(&[&DELETE[..], &[&path, "--yes"]].concat());
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "Deleted 1 checkpoint\n", ""));
    assert_eq!(site.paths().len(), 1);
}

#[test]
fn a_choice_is_needed_and_paths_go_without_filters() {
    let site = Site::new("delete-choice");
    let (status, _, stderr) = site.run(&[&DELETE[..], &["-y"]].concat());
    assert!(status == 2 && stderr.contains("--older-than"), "{stderr}");
    let mixed = [&DELETE[..], &["tinker://r/weights/x", "--older-than", "1d", "-y"]].concat();
    assert_eq!(site.run(&mixed).0, 2);
    let wrong = [&DELETE[..], &["--before", "yesterday", "-y"]].concat();
    assert_eq!(site.run(&wrong).0, 2);
    assert_eq!(site.server.requests().len(), 0);
}

#[test]
fn old_checkpoints_of_all_runs_are_deleted_but_the_newest_of_each_kind_and_run() {
    let site = Site::with_checkpoints("delete-old", 250);
    let (status, stdout, _) = site.run(
        &[&DELETE[..], &["--older-than", "30d", "--keep-last", "1", "--yes", "--concurrency", "3"]].concat(),
    );
    // Of each of the three runs stay the newest for training and for sampling, and the public one.
    assert_eq!((status, stdout.as_str()), (0, "Deleted 243 checkpoints, 243.0 GB\n"));
    assert_eq!(site.paths().len(), 7);
}

#[test]
fn a_dry_run_shows_what_would_be_deleted_its_size_and_its_price() {
    let site = Site::with_checkpoints("delete-dry", 6);
    site.server.always(
        "/api/v1/billing/usage/checkpoints/current",
        Act::json(json!({ "effective_rate_usd_per_gigabyte_month": 0.5, "data": [] })),
    );
    let words = [&DELETE[..], &["--before", "2026-02-26", "--dry-run"]].concat();
    let (status, stdout, stderr) = site.run(&words);
    assert_eq!((status, stdout.lines().count()), (0, 4));
    assert_eq!(stderr, "would delete 3 checkpoints, 3.0 GB, $1.50 a month\n");
    let plan = site.json(&words);
    assert_eq!(
        (&plan["delete_size_bytes"], &plan["estimated_monthly_cost_usd"]),
        (&json!(3e9 as u64), &json!(1.5))
    );
    let path = site.paths()[5].clone();
    let (_, _, stderr) = site.run(&[&DELETE[..], &[&path, &path, "--dry-run"]].concat());
    assert_eq!(stderr, "would delete 1 checkpoint, 1.0 GB, $0.50 a month\n");
    let gone = path.replace("step-", "gone-");
    let (status, stdout, stderr) = site.run(&[&DELETE[..], &[&path, &gone, "--dry-run"]].concat());
    assert_eq!((status, stdout.lines().count()), (3, 2), "{stderr}");
    assert!(stderr.contains(&format!("error: {gone} does not exist\n")), "{stderr}");
    let (_, stdout, _) = site.run(&[&DELETE[..], &[&path, &gone, "--dry-run", "-f", "json"]].concat());
    let plan: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&plan["failed"][0]["tinker_path"], &plan["failed"][0]["code"]), (&json!(gone), &json!(404)));
    let (status, _, stderr) = site.run(&[&DELETE[..], &["--older-than", "5", "--dry-run"]].concat());
    assert!(status == 2 && stderr.contains("with a unit"), "{stderr}");
    // An id that is missing in a script does not mean all projects.
    for blank in ["", " "] {
        let (status, ..) =
            site.run(&[&DELETE[..], &["--older-than", "5d", "--project", blank, "--dry-run"]].concat());
        assert_eq!(status, 2, "{blank:?}");
    }
    assert_eq!(site.paths().len(), 6);
    site.server.always("/api/v1/billing/usage/checkpoints/current", Act::status(403, "{}"));
    assert!(site.run(&words).2.ends_with("3.0 GB, price unknown\n"));
}

#[test]
fn deletions_that_all_fail_end_with_status_1_and_some_with_3() {
    let site = Site::with_checkpoints("delete-403", 30);
    site.react(refuse);
    let all = [&DELETE[..], &["--type", "training", "-y", "-f", "json"]].concat();
    let (status, stdout, stderr) = site.run(&all);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    // One of the twenty is public.
    assert_eq!((status, &shown["deleted_count"]), (1, &json!(0)));
    assert_eq!(shown["failed"].as_array().unwrap().len(), 19);
    assert!(shown["failed"][0]["error"].as_str().unwrap().contains("not yours"), "{shown}");
    // After the note about the public one, a line for each failed item, and the last one is that of the command.
    let (note, stderr) = stderr.split_once('\n').unwrap();
    assert!(note.starts_with("note: 1 public checkpoint"), "{note}");
    let errors: Vec<Value> =
        stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["error"].take()).collect();
    assert_eq!((errors.len(), &errors[19]["message"]), (20, &json!("19 of 19 failed")), "{stderr}");
    assert_eq!((&errors[0]["path"], &errors[0]["code"]), (&shown["failed"][0]["tinker_path"], &json!(403)));
    // In the words of the program, whose user knows no method.
    let message = errors[0]["message"].as_str().unwrap();
    assert!(message.starts_with("delete checkpoint failed: HTTP 403: not yours"), "{message}");
    let (_, _, stderr) = site.run(&all[..all.len() - 2]);
    assert!(stderr.contains("step-0003: delete checkpoint failed: HTTP 403: not yours"), "{stderr}");
    site.react(|seen| refuse(seen).filter(|_| seen.path.ends_with("step-0003")));
    let (status, stdout, stderr) = site.run(&[&DELETE[..], &["--type", "training", "-y"]].concat());
    assert_eq!((status, stdout.as_str()), (3, "Deleted 18 checkpoints, 18.0 GB\n"));
    assert!(stderr.contains("step-0003: ") && stderr.contains("1 of 19 failed"), "{stderr}");
}

#[test]
fn a_refused_key_ends_the_deletions_at_once() {
    let site = Site::with_checkpoints("delete-401", 200);
    site.react(|seen| (seen.method == "DELETE").then(|| Act::status(401, r#"{"detail":"expired"}"#)));
    let (status, _, stderr) = site.run(&[&DELETE[..], &["--keep-last", "0", "-y"]].concat());
    assert_eq!(status, 1);
    assert!(stderr.contains(" not tried after that; -f json lists all"), "{stderr}");
    assert!(stderr.ends_with(" failed\n  try: `tinkex auth login`, or set TINKER_API_KEY\n"), "{stderr}");
    let n = site.server.requests().iter().filter(|it| it.method == "DELETE").count();
    assert!(n <= 16, "{n} requests");
    let (_, stdout, _) = site.run(&[&DELETE[..], &["--keep-last", "0", "-y", "-f", "json"]].concat());
    let failed = serde_json::from_str::<Value>(&stdout).unwrap()["failed"].take();
    let (first, last) = (&failed[0], failed.as_array().unwrap().last().unwrap());
    assert_eq!((&first["code"], &last["code"]), (&json!(401), &Value::Null), "{failed}");
    assert!(last["error"].as_str().unwrap().starts_with("not tried after another one failed: "), "{last}");
}

#[test]
fn a_busy_server_is_asked_again() {
    let site = Site::with_checkpoints("delete-429", 6);
    let n_refused = AtomicUsize::new(0);
    site.react(move |seen| {
        let status = match (seen.method.as_str(), n_refused.load(Ordering::Relaxed)) {
            ("DELETE", 0 | 2) => 429,
            ("DELETE", 1 | 3) => 425,
            _ => return None,
        };
        n_refused.fetch_add(1, Ordering::Relaxed);
        Some(Act::status(status, r#"{"detail":"later"}"#).with_header("retry-after", "0.01"))
    });
    let words = ["--after", "2020-01-01", "--include-public", "-y"];
    let (status, stdout, stderr) = site.run(&[&DELETE[..], &words].concat());
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "Deleted 6 checkpoints, 6.0 GB\n", ""));
    assert_eq!(site.paths(), Vec::<String>::new());
}

#[test]
fn nothing_to_delete_is_a_success() {
    let site = Site::with_checkpoints("delete-none", 3);
    let words = [&DELETE[..], &["--before", "2020-01-01", "-y"]].concat();
    assert_eq!(
        site.json(&words),
        json!({ "deleted": [], "deleted_count": 0, "deleted_size_bytes": 0, "failed": [], "skipped_public_count": 0 })
    );
    let said = "Deleted 0 checkpoints: none matches\n".to_owned();
    assert_eq!(site.run(&words), (0, said, String::new()));
    let (status, _, stderr) = site.run(&[&words[..], &["--dry-run"]].concat());
    assert_eq!((status, stderr.as_str()), (0, "nothing would be deleted: no checkpoint matches\n"));
}

#[test]
fn public_checkpoints_stay_unless_they_are_named() {
    let site = Site::with_checkpoints("delete-public", 6);
    let public = site.paths()[1].clone();
    let words = [&DELETE[..], &["--older-than", "1d", "--yes"]].concat();
    let (status, stdout, stderr) = site.run(&[&words[..], &["--dry-run"]].concat());
    assert_eq!((status, stdout.contains(&public)), (0, false));
    let left_out = "note: 1 public checkpoint is left out; --include-public deletes public ones, too\n";
    assert!(stderr.starts_with(left_out), "{stderr}");
    let result = site.json(&words);
    assert_eq!((&result["deleted_count"], &result["skipped_public_count"]), (&json!(5), &json!(1)));
    assert_eq!(site.paths(), [public.as_str()]);
    assert_eq!(site.run(&words).2, left_out);
    assert_eq!(site.json(&[&words[..], &["--include-public"]].concat())["deleted_count"], 1);
    let site = Site::with_checkpoints("delete-public-path", 6);
    assert_eq!(site.json(&[&DELETE[..], &[&public, "--yes"]].concat())["deleted_count"], 1);
}

#[test]
fn checkpoints_that_are_gone_can_be_ignored() {
    let site = Site::with_checkpoints("delete-missing", 3);
    let paths = site.paths();
    let gone = paths[0].replace("step-", "gone-");
    let words = [&DELETE[..], &[&gone, &paths[0], "--yes"]].concat();
    let (status, stdout, stderr) = site.run(&[&words[..], &["--ignore-missing"]].concat());
    assert_eq!((status, stdout.as_str()), (0, "Deleted 1 checkpoint\n"), "{stderr}");
    assert_eq!(stderr, "note: 1 of 2 checkpoints did not exist\n");
    let result = site.json(&[&words[..], &["--ignore-missing"]].concat());
    assert_eq!(
        result,
        json!({ "deleted": [], "deleted_count": 0, "deleted_size_bytes": 0, "failed": [], "missing": [gone, paths[0]] })
    );
    let (status, _, stderr) = site.run(&words);
    assert!(status == 1 && stderr.contains("try: --ignore-missing"), "{stderr}");
    assert_eq!(site.run(&[&words[..], &["--dry-run", "--ignore-missing"]].concat()).0, 0);
    for dry_run in [&[][..], &["--dry-run"]] {
        let (status, _, stderr) = site.run(&[&words[..], &["-f", "json"], dry_run].concat());
        let errors: Vec<Value> = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!((status, errors.len(), &errors[0]["error"]["path"]), (1, 3, &json!(gone)), "{stderr}");
        assert!(errors[2]["error"]["try"].as_str().unwrap().starts_with("--ignore-missing"), "{stderr}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_stdout_does_not_hide_what_was_deleted() {
    for format in ["tsv", "json"] {
        let site = Site::with_checkpoints("delete-full", 3);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let words = [&DELETE[..], &["--older-than", "1d", "--include-public", "-y", "-f", format]].concat();
        let output = site.command(&words).stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), site.paths().len()), (Some(1), 0), "{stderr}");
        assert!(stderr.contains("cannot write to stdout: No space left"), "{stderr}");
        assert!(stderr.contains("this was done: Deleted 3 checkpoints, 3.0 GB"), "{stderr}");
    }
}

#[test]
fn times_between_which_nothing_lies_are_an_error_of_usage() {
    let site = Site::new("delete-times");
    for command in [&["checkpoint", "list"][..], &["checkpoint", "delete", "-y"]] {
        for times in
            [["--after", "2026-11-20", "--before", "2026-11-01"], ["--after", "10d", "--older-than", "30d"]]
        {
            let (status, _, stderr) = site.run(&[command, &times].concat());
            assert!(status == 2 && stderr.contains("no checkpoint can match"), "{stderr}");
        }
    }
    assert_eq!(site.server.requests().len(), 0);
}

#[test]
fn a_project_limits_what_is_listed_and_deleted() {
    let site = Site::with_checkpoints("delete-project", 250);
    site.react(|seen| {
        let runs = json!({ "training_runs": [{ "training_run_id": "0f0e0d0c-0000-4000-8000-000000000002:train:0" }] });
        let is_list = seen.path.starts_with("/api/v1/training_runs?") && seen.path.contains("project_id=p");
        if seen.path.contains("00000000000a") {
            return Some(Act::status(404, r#"{"detail":"no such run"}"#));
        }
        is_list.then(|| Act::json(runs))
    });
    let listed = site.json(&["checkpoint", "list", "--project", "p", "--limit", "0"]);
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 50);
    // The variable means the same as the option.
    let mut command = site.command(&["checkpoint", "list", "--limit", "0", "-f", "json"]);
    let listed = command.env("TINKER_PROJECT_ID", "p").output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 50);
    let mut command =
        site.command(&[&DELETE[..], &["--older-than", "1d", "--dry-run", "-f", "json"]].concat());
    let planned = command.env("TINKER_PROJECT_ID", "p").output().unwrap();
    let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(planned["delete"].as_array().unwrap().len(), 50);
    // Not where a run is named.
    let run = ["--run-id", "0f0e0d0c-0000-4000-8000-000000000001:train:0"];
    let mut command = site.command(&[&["checkpoint", "list", "-f", "json"], &run[..]].concat());
    let listed = command.env("TINKER_PROJECT_ID", "p").output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 100);
    // A run of another project is not touched.
    let other = ["--run-id", "0f0e0d0c-0000-4000-8000-000000000001:train:0", "--project", "p"];
    let words = [&DELETE[..], &["--older-than", "1d", "-y"], &other].concat();
    assert_eq!(site.json(&words)["deleted_count"], 0);
    let left_out = "note: without 100 checkpoints of a run that is not in the project p\n";
    assert!(site.run(&words).2.contains(left_out));
    // Nor by its path.
    let elsewhere = site.paths().into_iter().find(|it| it.contains("000000000001:train:0")).unwrap();
    for words in [&["delete", "-y"][..], &["set-ttl", "--ttl", "1d"], &["publish"]] {
        let words = [&["checkpoint"][..], words, &[&elsewhere, "--project", "p"]].concat();
        let (status, _, stderr) = site.run(&words);
        let problem = format!("error: {elsewhere} is not in the project p\n");
        assert!(status == 2 && stderr.starts_with(&problem), "{stderr}");
    }
    // One that is gone with its run does not matter if it is to be ignored.
    let gone = "tinker://0f0e0d0c-0000-4000-8000-00000000000a:train:0/weights/x";
    let words = ["-y", "--project", "p", "--ignore-missing", gone];
    assert_eq!(site.json(&[&DELETE[..], &words].concat())["missing"], json!([gone]));
    assert_eq!(site.paths().len(), 250);
    let words = [&DELETE[..], &["--older-than", "1d", "--project", "p", "-y"]].concat();
    assert_eq!(site.json(&words)["deleted_count"], 50);
    assert_eq!(site.paths().len(), 200);
    let runs = site.json(&["checkpoint", "list", "--by-run"])["runs"].take();
    let of = |i: usize| (&runs[i]["checkpoint_count"], &runs[i]["size_bytes"]);
    assert_eq!((of(0), of(1)), ((&json!(100), &json!(100e9 as u64)), (&json!(100), &json!(100e9 as u64))));
    assert_eq!(runs[0]["training_run_id"], "0f0e0d0c-0000-4000-8000-000000000000:train:0");
}

/// Lets the server interrupt the command at its deletion of this number, counted from 0. Returns where the command's
/// process is told.
fn interrupt_at(site: &Site, n: usize, signal: &'static str, answer: fn() -> Option<Act>) -> Arc<AtomicU32> {
    let process = Arc::new(AtomicU32::new(0));
    let (known, n_deleted) = (process.clone(), AtomicUsize::new(0));
    site.react(move |seen| {
        if seen.method != "DELETE" {
            return None;
        }
        if n_deleted.fetch_add(1, Ordering::Relaxed) == n {
            while known.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let id = known.load(Ordering::Relaxed).to_string();
            Command::new("kill").args([signal, &id]).status().unwrap();
        }
        answer()
    });
    process
}

fn output_of(site: &Site, words: &[&str], process: &AtomicU32) -> Output {
    let mut command = site.command(&[&DELETE[..], words].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.store(child.id(), Ordering::Relaxed);
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupt_ends_after_the_deletion_in_flight_and_says_what_was_deleted() {
    let site = Site::with_checkpoints("delete-interrupt", 20);
    let process = interrupt_at(&site, 2, "-INT", || None);
    let words = ["--older-than", "1d", "--include-public", "-y", "--concurrency", "1", "-f", "json"];
    let output = output_of(&site, &words, &process);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &shown["deleted_count"]), (Some(130), &json!(3)));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let (note, error) = stderr.split_once('\n').unwrap();
    assert_eq!(note, "stopped: 3 of 20 checkpoints deleted");
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["status"]), (&json!("signal"), &json!(130)));
    assert_eq!(site.paths().len(), 17);
}

#[test]
fn a_deletion_that_the_server_does_not_serve_is_given_up_soon_after_a_signal() {
    let site = Site::with_checkpoints("delete-refused", 20);
    let process = interrupt_at(&site, 0, "-TERM", || Some(Act::status(500, "no disk")));
    let words = ["--older-than", "1d", "--include-public", "-y", "--concurrency", "1"];
    let output = output_of(&site, &words, &process);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{stderr}");
    assert!(stderr.ends_with("stopped: 0 of 20 checkpoints deleted\n"), "{stderr}");
    // Not the last answer of the server, after which the deletion would be repeated for minutes.
    let error = stderr.lines().find(|it| it.starts_with("error: tinker://")).unwrap();
    assert!(error.contains("closed") && !error.contains("no disk"), "{error}");
    assert_eq!(site.paths().len(), 20);
    // Also that of one checkpoint.
    let process = interrupt_at(&site, 0, "-TERM", || Some(Act::status(500, "no disk")));
    let output = output_of(&site, &["-y", &site.paths()[0]], &process);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{stderr}");
    assert!(stderr.ends_with("stopped: 0 of 1 checkpoint deleted\n"), "{stderr}");
}
