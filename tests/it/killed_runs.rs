//! Exact resume: `examples/sft.rs` is killed at random moments and continues each time as if nothing had happened.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::train::{CheckpointLog, MetricsLog, Run, RunOptions};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn};

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
    rows.iter().map(|row| (value(&row.values, "train_mean_nll").unwrap(), value(&row.values, "test/nll"))).collect()
}

/// An empty folder for the engine and the runs, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tinkex-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
    println!("killed {kills} times, continued from the steps {resumed:?}");
    for (step, (expected, found)) in expected.iter().zip(curve(&broken)).enumerate() {
        let (train, test) = (expected.0 - found.0, expected.1.unwrap_or(0.0) - found.1.unwrap_or(0.0));
        assert!(train.abs() < 1e-4 && test.abs() < 1e-4, "step {step}: {expected:?} and {found:?}");
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
