//! CPU time that the crate adds to the HTTP requests of one operation.
//!
//! ```text
//! cargo bench --bench overhead
//! ```
//!
//! An `optim_step` consists of two requests: its submission and a poll for its result. Each round measures the CPU time
//! of this process (all threads) for 4000 such operations, and for the same requests made directly with ureq, the HTTP
//! client that the crate uses, with the same bodies, headers and buffer sizes. The server is another process. Prints
//! one line of JSON with the medians over all rounds.
//!
//! ureq starts a thread to resolve the server's name for each request, while this crate caches the addresses. So the
//! bench has two baselines: ureq with its defaults, and ureq with a fixed address.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to a person"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tinkex::ServiceClient;
use tinkex::types::AdamParams;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

const ROLE: &str = "TINKEX_BENCH_ROLE";
const N: usize = 4000;
const ROUNDS: usize = 5;

fn main() {
    if std::env::var_os(ROLE).is_some() {
        return serve();
    }
    let mut server = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, "server")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let url = format!("http://127.0.0.1:{}", port.trim());

    let service = ServiceClient::builder().api_key("tml-bench").base_url(&url).build().unwrap();
    let training = service.create_lora_training_client("bench", Default::default()).unwrap();
    let operations = || {
        for _ in 0..N {
            training.optim_step(AdamParams::default()).wait().unwrap();
        }
    };
    let requests = |agent: &ureq::Agent| {
        for _ in 0..N {
            post(agent, &format!("{url}/api/v1/optim_step"), SUBMISSION);
            post(agent, &format!("{url}/api/v1/retrieve_future"), RETRIEVAL);
        }
    };
    let default_agent = ureq::Agent::new_with_config(config());
    let address = FixedAddress(SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap())));
    let fixed_agent = ureq::Agent::with_parts(config(), DefaultConnector::default(), address);
    operations();
    requests(&default_agent);
    requests(&fixed_agent);
    let mut rounds = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        rounds[0].push(cost(operations));
        rounds[1].push(cost(|| requests(&default_agent)));
        rounds[2].push(cost(|| requests(&fixed_agent)));
    }
    let above = |baseline: &[f64]| {
        median(rounds[0].iter().zip(baseline).map(|(operation, baseline)| operation - baseline))
    };
    let [operation, bare, fixed] = [0, 1, 2].map(|i| median(rounds[i].iter().copied()));
    println!(
        "{{\"operation_us\":{operation:.1},\"two_bare_requests_us\":{bare:.1},\"above_us\":{:.1},\
         \"two_bare_requests_known_address_us\":{fixed:.1},\"above_known_address_us\":{:.1},\"target_us\":15}}",
        above(&rounds[1]),
        above(&rounds[2]),
    );
    drop((training, service));
    server.kill().unwrap();
    server.wait().unwrap();
}

/// CPU time for each of the `N` operations of `work`, in microseconds.
fn cost(work: impl Fn()) -> f64 {
    let before = cpu();
    work();
    (cpu() - before).as_secs_f64() * 1e6 / N as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU time of this process so far. Linux reports it in units of 1/100 s.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

const SUBMISSION: &str = r#"{"model_id":"m","seq_id":4000,"type":"optim_step","adam_params":{"learning_rate":0.0001,"beta1":0.9,"beta2":0.95,"eps":1e-12,"weight_decay":0.0,"grad_clip_norm":0.0}}"#;
const RETRIEVAL: &str = r#"{"request_id":"1","allow_metadata_only":true}"#;

fn config() -> ureq::config::Config {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .input_buffer_size(16 * 1024)
        .output_buffer_size(16 * 1024)
        .proxy(None)
        .build()
}

/// Resolves every name to one address.
#[derive(Debug)]
struct FixedAddress(SocketAddr);

impl Resolver for FixedAddress {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

fn post(agent: &ureq::Agent, url: &str, body: &str) {
    let headers = [
        ("X-API-Key", "tml-bench"),
        ("Accept", "application/json"),
        ("X-Stainless-Package-Version", "0.38.0"),
        ("X-Stainless-OS", "Linux"),
        ("X-Stainless-Arch", "x64"),
        ("X-Stainless-Runtime", "tinkex"),
        ("X-Stainless-Runtime-Version", "0.1.0"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "60"),
        ("X-Idempotency-Key", "tinkex-70f84453-5005-470c-968a-0257f829189b"),
        ("Content-Type", "application/json"),
        ("x-sdk-version", "0.38.0"),
        ("x-sdk-method", "TrainingClient.optim_step"),
    ];
    let request =
        headers.into_iter().fold(agent.post(url), |request, (name, value)| request.header(name, value));
    let request = request.config().timeout_global(Some(Duration::from_secs(60))).build();
    let mut answer = request.send(body).unwrap();
    answer.body_mut().read_to_vec().unwrap();
}

/// Runs a server that answers without delay, with minimal bodies.
fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || while answer(&stream).is_some() {});
    }
}

fn answer(stream: &TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let path = line.split_whitespace().nth(1)?.to_string();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            match header.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().ok()?;
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (status, body) = match path.strip_prefix("/api/v1/").unwrap_or_default() {
            "client/config" => (200, "{}"),
            "create_session" => (200, r#"{"session_id":"s"}"#),
            "session_heartbeat" => (200, "{}"),
            "create_model" | "optim_step" => (200, r#"{"request_id":"1"}"#),
            "get_info" | "retrieve_future" => (200, r#"{"model_id":"m","metrics":{"a":1.0}}"#),
            _ => (404, "{}"),
        };
        let head = format!(
            "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        (&mut &*stream).write_all((head + body).as_bytes()).ok()?;
    }
}
