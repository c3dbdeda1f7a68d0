//! `tinkex train --dry-run`: what ends the run early, and that nothing is left behind.

use serde_json::Value;

use crate::train::{chats, rows, small, train};
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
    assert!(stderr.contains("give it as a number: 0.2 for 20%"), "{stderr}");
}
