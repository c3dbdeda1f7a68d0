//! `tinkex train --dry-run`: what ends the run early, and that nothing is left behind.

use serde_json::Value;

use crate::train::{chats, rows, small, train, with};
use crate::train_finished::{finished, paths};
use crate::util::{Folder, run};

#[test]
fn the_step_after_which_the_budget_ends_the_run_is_told_and_is_that_of_the_run() {
    let folder = Folder::new("train-plan-budget");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let options = small(&folder, &data, 50);
    let further = ["-o", out.to_str().unwrap(), "--max-tokens", "700"];
    let plan =
        |format: &str| train(&folder, &options, &[&further[..], &["--dry-run", "-f", format]].concat()).1;
    let json: Value = serde_json::from_str(&plan("json")).unwrap();
    let n = json["budget_end"]["n_steps"].as_u64().unwrap();
    let expected = format!("budget  --max-tokens 700 ends the run after {n} steps of 50, in epoch ");
    assert!(plan("table").contains(&expected), "{}", plan("table"));
    assert_eq!(train(&folder, &options, &further).0, 4);
    assert_eq!(rows(&out).len() as u64, n);
    let (_, stdout, _) = train(&folder, &options, &["--dry-run", "--max-tokens", "1"]);
    assert!(stdout.contains("--max-tokens 1 is less than the first step needs"), "{stdout}");
    let (_, stdout, _) = train(&folder, &options, &["--dry-run", "--max-tokens", "1000000"]);
    assert!(!stdout.contains("\nbudget "), "{stdout}");
}

#[test]
fn a_dry_run_leaves_no_folder_of_the_engine() {
    let folder = Folder::new("train-plan-folder");
    let data = chats(&folder, 4);
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&*folder).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let local = format!("--local={}", folder.join("a/engine").display());
    for local in [local.as_str(), "--local"] {
        let (status, stdout, stderr) = run(&folder, &["train", "--dry-run", local, "--", &data]);
        assert_eq!(status, 0, "{stderr}");
        assert!(stdout.contains("4 examples"), "{stdout}");
        assert_eq!(names(), before, "{local}");
    }
}

#[test]
fn a_split_with_another_share_than_was_asked_for_is_told() {
    let folder = Folder::new("train-plan-split");
    let data = folder.join("same.jsonl");
    let line = |i: usize| format!("{{\"prompt\": \"{}\", \"completion\": \"b\"}}\n", "a".repeat(i % 2 + 1));
    std::fs::write(&data, (0..20).map(line).collect::<String>()).unwrap();
    let data = data.display().to_string();
    let options = small(&folder, &data, 1);
    let (status, stdout, stderr) = train(&folder, &options, &["--dry-run", "--eval-split", "0.1"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("note: --eval-split 0.1 holds out 10 of 20 lines (50%)"), "{stdout}");
    let (status, _, stderr) = train(&folder, &options, &["--dry-run", "--eval-split", "20%"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("give a share between 0 and 1: 0.2 for 20% of the lines"), "{stderr}");
}

#[test]
fn a_dry_run_of_a_run_that_is_resumed_tells_what_is_left_of_it() {
    let folder = Folder::new("train-plan-resumed");
    let out = finished(&folder);
    let plan = |more: &[&str]| {
        let line = ["train", "--resume", out.to_str().unwrap(), "--dry-run"];
        let (status, stdout, stderr) = run(&folder, &[&line[..], more].concat());
        assert_eq!(status, 0, "{stderr}");
        stdout
    };
    let json =
        |more: &[&str]| -> Value { serde_json::from_str(&plan(&[more, &["-f", "json"]].concat())).unwrap() };
    let [state, _] = paths(&out, "final");
    let text = plan(&[]);
    assert!(
        text.contains(&format!("\nresume  all steps are done: step 3 of 3, saved as {state}\n")),
        "{text}"
    );
    assert!(text.contains("\nleft    nothing\n"), "{text}");
    let done = &json(&[])["resume"];
    assert_eq!((&done["is_finished"], &done["n_steps_left"]), (&true.into(), &0.into()), "{done}");

    let text = plan(&["--max-steps", "5"]);
    assert!(text.contains(&format!("\nresume  goes on after step 3 of 5, with {state}\n")), "{text}");
    assert!(text.contains("\nleft    2 steps, 8 examples, ") && text.contains(" tokens, free\n"), "{text}");
    let whole = json(&["--max-steps", "5"]);
    let left = &whole["resume"];
    assert_eq!((&left["n_steps_done"], &left["n_steps_left"]), (&3.into(), &2.into()), "{left}");
    assert_eq!((&left["state_path"], &left["n_examples_left"]), (&state.into(), &8.into()), "{left}");
    // All examples have the same length.
    let tokens = |json: &Value, name: &str| json[name].as_u64().unwrap();
    assert_eq!(tokens(left, "n_trained_tokens_left") * 5, tokens(&whole, "n_trained_tokens") * 2);
    assert_eq!(rows(&out).len(), 3);
}

#[test]
fn a_dry_run_refuses_a_rank_that_the_engine_refuses() {
    let folder = Folder::new("train-plan-rank");
    let data = chats(&folder, 4);
    let out = folder.join("run");
    for further in [&["--dry-run"][..], &[]] {
        let options = with(&small(&folder, &data, 1), "--rank", "1000");
        let (status, stdout, stderr) =
            train(&folder, &options, &[&["-o", out.to_str().unwrap()], further].concat());
        assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("--rank must be in 1..=256, is 1000"), "{stderr}");
        assert!(!out.exists());
    }
    let (status, _, stderr) = train(&folder, &small(&folder, &data, 1), &["--dry-run"]);
    assert_eq!(status, 0, "{stderr}");
}
