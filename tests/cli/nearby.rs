//! Names of files and folders that are not there, and addresses of other servers: what was probably meant is named.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use tinkex::testing::{Act, FakeServer};

use crate::util::{Folder, output_with_stdin, tinkex};

/// Runs the program in a folder; returns its status, and stdout and stderr together.
fn run_in(folder: &Folder, line: &str) -> (Option<i32>, String) {
    let output = tinkex(folder).current_dir(&**folder).args(line.split(' ')).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_mistyped_name_of_a_file_leads_to_the_file_in_each_command_that_opens_one() {
    let folder = Folder::new("nearby-files");
    for name in ["piglatin.jsonl", "chats.jsonl", "settings.toml", "question.txt", "secret.key"] {
        std::fs::write(folder.join(name), "{}\n").unwrap();
    }
    for (line, expected) in [
        ("train piglatn.jsonl --local=engine", "did you mean piglatin.jsonl?"),
        ("train nothing.jsonl --local=engine", "here are chats.jsonl, piglatin.jsonl"),
        ("train data/piglatin.jsonl --local=engine", "did you mean piglatin.jsonl?"),
        ("train --config setings.toml", "  try: did you mean settings.toml?"),
        ("sample -i piglatn.jsonl --local=engine", "did you mean piglatin.jsonl?"),
        ("sample @qestion.txt --local=engine", "  try: did you mean question.txt?"),
        ("eval piglatn.jsonl --local=engine", "did you mean piglatin.jsonl?"),
        ("data check chat.jsonl", "did you mean chats.jsonl?"),
        ("data stats piglatin.json", "did you mean piglatin.jsonl?"),
        ("data show PigLatin", "did you mean piglatin.jsonl?"),
        ("serve --api-key-file secrt.key", "  try: did you mean secret.key?"),
        (
            "checkpoint copy tinker://r:train:0/weights/a --project p --access-token-file secrt.key --local=engine",
            "  try: did you mean secret.key?",
        ),
    ] {
        let (status, text) = run_in(&folder, line);
        assert!(status == Some(1) && text.contains(expected), "{line}: {status:?} {text}");
    }
}

#[test]
fn a_mistyped_folder_of_a_run_leads_to_the_run_or_to_those_that_are_there() {
    let folder = Folder::new("nearby-runs");
    let (_, text) = run_in(&folder, "train --resume pig");
    assert!(text.contains("pig does not exist\n  try: name the folder of a run"), "{text}");
    std::fs::create_dir_all(folder.join("pig-latin")).unwrap();
    std::fs::write(folder.join("pig-latin/checkpoints.jsonl"), "").unwrap();
    for (line, expected) in [
        ("train --resume pig-latn", "  try: did you mean --resume pig-latin?"),
        ("train --resume other", "  try: --resume pig-latin, the only run here"),
        ("report pig-latn", "  try: did you mean pig-latin?"),
        ("report other", "  try: pig-latin, the only run here"),
    ] {
        let (status, text) = run_in(&folder, line);
        assert!(status == Some(1) && text.contains(expected), "{line}: {text}");
    }
    std::fs::create_dir_all(folder.join("tinkex-runs/next")).unwrap();
    std::fs::write(folder.join("tinkex-runs/next/checkpoints.jsonl"), "").unwrap();
    let (_, text) = run_in(&folder, "report other");
    for part in ["pig-latin", "tinkex-runs/next", ", the newest runs here"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// What a command says about a server.
fn asked(folder: &Folder, url: &str, words: &[&str]) -> String {
    let mut command = tinkex(folder);
    command.args(words).args(["--base-url", url]).env("TINKER_API_KEY", "tml-key");
    let (status, _, stderr) = output_with_stdin(command, b"");
    assert_eq!(status, 1, "{url} {words:?} {stderr}");
    stderr
}

#[test]
fn a_server_of_another_kind_is_told_in_one_error_without_warnings() {
    let folder = Folder::new("nearby-servers");
    let sample = ["sample", "hi", "-m", "a/b", "--tokenizer", "bytes"];
    let page =
        || Act::status(404, "<html><title>None</title></html>").with_header("content-type", "text/html");
    let forbidden = || Act::status(403, "<html></html>").with_header("content-type", "text/html");
    for (name, act, expected) in [
        ("no page", page as fn() -> Act, "answers but is not a Tinker server"),
        ("forbidden", forbidden, "HTTP 403 and an HTML page"),
        ("text", || Act::status(200, "hello"), "client/config is not JSON"),
        ("page", || Act::status(302, "").with_header("location", "/login"), "it redirects to \"/login\""),
    ] {
        let server = FakeServer::new();
        server.script(move |_| Some(act()));
        let listening = server.listen().unwrap();
        for words in [&["model", "list"][..], &sample] {
            let stderr = asked(&folder, &listening.url(), words);
            assert!(stderr.contains(expected), "{name} {words:?} {stderr}");
            assert!(
                stderr.starts_with("error: ") && stderr.contains("  try: the address"),
                "{name} {stderr}"
            );
        }
    }
    // The flags cannot be fetched, which alone is told by a warning.
    let server = FakeServer::new();
    server.script(|seen| {
        let is_flags = seen.path.ends_with("client/config");
        Some(if is_flags { Act::Reset } else { Act::status(404, "<html></html>") })
    });
    let stderr = asked(&folder, &server.listen().unwrap().url(), &["model", "list"]);
    assert!(stderr.starts_with("error: the address answers but is not"), "{stderr}");
}

/// A server of plain HTTP that refuses what it cannot read, as a start of TLS. Returns its address.
fn impatient_server() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    format!("http://{address}")
}

#[test]
fn an_address_with_the_wrong_scheme_or_place_leads_to_the_right_one() {
    let folder = Folder::new("nearby-addresses");
    let server = FakeServer::new();
    server.script(|seen| {
        let location = format!("https://a.example{}", seen.path);
        Some(Act::status(301, "").with_header("location", &location))
    });
    let listening = server.listen().unwrap();
    let stderr = asked(&folder, &listening.url(), &["model", "list"]);
    assert!(stderr.contains("  try: --base-url=https://a.example\n"), "{stderr}");

    let plain = impatient_server();
    let stderr = asked(&folder, &plain.replacen("http://", "https://", 1), &["model", "list"]);
    assert!(stderr.contains(&format!("  try: --base-url={plain}\n")), "{stderr}");

    let secure = crate::tls::server().replacen("localhost", "127.0.0.1", 1);
    let stderr = asked(&folder, &secure.replacen("https://", "http://", 1), &["model", "list"]);
    assert!(stderr.contains(&format!("  try: --base-url={secure}")), "{stderr}");
    let stderr = asked(&folder, &secure, &["model", "list"]);
    assert!(stderr.contains("  try: set SSL_CERT_FILE"), "{stderr}");
}
