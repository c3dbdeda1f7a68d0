//! `tinkex data split`: the lines that a training holds out.

use serde_json::Value;

use super::file;
use crate::util::{Folder, run};

/// Chats of different lengths, one a line.
fn chats(n: usize) -> String {
    let line = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{}\"}}, {{\"role\": \"assistant\", \"content\": \"{i}\"}}]}}\n",
            "word ".repeat(i + 1)
        )
    };
    (0..n).map(line).collect()
}

#[test]
fn the_parts_are_those_of_a_training_with_the_same_share() {
    let home = Folder::new("data-split");
    let all = file(&home, "all.jsonl", chats(40));
    let parts = home.join("parts");
    let out = parts.to_str().unwrap();
    let (status, stdout, stderr) = run(&home, &["data", "split", &all, "--eval-split", "0.2", "-o", out]);
    assert_eq!(status, 0, "{stderr}");
    let (train, eval) = (parts.join("train.jsonl"), parts.join("eval.jsonl"));
    assert!(stdout.contains(&format!("{}: ", eval.display())), "{stdout}");
    let plan = |line: &[&str]| -> [Value; 5] {
        let all = [&["train", "--local", "--dry-run", "-f", "json"], line].concat();
        let (status, stdout, stderr) = run(&home, &all);
        assert_eq!(status, 0, "{stderr}");
        let plan: Value = serde_json::from_str(&stdout).unwrap();
        let data = |name: &str| plan["data"][name].clone();
        [
            data("n_examples"),
            data("n_eval_examples"),
            data("n_tokens"),
            data("lengths"),
            plan["n_prefill_tokens"].clone(),
        ]
    };
    let whole = plan(&[&all, "--eval-split", "0.2"]);
    assert_eq!(whole, plan(&[train.to_str().unwrap(), "--eval-data", eval.to_str().unwrap()]));
    // The lines are unchanged.
    let read = |path| std::fs::read_to_string(path).unwrap();
    let (train, eval) = (read(train), read(eval));
    let mut lines: Vec<&str> = train.lines().chain(eval.lines()).collect();
    let all = read(home.join("all.jsonl"));
    let mut expected: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[test]
fn parts_of_other_data_are_replaced_only_if_that_is_asked_for() {
    let home = Folder::new("data-split-again");
    let (first, second) = (file(&home, "a.jsonl", chats(10)), file(&home, "b.jsonl", chats(11)));
    let out = home.join("parts").display().to_string();
    let split = |data: &str, further: &[&str]| {
        run(&home, &[&["data", "split", data, "--eval-split", "0.3", "-o", &out], further].concat())
    };
    assert_eq!(split(&first, &[]).0, 0);
    assert_eq!(split(&first, &[]).0, 0);
    let (status, _, stderr) = split(&second, &[]);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains(".jsonl is there, and has other lines\n  try: --overwrite"), "{stderr}");
    assert_eq!(split(&second, &["--overwrite"]).0, 0);
}

#[test]
fn the_items_of_an_array_become_lines() {
    let home = Folder::new("data-split-array");
    let items = "[\n  {\"prompt\": \"a\",\n   \"completion\": \"b\\nc\"},\n  {\"prompt\": \"d\", \"completion\": \"e\"}\n]\n";
    let data = file(&home, "items.json", items);
    let out = home.join("parts");
    let line = ["data", "split", &data, "--eval-split", "0.5", "-o", out.to_str().unwrap()];
    assert_eq!(run(&home, &line).0, 0);
    for name in ["train.jsonl", "eval.jsonl"] {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let _: Value = serde_json::from_str(&text).unwrap();
    }
}

#[test]
fn the_file_that_is_split_is_never_replaced_by_its_own_part() {
    let home = Folder::new("data-split-itself");
    let data = file(&home, "train.jsonl", chats(10));
    let before = std::fs::read_to_string(&data).unwrap();
    let folder = home.display().to_string();
    let split =
        |out: &str| run(&home, &["data", "split", &data, "--eval-split", "0.3", "-o", out, "--overwrite"]);
    let (status, stdout, stderr) = split(&folder);
    assert_eq!((status, stdout.as_str()), (2, ""));
    let remedy = format!("is the file that is split, and one of its parts\n  try: -o {folder}/parts\n");
    assert!(stderr.ends_with(&remedy), "{stderr}");
    assert_eq!(std::fs::read_to_string(&data).unwrap(), before);
    assert!(!home.join("eval.jsonl").exists());
    assert_eq!(split(&format!("{folder}/parts")).0, 0);
    let (status, _, stderr) = split(&data);
    assert_eq!(status, 2);
    assert!(stderr.contains("train.jsonl is a file\n  try: a folder"), "{stderr}");
}
