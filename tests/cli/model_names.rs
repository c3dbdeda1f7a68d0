//! Which model a command asks, where, and what is said if it is probably not the one that was meant.

use crate::util::{Folder, output_with_stdin, run, tinkex};

/// Runs the program in its home; returns its status, stdout and stderr.
fn run_in(home: &Folder, words: &[&str]) -> (i32, String, String) {
    let mut command = tinkex(home);
    command.args(words).current_dir(&**home);
    output_with_stdin(command, b"")
}

/// A home with two runs, each on an engine of its own, and a file of examples.
fn two_runs(name: &str) -> Folder {
    let home = Folder::new(name);
    let chat = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"yes"}]}"#;
    std::fs::write(home.join("chats.jsonl"), [chat; 4].join("\n")).unwrap();
    for (run, engine) in [("capital", "--local=a"), ("runs/beta", "--local=b")] {
        let words = [
            "train",
            "chats.jsonl",
            engine,
            "-o",
            run,
            "--max-steps",
            "1",
            "--batch-size",
            "4",
            "--rank",
            "4",
            "--no-report",
        ];
        let (status, _, stderr) = run_in(&home, &words);
        assert_eq!(status, 0, "{stderr}");
    }
    home
}

#[test]
fn each_run_is_measured_on_its_own_engine_and_other_models_where_the_first_run_is() {
    let home = two_runs("names-eval");
    let words = ["eval", "chats.jsonl", "-m", "tinkex/nano", "-m", "capital", "-m", "runs/beta", "-f", "tsv"];
    let (status, stdout, stderr) = run_in(&home, &words);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let models: Vec<&str> = stdout.lines().skip(1).map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(models, ["tinkex/nano", "capital", "runs/beta"]);

    // On another engine there is neither of them, which all commands explain.
    let place = home.join("a").display().to_string();
    for words in [
        &["sample", "Hi", "-m", "capital"][..],
        &["chat", "-m", "capital"],
        &["eval", "chats.jsonl", "-m", "capital"],
        &["checkpoint", "download", "capital"],
        &["train", "chats.jsonl", "--from", "capital", "--dry-run"],
        &["train", "--resume", "capital"],
        &["train", "--resume", "capital", "--max-steps", "9"],
    ] {
        let (status, stdout, stderr) = run_in(&home, &[words, &["--local=b"]].concat());
        assert_eq!((status, stdout.as_str()), (1, ""), "{words:?} {stderr}");
        let expected = format!(
            "error: the run capital was trained with --local={place}; its checkpoints are not where --local=b looks for them\n  \
             try: leave --local=b out\n"
        );
        assert!(stderr.ends_with(&expected), "{words:?} {stderr}");
    }

    // The same folder, written otherwise: what was saved is gone.
    let (status, _, stderr) =
        run_in(&home, &["checkpoint", "delete", "--run-id", "capital", "--yes", "--local=./a"]);
    assert_eq!(status, 0, "{stderr}");
    let (status, _, stderr) = run_in(&home, &["checkpoint", "download", "capital", "--local=a"]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("does not exist") && !stderr.contains("was trained with"), "{stderr}");
}

#[test]
fn a_name_that_is_almost_that_of_a_run_is_explained_whatever_fails() {
    let home = two_runs("names-near");
    std::fs::create_dir(home.join("my")).unwrap();
    for (model, further, expected) in [
        ("cap", &[][..], "try: -m capital, the folder of a run; or `tinkex auth login`"),
        ("beta", &[], "try: -m runs/beta, the folder of a run; or `tinkex auth login`"),
        ("runs/bet", &[], "try: -m runs/beta, the folder of a run; or `tinkex auth login`"),
        ("capitol", &["--local=a"], "try: -m capital, the folder of a run; or "),
        (
            "my",
            &[],
            "error: my is a folder, but not that of a training run: it has no checkpoints.jsonl\n  try: ",
        ),
        ("runs", &["--local=a"], "try: -m runs/beta, the folder of a run\n"),
        ("Qwen/Qwen3-8B", &[], "try: `tinkex auth login`"),
    ] {
        for command in [&["sample", "Hi"][..], &["eval", "chats.jsonl"]] {
            let (status, stdout, stderr) = run_in(&home, &[command, &["-m", model], further].concat());
            assert!((1..=2).contains(&status) && stdout.is_empty(), "{model}: {stderr}");
            assert!(stderr.contains(expected), "{model}: {stderr}");
        }
    }
}

#[test]
fn without_a_model_the_one_that_is_asked_is_told_with_the_newest_run() {
    let home = two_runs("names-none");
    let note = |local: &str| run_in(&home, &["sample", "Hi", "--max-tokens", "1", local]).2;
    let start = "note: without -m the model is tinkex/nano, which is not trained";
    assert_eq!(note("--local=a"), format!("{start}; -m capital is the newest run here\n"));
    assert_eq!(note("--local=c"), format!("{start}\n"));
    let (status, _, stderr) = run_in(&home, &["eval", "chats.jsonl"]);
    assert!(
        status == 2
            && stderr.contains(
                "no model is named\n  try: -m runs/beta, the newest run here; or a model, as in -m "
            ),
        "{stderr}"
    );
    let quiet = run(&home, &["sample", "Hi", "--max-tokens", "1", "--local", "--quiet"]);
    assert_eq!((quiet.0, quiet.2.as_str()), (0, ""));
}

#[test]
fn a_state_of_the_training_is_not_sampled_from_and_the_weights_of_its_run_are_named() {
    let home = two_runs("names-state");
    let checkpoints = std::fs::read_to_string(home.join("capital/checkpoints.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(checkpoints.lines().last().unwrap()).unwrap();
    let [state, sampler] = ["state_path", "sampler_path"].map(|key| last[key].as_str().unwrap().to_owned());
    for command in [&["sample", "Hi"][..], &["eval", "chats.jsonl"]] {
        let (status, _, stderr) = run_in(&home, &[command, &["--local=a", "-m", &state]].concat());
        assert_eq!(status, 2, "{stderr}");
        let expected = format!(
            "error: {state} is a state of the training, which has no weights to sample from\n  try: -m {sampler}\n"
        );
        assert_eq!(stderr, expected);
    }
    // A name that no checkpoint of the run has, with the nearest one that can be sampled from.
    for name in ["nope", "fnal"] {
        let missing = format!("{}/{name}", state.rsplit_once('/').unwrap().0);
        let (status, _, stderr) = run_in(&home, &["sample", "Hi", "--local=a", "-m", &missing]);
        let expected = format!(
            "error: {missing} does not exist: the run has no checkpoint of this name\n  try: -m {sampler}\n"
        );
        assert_eq!((status, stderr), (2, expected));
    }
}

#[test]
fn a_name_that_is_no_run_leads_to_the_runs_that_are_here() {
    let home = two_runs("names-none");
    for words in [&["sample", "Hi", "-m", "r9"][..], &["chat", "-m", "r9"]] {
        let (status, _, stderr) = run_in(&home, words);
        assert_eq!(status, 2, "{words:?} {stderr}");
        assert!(stderr.starts_with("error: r9 is not the folder of a run"), "{stderr}");
        assert!(stderr.contains("-m capital") && stderr.contains("-m runs/beta"), "{stderr}");
    }
    let (status, _, stderr) = run_in(&home, &["checkpoint", "info", "capital", "--local=a"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("`tinkex checkpoint list --run-id capital` shows its paths"), "{stderr}");
}
