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
run_id	base_model	lora	last_update	status	name
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
RUN ID  BASE MODEL     LORA     LAST UPDATE  STATUS  NAME
run-0   Qwen/Qwen3-8B  Rank 32  2026-02-20   OK      N/A
run-1   a/Llama        Rank 32  2026-02-19   OK      N/A
run-2   Qwen/Qwen3-8B  Rank 32  2026-02-18   Failed  N/A
run-3   a/Llama        No       2026-02-17   OK      N/A

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
  Status: OK  Name: N/A
run-1
  Base Model: a/Llama
  LoRA: Rank 32
  Last Update: 2026-02-19
  Status: OK  Name: N/A
run-2
  Base Model: Qwen/Qwen3-8B
  LoRA: Rank 32
  Last Update: 2026-02-18
  Status: Failed  Name: N/A
run-3
  Base Model: a/Llama
  LoRA: No
  Last Update: 2026-02-17
  Status: OK  Name: N/A

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
fn a_person_recognizes_runs_by_their_names_and_sees_how_many_checkpoints_they_have() {
    let site = Site::with_checkpoints("run-names", 150);
    site.react(|seen| {
        let id = |i: usize| format!("0f0e0d0c-0000-4000-8000-{i:012}:train:0");
        let runs = json!({ "training_runs": [
            { "training_run_id": id(1), "base_model": "a/b", "last_request_time": "2026-02-20 10:00:00+00:00",
              "user_metadata": { "name": "night" } },
            { "training_run_id": id(0) },
        ] });
        seen.path.starts_with("/api/v1/training_runs?").then(|| Act::json(runs))
    });
    let (_, tsv, _) = site.run(&["run", "list", "-c", "name,checkpoints"]);
    assert_eq!(tsv, "name\tcheckpoints\nnight\t50\n\t100\n");
    let (_, tsv, _) = site.run(&["checkpoint", "list", "--by-run"]);
    let cells: Vec<&str> =
        tsv.lines().map(|line| line.split_once(":train:0\t").map_or(line, |it| it.1)).collect();
    assert_eq!(
        cells,
        [
            "run_id\tcheckpoints\tsize\tname\tbase_model\tlast_update",
            "100\t100000000000\t\t\t",
            "50\t50000000000\tnight\ta/b\t2026-02-20T10:00:00Z",
        ]
    );
    let runs = site.json(&["checkpoint", "list", "--by-run"])["runs"].take();
    assert_eq!((&runs[1]["name"], &runs[0]["base_model"]), (&json!("night"), &Value::Null));
}

#[test]
fn the_folder_of_a_resumed_run_means_all_that_it_lists_and_nothing_else() {
    let site = Site::with_checkpoints("run-parts", 300);
    let run = |i: usize| format!("0f0e0d0c-0000-4000-8000-{i:012}:train:0");
    // Two parts and a third one that the server has forgotten; the run of the state that it began with is not its own.
    let all = site.paths();
    let folder = site.home.join("mine");
    std::fs::create_dir_all(&folder).unwrap();
    let line = |path: &str| format!("{}\n", json!({ "name": "x", "state_path": path, "from": all[299] }));
    let lines = line("tinker://forgotten/weights/1") + &line(&all[100]) + &line(&all[0]) + &line(&all[1]);
    std::fs::write(folder.join("checkpoints.jsonl"), lines + "{\"state_path\": \"tin").unwrap();
    site.react(|seen| {
        seen.path.contains("/forgotten/").then(|| Act::status(404, r#"{"detail":"unknown run"}"#))
    });
    let own = [&all[0], &all[1], &all[100]];
    let paths = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|it| it["tinker_path"].as_str().unwrap().to_owned()).collect()
    };
    let listed = site.json(&["checkpoint", "list", "--run-id", "mine"]);
    assert_eq!(listed["run_ids"], json!(["forgotten", run(1), run(0)]));
    assert_eq!(paths(&listed["checkpoints"]).iter().collect::<Vec<_>>(), own);
    let delete = ["checkpoint", "delete", "--run-id", "mine", "--include-public"];
    let plan = site.json(&[&delete[..], &["--dry-run"]].concat());
    assert_eq!(paths(&plan["delete"]).iter().collect::<Vec<_>>(), own);
    let (_, _, stderr) = site.run(&["checkpoint", "list", "--run-id", "mine"]);
    assert!(
        stderr.contains(&format!("it has 3 training runs, forgotten, {}, {}", run(1), run(0))),
        "{stderr}"
    );
    assert!(
        stderr.contains("note: without 197 checkpoints that mine/checkpoints.jsonl does not list"),
        "{stderr}"
    );
    assert_eq!(site.json(&[&delete[..], &["--yes"]].concat())["deleted_count"], 3);
    assert_eq!(site.paths().len(), 297);
    // The run itself is named by its id.
    assert_eq!(
        site.json(&["checkpoint", "list", "--run-id", &run(0)])["checkpoints"].as_array().unwrap().len(),
        98
    );
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
    let lines: Vec<String> = site.paths().iter().map(|it| json!({ "state_path": it }).to_string()).collect();
    let lines = lines.join("\n");
    std::fs::write(site.home.join("runs/mine/checkpoints.jsonl"), lines).unwrap();
    for name in ["runs/mine", &path, &format!("tinker://{id}")] {
        assert_eq!(
            site.json(&["run", "info", name, "--checkpoints"])["checkpoints"].as_array().unwrap().len(),
            3
        );
        let listed = site.json(&["checkpoint", "list", "--run-id", name]);
        assert_eq!((&listed["run_id"], listed["checkpoints"].as_array().unwrap().len()), (&json!(id), 3));
        let delete = ["checkpoint", "delete", "--run-id", name, "--type", "sampler", "--dry-run"];
        if name == path {
            // Who names one checkpoint does not mean to delete the others.
            let (status, _, stderr) = site.run(&delete);
            assert!(status == 2 && stderr.contains("is one checkpoint; --run-id means all"), "{stderr}");
            continue;
        }
        assert_eq!(site.json(&delete)["delete"].as_array().unwrap().len(), 1, "{name}");
    }
    // The run of a checkpoint is shown even if the checkpoint is gone.
    let gone = format!("{path}-gone");
    let (status, tsv, stderr) = site.run(&["run", "info", &gone]);
    assert!(status == 0 && tsv.contains("Run ID\trun-0\n"), "{tsv}");
    assert_eq!(stderr, format!("note: the run has no checkpoint {gone}; this is its run\n"));
    assert_eq!(site.run(&["run", "info", &path]).2, "");
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
