//! `tinkex train --resume`: a run that was stopped has the curve of an unbroken one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::train::CheckpointLog;

use crate::train::{chats, rows, small, train, with};
use crate::util::{Folder, run, tinkex};

/// Environment variable with the number of runs that are killed. Default 3.
const KILLS: &str = "TINKEX_TEST_TRAIN_KILLS";

/// A run that writes its rows to stdout.
pub(crate) struct Running {
    pub(crate) child: Child,
    rows: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.args(["--progress", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let rows = BufReader::new(child.stdout.take().unwrap());
        Running { child, rows }
    }

    /// Waits for the next row; false at the end of the run.
    pub(crate) fn next(&mut self) -> bool {
        let mut line = String::new();
        self.rows.read_line(&mut line).unwrap() != 0
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Waits for the end; returns the status and stderr.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while self.next() {}
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn command(folder: &Path, options: &[String], further: &[&str]) -> Command {
    let mut command = tinkex(folder);
    command.args(options).args(further);
    command
}

/// The losses of all steps, each of which must be there once and in order.
fn curve(run: &Path) -> Vec<(f64, Option<f64>)> {
    let rows = rows(run);
    for (step, row) in rows.iter().enumerate() {
        assert_eq!(row["step"], step, "{row}");
    }
    rows.iter().map(|row| (row["train_mean_nll"].as_f64().unwrap(), row["test/nll"].as_f64())).collect()
}

fn assert_same(whole: &Path, broken: &Path, what: &str) {
    let (whole, broken) = (curve(whole), curve(broken));
    assert_eq!(whole.len(), broken.len(), "{what}");
    for (step, (a, b)) in whole.iter().zip(&broken).enumerate() {
        let is_same = (a.0 - b.0).abs() < 1e-4 && (a.1.unwrap_or(0.0) - b.1.unwrap_or(0.0)).abs() < 1e-4;
        assert!(is_same && a.1.is_some() == b.1.is_some(), "{what}, step {step}: {a:?} and {b:?}");
    }
}

#[test]
fn a_killed_run_that_is_resumed_has_the_curve_of_an_unbroken_one() {
    let n_kills: u64 = std::env::var(KILLS).map_or(3, |text| text.parse().unwrap());
    const STEPS: u64 = 14;
    for seed in 0..n_kills {
        let folder = Folder::new(&format!("train-killed-{seed}"));
        let data = chats(&folder, 18);
        let seed = seed.to_string();
        let prompts = folder.join("prompts.txt");
        std::fs::write(&prompts, "word 1\n").unwrap();
        let further = [
            "--seed",
            &seed,
            "--eval-split",
            "0.2",
            "--eval-every",
            "3",
            "--sample-every",
            "3",
            "--prompts",
            prompts.to_str().unwrap(),
            "-o",
        ];
        let options = small(&folder, &data, STEPS);
        let (whole, broken) = (folder.join("whole"), folder.join("broken"));
        let start = |out: &Path| {
            Running::start(command(&folder, &options, &[&further[..], &[out.to_str().unwrap()]].concat()))
        };
        let (status, stderr) = start(&whole).end();
        assert_eq!(status, Some(0), "{stderr}");

        let mut running = start(&broken);
        let mut killed = Vec::new();
        for _ in 0..2 {
            let n = fastrand::u64(0..STEPS / 2);
            killed.push((0..n).take_while(|_| running.next()).count());
            // A run that has not begun has nothing to resume.
            while !broken.join("config.json").exists() && running.child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            running.child.kill().unwrap();
            running.child.wait().unwrap();
            // All that is needed is in the folder.
            running = Running::start(command(&folder, &[], &["train", "--resume", broken.to_str().unwrap()]));
        }
        let (status, stderr) = running.end();
        assert_eq!(status, Some(0), "seed {seed}, killed after {killed:?} rows: {stderr}");
        assert_same(&whole, &broken, &format!("seed {seed}, killed after {killed:?} rows"));
        let samples = |run: &Path| std::fs::read_to_string(run.join("samples.jsonl")).unwrap();
        assert_eq!(samples(&whole), samples(&broken), "seed {seed}, killed after {killed:?} rows");
    }
}

#[test]
fn a_signal_saves_the_state_and_the_run_goes_on_when_it_is_resumed() {
    for (signal, expected) in [("-INT", 130), ("-TERM", 143)] {
        let folder = Folder::new(&format!("train-signal{signal}"));
        let data = chats(&folder, 10);
        let options = small(&folder, &data, 60);
        let (whole, broken) = (folder.join("whole"), folder.join("broken"));
        let (status, _, stderr) = train(&folder, &options, &["-o", whole.to_str().unwrap()]);
        assert_eq!(status, 0, "{stderr}");
        // No checkpoint is due: only the signal saves one.
        let further = ["-o", broken.to_str().unwrap(), "-f", "json"];
        let options = with(&options, "--save-every", "1000");
        let mut running = Running::start(command(&folder, &options, &further));
        assert!(running.next() && running.next() && running.next());
        running.signal(signal);
        let (status, stderr) = running.end();
        assert_eq!(status, Some(expected), "{stderr}");
        let resume = format!("resume with: tinkex train --resume {}", broken.display());
        assert!(stderr.lines().any(|line| line == resume), "{stderr}");
        let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        let remedy = format!("`tinkex train --resume {}`", broken.display());
        assert_eq!((&error["error"]["kind"], &error["error"]["try"]), (&"signal".into(), &remedy.into()));
        let next = CheckpointLog::open(&broken).unwrap().last_resumable().unwrap().next_batch.unwrap();
        assert_eq!(next, rows(&broken).len() as u64);
        assert!((3..60).contains(&next), "{next}");
        assert!(
            stderr.contains(&format!("the last saved state is that after {next} steps: tinker://")),
            "{stderr}"
        );
        let (status, _, stderr) = run(&folder, &["train", "--resume", broken.to_str().unwrap()]);
        assert_eq!(status, 0, "{stderr}");
        assert!(stderr.contains(&format!("goes on after step {next} of 60")), "{stderr}");
        assert_same(&whole, &broken, signal);
    }
}

#[test]
fn a_run_whose_data_or_settings_changed_is_not_resumed() {
    let folder = Folder::new("train-changed");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let resume =
        |further: &[&str]| run(&folder, &[&["train", "--resume", out.to_str().unwrap()], further].concat());
    let (status, _, stderr) = train(&folder, &small(&folder, &data, 2), &["-o", out.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    let (status, _, stderr) = resume(&["--seed", "5", "--batch-size", "2"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("seed: was 0, is 5") && stderr.contains("batch-size: was 4, is 2"), "{stderr}");
    // More steps are fine, and said with the plan.
    let (status, stdout, _) = resume(&["--max-steps", "4", "--dry-run"]);
    let note =
        "note: the run now has 4 steps, not 2: from here on the learning rate follows the new number\n";
    assert!(status == 0 && stdout.contains(note), "{stdout}");
    let (status, _, stderr) = resume(&["--max-steps", "4"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("the run now has 4 steps, not 2"), "{stderr}");
    // The report marks the resume.
    let own: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    let resumes = &own["tinkex"]["resumes"];
    assert_eq!((&resumes[0]["step"], &resumes[0]["n_steps"]), (&json!(2), &json!(4)), "{resumes}");
    let page = folder.join("page.html");
    let (status, _, stderr) = run(&folder, &["report", out.to_str().unwrap(), "-o", page.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    // In the charts of the loss, of the learning rate, which goes on elsewhere, of the speed and of the time.
    assert_eq!(std::fs::read_to_string(page).unwrap().matches("resumed after 2 steps").count(), 4);
    // The number of epochs alone trains no further than the number of steps.
    let (status, _, stderr) = resume(&["--epochs", "9"]);
    assert!(
        status == 0 && stderr.contains("note: --epochs 9 trains no further: the run has --max-steps 4"),
        "{stderr}"
    );
    // What a start refuses, a dry run refuses.
    let elsewhere = format!("--local={}", folder.join("other").display());
    let (status, _, stderr) = resume(&["--max-steps", "5", &elsewhere, "--dry-run"]);
    assert!(status != 0 && stderr.contains("other does not exist"), "{stderr}");
    assert_eq!(rows(&out).len(), 4);
    let text = std::fs::read_to_string(&data).unwrap();
    std::fs::write(&data, text.replace("answer", "reply")).unwrap();
    let (status, _, stderr) = resume(&["--max-steps", "6"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("chats.jsonl has changed") && stderr.contains("--force-resume"), "{stderr}");
    let (status, _, stderr) = resume(&["--max-steps", "6", "--force-resume"]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(rows(&out).len(), 6);
}

#[test]
fn a_folder_in_use_is_refused_with_the_process() {
    let folder = Folder::new("train-used");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let mut running =
        Running::start(command(&folder, &small(&folder, &data, 2000), &["-o", out.to_str().unwrap()]));
    assert!(running.next());
    let (status, _, stderr) = run(&folder, &["train", "--resume", out.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(stderr.contains(&format!("run is in use by pid {}", running.child.id())), "{stderr}");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}

/// An engine with the checkpoints of the folder.
fn engine(folder: &Path, max_disk_bytes: Option<u64>) -> Server {
    let options = Options {
        data_dir: Some(folder.join("engine")),
        api_key: Some(KEY.to_owned()),
        max_disk_bytes,
        ..Default::default()
    };
    Server::start(options).unwrap()
}

const KEY: &str = "tml-key-of-the-test";

/// The options of a small run on a server that saves each second step.
fn short<'a>(data: &'a str, steps: &'a str, out: &'a Path) -> Vec<&'a str> {
    let run = ["-m", "tinkex/nano", "--rank", "2", "--batch-size", "4", "--save-every", "2", "--no-report"];
    let mut all = vec![data];
    all.extend(run);
    all.extend(["--max-steps", steps, "-o", out.to_str().unwrap()]);
    all
}

/// A run on a server with these options.
fn on_server(server: &Server, folder: &Path, options: &[&str]) -> Command {
    let mut command = tinkex(folder);
    command.env("TINKER_API_KEY", KEY).env("TINKEX_PRICES", "off").arg("train").args(options);
    command.args(["--base-url", server.url()]);
    command
}

#[test]
fn a_run_goes_on_when_a_checkpoint_cannot_be_saved_and_can_be_resumed_from_an_earlier_one() {
    let folder = Folder::new("train-unsaved");
    let data = chats(&folder, 10);
    let (whole, broken) = (folder.join("whole"), folder.join("broken"));
    let (status, _, stderr) = train(&folder, &small(&folder, &data, 12), &["-o", whole.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    std::fs::remove_dir_all(folder.join("engine")).unwrap();
    // Two checkpoints fit.
    let server = engine(&folder, Some(1_000_000));
    let options = short(&data, "12", &broken);
    let output = on_server(&server, &folder, &options).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("warning: a checkpoint could not be saved, and the run goes on: "), "{stderr}");
    assert!(stderr.contains("resume with: tinkex train --resume "), "{stderr}");
    assert_eq!(rows(&broken).len(), 12);
    drop(server);
    let server = engine(&folder, None);
    let output = on_server(&server, &folder, &["--resume", broken.to_str().unwrap()]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("goes on after step 4 of 12"), "{stderr}");
    assert_same(&whole, &broken, "after the failed saves");
}

#[test]
fn a_run_whose_server_went_away_can_be_resumed_elsewhere() {
    let folder = Folder::new("train-server");
    let data = chats(&folder, 8);
    let server = engine(&folder, None);
    let out = folder.join("run");
    let options = [short(&data, "300", &out), vec!["--timeout", "3s"]].concat();
    let mut running = Running::start(on_server(&server, &folder, &options));
    for _ in 0..5 {
        assert!(running.next());
    }
    drop(server);
    let (status, stderr) = running.end();
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("resume with: tinkex train --resume "), "{stderr}");
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["tinkex"]["status"], "failed");
    let n = rows(&out).len();
    assert!((5..300).contains(&n), "{n}");
    let server = engine(&folder, None);
    let steps = (n + 2).to_string();
    let further = ["--resume", out.to_str().unwrap(), "--max-steps", &steps];
    let output = on_server(&server, &folder, &further).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows(&out).len(), n + 2);
}

#[test]
fn a_run_whose_rows_nobody_reads_any_more_stops_and_saves_its_state() {
    let folder = Folder::new("train-pipe");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let options = with(&small(&folder, &data, 3000), "--save-every", "5000");
    let mut running = Running::start(command(&folder, &options, &["-o", out.to_str().unwrap()]));
    assert!(running.next());
    drop(running.rows);
    let output = running.child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("resume with: tinkex train --resume "), "{stderr}");
    let next = CheckpointLog::open(&out).unwrap().last_resumable().unwrap().next_batch.unwrap();
    assert_eq!(next, rows(&out).len() as u64);
}

#[test]
fn a_finished_run_that_is_resumed_does_nothing_more() {
    let folder = Folder::new("train-finished");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let prompts = folder.join("prompts.txt");
    std::fs::write(&prompts, "word 1\n").unwrap();
    let further = ["-o", out.to_str().unwrap(), "--prompts", prompts.to_str().unwrap()];
    let (status, first, stderr) = train(&folder, &small(&folder, &data, 3), &further);
    assert_eq!(status, 0, "{stderr}");
    let files = || {
        ["metrics.jsonl", "checkpoints.jsonl", "samples.jsonl", "config.json"]
            .map(|it| std::fs::read_to_string(out.join(it)).unwrap())
    };
    let before = files();
    let (status, second, stderr) = run(&folder, &["train", "--resume", out.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(files(), before);
    let paths = |text: &str| {
        text.lines().filter(|it| it.starts_with("tinker://")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(paths(&first), paths(&second));
    assert_eq!(paths(&first).len(), 2);
}

#[test]
fn a_resumed_run_on_preferences_keeps_the_weights_that_it_began_with_as_its_reference() {
    let folder = Folder::new("train-dpo-resumed");
    let data = chats(&folder, 8);
    let first = folder.join("first");
    let (status, _, stderr) = train(&folder, &small(&folder, &data, 4), &["-o", first.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    let pairs = folder.join("pairs.jsonl");
    let line = |i: usize| {
        format!("{{\"prompt\": \"word {i}\", \"chosen\": \"answer {}\", \"rejected\": \"no\"}}\n", i % 3)
    };
    std::fs::write(&pairs, (0..8).map(line).collect::<String>()).unwrap();
    let options = small(&folder, pairs.to_str().unwrap(), 6);
    let (whole, broken) = (folder.join("whole"), folder.join("broken"));
    let from = ["--from", first.to_str().unwrap(), "-o"];
    for (out, steps) in [(&whole, "6"), (&broken, "3")] {
        let options = with(&options, "--max-steps", steps);
        let further = [&from[..], &[out.to_str().unwrap(), "--schedule", "constant"]].concat();
        let (status, _, stderr) = train(&folder, &options, &further);
        assert_eq!(status, 0, "{stderr}");
    }
    let (status, _, stderr) =
        run(&folder, &["train", "--resume", broken.to_str().unwrap(), "--max-steps", "6"]);
    assert_eq!(status, 0, "{stderr}");
    let losses =
        |run: &Path| rows(run).iter().map(|row| row["dpo_loss"].as_f64().unwrap()).collect::<Vec<f64>>();
    let (whole, broken) = (losses(&whole), losses(&broken));
    assert_eq!((whole.len(), broken.len()), (6, 6));
    // The last weights of the first run are the same reference.
    let named = folder.join("named");
    let further = [&from[..], &[named.to_str().unwrap(), "--reference", first.to_str().unwrap()]].concat();
    let (status, _, stderr) = train(&folder, &with(&options, "--max-steps", "1"), &further);
    assert_eq!(status, 0, "{stderr}");
    let named = rows(&named)[0]["dpo_loss"].as_f64().unwrap();
    assert!((named - std::f64::consts::LN_2).abs() < 1e-3, "{named}");
    // At the start the model is its reference; later it is not, also not after the resume.
    assert!((whole[0] - std::f64::consts::LN_2).abs() < 1e-3 && whole[3] < 0.69, "{whole:?}");
    for (whole, broken) in whole.iter().zip(&broken) {
        assert!((whole - broken).abs() < 1e-4, "{whole} {broken}");
    }
}
