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
