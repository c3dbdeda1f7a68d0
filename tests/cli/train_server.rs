//! `tinkex train` on servers that refuse, fail, or never answer.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tinkex::testing::{Act, FakeServer, Listening};
use tinkex::train::CheckpointLog;

use crate::train::{chats, rows};
use crate::train_resume::Running;
use crate::util::{Folder, tinkex};

const UPDATE: &str = "/api/v1/optim_step";
const SAVE: &str = "/api/v1/save_weights";

/// A scripted server, and the folder of a run on it.
struct Site {
    server: FakeServer,
    listening: Listening,
    home: Folder,
    out: PathBuf,
}

impl Site {
    fn new(name: &str) -> Self {
        let (server, home) = (FakeServer::new(), Folder::new(name));
        Site { listening: server.listen().unwrap(), server, out: home.join("run"), home }
    }

    /// `tinkex train` with `n` steps and these options.
    fn command(&self, n: usize, further: &[&str]) -> Command {
        let mut command = tinkex(&self.home);
        command.env("TINKER_API_KEY", "tml-key").env("TINKEX_PRICES", "off");
        command.args([
            "train",
            &chats(&self.home, 8),
            "-m",
            "tinkex/nano",
            "--batch-size",
            "4",
            "--no-report",
        ]);
        command.args(["--base-url", &self.listening.url(), "--max-steps", &n.to_string()]);
        command.args(["-o", self.out.to_str().unwrap()]).args(further);
        command
    }

    fn run(&self, n: usize, further: &[&str]) -> (Option<i32>, String) {
        Running::start(self.command(n, further)).end()
    }

    /// Lets the server act so on all requests to a path after the first `n`.
    fn act_after(&self, path: &'static str, n: usize, act: Act) {
        let count = AtomicUsize::new(0);
        self.server.script(move |seen| {
            (seen.path == path && n <= count.fetch_add(1, Ordering::Relaxed)).then(|| act.clone())
        });
    }

    fn resume(&self) -> String {
        format!("resume with: tinkex train --resume {}", self.out.display())
    }

    fn checkpoints(&self) -> Vec<String> {
        names(&self.out)
    }

    /// How `config.json` says that the run ended.
    fn status(&self) -> Value {
        let config = std::fs::read_to_string(self.out.join("config.json")).unwrap();
        serde_json::from_str::<Value>(&config).unwrap()["tinkex"]["status"].clone()
    }
}

fn names(run: &Path) -> Vec<String> {
    let log = CheckpointLog::open(run).unwrap();
    log.records().iter().map(|record| record.name.clone()).collect()
}

fn refused(detail: &str) -> Act {
    Act::status(400, format!("{{\"detail\": \"{detail}\"}}"))
}

#[track_caller]
fn assert_line(stderr: &str, line: &str) {
    assert!(stderr.lines().any(|it| it == line), "{line}: {stderr}");
}

#[test]
fn a_server_that_never_saves_does_not_hold_a_run_that_was_asked_to_stop() {
    for (name, signal, status) in [("train-stalled-int", "-INT", 130), ("train-stalled-term", "-TERM", 143)] {
        let site = Site::new(name);
        site.server.always(SAVE, Act::Stall);
        let further = ["--save-every", "0", "--stop-within", "1s"];
        let mut running = Running::start(site.command(100_000, &further));
        assert!(running.next());
        running.signal(signal);
        let (found, stderr) = running.end();
        assert_eq!(found, Some(status), "{stderr}");
        assert!(stderr.contains("stopping: waits up to 1 s for the steps in flight"), "{stderr}");
        assert_line(
            &stderr,
            "warning: the server has not finished in time, so what is in flight is given up",
        );
        assert_line(&stderr, "no state is saved yet: a resumed run begins anew");
        assert_line(&stderr, &site.resume());
        assert_eq!(site.status(), "interrupted");
        assert!(!rows(&site.out).is_empty());
        // The server is told, too.
        let ends = site.server.requests().into_iter().filter(|it| it.path.ends_with("/finish"));
        assert_eq!(ends.count(), 1);
    }
}

#[test]
fn a_run_that_is_cut_short_names_the_last_state_that_was_saved() {
    let site = Site::new("train-stalled-second");
    site.act_after(SAVE, 1, Act::Stall);
    let further = ["--save-every", "2", "--no-sampler-weights", "--stop-within", "1s"];
    let mut running = Running::start(site.command(100_000, &further));
    let log = site.out.join("checkpoints.jsonl");
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("000002")) {
        assert!(running.next());
    }
    running.signal("-INT");
    let (status, stderr) = running.end();
    assert_eq!(status, Some(130), "{stderr}");
    assert_line(&stderr, "the last saved state is that after 2 steps: tinker://model-1/weights/000002");
    assert_line(&stderr, &site.resume());
    assert_eq!(site.checkpoints(), ["000002"]);
}

#[test]
fn a_second_signal_ends_the_run_at_once_and_the_command_to_resume_was_told_with_the_first() {
    let site = Site::new("train-stalled-twice");
    site.server.always(SAVE, Act::Stall);
    let mut running = Running::start(site.command(100_000, &["--save-every", "0", "--stop-within", "10m"]));
    assert!(running.next());
    running.signal("-INT");
    let told = format!("Ctrl-C again leaves at once; then {}", site.resume());
    let mut stderr = BufReader::new(running.child.stderr.take().unwrap());
    let mut line = String::new();
    while line.trim_end() != told {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "{told}");
    }
    running.signal("-INT");
    assert_eq!(running.end().0, Some(130));
}

