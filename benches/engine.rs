//! Speed of the embedded engine: training steps and sampling of `tinkex/nano` through the client, over HTTP.
//!
//! ```text
//! cargo bench --bench engine --features local -- [--threads N] [--python PATH]
//! ```
//!
//! A step is `forward_backward` and `optim_step` of a LoRA adapter of rank 32, both submitted before the first wait. All
//! numbers are medians. `--threads` is the number of compute threads, 2 by default. Prints one line of JSON with the time
//! from the start of the engine to its first answer, the memory of this process before any work (on Linux), and the
//! speed of matrix products in f32 (`gemm_gflop_s`, all threads together); then a table. `of peak` is the share of that
//! speed which the arithmetic of a step reaches. The last two rows are of steps and samples that run at the same time.
//!
//! With `--python`, that Python, which needs the packages `torch`, `transformers` and `peft`, runs the same work by
//! `benches/engine.py` with the same number of threads, in turns with the engine, and the table has the ratios. The
//! computer should be idle: both use as many threads as they were given, and PyTorch loses more time than the engine if
//! it does not get a processor for each.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to a person"
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SamplingParams, Stop};
use tinkex::{CloseStatus, SamplingClient, ServiceClient, TrainingClient, wait_all};

const MODEL: &str = "tinkex/nano";
const ROUNDS: usize = 5;
const STARTS: usize = 9;

/// Sequences, tokens of each sequence, and steps in one round; PyTorch takes half as many, because it needs longer.
const SHAPES: [(usize, usize, usize); 4] = [(1, 23, 20), (8, 128, 4), (64, 128, 1), (1, 1024, 4)];

/// Samples at the same time, and tokens of each sample.
const SAMPLES: [(usize, usize); 2] = [(1, 512), (32, 128)];

/// Tokens of a sample with PyTorch, which needs longer for each.
const PYTHON_TOKENS: usize = 32;

/// Weights of the projections and the head of the model, and of an adapter of rank 32.
const WEIGHTS: usize = 4 * 196_608 + 65_536;
const ADAPTER: usize = 4 * 77_824 + 20_480;

/// Layers times width of all query heads.
const ATTENTION: usize = 4 * 128;

fn main() {
    let (threads, python) = arguments();
    let ready = median((0..STARTS).map(|_| start(threads).1).collect());
    let (server, _) = start(threads);
    let rss = memory_mb();
    let service = client(&server);
    let peak = gemm_gflop_s(threads);
    println!(
        r#"{{"bench":"engine","threads":{threads},"ready_ms":{ready:.1},"idle_rss_mb":{},"gemm_gflop_s":{peak:.0}}}"#,
        rss.map_or("null".into(), |it| format!("{it:.0}")),
    );
    let mut python = python.map(|path| Python::start(&path, threads));
    let training = service.create_lora_training_client(MODEL, LoraConfig::default()).unwrap();
    let sampler = service.create_sampling_client(MODEL).unwrap();
    println!("| work | engine | PyTorch | times as fast | of peak |\n|---|---|---|---|---|");
    for (batch, tokens, steps) in SHAPES {
        let data = data(batch, tokens);
        let job = json!({"batch": batch, "tokens": tokens, "steps": steps.div_ceil(2)});
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first round of each side warms it up.
        for round in 0..=ROUNDS {
            let own: Vec<f64> = (0..steps).map(|_| step(&training, &data)).collect();
            let other = python.as_mut().map(|it| it.steps(&job)).unwrap_or_default();
            if round > 0 {
                ours.extend(own);
                theirs.extend(other);
            }
        }
        let ours = median(ours);
        let theirs = (!theirs.is_empty()).then(|| median(theirs));
        let share = step_gflop(batch, tokens) / (ours / 1e3) / peak;
        let name = format!("{batch}×{tokens}, ms");
        row(&name, (ours, theirs), theirs.map(|it| it / ours), Some(share));
    }
    for (streams, tokens) in SAMPLES {
        let job = json!({"streams": streams, "tokens": PYTHON_TOKENS});
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let own = sampled(&sampler, streams, tokens);
            let other = python.as_mut().map(|it| it.speed(&job));
            if round > 0 {
                ours.push(own);
                theirs.extend(other);
            }
        }
        let ours = median(ours);
        let theirs = (!theirs.is_empty()).then(|| median(theirs));
        let name = format!("sampling, {streams} at a time, tokens/s");
        row(&name, (ours, theirs), theirs.map(|it| ours / it), None);
    }
    let (milliseconds, speed) = together(&training, &sampler);
    row("8×128 while 32 are sampled, ms", (milliseconds, None), None, None);
    row("sampling, 32 at a time, during these steps, tokens/s", (speed, None), None, None);
    service.close(CloseStatus::Success).unwrap();
}

