//! Cost of the C interface: `cargo bench --bench ffi`.
//!
//! - `samples`: CPU time of the client for each of 10 000 samples, through the Rust interface and through the C
//!   interface (`benches/ffi.c`), against the server of the fan-out bench, in alternating rounds. Prints the medians.
//! - `batch`: the time to build a batch of 2000 data of 512 tokens from flat arrays, relative to a `memcpy` of the same
//!   bytes.
//!
//! Builds the C library with cargo's release profile, and the C program with `cc`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on should say where"
)]

#[path = "support/server.rs"]
mod server;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tinkex::ServiceClient;
use tinkex::types::{ModelInput, SamplingParams};

use self::server::TOKENS;

const SAMPLES: usize = 10_000;
const ROUNDS: usize = 5;
const ROLE: &str = "TINKEX_FFI_ROLE";

fn main() {
    match std::env::var(ROLE) {
        Ok(role) if role == "server" => server::serve(true),
        Ok(url) => take_samples(&url),
        Err(_) => compare(),
    }
}

fn this_program(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).stdout(Stdio::piped());
    command
}

/// A server in a process of its own. The process is killed when this value is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut process = this_program("server").spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Server { process, url: url.trim().into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn compare() {
    let c = c_program();
    let (mut rust_ms, mut c_ms) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let rust = |ms: &mut Vec<f64>| {
            let server = Server::start();
            ms.push(cpu_ms(&mut this_program(&server.url)));
        };
        let c = |ms: &mut Vec<f64>| {
            let server = Server::start();
            ms.push(cpu_ms(c_command(&c).args([
                "samples",
                &server.url,
                &SAMPLES.to_string(),
                &TOKENS.to_string(),
            ])));
        };
        // The Rust client is first in even rounds, the C program in odd ones.
        if round % 2 == 0 {
            rust(&mut rust_ms);
            c(&mut c_ms);
        } else {
            c(&mut c_ms);
            rust(&mut rust_ms);
        }
    }
    let (rust, c_median) = (median(rust_ms), median(c_ms));
    println!(
        "{}",
        json!({"n": SAMPLES, "rust_cpu_ms_per_sample": rust, "c_cpu_ms_per_sample": c_median,
               "c_to_rust": c_median / rust, "target": 1.1})
    );
    let mut batch = output(c_command(&c).args(["batch", "2000", "512", "41"]));
    batch["target"] = json!(2.0);
    println!("{batch}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a program that prints one JSON object.
fn output(command: &mut Command) -> Value {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn cpu_ms(command: &mut Command) -> f64 {
    output(command)["cpu_ms_per_sample"].as_f64().unwrap()
}

/// Takes all samples through the Rust interface.
fn take_samples(url: &str) {
    let service = ServiceClient::builder().base_url(url).api_key("tml-bench").build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let prompt = ModelInput::from_ints((0..TOKENS as i32).collect::<Vec<_>>());
    let params = SamplingParams { max_tokens: Some(TOKENS as u32), ..Default::default() };
    let cpu = cpu_seconds();
    let pending: Vec<_> = (0..SAMPLES).map(|_| sampler.sample(&prompt, 1, &params)).collect();
    for sample in pending {
        assert_eq!(sample.wait().unwrap().sequences[0].tokens.len(), TOKENS);
    }
    println!("{}", json!({"cpu_ms_per_sample": 1e3 * (cpu_seconds() - cpu) / SAMPLES as f64}));
}

/// User and system time of this process so far, in seconds. Linux reports them in units of 1/100 s.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// The folder of the C library and of the C program.
fn folder() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    // The program is `target/release/deps/ffi-…`.
    program.parent().unwrap().parent().unwrap().to_path_buf()
}

fn c_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", folder());
    command
}

/// Builds the library and the C program; returns the path of the program.
fn c_program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["rustc", "--quiet", "--lib", "--release", "--features", "ffi"]);
    run(build.args(["--crate-type", "cdylib", "--target-dir"]).arg(folder().parent().unwrap()));
    let program = folder().join("ffi-bench");
    let mut compile = Command::new("cc");
    compile.current_dir(root).args(["-O2", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Isrc/ffi"]);
    run(compile.arg("benches/ffi.c").arg("-o").arg(&program).arg("-L").arg(folder()).arg("-ltinkex"));
    program
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}
