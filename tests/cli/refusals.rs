//! What a command says when it is called wrongly or cannot do its work: to a person, and to a program with `-f json`.

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer};

use crate::util::{Folder, output_with_stdin, run, tinkex};

/// The error in the last line of stderr.
#[track_caller]
fn error_of(stderr: &str) -> Value {
    assert!(stderr.lines().all(|line| !line.starts_with("error:")), "{stderr}");
    let json: Value = serde_json::from_str(stderr.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{stderr}"));
    json["error"].clone()
}

#[test]
fn a_program_reads_each_failure_as_json_in_the_last_line_of_stderr() {
    let home = Folder::new("refusal-json");
    let file = home.join("file").display().to_string();
    std::fs::write(&file, "").unwrap();
    let in_file = format!("--local={file}");
    for (words, status, message, remedy) in [
        (&["-f", "json", "model", "list"][..], 1, "no API key", "tinkex auth login"),
        (&["model", "list", "-f", "json", &in_file], 1, "cannot create", "is a file"),
        (&["train", "x.jsonl", "--nope", "--format=json"], 2, "'--nope'", "tinkex train --help"),
        (&["sample", "Hi", "--temp", "1", "-f", "json"], 2, "'--temp'", "--temperature"),
        (&["-f", "json", "ls"], 2, "'ls'", "tinkex checkpoint list"),
        (&["checkpoint", "-f", "json"], 2, "needs a command", "tinkex checkpoint --help"),
        (&["run", "info", "-fjson"], 2, "<RUN_ID>", "tinkex run info --help"),
        (&["man", "-f", "json"], 2, "no JSON form", "leave -f out"),
        (&["report", ".", "-o", "-", "-f", "json"], 2, "no JSON form", "leave -f out"),
    ] {
        let (found, stdout, stderr) = run(&home, words);
        assert_eq!((found, stdout.as_str()), (status, ""), "{words:?} {stderr}");
        let error = error_of(&stderr);
        assert_eq!(error["status"], status, "{words:?} {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{words:?} {error}");
        assert!(error["try"].as_str().unwrap().contains(remedy), "{words:?} {error}");
        for member in ["code", "kind", "request_id", "retryable"] {
            assert!(error.get(member).is_some(), "{member}: {error}");
        }
    }
}

#[test]
fn values_that_cannot_be_used_are_refused_by_name_before_anything_is_sent() {
    let home = Folder::new("refusal-values");
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let url = listening.url();
    for (words, expected) in [
        (
            &["checkpoint", "delete", "--keep-last", "-1", "--base-url", &url][..],
            "'--keep-last <N>': must not be negative",
        ),
        (
            &["checkpoint", "delete", "--older-than", "-5d", "--base-url", &url],
            "\"-5d\" must not be negative",
        ),
        (&["checkpoint", "list", "--limit", "-1", "--base-url", &url], "'--limit <N>'"),
        (&["sample", "Hi", "-n", "-1", "--base-url", &url], "'-n <N>'"),
        (&["train", "x.jsonl", "--epochs", "-1", "--base-url", &url], "'--epochs <"),
        (&["model", "list", "--timeout", "0", "--base-url", &url], "'--timeout <TIME>': must be more than 0"),
        (&["model", "list", "--timeout", "5y", "--base-url", &url], "(ms, s, m, h, d, w)"),
        (&["model", "list", "--base-url", "banana"], "'--base-url <URL>': must begin with http://"),
        (&["model", "list", "--base-url", "http://u:p@127.0.0.1:1"], "--base-url"),
    ] {
        let mut command = tinkex(&home);
        command.args(words).env("TINKER_API_KEY", "tml-key");
        let (status, stdout, stderr) = output_with_stdin(command, b"");
        assert_eq!((status, stdout.as_str()), (2, ""), "{words:?} {stderr}");
        assert!(stderr.contains(expected) && stderr.contains("  try: "), "{words:?} {stderr}");
        assert!(!stderr.contains("-- -"), "{words:?} {stderr}");
    }
    assert!(server.requests().is_empty());
    let mut command = tinkex(&home);
    command
        .args(["model", "list", "--timeout", "9000ms", "--base-url", &url])
        .env("TINKER_API_KEY", "tml-key");
    assert_eq!(output_with_stdin(command, b"").0, 0);
}

#[test]
fn an_address_at_which_something_else_answers_is_told_from_a_tinker_server() {
    let home = Folder::new("refusal-foreign");
    let server = FakeServer::new();
    server.script(|_| Some(Act::status(404, "<html><body>Not Found</body></html>")));
    let listening = server.listen().unwrap();
    let url = listening.url();
    for words in [&["model", "list"][..], &["run", "list"], &["auth", "status"]] {
        let mut command = tinkex(&home);
        command.args(words).args(["--base-url", &url]).env("TINKER_API_KEY", "tml-key");
        let (status, _, stderr) = output_with_stdin(command, b"");
        assert_eq!(status, 1, "{words:?} {stderr}");
        assert!(stderr.contains("answers but is not a Tinker server"), "{words:?} {stderr}");
        assert!(stderr.contains("  try: the address of the server"), "{words:?} {stderr}");
    }
    let mut command = tinkex(&home);
    command.args(["doctor", "-f", "json", "--base-url", &url]).env("TINKER_API_KEY", "tml-key");
    let (status, stdout, _) = output_with_stdin(command, b"");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let models = report["findings"].as_array().unwrap().iter().find(|it| it["check"] == "models").unwrap();
    assert!(status == 1 && models["text"].as_str().unwrap().contains("not a Tinker server"), "{models}");
    assert!(models["remedy"].as_str().unwrap().contains("--base-url http://"), "{models}");
}

#[test]
fn a_server_that_lacks_one_call_is_still_a_tinker_server() {
    let home = Folder::new("refusal-lacks");
    let server = FakeServer::new();
    let lacks = |path: &str| path.starts_with("/api/v1/training_runs");
    server.script(move |seen| lacks(&seen.path).then(|| Act::status(404, r#"{"detail":"Not Found"}"#)));
    let listening = server.listen().unwrap();
    let mut command = tinkex(&home);
    command.args(["run", "list", "--base-url", &listening.url()]).env("TINKER_API_KEY", "tml-key");
    let (status, _, stderr) = output_with_stdin(command, b"");
    assert!(status == 1 && stderr.contains("does not offer"), "{stderr}");
}

#[test]
fn a_credential_of_the_wrong_form_is_told_from_one_that_is_not_there() {
    let home = Folder::new("refusal-credential");
    let status_of = |format: &str| {
        let mut command = tinkex(&home);
        command.args(["auth", "status", "-f", format]).env("TINKER_API_KEY", "wrong-word");
        output_with_stdin(command, b"")
    };
    let (status, stdout, stderr) = status_of("table");
    assert_eq!(status, 1);
    assert!(stdout.contains("set, and not usable: TINKER_API_KEY, not of the form tml-"), "{stdout}");
    assert!(
        stderr.contains("must start with tml-") && stderr.contains("  try: a key of the service"),
        "{stderr}"
    );
    let (_, stdout, _) = status_of("json");
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(shown["credentials_available"], json!(false));
    assert!(shown["unusable_credential"].as_str().unwrap().contains("TINKER_API_KEY"), "{shown}");
    assert!(!stdout.contains("wrong-word"), "{stdout}");
}

#[test]
fn names_cannot_control_the_terminal() {
    let home = Folder::new("refusal-control");
    let name = home.join("a\u{1b}[2Jb");
    std::fs::write(name.with_extension("jsonl"), "{\"prompt\":\"a\",\"completion\":\"b\"}\n{}\n").unwrap();
    let name = name.display().to_string();
    let file = format!("{name}.jsonl");
    for words in [&["report", &name][..], &["data", "check", &file], &["data", "stats", &file]] {
        let (_, stdout, stderr) = run(&home, words);
        assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "{words:?} {stdout:?} {stderr:?}");
        assert!(stdout.contains("[2J") || stderr.contains("[2J"), "{words:?} {stdout:?} {stderr:?}");
    }
}

#[test]
fn converted_examples_are_lines_or_one_array_and_never_a_table() {
    let home = Folder::new("refusal-convert");
    let file = home.join("x.jsonl").display().to_string();
    let line = "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
    std::fs::write(&file, line.repeat(2)).unwrap();
    let convert = |more: &[&str]| run(&home, &[&["data", "convert", &file, "--to", "chat"], more].concat());
    let (status, lines, _) = convert(&[]);
    assert_eq!((status, lines.lines().count()), (0, 2));
    assert_eq!(convert(&["-f", "jsonl"]), (0, lines.clone(), String::new()));
    let (_, array, _) = convert(&["-f", "json"]);
    let array: Value = serde_json::from_str(&array).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(array, json!([first, first]));
    let (status, stdout, stderr) = convert(&["-f", "tsv"]);
    assert!(status == 2 && stdout.is_empty() && stderr.contains("  try: -f jsonl"), "{stderr}");
}
