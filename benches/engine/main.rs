//! Speed of the embedded engine: training steps and sampling through the client, over HTTP, of the built-in model and of
//! two models in folders with random weights in bf16.
//!
//! ```text
//! cargo bench --bench engine --features local -- [--threads N] [--python PATH] [--jax PATH] [--llama PATH] [--only WORD]
//! ```
//!
//! A step is `forward_backward` and `optim_step` of a LoRA adapter of rank 32, both submitted before the first wait. All
//! numbers are medians. `--threads` is the number of compute threads, 2 by default. `--only` takes the rows whose name
//! has the word. Prints one line of JSON with the speed of matrix products in f32 (`gemm_gflop_s`) and of reading memory
//! (`read_gb_s`), all threads together; then a table. `of peak` is the share of the first speed which the arithmetic of
//! a step reaches. For samples of a folder's model it is the share of the second: each step reads all weights once.
//!
//! The rows `beside` have the speeds of training and of sampling at the same time.
//!
//! The rows `ready` have the time from the start of an engine to its first answer, in a new process for each start, and
//! the rows `idle` the memory of such a process, with the bytes of the model's files that it has mapped.
//!
//! With `--python`, that Python, which needs the packages `torch`, `transformers` and `peft`, runs the same work by
//! `benches/engine/peers.py` with the same number of threads, in turns with the engine, and the table has the ratios.
//! With `--jax`, that Python, which needs the package `jax`, runs the training steps as one compiled function each.
//! With `--llama`, that Python, which needs the packages `xllamacpp` and `gguf`, samples from the same weights with
//! llama.cpp in bf16. The computer should be idle: all use as many threads as they were given, and PyTorch loses more
//! time than the engine if it does not get a processor for each.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to a person"
)]

mod peaks;
mod peer;
mod shapes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SamplingParams, Stop};
use tinkex::{CloseStatus, SamplingClient, ServiceClient, TrainingClient, wait_all};

use peaks::{gemm_gflop_s, read_gb_s};
use peer::Peer;
use shapes::{LLAMA, NANO, QWEN, Shape};

const ROUNDS: usize = 5;
const STARTS: usize = 9;

/// A training step: sequences, tokens of each sequence, and steps in one round; PyTorch takes half as many, because it
/// needs longer.
const STEPS: [(Shape, (usize, usize, usize)); 6] = [
    (NANO, (1, 23, 20)),
    (NANO, (8, 128, 4)),
    (NANO, (64, 128, 1)),
    (NANO, (1, 1024, 4)),
    (QWEN, (4, 256, 1)),
    (LLAMA, (4, 256, 1)),
];

/// Sampling: samples at the same time, tokens of each sample, and tokens with the other programs, which may need longer
/// for each.
const SAMPLES: [(Shape, (usize, usize, usize)); 5] = [
    (NANO, (1, 512, 32)),
    (NANO, (16, 128, 32)),
    (NANO, (32, 128, 32)),
    (LLAMA, (1, 64, 64)),
    (LLAMA, (16, 64, 32)),
];

/// Training and sampling at the same time: sequences and their tokens, samples and their tokens.
const TOGETHER: (usize, usize, usize, usize) = (8, 128, 32, 128);

/// The argument with which the bench starts itself in a new process, which starts an engine and measures it.
const START: &str = "--measure-start";

struct Arguments {
    threads: usize,
    python: Option<String>,
    jax: Option<String>,
    llama: Option<String>,
    only: String,
    /// The shape to start an engine with, and the folder of its weights.
    start: Option<(String, PathBuf)>,
}

