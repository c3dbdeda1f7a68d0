//! What all commands have in common.

use crate::util::{Folder, run};

#[test]
fn a_wrong_word_is_a_usage_error_with_a_suggestion_and_nothing_on_stdout() {
    let home = Folder::new("wrong-word");
    let (status, stdout, stderr) = run(&home, &["modle", "list"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("model"), "{stderr}");
}

#[test]
fn models_are_listed_offline_as_tsv_in_a_pipe_as_a_table_and_as_json() {
    let home = Folder::new("models");
    let local = format!("--local={}", home.join("engine").display());
    let (status, stdout, stderr) = run(&home, &["model", "list", "nano", &local]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "model\tmax_context\ttrainable\tsampleable\ntinkex/nano\t32768\tYes\tYes\n");
    let (_, table, _) = run(&home, &["model", "list", "nano", &local, "-f", "table"]);
    assert_eq!(
        table,
        "MODEL        MAX CONTEXT  TRAINABLE  SAMPLEABLE\ntinkex/nano  32768        Yes        Yes\n"
    );
    let (_, json, _) = run(&home, &["model", "list", "nano", &local, "-f", "jsonl"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["max_context_length"], 32768);
}

#[test]
fn without_a_key_the_error_says_how_to_get_one() {
    let home = Folder::new("no-key");
    let (status, stdout, stderr) = run(&home, &["model", "list"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("TINKER_API_KEY") && stderr.contains("tinkex auth login"), "{stderr}");
}

#[test]
fn a_model_that_the_engine_lacks_is_refused_before_its_tokenizer_is_looked_for() {
    let home = Folder::new("no-model");
    let local = format!("--local={}", home.join("engine").display());
    let data = home.join("x.jsonl");
    std::fs::write(&data, "{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
    let data = data.display().to_string();
    for command in [&["sample", "Hi"][..], &["eval", &data], &["train", &data]] {
        let args = [command, &["-m", "tinkex/nanoo", &local]].concat();
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("no model \"tinkex/nanoo\"; it has tinkex/nano"), "{stderr}");
    }
}

#[test]
fn a_folder_that_is_written_after_local_without_an_equals_sign_gets_a_tip() {
    let home = Folder::new("local-tip");
    let (status, _, stderr) = run(&home, &["checkpoint", "list", "--local", "engine"]);
    assert!(status == 2 && stderr.contains("--local=DIR"), "{stderr}");
}
