//! A conversation, line by line.

use tinkex::testing::{Act, FakeServer};

use crate::util::{Folder, run_with_stdin, tinkex};

/// Runs a conversation with the engine's model.
fn chat(home: &Folder, options: &[&str], lines: &str) -> (i32, String, String) {
    let local = format!("--local={}", home.join("engine").display());
    let fixed = ["chat", &local, "-m", "tinkex/nano", "--seed", "7", "--max-tokens", "6", "--top-k", "1"];
    let args: Vec<&str> = fixed.iter().chain(options).copied().collect();
    run_with_stdin(home, &args, lines.as_bytes())
}

#[test]
fn each_line_has_an_answer_until_the_end_of_the_input_or_quit() {
    let home = Folder::new("chat-lines");
    let (status, stdout, stderr) = chat(&home, &[], "Hi\n\nHow are you?\n");
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(2 <= stdout.matches('\n').count(), "{stdout:?}");
    let (status, one, _) = chat(&home, &[], "Hi\n/quit\nHow are you?\n");
    assert_eq!(status, 0);
    assert!(stdout.starts_with(&one) && one.len() < stdout.len(), "{one:?} {stdout:?}");
    let (status, stdout, stderr) = chat(&home, &[], "/nonsense\n");
    assert!(status == 0 && stdout.is_empty() && stderr.contains("/nonsense is not a command"), "{stderr}");
}

/// The prompts that a scripted server was sent, as text.
fn prompts(lines: &str, options: &[&str]) -> (i32, Vec<String>, String) {
    let home = Folder::new("chat-prompts");
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let url = listening.url();
    let fixed = ["chat", "--base-url", &url, "-m", "tinkex/nano", "--max-tokens", "2"];
    let args: Vec<&str> = fixed.iter().chain(options).copied().collect();
    let mut command = tinkex(&home);
    command.args(&args).env("TINKER_API_KEY", "tml-key");
    let (status, _, stderr) = crate::util::output_with_stdin(command, lines.as_bytes());
    let sent = server.requests_to("/api/v1/asample").into_iter().map(|seen| {
        let json = seen.json().unwrap();
        let tokens = json["prompt"]["chunks"][0]["tokens"].as_array().unwrap().clone();
        let bytes: Vec<u8> = tokens.iter().map(|id| u8::try_from(id.as_u64().unwrap()).unwrap()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    (status, sent.collect(), stderr)
}

#[test]
fn the_conversation_grows_until_it_is_reset() {
    let (status, sent, stderr) =
        prompts("a\nb\n/reset\nc\n/system Be kind.\nd\n//x\n", &["--system", "Old."]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(sent[0], "System: Old.\n\nUser: a\n\nAssistant:");
    assert!(
        sent[1].starts_with("System: Old.\n\nUser: a\n\nAssistant:")
            && sent[1].ends_with("User: b\n\nAssistant:")
    );
    assert_eq!(sent[2], "System: Old.\n\nUser: c\n\nAssistant:");
    assert_eq!(sent[3], "System: Be kind.\n\nUser: d\n\nAssistant:");
    assert!(sent[4].ends_with("User: /x\n\nAssistant:"), "{}", sent[4]);
}

#[test]
fn a_script_ends_with_the_first_answer_that_fails() {
    let home = Folder::new("chat-failure");
    let server = FakeServer::new();
    server.always("/api/v1/asample", Act::status(400, r#"{"detail":"too long"}"#));
    let listening = server.listen().unwrap();
    let mut command = tinkex(&home);
    command
        .args(["chat", "--base-url", &listening.url(), "-m", "tinkex/nano"])
        .env("TINKER_API_KEY", "tml-key");
    let (status, stdout, stderr) = crate::util::output_with_stdin(command, b"a\nb\n");
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("too long"), "{stderr}");
    assert_eq!(server.requests_to("/api/v1/asample").len(), 1);
}

#[test]
fn answers_are_a_json_value_a_line_if_asked_for() {
    let home = Folder::new("chat-json");
    for format in ["json", "jsonl"] {
        let (status, stdout, stderr) = chat(&home, &["-f", format], "Hi\nHow are you?\n");
        assert_eq!((status, stderr.as_str()), (0, ""));
        let lines: Vec<serde_json::Value> =
            stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line["text"].is_string() && line["tokens"].is_array()), "{stdout}");
    }
}
