//! The folder of a training run where a model or a checkpoint is named.

use serde_json::Value;

use crate::train_finished::{delete, finished, paths};
use crate::train_remedies::{paste, remedies};
use crate::util::{Folder, run, run_with_stdin};

#[test]
fn samples_of_a_run_are_announced_and_end_where_the_answer_ends_and_its_weights_are_downloaded_by_its_folder()
{
    let home = Folder::new("run-folder");
    let path = |name: &str| home.join(name).display().to_string();
    let chat = r#"{"messages":[{"role":"user","content":"Ready?"},{"role":"assistant","content":"yes"}]}"#;
    std::fs::write(home.join("chats.jsonl"), [chat; 4].join("\n")).unwrap();
    std::fs::write(home.join("prompts.txt"), "Ready?\n").unwrap();
    let local = format!("--local={}", path("engine"));
    let (data, prompts, out) = (path("chats.jsonl"), path("prompts.txt"), path("run"));
    let args = [
        "train",
        &data,
        &local,
        "--out",
        &out,
        "--prompts",
        &prompts,
        "--max-steps",
        "40",
        "--epochs",
        "40",
        "--rank",
        "8",
        "--batch-size",
        "4",
        "--no-shuffle",
    ];
    let (status, _, stderr) = run(&home, &args);
    assert_eq!(status, 0, "{stderr}");
    let file = format!("{out}/samples.jsonl");
    for when in ["before the training", "after 40 steps"] {
        assert!(stderr.contains(&format!("samples {when}: {file}\n")), "{stderr}");
    }
    let samples = std::fs::read_to_string(&file).unwrap();
    let texts: Vec<Value> = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((texts.len(), texts[1]["text"].as_str()), (2, Some("yes")), "{samples}");
    assert_eq!(run(&home, &["sample", "Ready?", "-m", &out, "-t", "0"]).1, "yes\n");

    let models = path("models");
    let (status, stdout, stderr) = run(&home, &["checkpoint", "download", &out, "-o", &models, "-f", "json"]);
    assert_eq!(status, 0, "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert!(!stderr.contains("preparing"), "{stderr}");
    assert!(json["checkpoint_path"].as_str().unwrap().ends_with("/sampler_weights/final"), "{stdout}");
    let destination = std::path::Path::new(json["destination"].as_str().unwrap());
    assert!(
        destination.starts_with(&models) && destination.join("adapter_model.safetensors").is_file(),
        "{stdout}"
    );
    for wrong in [path("engine"), path("none"), "weights/final".into()] {
        let (status, stdout, stderr) = run(&home, &["checkpoint", "download", &wrong]);
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
    }
}

#[test]
fn the_newest_checkpoint_that_is_there_is_named_in_place_of_a_last_one_that_is_gone() {
    let home = Folder::new("run-folder-gone");
    let out = finished(&home).display().to_string();
    let data = home.join("chats.jsonl").display().to_string();
    let run_of = std::path::Path::new(&out);
    let ([state, sampler], [earlier_state, earlier]) = (paths(run_of, "final"), paths(run_of, "000002"));
    delete(&home, &state);
    delete(&home, &sampler);
    let models = home.join("models").display().to_string();
    let other = home.join("other").display().to_string();
    for (line, last, newest) in [
        (&["sample", "Hi", "-m", &out][..], &sampler, &earlier),
        (&["chat", "-m", &out], &sampler, &earlier),
        (&["eval", &data, "-m", &out], &sampler, &earlier),
        (&["checkpoint", "download", &out, "-o", &models], &sampler, &earlier),
        (&["train", &data, "--from", &out, "-o", &other, "--max-steps", "1"], &state, &earlier_state),
    ] {
        let (status, stdout, stderr) = run_with_stdin(&home, line, b"Hi\n");
        assert_eq!((status, stdout.as_str()), (1, ""), "{line:?}: {stderr}");
        let gone = format!("{out}: its last checkpoint was deleted or has expired: {last} does not exist\n");
        assert!(stderr.contains(&gone), "{line:?}: {stderr}");
        assert!(stderr.contains("` takes the newest one that is there, that after 2 steps"), "{stderr}");
        let command = remedies(&stderr).remove(0);
        assert!(command.contains(newest.as_str()), "{command}");
        let (status, stderr) = paste(&home, &command);
        assert_eq!(status, 0, "{command}: {stderr}");
    }
    delete(&home, &earlier);
    let (status, _, stderr) = run(&home, &["sample", "Hi", "-m", &out]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains(" --dry-run` says what is left of the run"), "{stderr}");
}

#[test]
fn a_run_without_a_checkpoint_is_waited_for_only_while_it_runs() {
    let home = Folder::new("run-folder-none");
    let out = finished(&home);
    std::fs::write(out.join("checkpoints.jsonl"), "").unwrap();
    let ask = || run(&home, &["sample", "Hi", "-m", out.to_str().unwrap()]).2;
    let stderr = ask();
    assert!(stderr.contains("the run ended before it saved any weights to sample from\n"), "{stderr}");
    let resume = format!("`tinkex train --resume {}` goes on with it", out.display());
    assert!(stderr.contains(&resume), "{stderr}");
    let lock = std::fs::File::create(out.join(".lock")).unwrap();
    lock.lock().unwrap();
    assert!(ask().contains("try: wait for a checkpoint"), "{}", ask());
}

#[test]
fn settings_of_a_run_that_cannot_be_read_are_named_with_their_line() {
    let home = Folder::new("run-folder-damaged");
    let out = finished(&home);
    std::fs::write(out.join("config.json"), "{\n  \"rank\": 2,,\n}\n").unwrap();
    let out = out.to_str().unwrap();
    for line in [&["sample", "Hi", "-m", out][..], &["run", "info", out], &["train", "--resume", out]] {
        let (status, _, stderr) = run(&home, line);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.contains("/config.json:2: the file of the run is damaged: "), "{stderr}");
    }
}
