//! The programs `examples/{sft,dpo,rl}.rs`: their arguments, and what `sft` refuses before it writes anything.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tinkex::local::{Options, Server};

use crate::util::folder::Folder;

/// Returns the path of a built example. `cargo test` builds examples; `cargo test --test it` does not.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).expect("a folder");
    let program = target.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --all-features --examples`",
        program.display()
    );
    program
}

/// Runs an example against an address.
fn run(name: &str, arguments: &[&str], url: &str, api_key: &str) -> Output {
    let mut command = Command::new(program(name));
    command.args(arguments).env("TINKER_BASE_URL", url).env("TINKER_API_KEY", api_key);
    command.env("TINKEX_BASE_MODEL", "tinkex/nano").stdin(Stdio::null()).output().unwrap()
}

/// An address where nobody answers.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn help_and_wrong_arguments_contact_nobody() {
    for name in ["sft", "dpo", "rl"] {
        let output = run(name, &["--help"], NOWHERE, "tml-x");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(&format!("Usage: {name}")), "{text}");
        let output = run(name, &["--date"], NOWHERE, "tml-x");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with(&format!("{name}: unknown argument \"--date\"\n\n")), "{text}");
        assert!(text.contains("Usage: "), "{text}");
    }
    for (name, arguments, expected) in [
        ("sft", &["a", "b"][..], "sft: \"b\" is a second folder; a run has one"),
        ("sft", &[""], "sft: the name of the folder is empty"),
        ("sft", &["--steps", "x"], "sft: \"x\" is not a whole number"),
        ("dpo", &["10"], "dpo: unknown argument \"10\""),
        ("rl", &["10"], "rl: unknown argument \"10\""),
    ] {
        let output = run(name, arguments, NOWHERE, "tml-x");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.starts_with(expected), "{text}");
    }
}

/// Writes a file of a folder and returns its path.
fn write(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.0.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn chat(question: &str, answer: &str) -> String {
    let message = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
    format!("{{\"messages\":[{},{}]}}\n", message("user", question), message("assistant", answer))
}

#[test]
fn chats_that_cannot_be_trained_are_named_by_file_and_line_and_leave_no_configuration() {
    let folder = Folder::new("sft-chats");
    let server = Server::start(Options { threads: 1, ..Options::default() }).unwrap();
    let chats: Vec<String> = (0..20).map(|i| chat(&format!("q{i}"), "a")).collect();
    // A blank line counts as a line.
    let with = |line: &str| format!("\n{}{line}{}", chats[..7].concat(), chats[7..].concat());
    let question = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n";
    let flagged = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"q\",\"weight\":0}]}\n";
    let long = chat("q", &"long ".repeat(20_000));
    for (name, text, expected) in [
        (
            "few.jsonl",
            chats[..7].concat(),
            "few.jsonl: has 7 chats, but at least 13 are needed: 5 for the test",
        ),
        (
            "question.jsonl",
            with(question),
            "question.jsonl:9: nothing is left to train on: it has no message of the",
        ),
        (
            "flagged.jsonl",
            with(flagged),
            "flagged.jsonl:9: nothing is left to train on: no message is marked",
        ),
        ("long.jsonl", with(&long), "long.jsonl:9: has 1000"),
    ] {
        let data = write(&folder, name, &text);
        let path = folder.0.join(format!("{name}-run"));
        let arguments = [path.to_str().unwrap(), "--data", &data, "--steps", "1"];
        let output = run("sft", &arguments, server.url(), server.api_key());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(expected), "{text}");
        assert!(!path.join("config.json").exists(), "{name}");
    }
    let path = folder.0.join("unknown");
    let output = run("sft", &[path.to_str().unwrap(), "--renderer", "qwen4"], NOWHERE, "tml-x");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("\"qwen4\" is not the name of a renderer; known are deepseekv3,"), "{text}");
    assert!(!path.exists());
}

#[test]
fn a_folder_continues_only_the_run_that_it_has() {
    let folder = Folder::new("sft-other");
    let engine = Options { data_dir: Some(folder.0.join("engine")), threads: 1, ..Options::default() };
    let server = Server::start(engine).unwrap();
    let data = write(&folder, "a.jsonl", &(0..20).map(|i| chat(&format!("q{i}"), "a")).collect::<String>());
    let other = write(&folder, "b.jsonl", &(0..20).map(|i| chat(&format!("q{i}"), "b")).collect::<String>());
    let path = folder.0.join("run");
    let start = |arguments: &[&str], model: &str| {
        let mut command = Command::new(program("sft"));
        command.arg(&path).args(arguments).env("TINKEX_BASE_MODEL", model).stdin(Stdio::null());
        command.env("TINKER_BASE_URL", server.url()).env("TINKER_API_KEY", server.api_key());
        command.output().unwrap()
    };
    let first = start(&["--data", &data, "--steps", "3"], "tinkex/nano");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let files = || {
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        ["config.json", "metrics.jsonl", "checkpoints.jsonl"].map(read)
    };
    let before = files();
    for (arguments, model, expected) in [
        (&["--data", &*other, "--steps", "3"][..], "tinkex/nano", "another file of chats (by its digest)"),
        (
            &["--data", &data, "--steps", "3", "--renderer", "llama3"],
            "tinkex/nano",
            "another renderer: \"role_colon\"",
        ),
        (&["--data", &data, "--steps", "3", "--renderer", "role_colon"], "other/model", "another base model"),
        (&["--data", &data, "--steps", "2"], "tinkex/nano", "is of a run of 3 steps, and cannot end after 2"),
    ] {
        let output = start(arguments, model);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(expected), "{expected}: {text}");
        assert!(text.contains("config.json") && text.contains("give another folder"), "{text}");
        assert_eq!(files(), before, "{arguments:?}");
    }
    let more = start(&["--data", &data, "--steps", "4"], "tinkex/nano");
    assert!(more.status.success(), "{}", String::from_utf8_lossy(&more.stderr));
}
