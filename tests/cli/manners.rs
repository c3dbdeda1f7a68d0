//! What all commands have in common.

use crate::util::{self, Folder, run};

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
    assert!(status == 2 && stderr.contains("--local=engine, if engine is"), "{stderr}");
}

#[test]
fn the_help_names_the_folder_of_the_engine() {
    let home = Folder::new("local-help");
    let (_, stdout, _) = run(&home, &["sample", "--help"]);
    let text = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("XDG_DATA_HOME") && text.contains("~/.local/share/tinkex/engine"), "{stdout}");
    assert!(stdout.contains("Examples:\n  tinkex sample "), "{stdout}");
}

#[test]
fn errors_have_no_names_of_rust_and_no_address_of_the_engine() {
    let home = Folder::new("words");
    drop(util::engine(&home));
    let local = format!("--local={}", home.join("engine").display());
    let none = "tinker://0a1b2c3d:train:0/weights/none";
    for words in [
        &["model", "list"][..],
        &["checkpoint", "info", none, &local],
        &["sample", "Hi", "-m", none, &local],
        &["run", "info", "none:train:0", &local],
        &[
            "sample",
            "Hi",
            "--base-url",
            "http://127.0.0.1:1",
            "-m",
            "tinkex/nano",
            "--timeout",
            "1s",
            "--credential-command",
            "echo tml-x",
        ],
    ] {
        let (status, stdout, stderr) = run(&home, words);
        assert_eq!((status, stdout.as_str()), (1, ""), "{words:?} {stderr}");
        assert!(!stderr.contains("::") && !stderr.contains("Client."), "{words:?} {stderr}");
        if words.contains(&local.as_str()) {
            assert!(!stderr.contains("127.0.0.1"), "{words:?} {stderr}");
        }
    }
}

#[test]
fn what_is_not_a_model_is_told_from_a_model_and_similar_names_are_shown() {
    let home = Folder::new("model-words");
    let server = tinkex::testing::FakeServer::new();
    let models = serde_json::json!({ "supported_models": [{ "model_name": "tinkex/nano" }] });
    server.always("/api/v1/get_server_capabilities", tinkex::testing::Act::json(models));
    let listening = server.listen().unwrap();
    let sample = |model: &str| {
        let mut command = crate::util::tinkex(&home);
        let url = listening.url();
        command.args(["sample", "Hi", "--base-url", &url, "-m", model]).env("TINKER_API_KEY", "tml-key");
        command.current_dir(&*home);
        crate::util::output_with_stdin(command, b"")
    };
    std::fs::create_dir(home.join("notes")).unwrap();
    for (model, status, expected) in [
        ("weights/final", 2, "is a part of a path; a whole one is tinker://RUN_ID/sampler_weights/NAME"),
        ("nosuchdir/", 2, "neither a model, nor a tinker:// path, nor the folder of a training run"),
        ("./notes", 2, "the folder is not that of a training run"),
        ("nano", 1, "did you mean tinkex/nano?"),
    ] {
        let (found, stdout, stderr) = sample(model);
        assert_eq!((found, stdout.as_str()), (status, ""), "{model}: {stderr}");
        assert!(stderr.contains(expected) && stderr.contains("  try: "), "{model}: {stderr}");
    }
}
