//! CPU time, memory and threads that the client needs for 2000 samples in flight: `cargo bench --bench fanout`.
//!
//! The bench measures the two modes in which the client waits for samples: `poller` (one thread polls for all samples
//! of the sampling session) and `each` (one poll for each sample). It prints one line of JSON for each mode.
//!
//! The bench starts this program again in the role of the server, unless `TINKER_BASE_URL` names a server. It also
//! starts it again as a client for each mode: one of the figures is the peak memory of the process, so each mode needs
//! a new process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on should say where"
)]

#[path = "support/server.rs"]
mod server;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tinkex::ServiceClient;
use tinkex::types::{ModelInput, SamplingParams};

use self::server::TOKENS;

const SAMPLES: usize = 2000;
const ROLE: &str = "TINKEX_FANOUT_ROLE";
const URL: &str = "TINKEX_FANOUT_URL";

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("server poller") => server::serve(true),
        Ok("server each") => server::serve(false),
        Ok(role) => measure(role.strip_prefix("client ").unwrap()),
        // With a real server, the server's flags decide the mode.
        Err(_) if std::env::var_os("TINKER_BASE_URL").is_some() => compare("as the server wants"),
        Err(_) => ["poller", "each"].iter().for_each(|mode| compare(mode)),
    }
}

fn this_program(role: String) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).stdout(Stdio::piped());
    command
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn compare(mode: &str) {
    let (url, _server) = match std::env::var("TINKER_BASE_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let mut server = Server(this_program(format!("server {mode}")).spawn().unwrap());
            let mut url = String::new();
            BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
            (url.trim().to_string(), Some(server))
        }
    };
    let output = this_program(format!("client {mode}")).env(URL, url).output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

fn measure(mode: &str) {
    let builder = ServiceClient::builder().base_url(std::env::var(URL).unwrap());
    let builder = match std::env::var_os("TINKER_API_KEY") {
        Some(_) => builder,
        None => builder.api_key("tml-bench"),
    };
    let service = builder.build().unwrap();
    let model = std::env::var("TINKEX_FANOUT_MODEL").unwrap_or_else(|_| "fake/model".into());
    let sampler = service.create_sampling_client(&model).unwrap();
    let prompt = ModelInput::from_ints((0..TOKENS as i32).collect::<Vec<_>>());
    let params = SamplingParams { max_tokens: Some(TOKENS as u32), ..Default::default() };
    let done = Arc::new(AtomicBool::new(false));
    let is_over = done.clone();
    let monitor = thread::spawn(move || {
        let mut most = 0;
        while !is_over.load(Ordering::Relaxed) {
            // Do not count this thread.
            most = most.max(status("Threads:") - 1);
            thread::sleep(Duration::from_millis(20));
        }
        most
    });
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let pending: Vec<_> = (0..SAMPLES).map(|_| sampler.sample(&prompt, 1, &params)).collect();
    for sample in pending {
        assert_eq!(sample.wait().unwrap().sequences[0].tokens.len(), TOKENS);
    }
    let (cpu_s, wall_s) = (cpu_seconds() - cpu, started.elapsed().as_secs_f64());
    done.store(true, Ordering::Relaxed);
    let line = json!({
        "mode": mode, "n": SAMPLES, "wall_s": wall_s, "cpu_s": cpu_s,
        "cpu_ms_per_sample": cpu_s * 1e3 / SAMPLES as f64, "samples_per_s": SAMPLES as f64 / wall_s,
        "rss_mb": status("VmHWM:") as f64 / 1024.0, "threads_max": monitor.join().unwrap(),
    });
    println!("{line}");
}

/// User and system time of this process so far, in seconds. Linux reports them in units of 1/100 s.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(key)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
