//! Exact resume: `examples/sft.rs` is killed at random moments and continues each time as if nothing had happened.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::train::{CheckpointLog, MetricsLog, Run, RunOptions};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn};

use crate::util::folder::Folder;

/// Environment variable with the number of kills. Default 5.
const KILLS: &str = "TINKEX_TEST_KILLS";
const STEPS: u64 = 48;

/// Returns the path of the built example. `cargo test` builds examples; `cargo test --test it` does not.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).expect("a folder");
    let program = target.join("examples").join("sft").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --all-features --examples`",
        program.display()
    );
    program
}

fn start(server: &Server, folder: &Path) -> Child {
    Command::new(program())
        .arg(folder)
        .args(["--steps", &STEPS.to_string(), "--save-every", "4"])
        .env("TINKER_BASE_URL", server.url())
        .env("TINKER_API_KEY", server.api_key())
        .env("TINKEX_BASE_MODEL", "tinkex/nano")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run_to_the_end(server: &Server, folder: &Path) {
    let output = start(server, folder).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The metrics of all steps; each step must be there once, in order.
fn curve(folder: &Path) -> Vec<(f64, Option<f64>)> {
    let rows = MetricsLog::read(folder).unwrap();
    let steps: Vec<u64> = rows.iter().map(|row| row.step.expect("a step")).collect();
    assert_eq!(steps, (0..STEPS).collect::<Vec<u64>>());
    let value = |values: &std::collections::BTreeMap<_, tinkex::train::MetricValue>, name: &str| {
        values.get(name).map(|it| it.as_f64().expect("a number"))
    };
    rows.iter()
        .map(|row| (value(&row.values, "train_mean_nll").unwrap(), value(&row.values, "test/nll")))
        .collect()
}

#[test]
fn a_run_killed_at_random_moments_has_the_loss_curve_of_an_unbroken_one() {
    let kills: u32 = std::env::var(KILLS).map_or(5, |text| text.parse().expect("a number of kills"));
    let folder = Folder::new("killed-runs");
    let engine = Options { data_dir: Some(folder.0.join("engine")), threads: 1, ..Options::default() };
    let server = Server::start(engine).unwrap();
    let (whole, broken) = (folder.0.join("whole"), folder.0.join("broken"));
    let started = Instant::now();
    run_to_the_end(&server, &whole);
    let duration = started.elapsed();
    let expected = curve(&whole);
    assert!(expected[STEPS as usize - 1].0 < expected[0].0, "the model learns: {expected:?}");

    // On average the kills are spread over the whole run.
    let longest = duration.mul_f64(2.0 / f64::from(kills + 1)).max(Duration::from_millis(300));
    let mut resumed = Vec::new();
    for _ in 0..kills {
        let mut child = start(&server, &broken);
        std::thread::sleep(longest.mul_f64(fastrand::f64()));
        child.kill().unwrap();
        child.wait().unwrap();
        let log = CheckpointLog::open(&broken).unwrap();
        resumed.push(log.last_resumable().map_or(0, |record| record.next_batch.expect("our own key")));
    }
    assert!(resumed.is_sorted(), "the run only goes forward: {resumed:?}");
    run_to_the_end(&server, &broken);
    for (step, (expected, found)) in expected.iter().zip(curve(&broken)).enumerate() {
        let (train, test) = (expected.0 - found.0, expected.1.unwrap_or(0.0) - found.1.unwrap_or(0.0));
        assert!(
            train.abs() < 1e-4 && test.abs() < 1e-4,
            "step {step}: {expected:?} and {found:?}; continued from the steps {resumed:?}"
        );
    }
    let records = CheckpointLog::open(&broken).unwrap().records().to_vec();
    let steps: Vec<Option<u64>> = records.iter().map(|record| record.next_batch).collect();
    assert!(steps.is_sorted() && records.last().is_some_and(|record| record.is_final), "{records:?}");
    // The run is at its end: another start changes nothing.
    run_to_the_end(&server, &broken);
    assert_eq!(CheckpointLog::open(&broken).unwrap().records(), records);
    if let Some(copy) = std::env::var_os("TINKEX_TEST_KEEP_RUN") {
        std::fs::rename(&broken, copy).unwrap();
    }
}

fn service(server: &Server) -> ServiceClient {
    let connect = ServiceClient::builder().without_environment();
    connect.base_url(server.url()).api_key(server.api_key()).build().unwrap()
}

fn options() -> RunOptions {
    let lora = LoraConfig { rank: 2, seed: Some(1), ..LoraConfig::default() };
    RunOptions { lora, save_every: 4, rolling_every: 1, ..RunOptions::default() }
}

/// Runs steps until `end`, and returns their losses.
fn train(run: &mut Run, end: u64) -> Vec<f64> {
    let mut losses = Vec::new();
    while run.next_step() < end {
        let step = run.next_step();
        let batch = vec![Datum::cross_entropy(&[1, step as i32], &[3, 4])];
        let pass = run.training().forward_backward(batch, LossFn::CrossEntropy);
        let update = run.training().optim_step(AdamParams { learning_rate: 1e-2, ..Default::default() });
        run.checkpoint_if_due(step).unwrap();
        losses.push(pass.wait().unwrap().loss_per_token().unwrap());
        update.wait().unwrap();
        run.log(step, &[("loss", losses[losses.len() - 1].into())]).unwrap();
    }
    losses
}

fn started(name: &str) -> (Folder, Server) {
    let folder = Folder::new(name);
    let engine = Options { data_dir: Some(folder.0.join("engine")), threads: 1, ..Options::default() };
    let server = Server::start(engine).unwrap();
    (folder, server)
}

#[test]
fn of_the_rolling_checkpoints_only_the_last_one_is_kept() {
    let (folder, server) = started("rolling");
    let service = service(&server);
    let kept = || -> Vec<String> {
        let checkpoints = service.create_rest_client().list_user_checkpoints();
        let mut ids: Vec<String> = checkpoints.map(|it| it.unwrap().checkpoint_id).collect();
        ids.sort();
        ids
    };
    let mut run = Run::open(folder.0.join("run"), &service, "tinkex/nano", &options()).unwrap();
    train(&mut run, 6);
    run.record_checkpoints().unwrap();
    assert_eq!(kept(), ["sampler_weights/000004", "weights/000004", "weights/000006"]);
    drop(run);
    // Another process goes on, and deletes the rolling checkpoint that it began with.
    let mut run = Run::open(folder.0.join("run"), &service, "tinkex/nano", &options()).unwrap();
    assert_eq!(run.next_step(), 6);
    train(&mut run, 7);
    let last = run.finish().unwrap();
    assert_eq!((last.name.as_str(), last.batch, last.next_batch), ("final", Some(7), Some(7)));
    let expected = ["sampler_weights/000004", "sampler_weights/final", "weights/000004", "weights/final"];
    assert_eq!(kept(), expected);
    assert_eq!(run.finish().unwrap(), last);
    assert_eq!(kept(), expected);
}

#[test]
fn a_run_whose_last_checkpoint_expired_continues_from_the_one_before_it_with_the_same_losses() {
    let (folder, server) = started("expired");
    let service = service(&server);
    let path = folder.0.join("run");
    let options = RunOptions { renderer_name: Some("role_colon".into()), ..options() };
    let mut run = Run::open(&path, &service, "tinkex/nano", &options).unwrap();
    let busy = Run::open(&path, &service, "tinkex/nano", &options).unwrap_err();
    assert!(busy.is_user_error() && busy.to_string().contains("another process"), "{busy}");
    let losses = train(&mut run, 7);
    run.record_checkpoints().unwrap();
    let records = run.checkpoints().to_vec();
    drop(run);
    let rest = service.create_rest_client();
    let state = |n: usize| records[n].state_path.clone().unwrap();
    assert_eq!(tinkex::train::saved_renderer_name(&rest, &state(3)).unwrap().as_deref(), Some("role_colon"));
    rest.delete_checkpoint_from_tinker_path(state(6)).unwrap();
    let mut run = Run::open(&path, &service, "tinkex/nano", &options).unwrap();
    // The rolling checkpoints of the steps 5 and 6 are deleted already.
    assert_eq!(run.next_step(), 4);
    assert_eq!(MetricsLog::read(&path).unwrap().len(), 4);
    for (again, before) in train(&mut run, 7).iter().zip(&losses[4..]) {
        assert!((again - before).abs() < 1e-6, "{again} {before}");
    }
    run.record_checkpoints().unwrap();
    drop(run);
    for record in CheckpointLog::open(&path).unwrap().records() {
        let _ = rest.delete_checkpoint_from_tinker_path(record.state_path.as_ref().unwrap());
    }
    let error = Run::open(&path, &service, "tinkex/nano", &options).unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("checkpoints.jsonl"), "{error}");
    assert_eq!(MetricsLog::read(&path).unwrap().len(), 7);
}

#[test]
fn steps_out_of_order_are_refused_and_missing_metrics_keep_checkpoints_back() {
    let (folder, server) = started("order");
    let service = service(&server);
    let path = folder.0.join("run");
    let mut run = Run::open(&path, &service, "tinkex/nano", &options()).unwrap();
    for error in [run.checkpoint_if_due(1).unwrap_err(), run.log(0, &[]).unwrap_err()] {
        assert_eq!(error.violation().unwrap().path, "step", "{error}");
    }
    let update = |run: &Run| run.training().optim_step(AdamParams::default());
    let first = update(&run);
    run.checkpoint_if_due(0).unwrap();
    let second = update(&run);
    run.checkpoint_if_due(1).unwrap();
    first.wait().unwrap();
    second.wait().unwrap();
    // Both steps are done, but their metrics are not written: a resume would not write them either.
    assert_eq!(run.checkpoints().len(), 0);
    run.log(0, &[]).unwrap();
    run.log(1, &[]).unwrap();
    run.record_checkpoints().unwrap();
    assert_eq!(run.checkpoints().len(), 2);
}

#[test]
fn a_run_that_goes_on_after_its_end_is_saved_again_and_loses_no_step() {
    let (folder, server) = started("finish-twice");
    let service = service(&server);
    let path = folder.0.join("run");
    let mut run = Run::open(&path, &service, "tinkex/nano", &options()).unwrap();
    let mut names = Vec::new();
    for end in [3, 5, 6] {
        train(&mut run, end);
        let record = run.finish().unwrap();
        assert_eq!((record.next_batch, record.is_final), (Some(end), true));
        assert_eq!(run.finish().unwrap(), record);
        names.push(record.name);
    }
    assert_eq!(names, ["final", "final_2", "final_3"]);
    drop(run);
    let run = Run::open(&path, &service, "tinkex/nano", &options()).unwrap();
    assert_eq!((run.next_step(), MetricsLog::read(&path).unwrap().len()), (6, 6));
}

#[test]
fn steps_logged_in_another_order_keep_checkpoints_back_until_all_are_there() {
    let (folder, server) = started("logged");
    let service = service(&server);
    let path = folder.0.join("run");
    let mut run = Run::open(&path, &service, "tinkex/nano", &options()).unwrap();
    for step in 0..4 {
        run.training().optim_step(AdamParams::default()).wait().unwrap();
        run.checkpoint_if_due(step).unwrap();
    }
    run.log(3, &[]).unwrap();
    for error in [run.record_checkpoints().unwrap_err(), run.finish().unwrap_err()] {
        assert!(error.is_user_error() && error.to_string().contains("step: 0 has no metrics"), "{error}");
    }
    run.log(0, &[]).unwrap();
    let error = run.record_checkpoints().unwrap_err();
    assert!(error.to_string().contains("step: 1 has no metrics"), "{error}");
    let recorded: Vec<_> = run.checkpoints().iter().map(|record| record.next_batch).collect();
    assert_eq!(recorded, [Some(1)]);
    run.log(2, &[]).unwrap();
    run.log(1, &[]).unwrap();
    assert_eq!(run.finish().unwrap().next_batch, Some(4));
    assert_eq!(run.checkpoints().len(), 5);
}
