//! Columns that are not used, and roles of other programs.

use serde_json::{Value, json};

use super::{check, file};
use crate::train::{small, train};
use crate::util::{Folder, run};

const CHAT: &str = r#""messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#;

#[test]
fn columns_that_are_not_used_are_named_with_the_number_of_their_lines() {
    let home = Folder::new("data-columns");
    let lines = format!(
        "{{\"id\":1,{CHAT},\"source\":\"x\",\"note\":null}}\n{{\"id\":2,{CHAT}}}\n{{\"id\":3,{CHAT},\"promt\":\"p\"}}\n"
    );
    let path = file(&home, "x.jsonl", lines);
    let note =
        "note: 3 columns are not used: id, source (in 1 of 3 lines), promt (in 1 of 3 lines)".to_owned();
    let (status, stdout, stderr) = run(&home, &["data", "check", &path]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("{note}\nno problems: 3 examples, format chat\n"));
    let (_, stdout, _) = run(&home, &["data", "check", &path, "-f", "json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        json["unused_columns"][1],
        json!({ "column": "source", "lines": 1, "first": format!("{path}:1"), "did_you_mean": null })
    );
    // What does not come through a conversion is told, too.
    let (status, stdout, stderr) = run(&home, &["data", "convert", &path, "--to", "completion"]);
    let others = "note: 2 columns are not used: source (in 1 of 3 lines), promt (in 1 of 3 lines)\n";
    assert_eq!((status, stderr.as_str()), (0, others));
    // The id does, by which answers to prompts are found again.
    let first: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&first["id"], first["prompt"].is_array()), (&json!(1), true));
    // Not one that would break the line.
    let array = file(&home, "a.json", format!("[{{\"id\": {{\n \"x\": 1}}, {CHAT}}}]"));
    let (_, stdout, _) = run(&home, &["data", "convert", &array, "--to", "completion"]);
    let only: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((only.get("id"), only["prompt"].is_array()), (None, true));
    // Data for the evaluation with the same columns add nothing.
    let (status, stdout, stderr) =
        train(&home, &small(&home, &path, 1), &["--dry-run", "--eval-data", &path]);
    assert_eq!((status, stdout.matches(&note).count()), (0, 1), "{stdout}{stderr}");
}

#[test]
fn a_misspelt_column_is_a_problem_of_a_check_and_a_warning_of_a_training() {
    let home = Folder::new("data-misspelt");
    for (line, column, expected) in [
        (format!(r#"{{{CHAT},"wieght":0}}"#), "wieght", r#"did you mean "weight" in one of the messages?"#),
        (format!(r#"{{{CHAT},"weight":0}}"#), "weight", r#"did you mean "weight" in one of the messages?"#),
        (format!(r#"{{{CHAT},"choosen":"a","rejected":"b"}}"#), "choosen", r#"did you mean "chosen"?"#),
        (r#"{"text":"q a","promt":"q","completion":"a"}"#.into(), "promt", r#"did you mean "prompt"?"#),
    ] {
        let problem = format!("the column {column:?} is not used; {expected}");
        let (status, stdout) = check(&home, line.as_bytes(), &[]);
        assert_eq!(
            (status, stdout.lines().next()),
            (1, Some(format!("stdin:1: {problem}").as_str())),
            "{line}"
        );
        assert!(stdout.contains("\n1 problem: 1 example, "), "{stdout}");
        let path = file(&home, "x.jsonl", format!("{line}\n{}\n", line.replace("a\"", "b\"")));
        let (status, stdout, stderr) = train(&home, &small(&home, &path, 1), &["--dry-run"]);
        let warning = format!("\nwarning: {path}:1: {problem} (2 lines have it)\n");
        assert!(status == 0 && stdout.contains(&warning), "{stdout}{stderr}");
    }
}