fn arguments() -> (usize, Option<String>) {
    let (mut threads, mut python) = (2, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => threads = arguments.next().and_then(|it| it.parse().ok()).expect("--threads N"),
            "--python" => python = Some(arguments.next().expect("--python PATH")),
            // From `cargo bench`.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    assert!(threads > 0, "--threads must be at least 1");
    (threads, python)
}

/// Starts an engine; returns it with the milliseconds until it has answered a request.
fn start(threads: usize) -> (Server, f64) {
    let started = Instant::now();
    let server = Server::start(Options { threads, ..Options::default() }).unwrap();
    let url = format!("{}/api/v1/healthz", server.url());
    let answer = ureq::get(url).header("X-API-Key", server.api_key()).call().unwrap();
    assert_eq!(answer.status(), 200);
    (server, started.elapsed().as_secs_f64() * 1e3)
}

fn client(server: &Server) -> ServiceClient {
    ServiceClient::builder()
        .base_url(server.url())
        .api_key(server.api_key())
        .telemetry(false)
        .build()
        .unwrap()
}

/// Memory of this process in MB.
fn memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

fn data(batch: usize, tokens: usize) -> Vec<Datum> {
    let token = |i: usize, j: usize| ((i * 31 + j * 7919) % 256) as i32;
    let datum = |i: usize| {
        let targets: Vec<i64> = (0..tokens).map(|j| i64::from(token(i, j + 1))).collect();
        Datum::new(ModelInput::from_ints((0..tokens).map(|j| token(i, j)).collect::<Vec<_>>()))
            .with("target_tokens", targets)
            .with("weights", vec![1.0f32; tokens])
    };
    (0..batch).map(datum).collect()
}

/// Takes one step; returns its milliseconds.
fn step(training: &TrainingClient, data: &[Datum]) -> f64 {
    let data = data.to_vec();
    let started = Instant::now();
    let pass = training.forward_backward(data, LossFn::CrossEntropy);
    let update = training.optim_step(AdamParams::default());
    pass.wait().unwrap();
    update.wait().unwrap();
    started.elapsed().as_secs_f64() * 1e3
}

/// Samples `streams` sequences at the same time; returns the tokens per second.
fn sampled(sampler: &SamplingClient, streams: usize, tokens: usize) -> f64 {
    let prompt = ModelInput::from_ints((0..8).collect::<Vec<i32>>());
    let started = Instant::now();
    let answers = wait_all((0..streams).map(|i| {
        let params = SamplingParams {
            max_tokens: Some(tokens as u32),
            seed: Some(i as u64),
            stop: Some(Stop::Tokens(Vec::new())),
            ..SamplingParams::default()
        };
        sampler.sample(&prompt, 1, &params)
    }));
    let n: usize = answers.unwrap().iter().map(|it| it.sequences[0].tokens.len()).sum();
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(n, streams * tokens);
    n as f64 / seconds
}

/// Steps and samples at the same time: the milliseconds of a step, and the tokens per second.
fn together(training: &TrainingClient, sampler: &SamplingClient) -> (f64, f64) {
    let data = data(8, 128);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let speeds = scope.spawn(|| {
            let mut speeds = Vec::new();
            while !over.load(Ordering::Relaxed) {
                speeds.push(sampled(sampler, 32, 128));
            }
            speeds
        });
        let steps = (0..8 * ROUNDS).map(|_| step(training, &data)).collect();
        over.store(true, Ordering::Relaxed);
        (median(steps), median(speeds.join().unwrap()))
    })
}

/// Arithmetic of one step, in billions of operations, where a multiply-add counts as two. The frozen weights take one
/// product forward and one backward, the adapter one more backward. Attention takes two products forward and five
/// backward, each over half of the pairs of positions.
fn step_gflop(batch: usize, tokens: usize) -> f64 {
    let rows = (batch * tokens) as f64;
    let weights = 2.0 * rows * (2 * WEIGHTS + 3 * ADAPTER) as f64;
    let attention = 7.0 * rows * tokens as f64 * ATTENTION as f64;
    (weights + attention) / 1e9
}

/// The speed of products of matrices that stay in the cache, on all threads at the same time, in billions of operations
/// a second.
fn gemm_gflop_s(threads: usize) -> f64 {
    const SIZE: usize = 256;
    const PRODUCTS: usize = 500;
    let work = || {
        let (a, b, mut c) =
            (vec![0.5f32; SIZE * SIZE], vec![0.25f32; SIZE * SIZE], vec![0.0f32; SIZE * SIZE]);
        for _ in 0..PRODUCTS {
            product(&mut c, &a, &b, SIZE);
        }
        assert!(c[0] > 0.0);
    };
    let round = || {
        let started = Instant::now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        (threads * PRODUCTS * 2 * SIZE.pow(3)) as f64 / 1e9 / started.elapsed().as_secs_f64()
    };
    // The best round: the others were slowed down by other programs.
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}

/// `c = a·b` for square matrices.
#[allow(unsafe_code)]
fn product(c: &mut [f32], a: &[f32], b: &[f32], size: usize) {
    assert!([c.len(), a.len(), b.len()] == [size * size; 3]);
    let stride = size as isize;
    // The kernel takes columns without gaps: it computes the transpose of the product.
    // SAFETY: the three slices hold `size` rows of `size` initialised numbers, and `c` overlaps neither of the others.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            size,
            size,
            size,
            c.as_mut_ptr(),
            stride,
            1,
            false,
            b.as_ptr(),
            stride,
            1,
            a.as_ptr(),
            stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

fn row(name: &str, (ours, theirs): (f64, Option<f64>), ratio: Option<f64>, share: Option<f64>) {
    let digits = |value: f64| if value < 100.0 { 1 } else { 0 };
    let mut line = format!("| {name} | {ours:.*} |", digits(ours));
    for (value, unit) in [(theirs, ""), (ratio, ""), (share.map(|it| it * 100.0), " %")] {
        match value {
            Some(it) => write!(line, " {it:.*}{unit} |", digits(it)).unwrap(),
            None => line.push_str(" – |"),
        }
    }
    println!("{line}");
}

/// The process of `engine.py`.
struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start(path: &str, threads: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/engine.py");
        let mut child = Command::new(path)
            .arg(script)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a Python at the path of --python");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Python { child, input, output }
    }

    fn ask(&mut self, job: &Value) -> Value {
        writeln!(self.input, "{job}").expect("engine.py has ended; its messages are above");
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("engine.py has ended; its messages are above")
    }

    fn steps(&mut self, job: &Value) -> Vec<f64> {
        serde_json::from_value(self.ask(job)).unwrap()
    }

    fn speed(&mut self, job: &Value) -> f64 {
        self.ask(job).as_f64().unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
