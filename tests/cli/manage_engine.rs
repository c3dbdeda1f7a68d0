//! The commands that manage runs and checkpoints, against the engine.

use serde_json::{Value, json};
use tinkex::CloseStatus;
use tinkex::types::{LoraConfig, Ttl};

use crate::util::{Folder, engine, run};

/// Trains two models a little in the engine of a folder; returns the ids of their runs.
fn train(folder: &Folder) -> Vec<String> {
    let (_server, service) = engine(folder);
    let ids = (0..2).map(|_| {
        let config = LoraConfig { rank: 4, ..Default::default() };
        let training = service.create_lora_training_client("tinkex/nano", config).unwrap();
        for name in ["a", "b", "c"] {
            training.save_state(name, Ttl::Never).wait().unwrap();
        }
        training.save_weights_for_sampler("s", Ttl::Never).wait().unwrap();
        training.model_id().to_owned()
    });
    let ids = ids.collect();
    service.close(CloseStatus::Success).unwrap();
    ids
}

#[test]
fn runs_and_checkpoints_of_the_engine_are_managed_offline() {
    let home = Folder::new("manage-engine");
    let runs = train(&home);
    let local = format!("--local={}", home.join("engine").display());
    let json = |words: &[&str]| -> Value {
        let (status, stdout, stderr) = run(&home, &[words, &[&local, "-f", "json"]].concat());
        assert_eq!(status, 0, "{words:?} {stderr}");
        serde_json::from_str(&stdout).unwrap()
    };
    let length = |list: &Value| list.as_array().unwrap().len();

    let listed = json(&["run", "list"]);
    assert_eq!(length(&listed["runs"]), 2);
    let of_run = json(&["run", "info", &runs[0], "--checkpoints"]);
    assert_eq!((&of_run["base_model"], length(&of_run["checkpoints"])), (&json!("tinkex/nano"), 4));
    let session = runs[0].split(':').next().unwrap();
    let (status, _, stderr) = run(&home, &["run", "info", session, &local]);
    let problem =
        format!("error: {session} is a session, not a training run\n  try: `tinkex session info {session}");
    assert!(status == 1 && stderr.starts_with(&problem), "{stderr}");
    let checkpoints = json(&["checkpoint", "list", "--limit", "0"]);
    assert_eq!(length(&checkpoints["checkpoints"]), 8);
    assert_eq!(length(&json(&["checkpoint", "list", "--type", "sampler"])["checkpoints"]), 2);

    let path = format!("tinker://{}/weights/a", runs[0]);
    json(&["checkpoint", "set-ttl", &path, "--ttl", "30d"]);
    assert!(json(&["checkpoint", "info", &path])["expires_at"].is_string());
    json(&["checkpoint", "publish", &path]);
    assert_eq!(json(&["checkpoint", "info", &path])["public"], true);

    let other = format!("{path}-gone");
    let (status, _, stderr) = run(&home, &["checkpoint", "delete", &other, "--yes", &local]);
    assert_eq!(status, 1);
    assert!(stderr.starts_with(&format!("error: HTTP 404: {other} does not exist\n")), "{stderr}");
    // The engine is free and keeps no audit log: the network is not asked for either.
    let prices = json(&["model", "list", "--prices"])["models"][0]["prices"].take();
    assert_eq!(prices, json!({ "prefill": 0.0, "cached_prefill": 0.0, "sample": 0.0, "train": 0.0 }));
    let (status, _, stderr) = run(&home, &["audit", "all", &local]);
    assert!(status == 2 && stderr.contains("keeps no audit log"), "{stderr}");

    let plan = json(&["checkpoint", "delete", "--keep-last", "1", "--dry-run"]);
    assert_eq!((length(&plan["keep"]), length(&plan["delete"])), (5, 3));
    assert_eq!(plan["estimated_monthly_cost_usd"], 0.0);
    let (_, _, stderr) = run(&home, &["checkpoint", "delete", "--keep-last", "1", "--dry-run", &local]);
    assert!(stderr.contains("\nwould delete 3 checkpoints, ") && stderr.ends_with(", free\n"), "{stderr}");
    let deleted = json(&["checkpoint", "delete", "--keep-last", "1", "--yes"]);
    assert_eq!((&deleted["deleted_count"], &deleted["skipped_public_count"]), (&json!(3), &json!(1)));
    let planned: Vec<&Value> =
        plan["delete"].as_array().unwrap().iter().map(|it| &it["tinker_path"]).collect();
    assert_eq!(deleted["deleted"].as_array().unwrap().iter().collect::<Vec<_>>(), planned);
    assert_eq!(deleted["deleted_size_bytes"], plan["delete_size_bytes"]);
    let left = json(&["checkpoint", "list", "--run-id", &runs[0]]);
    assert_eq!(length(&left["checkpoints"]), 3);
    let sessions = json(&["session", "list"])["sessions"].take();
    assert_eq!(length(&sessions), 1);
    // The engine that knew the times of its requests has ended.
    let session = sessions[0].as_str().unwrap();
    let (status, _, stderr) = run(&home, &["session", "export-trace", session, &local]);
    let serve = format!("start `tinkex serve --data-dir {}`", home.join("engine").display());
    assert!(status == 1 && stderr.contains(&serve), "{stderr}");
}

#[test]
fn what_the_engine_cannot_read_is_named_and_does_not_hide_the_rest() {
    let home = Folder::new("manage-damaged");
    let runs = train(&home);
    let local = format!("--local={}", home.join("engine").display());
    let folder = |run: &str| home.join("engine").join(run.replace(':', "_"));
    let (damaged, hidden) = (folder(&runs[0]).join("weights/a"), folder(&runs[1]).join("weights"));
    std::fs::write(damaged.join("tinkex.json"), "{").unwrap();
    std::fs::remove_dir_all(&hidden).unwrap();
    std::fs::write(&hidden, "a file where a folder should be").unwrap();
    let (status, stdout, stderr) = run(&home, &["checkpoint", "list", "--limit", "0", "-f", "json", &local]);
    let listed: Value = serde_json::from_str(&stdout).unwrap();
    // Of 8, one has no description, and three were in the folder that is none.
    assert_eq!((status, listed["checkpoints"].as_array().unwrap().len()), (0, 4), "{stderr}");
    for path in [&damaged, &hidden] {
        let warning = format!("warning: the embedded engine cannot read {}, and leaves", path.display());
        assert_eq!(stderr.matches(&warning).count(), 1, "{stderr}");
    }
}
