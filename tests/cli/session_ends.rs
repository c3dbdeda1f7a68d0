//! The session of a command ends with it, and as the command does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tinkex::testing::{Act, FakeServer, Listening};

use crate::util::{Folder, output_with_stdin, tinkex};

const SAMPLE: &str = "/api/v1/asample";
/// Longer than anything here takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(120);

struct Site {
    server: FakeServer,
    listening: Listening,
    home: Folder,
}

impl Site {
    fn new(name: &str) -> Self {
        let server = FakeServer::new();
        Site { listening: server.listen().unwrap(), server, home: Folder::new(name) }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = tinkex(&self.home);
        command.args(words).args(["--base-url", &self.listening.url(), "-m", "tinkex/nano"]);
        command.env("TINKER_API_KEY", "tml-key").stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// How the sessions have ended.
    fn ends(&self) -> Vec<String> {
        let ends = self.server.requests().into_iter().filter(|it| it.path.ends_with("/finish"));
        ends.map(|it| {
            let json: Value = it.json().unwrap();
            json["reason"]["type"].as_str().unwrap().to_owned()
        })
        .collect()
    }
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_conversation_that_is_interrupted_while_it_waits_for_a_line_ends_its_session() {
    let site = Site::new("ends-chat");
    let mut chat = site.command(&["chat", "--max-tokens", "2"]).spawn().unwrap();
    let mut stdin = chat.stdin.take().unwrap();
    stdin.write_all(b"Hi\n").unwrap();
    let mut answer = String::new();
    BufReader::new(chat.stdout.take().unwrap()).read_line(&mut answer).unwrap();
    interrupt(&chat);
    assert_eq!(chat.wait().unwrap().code(), Some(130));
    assert_eq!(site.ends(), ["interrupted"]);
}

#[test]
fn a_command_that_is_interrupted_while_it_waits_for_the_server_ends_its_session_and_tells_no_error() {
    let data = "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
    for words in [&["sample", "Hi"][..], &["eval", "-", "--metric", "exact"]] {
        let site = Site::new("ends-sample");
        let (told, stalled) = crossbeam_channel::bounded(8);
        site.server.script(move |seen| {
            seen.path.ends_with("/asample").then(|| {
                let _ = told.send(());
                Act::Stall
            })
        });
        let mut child = site.command(words).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(data.as_bytes()).unwrap();
        stalled.recv_timeout(LONG).unwrap();
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(130), String::new())
        );
        assert_eq!(site.ends(), ["interrupted"], "{words:?}");
    }
}

#[test]
fn the_server_is_told_whether_a_command_has_failed() {
    let site = Site::new("ends-failed");
    assert_eq!(output_with_stdin(site.command(&["sample", "Hi"]), b"").0, 0);
    site.server.always(SAMPLE, Act::status(400, r#"{"detail":"too long"}"#));
    let (status, _, stderr) = output_with_stdin(site.command(&["sample", "Hi"]), b"");
    assert_eq!(status, 1, "{stderr}");
    assert_eq!(site.ends(), ["success", "errored"]);
}
