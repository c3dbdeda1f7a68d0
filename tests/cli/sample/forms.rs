//! What a file of prompts may be, and what is said about lines that are not prompts.

use std::fs;

use serde_json::Value;

use super::{Fake, prompt_of};
use crate::util::output_with_stdin;

/// Samples with a file of this name and text.
fn sample(fake: &Fake, name: &str, text: &str, further: &[&str]) -> (i32, String, String) {
    fs::write(fake.home.join(name), text).unwrap();
    fake.run(&[&["-i", &fake.path(name)], further].concat())
}

#[test]
fn prompts_are_lines_of_text_too() {
    let fake = Fake::new("forms-text");
    for (name, text) in
        [("a.txt", "[one]\n\ntwo\r\n"), ("b", "one\n{\"prompt\":\"two\"}\n"), ("c.json", "[\"one\",\"two\"]")]
    {
        let n = fake.sent().len();
        let (status, _, stderr) = sample(&fake, name, text, &["--ordered", "--in-flight", "1"]);
        assert_eq!((status, stderr.as_str()), (0, "2 answered, 0 failed\n"), "{name}");
        let sent: Vec<String> = fake.sent()[n..].iter().map(prompt_of).collect();
        assert!(sent[0].contains("one") && sent[1].starts_with("User: two\n"), "{name}: {sent:?}");
    }
    let (status, stdout, _) = output_with_stdin(fake.command(&["-i", "-"]), b"one\n");
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, &line["prompt"]), (0, &Value::from("one")));
}

#[test]
fn a_file_without_one_prompt_is_refused_before_anything_is_sent() {
    let fake = Fake::new("forms-refused");
    let chat = r#"{"messages":[{"role":"user","content":"2+2?"},{"role":"assistant","content":"N"}]}"#;
    let chats: String = (0..300).map(|i| chat.replace('N', &format!("answer {i}")) + "\n").collect();
    let out = fake.path("out.jsonl");
    let (status, stdout, stderr) = sample(&fake, "in.jsonl", &chats, &["-o", &out]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert_eq!(stderr.lines().count(), 5, "a fault that all have is told once: {stderr}");
    assert!(
        stderr.contains(
            "in.jsonl:1: messages: the last one is an answer already; leave it out, or make prompts"
        ),
        "{stderr}"
    );
    assert!(
        stderr.contains("… and 297 more of this kind") && stderr.contains("\n  try: in each line "),
        "{stderr}"
    );
    let (status, _, stderr) = sample(&fake, "empty.jsonl", "\n", &["-o", &out]);
    assert!(status == 1 && stderr.contains("empty.jsonl: has no prompts\n  try: "), "{stderr}");
    for format in ["json", "tsv"] {
        let (status, _, stderr) = sample(&fake, "p.txt", "one\n", &["-f", format]);
        assert!(
            status == 2 && stderr.contains("are JSON Lines") && stderr.contains("leave -f out"),
            "{stderr}"
        );
    }
    assert!(fake.server.requests().is_empty() && !fake.home.join("out.jsonl").exists());
}

#[test]
fn lines_that_are_not_prompts_are_told_first_and_are_not_to_be_tried_again_as_they_are() {
    let fake = Fake::new("forms-some");
    let out = fake.path("out.jsonl");
    let (status, _, stderr) = sample(&fake, "in.jsonl", "{\"prompt\":\"one\"}\nHello\n", &["-o", &out]);
    assert_eq!(status, 3);
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines[0].contains("in.jsonl:2: not valid JSON") && lines[0].contains("all must be"), "{stderr}");
    assert_eq!(lines[1], "note: 1 of 2 prompts cannot be used, and get a line with `error`");
    assert_eq!(lines[2], "1 answered, 1 failed");
    assert!(lines[3].starts_with("cannot be used: 1 prompt of "), "{stderr}");
    assert!(lines[3].ends_with("mend the input, and run the same command again"), "{stderr}");
}
