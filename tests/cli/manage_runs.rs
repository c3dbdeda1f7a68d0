//! `tinkex run`.

use serde_json::{Value, json};
use snapbox::{IntoData, assert_data_eq, str};
use tinkex::testing::Act;

use crate::manage_site::{Site, outcome};

fn run(i: usize) -> Value {
    json!({
        "training_run_id": format!("run-{i}"), "base_model": if i.is_multiple_of(2) { "Qwen/Qwen3-8B" } else { "a/Llama" },
        "model_owner": "tml:user:1", "is_lora": i != 3, "lora_rank": if i == 3 { None } else { Some(32) },
        "corrupted": i == 2, "last_request_time": format!("2026-02-{:02} 10:00:00+00:00", 20 - i),
        "last_checkpoint": {
            "checkpoint_id": "weights/x", "tinker_path": format!("tinker://run-{i}/weights/x"),
            "time": "2026-02-01 00:00:00+00:00",
        },
    })
}

/// A server with four runs, two on a page.
fn site(name: &str) -> Site {
    let site = Site::new(name);
    site.react(|seen| {
        let query = seen.path.strip_prefix("/api/v1/training_runs?")?;
        let number = |name: &str| -> Option<usize> {
            query.split('&').find_map(|it| it.strip_prefix(name))?.strip_prefix('=')?.parse().ok()
        };
        let (limit, offset) = (number("limit")?.min(2), number("offset")?);
        let runs: Vec<Value> = (offset..4).take(limit).map(run).collect();
        let cursor = json!({ "offset": offset, "limit": limit, "total_count": 4 });
        Some(Act::json(json!({ "training_runs": runs, "cursor": cursor })))
    });
    site
}