#[test]
fn a_step_that_the_server_refuses_ends_the_run_with_its_words_and_the_command_to_resume() {
    let site = Site::new("train-refused-step");
    site.act_after(UPDATE, 5, refused("learning rate too high"));
    let (status, stderr) = site.run(20, &["--save-every", "2"]);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(
        stderr.lines().any(|it| it.starts_with("error: ") && it.contains("learning rate too high")),
        "{stderr}"
    );
    assert_line(&stderr, &site.resume());
    assert_eq!((rows(&site.out).len(), site.status()), (5, "failed".into()));
    // The save after step 4 may still be on its way when step 6 is refused: it is waited for.
    assert_eq!(site.checkpoints(), ["000002", "000004"]);
    // Without the fault, the run goes on behind its last checkpoint.
    site.server.script(|_| None);
    let mut command = tinkex(&site.home);
    command.env("TINKER_API_KEY", "tml-key").env("TINKEX_PRICES", "off");
    command.args(["train", "--resume", site.out.to_str().unwrap(), "--max-steps", "6"]);
    let (status, stderr) = Running::start(command).end();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("goes on after step 4 of 6"), "{stderr}");
    assert_eq!(rows(&site.out).len(), 6);
}

#[test]
fn a_resumed_run_stays_in_its_project_whatever_the_environment_says() {
    let site = Site::new("train-project");
    let (status, stderr) = site.run(2, &["--project", "mine"]);
    assert_eq!(status, Some(0), "{stderr}");
    let mut command = tinkex(&site.home);
    command.env("TINKER_API_KEY", "tml-key").env("TINKEX_PRICES", "off").env("TINKER_PROJECT_ID", "other");
    command.args(["train", "--resume", site.out.to_str().unwrap(), "--max-steps", "4"]);
    let (status, stderr) = Running::start(command).end();
    assert_eq!(status, Some(0), "{stderr}");
    let sessions: Vec<Value> = (site.server.requests().iter())
        .filter(|seen| seen.path.ends_with("/create_session"))
        .map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap()["project_id"].clone())
        .collect();
    assert!(1 < sessions.len() && sessions.iter().all(|project| project == "mine"), "{sessions:?}");
    let config = std::fs::read_to_string(site.out.join("config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap()["project"], "mine");
}

#[test]
fn a_final_checkpoint_that_fails_is_saved_once_more() {
    let site = Site::new("train-refused-save");
    site.server.next(SAVE, refused("no room"));
    let (status, stderr) = site.run(3, &["--save-every", "0"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("warning: a checkpoint could not be saved, and the run goes on: "), "{stderr}");
    assert_eq!((site.checkpoints(), site.status()), (vec!["final_2".to_owned()], "finished".into()));
}

#[test]
fn a_run_that_can_never_be_saved_fails_at_its_end() {
    let site = Site::new("train-refused-saves");
    site.server.always(SAVE, refused("no room"));
    let (status, stderr) = site.run(5, &["--save-every", "2"]);
    assert_eq!(status, Some(1), "{stderr}");
    assert_eq!(stderr.matches("warning: a checkpoint could not be saved").count(), 3, "{stderr}");
    assert!(stderr.lines().any(|it| it.starts_with("error: ") && it.contains("no room")), "{stderr}");
    assert_line(&stderr, &site.resume());
    assert_eq!((rows(&site.out).len(), site.status()), (5, "failed".into()));
    assert!(site.checkpoints().is_empty());
}

#[test]
fn an_unpaid_account_is_told_once_and_the_run_goes_on_when_it_is_paid() {
    let site = Site::new("train-unpaid");
    for path in ["/api/v1/forward_backward", UPDATE] {
        site.server.next(path, Act::status(402, "{\"detail\": \"no funds\"}"));
    }
    let (status, stderr) = site.run(3, &["--save-every", "0"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(stderr.matches("waits for payment of the account").count(), 1, "{stderr}");
    let rows = rows(&site.out);
    let paused: f64 = rows.iter().map(|row| row["tinkex/pause_s"].as_f64().unwrap()).sum();
    assert!(rows.len() == 3 && 0.0 <= paused, "{paused}");
}

#[test]
fn a_server_that_is_lost_leaves_a_folder_that_can_be_resumed() {
    let site = Site::new("train-lost");
    let further = ["--save-every", "2", "--timeout", "2s"];
    let mut running = Running::start(site.command(100_000, &further));
    assert!((0..6).all(|_| running.next()));
    site.listening.refuse();
    let (status, stderr) = running.end();
    assert_eq!(status, Some(1), "{stderr}");
    assert!(
        stderr.contains("\nerror: ") && stderr.contains("\n  try: resume the run once the server answers"),
        "{stderr}"
    );
    assert_line(&stderr, &site.resume());
    let mut files: Vec<String> = std::fs::read_dir(&site.out)
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, [".lock", "checkpoints.jsonl", "config.json", "log.txt", "metrics.jsonl"]);
    let n_rows = rows(&site.out).len();
    let last = CheckpointLog::open(&site.out).unwrap().last_resumable().unwrap().next_batch.unwrap();
    assert!(last <= n_rows as u64 && 6 <= n_rows, "{last} {n_rows}");
    assert_eq!(site.status(), "failed");
}
