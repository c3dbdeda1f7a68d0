//! The folder of a training run where a model or a checkpoint is named.

use serde_json::Value;

use crate::util::{Folder, run};

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
