//! `tinkex train`: where a run begins, and runs of other programs.

use std::path::Path;

use serde_json::Value;

use crate::train::{chats, rows, small, train};
use crate::util::{Folder, run};

#[test]
fn weights_of_another_run_begin_a_new_one() {
    let folder = Folder::new("train-from");
    let data = chats(&folder, 4);
    let options = small(&folder, &data, 6);
    let (first, second) = (folder.join("first"), folder.join("second"));
    assert_eq!(train(&folder, &options, &["-o", first.to_str().unwrap()]).0, 0);
    let state =
        tinkex::train::CheckpointLog::open(&first).unwrap().last_resumable().unwrap().state_path.clone();
    let further = ["-o", second.to_str().unwrap(), "--from", &state.unwrap().to_string()];
    let (status, _, stderr) = train(&folder, &options, &further);
    assert_eq!(status, 0, "{stderr}");
    let loss = |run: &Path, step: usize| rows(run)[step]["train_mean_nll"].as_f64().unwrap();
    assert!(loss(&second, 0) < loss(&first, 0));
    let (status, _, stderr) =
        run(&folder, &["train", "--resume", second.to_str().unwrap(), "--max-steps", "8"]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(rows(&second).len(), 8);
}

#[test]
fn a_new_run_begins_with_the_last_state_of_the_run_in_a_folder() {
    let folder = Folder::new("train-from-folder");
    let data = chats(&folder, 4);
    let (first, second) = (folder.join("first"), folder.join("second"));
    assert_eq!(train(&folder, &small(&folder, &data, 3), &["-o", first.to_str().unwrap()]).0, 0);
    let last =
        |run: &Path| tinkex::train::CheckpointLog::open(run).unwrap().last_resumable().cloned().unwrap();
    let state = last(&first).state_path.unwrap().to_string();
    // The engine and the model are those of the first run.
    let line = ["train", &data, "--from", first.to_str().unwrap(), "--rank", "2", "--batch-size", "4"];
    let more = ["--max-steps", "2", "--no-report", "-o", second.to_str().unwrap()];
    let (status, _, stderr) = run(&folder, &[&line[..], &more].concat());
    assert_eq!(status, 0, "{stderr}");
    // The plan names the state.
    assert!(stderr.contains(&format!("from    {state}\n")), "{stderr}");
    let config = std::fs::read_to_string(second.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (config["from"].as_str(), config["model"].as_str()),
        (Some(state.as_str()), Some("tinkex/nano"))
    );
    let loss = |run: &Path, step: usize| rows(run)[step]["train_mean_nll"].as_f64().unwrap();
    assert!(loss(&second, 0) < loss(&first, 0));
    // Later states of the first run do not change where the second one began.
    assert_eq!(run(&folder, &["train", "--resume", first.to_str().unwrap(), "--max-steps", "4"]).0, 0);
    let (status, _, stderr) =
        run(&folder, &["train", "--resume", second.to_str().unwrap(), "--max-steps", "3"]);
    assert_eq!(status, 0, "{stderr}");
    let (status, _, stderr) = run(&folder, &["train", &data, "--from", "nothing", "--local"]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains("--from nothing: is neither a saved state nor the folder of a run\n  try: "),
        "{stderr}"
    );
    let (status, _, stderr) = run(&folder, &["train", &data, "-m", first.to_str().unwrap()]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains(&format!(
            "\n  try: `tinkex train {data} --from {}` begins with its last state",
            first.display()
        )),
        "{stderr}"
    );
    let empty = folder.join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(empty.join("checkpoints.jsonl"), "").unwrap();
    let (status, _, stderr) = run(&folder, &["train", &data, "--from", empty.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(stderr.contains("the run has saved no state yet\n  try: "), "{stderr}");
}

#[test]
fn a_run_of_the_cookbook_is_not_resumed_but_its_state_is_named_for_a_new_run() {
    let folder = Folder::new("train-cookbook");
    let other = folder.join("cookbook");
    std::fs::create_dir(&other).unwrap();
    let config = "{\"log_path\": \"runs/x\", \"model_name\": \"m\", \"lora_rank\": 32, \"num_epochs\": 1}";
    std::fs::write(other.join("config.json"), config).unwrap();
    let (status, _, stderr) = run(&folder, &["train", "--resume", other.to_str().unwrap()]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains("the run is not of `tinkex train`: its config.json does not name the data"),
        "{stderr}"
    );
    assert!(stderr.contains("\n  try: `tinkex train chats.jsonl -m Qwen/Qwen3-8B`"), "{stderr}");
    let record =
        "{\"name\": \"000010\", \"batch\": 10, \"state_path\": \"tinker://r:train:0/weights/000010\"}\n";
    std::fs::write(other.join("checkpoints.jsonl"), record).unwrap();
    let remedy =
        "\n  try: `tinkex train chats.jsonl --from tinker://r:train:0/weights/000010` begins a new run";
    let (_, _, stderr) = run(&folder, &["train", "--resume", other.to_str().unwrap()]);
    assert!(stderr.contains(remedy), "{stderr}");
    std::fs::remove_file(other.join("config.json")).unwrap();
    let (status, _, stderr) = run(&folder, &["train", "--resume", other.to_str().unwrap()]);
    assert!(status == 1 && stderr.contains(remedy), "{stderr}");
}

#[test]
fn a_folder_after_local_without_an_equals_sign_is_explained() {
    let folder = Folder::new("train-local");
    let data = chats(&folder, 4);
    let engine = folder.join("engine").display().to_string();
    for exists in [false, true] {
        let (status, _, stderr) = run(&folder, &["train", &data, "--local", &engine, "--dry-run"]);
        assert_eq!(status, 2, "{stderr}");
        assert!(
            stderr.contains(&format!("\n  try: --local={engine}, with an equals sign")),
            "{exists}: {stderr}"
        );
        let _ = std::fs::create_dir(&engine);
    }
    // A file of examples may stand there.
    let (status, _, stderr) = run(&folder, &["train", "--local", &data, "--dry-run"]);
    assert_eq!(status, 0, "{stderr}");
}

#[test]
fn a_run_that_begins_with_saved_weights_has_their_rank_and_no_other() {
    let home = Folder::new("train-rank");
    let (data, local) = (home.join("x.jsonl"), format!("--local={}", home.join("engine").display()));
    std::fs::write(&data, "{\"prompt\":\"a\",\"completion\":\"b\"}\n".repeat(4)).unwrap();
    let [data, first, second] =
        [data, home.join("first"), home.join("second")].map(|it| it.display().to_string());
    let common = ["train", &data, &local, "--max-steps", "1", "--no-report"];
    let (status, _, stderr) = run(&home, &[&common[..], &["-o", &first, "--rank", "4"]].concat());
    assert_eq!(status, 0, "{stderr}");
    let from = [&common[..], &["-o", &second, "--from", &first]].concat();
    let (status, _, stderr) = run(&home, &[&from[..], &["--rank", "8"]].concat());
    assert!(status == 2 && stderr.contains("has rank 4") && stderr.contains("leave --rank out"), "{stderr}");
    assert!(!home.join("second").exists());
    let (status, stdout, stderr) = run(&home, &[&from[..], &["--dry-run"]].concat());
    assert!(status == 0 && stdout.contains("rank 4"), "{stdout}{stderr}");
    let (status, _, stderr) = run(&home, &[&from[..], &["--rank", "4"]].concat());
    assert_eq!(status, 0, "{stderr}");
    let config = std::fs::read_to_string(home.join("second/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["rank"], 4);
    let (status, _, stderr) =
        run(&home, &[&common[..], &["-o", &first, "--rank", "0", "--dry-run"]].concat());
    assert!(status == 2 && stderr.contains("--rank"), "{stderr}");
}

#[test]
fn a_run_that_is_to_be_replaced_stays_until_the_new_one_has_begun() {
    let home = Folder::new("train-replaced");
    let data = chats(&home, 4);
    let out = home.join("run");
    let options = small(&home, &data, 1);
    assert_eq!(train(&home, &options, &["-o", out.to_str().unwrap()]).0, 0);
    let files = || {
        let mut all: Vec<(String, String)> = std::fs::read_dir(&out)
            .unwrap()
            .map(|it| it.unwrap())
            .map(|it| {
                (
                    it.file_name().into_string().unwrap(),
                    std::fs::read_to_string(it.path()).unwrap_or_default(),
                )
            })
            .filter(|it| it.0 != ".lock")
            .collect();
        all.sort();
        all
    };
    let before = files();
    let replace = ["-o", out.to_str().unwrap(), "--overwrite", "--name", "new"];
    let further = [&replace[..], &["--from", "tinker://none:train:0/weights/x"]].concat();
    let (status, _, stderr) = train(&home, &options, &further);
    assert_eq!(status, 1, "{stderr}");
    assert_eq!(files(), before);
    let (status, _, stderr) = train(&home, &options, &replace);
    assert_eq!(status, 0, "{stderr}");
    let names = |all: &[(String, String)]| all.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&files()), names(&before));
    assert_ne!(files(), before);

    // What a process leaves that is killed before the first step of the new run.
    let kept = files();
    for further in [vec!["-o", out.to_str().unwrap()], vec!["--resume", out.to_str().unwrap()]] {
        std::fs::create_dir(out.join(".replaced")).unwrap();
        for (name, _) in &kept {
            std::fs::rename(out.join(name), out.join(".replaced").join(name)).unwrap();
        }
        std::fs::copy(out.join(".replaced/config.json"), out.join("config.json")).unwrap();
        let (status, _, stderr) = train(&home, &options, &further);
        // The folder is not empty, or the run is finished.
        assert_eq!(status, if further[0] == "-o" { 2 } else { 0 }, "{stderr}");
        assert!(stderr.contains("has its earlier run again"), "{stderr}");
        assert!(!out.join(".replaced").exists());
        assert_eq!(names(&files()), names(&kept));
    }
}

#[test]
fn weights_for_sampling_are_refused_as_a_beginning_with_the_state_of_their_run() {
    let home = Folder::new("train-from-sampler");
    let data = chats(&home, 4);
    let out = home.join("run");
    let options = small(&home, &data, 3);
    assert_eq!(train(&home, &options, &["-o", out.to_str().unwrap()]).0, 0);
    let log = tinkex::train::CheckpointLog::open(&out).unwrap();
    for record in log.records() {
        let sampler = record.sampler_path.as_ref().unwrap().to_string();
        let (status, _, stderr) = train(&home, &options, &["--dry-run", "--from", &sampler]);
        assert_eq!(status, 2, "{stderr}");
        let state = record.state_path.as_ref().unwrap().to_string();
        assert!(
            stderr.contains("these are weights to sample from; a run begins with a saved state"),
            "{stderr}"
        );
        assert!(stderr.contains(&format!("--from {state}`")), "{stderr}");
    }
}

#[test]
fn a_reference_is_refused_where_there_is_none() {
    let home = Folder::new("train-reference");
    let data = chats(&home, 4);
    let (status, _, stderr) =
        train(&home, &small(&home, &data, 1), &["--dry-run", "--reference", "tinkex/nano"]);
    assert_eq!(status, 2, "{stderr}");
    assert!(
        stderr.contains("--reference tinkex/nano is for --loss dpo") && stderr.contains("  try: leave"),
        "{stderr}"
    );
}
