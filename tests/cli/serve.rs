//! `tinkex serve`: the engine for other programs.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::util::{Folder, run, tinkex};

/// A limit against hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// A server that is killed at the end of the test.
struct Serving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = Some(BufReader::new(child.stderr.take().unwrap()));
        Serving { child, stdout, stderr }
    }

    /// A line of stdout, which is this assignment; returns its value.
    fn exported(&mut self, name: &str) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let value = line.trim_end().strip_prefix(&format!("export {name}="));
        value.unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    /// Reads stderr until this line.
    fn wait_for_note(&mut self, note: &str) {
        let mut line = String::new();
        while line.trim_end() != note {
            line.clear();
            let n = self.stderr.as_mut().unwrap().read_line(&mut line).unwrap();
            assert_ne!(n, 0, "no {note:?} on stderr");
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for the end; returns the status and the rest of stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let (sender, ended) = mpsc::channel();
        let mut stderr = self.stderr.take().unwrap();
        std::thread::spawn(move || {
            let mut rest = String::new();
            let read = stderr.read_to_string(&mut rest).map(|_| rest);
            drop(sender.send(read));
        });
        let rest = ended.recv_timeout(LIMIT).unwrap().unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn other_programs_use_the_engine_until_a_signal_and_no_temporary_folder_stays() {
    let home = Folder::new("serve");
    let temporary = home.join("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    let mut server = Serving::start(tinkex(&home).env("TMPDIR", &temporary).args(["serve", "--port", "0"]));
    let (url, key) = (server.exported("TINKER_BASE_URL"), server.exported("TINKER_API_KEY"));
    assert!(url.starts_with("http://127.0.0.1:") && key.starts_with("tml-"), "{url}");
    server.wait_for_note("ready");
    let listed = tinkex(&home)
        .env("TINKER_API_KEY", key)
        .args(["model", "list", "--base-url", &url])
        .output()
        .unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("tinkex/nano\t32768"));
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1);
    server.signal("TERM");
    let (status, stderr) = server.end();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("stopping"), "{stderr}");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn readiness_is_written_to_an_open_file_and_the_end_of_the_input_can_stop_the_server() {
    let home = Folder::new("serve-ready");
    let mut shell = Command::new("sh");
    let line = "exec \"$0\" serve --port 0 --seed 3 --threads 1 --data-dir data --ready-fd 3 --stop-with-stdin 3>ready";
    shell
        .args(["-c", line, env!("CARGO_BIN_EXE_tinkex")])
        .current_dir(&*home)
        .env("HOME", &*home)
        .stdin(Stdio::piped());
    let mut server = Serving::start(&mut shell);
    let url = server.exported("TINKER_BASE_URL");
    let input = server.child.stdin.take();
    server.wait_for_note("ready");
    drop(input);
    let (status, stderr) = server.end();
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(std::fs::read_to_string(home.join("ready")).unwrap(), format!("{url}\n"));
    assert!(home.join("data").is_dir());
}

#[test]
fn another_host_needs_a_key_which_is_not_printed() {
    let home = Folder::new("serve-key");
    let (status, stdout, stderr) = run(&home, &["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("--api-key-file key.txt") && stderr.contains("TINKEX_SERVE_KEY"), "{stderr}");

    const KEY: &str = "tml-0123456789abcdefgh";
    let file = home.join("it's a key");
    std::fs::write(&file, format!(" {KEY}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    let mut command = tinkex(&home);
    command.args([
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--allow-host",
        "engine.test",
        "--api-key-file",
    ]);
    let mut server =
        Serving::start(command.arg(file.file_name().unwrap()).current_dir(file.parent().unwrap()));
    let (url, shown) = (server.exported("TINKER_BASE_URL"), server.exported("TINKER_API_KEY"));
    let mut elsewhere = Command::new("sh");
    let read = elsewhere.args(["-c", &format!("printf %s {shown}")]).current_dir("/").output().unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap().trim(), KEY, "{shown}");
    let listed = tinkex(&home)
        .env("TINKER_API_KEY", KEY)
        .args(["model", "list", "--base-url", &url])
        .output()
        .unwrap();
    assert!(listed.status.success());
    server.signal("INT");
    let (status, stderr) = server.end();
    assert_eq!(status, Some(0));
    assert!(stderr.contains("mode 640") && stderr.contains("other machines can reach 0.0.0.0"), "{stderr}");
    assert!(!stderr.contains(KEY) && !shown.contains(KEY), "{stderr}");

    let mut command = tinkex(&home);
    let mut server = Serving::start(command.env("TINKEX_SERVE_KEY", KEY).args(["serve", "--port", "0"]));
    server.exported("TINKER_BASE_URL");
    assert_eq!(server.exported("TINKER_API_KEY"), "\"$TINKEX_SERVE_KEY\"");
}

#[test]
fn wrong_settings_are_named_before_anything_is_served() {
    let home = Folder::new("serve-wrong");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let empty = home.join("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let empty = empty.display().to_string();
    for (arguments, status, expected) in [
        (&["--flag", "speed=9"][..], 2, "speed"),
        (&["--flag", "pjwt_auth_enabled=maybe"], 2, "neither true nor false"),
        (&["--model", "x"], 2, "needs two sides"),
        (&["--models", &empty], 2, "config.json"),
        (&["--host", "localhost"], 2, "--host"),
        (&["--alias", "x=y"], 2, "only \"tinkex/nano\" is served here"),
        (&["--ready-fd", "77"], 2, "--ready-fd 77"),
        (&["--local"], 2, "--data-dir"),
        (&["--port", &port], 1, "--port 0"),
    ] {
        let mut all = vec!["serve"];
        if arguments[0] != "--port" {
            all.extend(["--port", "0"]);
        }
        all.extend(arguments);
        let (found, stdout, stderr) = run(&home, &all);
        assert_eq!((found, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_lines_are_json_if_asked_for_and_aliases_are_served() {
    let home = Folder::new("serve-json");
    let mut command = tinkex(&home);
    command.args(["serve", "--port", "0", "--alias", "Qwen/Qwen3-8B=tinkex/nano", "-f", "jsonl"]);
    let mut server = Serving::start(&mut command);
    let mut line = String::new();
    server.stdout.read_line(&mut line).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let (url, key) = (line["base_url"].as_str().unwrap(), line["api_key"].as_str().unwrap());
    let listed =
        tinkex(&home).env("TINKER_API_KEY", key).args(["model", "list", "--base-url", url]).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("Qwen/Qwen3-8B"));
}

#[test]
fn every_key_is_accepted_on_demand_but_only_from_this_machine() {
    let home = Folder::new("serve-any-key");
    let (status, _, stderr) = run(&home, &["serve", "--any-key", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(status, 2, "{stderr}");
    let list = |url: &str| {
        let mut command = tinkex(&home);
        command.env("TINKER_API_KEY", "tml-mine").args(["model", "list", "--base-url", url]).status().unwrap()
    };
    for flag in ["pjwt_auth_enabled=false", "pjwt_auth_enabled=true"] {
        let mut command = tinkex(&home);
        let mut server = Serving::start(command.args(["serve", "--any-key", "--port", "0", "--flag", flag]));
        let url = server.exported("TINKER_BASE_URL");
        assert!(list(&url).success(), "{flag}");
    }
    let mut command = tinkex(&home);
    let mut server = Serving::start(command.args(["serve", "--port", "0"]));
    let url = server.exported("TINKER_BASE_URL");
    assert!(!list(&url).success());
}

#[test]
fn commands_share_the_folder_of_the_server_and_what_a_killed_server_leaves_is_not_in_the_way() {
    let home = Folder::new("serve-shared");
    let mut server = Serving::start(tinkex(&home).current_dir(&*home).args([
        "serve",
        "--port",
        "0",
        "--data-dir",
        "data",
    ]));
    server.exported("TINKER_BASE_URL");
    server.wait_for_note("ready");
    let data = home.join("data");
    let local = format!("--local={}", data.display());
    let credential = |text: &str| {
        let (status, stdout, stderr) = run(&home, &["doctor", &local]);
        assert!(status == 0 && stdout.contains(&format!("ok\tcredential\t{text}\t")), "{stdout}{stderr}");
    };
    credential(&format!("of the engine of process {}", server.child.id()));
    server.signal("KILL");
    server.child.wait().unwrap();
    assert!(data.join(".tinkex/engine.json").exists());
    credential("of the engine in this process");
    assert!(!data.join(".tinkex/engine.json").exists());
}
