//! A scripted server with training runs and checkpoints, and the program that talks to it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer, Listening, Seen};

use crate::util::{Folder, tinkex};

pub(crate) type Outcome = (i32, String, String);

/// The server, and the home of a user who has a key.
pub(crate) struct Site {
    pub(crate) server: FakeServer,
    pub(crate) home: Folder,
    listening: Listening,
    checkpoints: Arc<Mutex<Vec<Value>>>,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        let server = FakeServer::new();
        let site = Site {
            listening: server.listen().unwrap(),
            server,
            home: Folder::new(name),
            checkpoints: Arc::default(),
        };
        site.react(|_| None);
        site
    }

    /// As [`new`](Self::new), with `n` checkpoints of 1 GB, newest first, in runs of 100.
    pub(crate) fn with_checkpoints(name: &str, n: usize) -> Self {
        let site = Site::new(name);
        *site.checkpoints.lock().unwrap() = (0..n).map(checkpoint).collect();
        site
    }

    /// Answers with what `script` returns, or as a server with the checkpoints does.
    pub(crate) fn react(&self, script: impl Fn(&Seen) -> Option<Act> + Send + Sync + 'static) {
        let checkpoints = self.checkpoints.clone();
        self.server
            .script(move |seen| script(seen).or_else(|| answer(seen, &mut checkpoints.lock().unwrap())));
    }

    /// An address of the server.
    pub(crate) fn url(&self, path: &str) -> String {
        self.listening.url() + path
    }

    /// Paths of the checkpoints that are left.
    pub(crate) fn paths(&self) -> Vec<String> {
        let checkpoints = self.checkpoints.lock().unwrap();
        checkpoints.iter().map(|it| it["tinker_path"].as_str().unwrap().to_owned()).collect()
    }

    /// The program with a key and the address of the server.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = tinkex(&self.home);
        command.env("TINKER_BASE_URL", self.listening.url()).env("TINKER_API_KEY", "tml-test").args(args);
        command.env("TINKEX_PRICES", "off").current_dir(&*self.home);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        outcome(&mut self.command(args))
    }

    /// Runs the program with a text on stdin, which is a pipe.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Outcome {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end without reading it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["-f", "json"]].concat();
        let (status, stdout, stderr) = self.run(&args);
        assert_eq!(status, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The `i`-th newest checkpoint: every third is one for sampling, and a day lies between two.
fn checkpoint(i: usize) -> Value {
    let (kind, folder) = if i % 3 == 2 { ("sampler", "sampler_weights") } else { ("training", "weights") };
    let run = format!("0f0e0d0c-0000-4000-8000-{:012}:train:0", i / 100);
    let day = day_before(i);
    json!({
        "checkpoint_id": format!("{folder}/step-{i:04}"), "checkpoint_type": kind, "time": format!("{day} 08:00:00+00:00"),
        "tinker_path": format!("tinker://{run}/{folder}/step-{i:04}"), "size_bytes": 1_000_000_000, "public": i == 1,
    })
}

/// The day `i` days before 2026-02-28.
fn day_before(i: usize) -> String {
    let (month, day) = (2 - (i / 28) % 2, 28 - i % 28);
    format!("{}-{month:02}-{day:02}", 2026 - i / 56)
}

fn answer(seen: &Seen, checkpoints: &mut Vec<Value>) -> Option<Act> {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|it| it.split_once('=')).collect();
    let parts: Vec<String> =
        path.strip_prefix("/api/v1/")?.split('/').map(|it| it.replace("%3A", ":")).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match (seen.method.as_str(), parts.as_slice()) {
        ("GET", ["checkpoints"]) => {
            let number = |name: &str| query.get(name).and_then(|it| it.parse().ok());
            // As the service: no page has more than 1 000 entries, here 400.
            let (limit, offset) = (number("limit").unwrap_or(100).min(400), number("offset").unwrap_or(0));
            let page: Vec<&Value> = checkpoints.iter().skip(offset).take(limit).collect();
            let cursor = json!({ "offset": offset, "limit": limit, "total_count": checkpoints.len() });
            Some(Act::json(json!({ "checkpoints": page, "cursor": cursor })))
        }
        ("GET", ["training_runs", run, "checkpoints"]) => {
            let prefix = format!("tinker://{run}/");
            let of_run =
                checkpoints.iter().filter(|it| it["tinker_path"].as_str().unwrap().starts_with(&prefix));
            Some(Act::json(json!({ "checkpoints": of_run.collect::<Vec<_>>() })))
        }
        ("DELETE", ["training_runs", run, "checkpoints", id @ ..]) => {
            let path = format!("tinker://{run}/{}", id.join("/"));
            let n = checkpoints.len();
            checkpoints.retain(|it| it["tinker_path"] != path.as_str());
            let is_known = checkpoints.len() < n;
            Some(if is_known { Act::status(204, "") } else { Act::status(404, r#"{"detail":"not found"}"#) })
        }
        _ => None,
    }
}