#[test]
fn runs_are_listed_as_tsv_and_as_a_table() {
    let site = site("runs");
    let (status, tsv, stderr) = site.run(&["run", "list"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_data_eq!(
        tsv,
        str![[r#"
run_id	base_model	lora	last_update	status
run-0	Qwen/Qwen3-8B	Rank 32	2026-02-20T10:00:00Z	OK
run-1	a/Llama	Rank 32	2026-02-19T10:00:00Z	OK
run-2	Qwen/Qwen3-8B	Rank 32	2026-02-18T10:00:00Z	Failed
run-3	a/Llama	No	2026-02-17T10:00:00Z	OK

"#]]
        .raw()
    );
    let table =
        |columns: &str| outcome(site.command(&["run", "list", "-f", "table"]).env("COLUMNS", columns)).1;
    assert_data_eq!(
        table("120"),
        str![[r#"
RUN ID  BASE MODEL     LORA     LAST UPDATE  STATUS
run-0   Qwen/Qwen3-8B  Rank 32  2026-02-20   OK
run-1   a/Llama        Rank 32  2026-02-19   OK
run-2   Qwen/Qwen3-8B  Rank 32  2026-02-18   Failed
run-3   a/Llama        No       2026-02-17   OK

"#]]
        .raw()
    );
    assert_data_eq!(
        table("30"),
        str![[r#"
run-0
  Base Model: Qwen/Qwen3-8B
  LoRA: Rank 32
  Last Update: 2026-02-20
  Status: OK
run-1
  Base Model: a/Llama
  LoRA: Rank 32
  Last Update: 2026-02-19
  Status: OK
run-2
  Base Model: Qwen/Qwen3-8B
  LoRA: Rank 32
  Last Update: 2026-02-18
  Status: Failed
run-3
  Base Model: a/Llama
  LoRA: No
  Last Update: 2026-02-17
  Status: OK

"#]]
        .raw()
    );
}

#[test]
fn columns_are_chosen_and_wrong_ones_are_an_error_of_usage() {
    let site = site("run-columns");
    let (_, stdout, _) =
        site.run(&["run", "list", "-c", "checkpoint,id,checkpoint_time,owner", "--limit", "1"]);
    assert_eq!(
        stdout,
        "last_checkpoint\trun_id\tcheckpoint_time\towner\n\
         tinker://run-0/weights/x\trun-0\t2026-02-01T00:00:00Z\ttml:user:1\n"
    );
    let (status, stdout, stderr) = site.run(&["run", "list", "-c", "foo"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("checkpoint_time"), "{stderr}");
}

#[test]
fn runs_are_filtered_by_model_and_last_use_before_the_limit() {
    let site = site("run-filters");
    let ids = |words: &[&str]| {
        let shown = site.json(&[&["run", "list"], words].concat());
        let ids = shown["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["training_run_id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&[]), "run-0 run-1 run-2 run-3");
    assert_eq!(ids(&["--limit", "3"]), "run-0 run-1 run-2");
    assert_eq!(ids(&["--model", "qwen", "--limit", "2"]), "run-0 run-2");
    assert_eq!(ids(&["--since", "2026-02-19"]), "run-0 run-1");
    assert_eq!(ids(&["--since", "1d"]), "");
    let note = |words: &[&str]| site.run(&[&["run", "list"], words].concat()).2;
    assert_eq!(note(&["--limit", "3"]), "note: 3 of 4 runs; --limit 0 lists all\n");
    assert_eq!(note(&["--model", "qwen", "--limit", "1"]), "note: the first 1 runs; --limit 0 lists all\n");
    assert_eq!(note(&["--model", "qwen", "--limit", "2"]), "");
    assert_eq!(site.run(&["run", "list", "--since", "soon"]).0, 2);
}

#[test]
fn a_list_that_is_empty_because_of_its_project_names_the_projects_that_are_known() {
    let site = Site::new("run-project");
    site.react(|seen| {
        let is_search = seen.path.contains("/sessions/search");
        let sessions = json!({ "sessions": [{ "session_id": "s", "project_id": "mine" }] });
        let runs = json!({ "training_runs": [], "cursor": { "offset": 0, "limit": 100, "total_count": 0 } });
        Some(Act::json(if is_search { sessions } else { runs }))
    });
    let (status, _, stderr) = site.run(&["run", "list", "--project", "mein"]);
    let note = "note: no run is in the project mein; your sessions are in the projects mine\n";
    assert_eq!((status, stderr.as_str()), (0, note));
    assert_eq!(site.run(&["run", "list"]).2, "");
}

#[test]
fn a_run_is_shown_with_its_checkpoints() {
    let site = Site::with_checkpoints("run-info", 3);
    site.react(|seen| {
        let is_run = seen.path.contains("/training_runs/") && !seen.path.contains("checkpoints");
        is_run.then(|| Act::json(run(0)))
    });
    let id = "0f0e0d0c-0000-4000-8000-000000000000:train:0";
    let shown = site.json(&["run", "info", id, "--checkpoints"]);
    assert_eq!((&shown["lora_rank"], shown["checkpoints"].as_array().unwrap().len()), (&json!(32), 3));
    assert_eq!(site.json(&["run", "info", id]).get("checkpoints"), None);
    // The run is also known by its folder, and by a path of it.
    std::fs::create_dir_all(site.home.join("runs/mine")).unwrap();
    let path = format!("tinker://{id}/weights/step-0001");
    std::fs::write(site.home.join("runs/mine/checkpoints.jsonl"), json!({ "state_path": path }).to_string())
        .unwrap();
    for name in ["runs/mine", &path, &format!("tinker://{id}")] {
        assert_eq!(
            site.json(&["run", "info", name, "--checkpoints"])["checkpoints"].as_array().unwrap().len(),
            3
        );
        let listed = site.json(&["checkpoint", "list", "--run-id", name]);
        assert_eq!((&listed["run_id"], listed["checkpoints"].as_array().unwrap().len()), (&json!(id), 3));
        let plan = site.json(&["checkpoint", "delete", "--run-id", name, "--type", "sampler", "--dry-run"]);
        assert_eq!(plan["delete"].as_array().unwrap().len(), 1, "{name}");
    }
    for wrong in ["runs", "runs/other", "tinker://x/y/z"] {
        let (status, _, stderr) = site.run(&["run", "info", wrong]);
        assert!(status == 2 && stderr.contains("try: `tinkex run list` shows the ids"), "{stderr}");
    }
    let (_, tsv, _) = site.run(&["run", "info", id, "--checkpoints"]);
    assert!(tsv.contains("LoRA\tRank 32\n") && tsv.contains("weights/step-0001\ttraining"), "{tsv}");
    site.react(|_| Some(Act::status(404, r#"{"detail":"unknown run"}"#)));
    let (status, stdout, stderr) = site.run(&["run", "info", "x", "-f", "json"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    let error: Value = serde_json::from_str(stderr.lines().next().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], 404);
    assert!(error["error"]["message"].as_str().unwrap().contains("unknown run"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