fn main() {
    let arguments = arguments();
    if let Some((name, folder)) = &arguments.start {
        return print_start(name, folder, arguments.threads);
    }
    let folder = Folder(std::env::temp_dir().join(format!("tinkex-bench-{}", std::process::id())));
    let bench = Bench { arguments, folder };
    bench.run();
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct Bench {
    arguments: Arguments,
    folder: Folder,
}

impl Bench {
    fn run(&self) {
        let Arguments { threads, python, jax, llama, .. } = &self.arguments;
        let folders = [NANO, QWEN, LLAMA];
        for shape in folders {
            shape.write(&self.folder(shape)).unwrap();
        }
        let (peak, read) = (gemm_gflop_s(*threads), read_gb_s(*threads, LLAMA.megabytes()));
        println!(
            r#"{{"bench":"engine","threads":{threads},"gemm_gflop_s":{peak:.0},"read_gb_s":{read:.1}}}"#
        );
        println!(
            "| work | engine | PyTorch | JAX | llama.cpp | times as fast | of peak |\n|---|---|---|---|---|---|---|"
        );
        for shape in [NANO, LLAMA] {
            self.starts(shape);
        }
        let server = start(*threads, [QWEN, LLAMA].map(|it| (it, self.folder(it)))).0;
        let service = client(&server);
        let mut torch = python.as_ref().map(|path| Peer::start(path, "torch", *threads));
        let mut jax = jax.as_ref().map(|path| Peer::start(path, "jax", *threads));
        for (shape, work) in STEPS {
            self.steps(&service, shape, work, [torch.as_mut(), jax.as_mut()], peak);
        }
        drop(jax);
        let mut llama = llama.as_ref().map(|path| Peer::start(path, "llama", *threads));
        for (shape, work) in SAMPLES {
            self.samples(&service, shape, work, [torch.as_mut(), llama.as_mut()], read);
        }
        self.together(&service);
        service.close(CloseStatus::Success).unwrap();
    }

    fn folder(&self, shape: Shape) -> PathBuf {
        self.folder.0.join(shape.name)
    }

    fn wanted(&self, name: &str) -> bool {
        name.contains(&self.arguments.only)
    }

    /// Starts engines in processes of their own.
    fn starts(&self, shape: Shape) {
        let name = format!("{} ready, ms", shape.name);
        if !self.wanted(&name) {
            return;
        }
        let threads = self.arguments.threads.to_string();
        let once = || -> Value {
            let bench = std::env::current_exe().unwrap();
            let output = Command::new(bench)
                .args(["--threads", &threads, START, shape.name])
                .arg(self.folder(shape))
                .output()
                .unwrap();
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let starts: Vec<Value> = (0..STARTS).map(|_| once()).collect();
        let number = |key: &str| median(starts.iter().filter_map(|it| it[key].as_f64()).collect());
        row(&name, number("ready_ms"), [None; 3], None, None);
        if starts[0]["idle_mb"].is_number() {
            let files = number("mapped_mb");
            let name = format!("{} idle, MB, of these {files:.0} mapped", shape.name);
            row(&name, number("idle_mb"), [None; 3], None, None);
        }
    }

    /// Trains and samples at the same time. Half of the speeds of the rows before is what each can expect.
    fn together(&self, service: &ServiceClient) {
        let (batch, tokens, streams, sampled_tokens) = TOGETHER;
        let names = [
            format!("{} {batch}×{tokens} beside {streams} samples, ms", NANO.name),
            format!("{} sampling, {streams} at a time beside training, tokens/s", NANO.name),
        ];
        if !names.iter().any(|it| self.wanted(it)) {
            return;
        }
        let training = service.create_lora_training_client(NANO.name, LoraConfig::default()).unwrap();
        let sampler = service.create_sampling_client(NANO.name).unwrap();
        let data = data(batch, tokens);
        let trained = AtomicBool::new(false);
        let (steps, speeds) = std::thread::scope(|scope| {
            let sampling = scope.spawn(|| {
                let mut speeds = vec![sampled(&sampler, streams, sampled_tokens)];
                while !trained.load(Ordering::Relaxed) {
                    speeds.push(sampled(&sampler, streams, sampled_tokens));
                }
                // The last ones ran after the training.
                speeds.truncate(usize::max(1, speeds.len() - 1));
                speeds
            });
            let steps: Vec<f64> = (0..8 * ROUNDS).map(|_| step(&training, &data)).collect();
            trained.store(true, Ordering::Relaxed);
            (steps, sampling.join().unwrap())
        });
        for (name, value) in names.iter().zip([median(steps), median(speeds)]) {
            row(name, value, [None; 3], None, None);
        }
    }

    fn steps(
        &self,
        service: &ServiceClient,
        shape: Shape,
        (batch, tokens, steps): (usize, usize, usize),
        mut peers: [Option<&mut Peer>; 2],
        peak: f64,
    ) {
        let name = format!("{} {batch}×{tokens}, ms", shape.name);
        if !self.wanted(&name) {
            return;
        }
        let training = service.create_lora_training_client(shape.name, LoraConfig::default()).unwrap();
        let data = data(batch, tokens);
        let folder = self.folder(shape);
        let job =
            json!({"folder": folder, "batch": batch, "tokens": tokens, "steps": usize::div_ceil(steps, 2)});
        let (mut ours, mut theirs) = (Vec::new(), [Vec::new(), Vec::new()]);
        // The first round of each side warms it up.
        for round in 0..=ROUNDS {
            let own: Vec<f64> = (0..steps).map(|_| step(&training, &data)).collect();
            let others = peers.each_mut().map(|it| it.as_mut().map(|it| it.steps(&job)).unwrap_or_default());
            if round > 0 {
                ours.extend(own);
                theirs.iter_mut().zip(others).for_each(|(list, it)| list.extend(it));
            }
        }
        let ours = median(ours);
        let [torch, jax] = theirs.map(|it| (!it.is_empty()).then(|| median(it)));
        let best = torch.into_iter().chain(jax).reduce(f64::min);
        let share = shape.step_gflop(batch, tokens) / (ours / 1e3) / peak;
        row(&name, ours, [torch, jax, None], best.map(|it| it / ours), Some(share));
    }

    fn samples(
        &self,
        service: &ServiceClient,
        shape: Shape,
        (streams, tokens, other_tokens): (usize, usize, usize),
        mut peers: [Option<&mut Peer>; 2],
        read: f64,
    ) {
        let name = format!("{} sampling, {streams} at a time, tokens/s", shape.name);
        if !self.wanted(&name) {
            return;
        }
        let sampler = service.create_sampling_client(shape.name).unwrap();
        let job = json!({"folder": self.folder(shape), "streams": streams, "tokens": other_tokens});
        let (mut ours, mut theirs) = (Vec::new(), [Vec::new(), Vec::new()]);
        for round in 0..=ROUNDS {
            let own = sampled(&sampler, streams, tokens);
            let others = peers.each_mut().map(|it| it.as_mut().map(|it| it.speed(&job)));
            if round > 0 {
                ours.push(own);
                theirs.iter_mut().zip(others).for_each(|(list, it)| list.extend(it));
            }
        }
        let ours = median(ours);
        let [torch, llama] = theirs.map(|it| (!it.is_empty()).then(|| median(it)));
        let best = torch.into_iter().chain(llama).reduce(f64::max);
        let bytes = 2.0 * shape.multiplied() as f64;
        let share = (shape.name != NANO.name).then(|| ours / streams as f64 * bytes / 1e9 / read);
        row(&name, ours, [torch, None, llama], best.map(|it| ours / it), share);
    }
}

fn arguments() -> Arguments {
    let mut all =
        Arguments { threads: 2, python: None, jax: None, llama: None, only: String::new(), start: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => {
                all.threads = arguments.next().and_then(|it| it.parse().ok()).expect("--threads N");
            }
            "--python" => all.python = Some(arguments.next().expect("--python PATH")),
            "--jax" => all.jax = Some(arguments.next().expect("--jax PATH")),
            "--llama" => all.llama = Some(arguments.next().expect("--llama PATH")),
            "--only" => all.only = arguments.next().expect("--only WORD"),
            START => all.start = arguments.next().zip(arguments.next().map(PathBuf::from)),
            // From `cargo bench`.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    assert!(all.threads > 0, "--threads must be at least 1");
    all
}

/// Starts an engine with some models; returns it with the milliseconds until it has answered a request.
fn start(threads: usize, models: impl IntoIterator<Item = (Shape, PathBuf)>) -> (Server, f64) {
    let models = models.into_iter().map(|(shape, folder)| (shape.name.to_owned(), folder)).collect();
    let started = Instant::now();
    let server = Server::start(Options { threads, models, ..Options::default() }).unwrap();
    let url = format!("{}/api/v1/healthz", server.url());
    let answer = ureq::get(url).header("X-API-Key", server.api_key()).call().unwrap();
    assert_eq!(answer.status(), 200);
    (server, started.elapsed().as_secs_f64() * 1e3)
}

/// Starts an engine, and prints the time that this took and the memory of this process.
fn print_start(name: &str, folder: &Path, threads: usize) {
    let shape = [QWEN, LLAMA].into_iter().find(|it| it.name == name);
    let (server, ready_ms) = start(threads, shape.map(|it| (it, folder.to_path_buf())));
    let (idle, mapped) = (memory_mb("VmRSS:"), memory_mb("RssFile:"));
    println!("{}", json!({"ready_ms": ready_ms, "idle_mb": idle, "mapped_mb": mapped}));
    server.stop();
}

fn client(server: &Server) -> ServiceClient {
    ServiceClient::builder()
        .base_url(server.url())
        .api_key(server.api_key())
        .telemetry(false)
        .build()
        .unwrap()
}

/// Memory of this process in MB, on Linux.
fn memory_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix(field))?;
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

fn row(name: &str, ours: f64, theirs: [Option<f64>; 3], ratio: Option<f64>, share: Option<f64>) {
    let digits = |value: f64| if value < 100.0 { 1 } else { 0 };
    let mut line = format!("| {name} | {ours:.*} |", digits(ours));
    let [torch, jax, llama] = theirs;
    for (value, unit) in
        [(torch, ""), (jax, ""), (llama, ""), (ratio, ""), (share.map(|it| it * 100.0), " %")]
    {
        match value {
            Some(it) => write!(line, " {it:.*}{unit} |", digits(it)).unwrap(),
            None => line.push_str(" – |"),
        }
    }
    println!("{line}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
