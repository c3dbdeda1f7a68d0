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

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tinkex::ServiceClient;
use tinkex::types::{ModelInput, SamplingParams};

const SAMPLES: usize = 2000;
const TOKENS: usize = 256;
/// Time from the submission of a sample until the server has its result, in milliseconds. `TINKEX_FANOUT_DELAY_MS`
/// overrides it.
const DELAY_MS: u64 = 500;
const ROLE: &str = "TINKEX_FANOUT_ROLE";
const URL: &str = "TINKEX_FANOUT_URL";

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("server poller") => serve(true),
        Ok("server each") => serve(false),
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

fn delay() -> Duration {
    static DELAY: OnceLock<Duration> = OnceLock::new();
    *DELAY.get_or_init(|| {
        let setting = std::env::var("TINKEX_FANOUT_DELAY_MS").ok().and_then(|it| it.parse().ok());
        Duration::from_millis(setting.unwrap_or(DELAY_MS))
    })
}

/// For each sample, by its number, the time at which its result is available.
type Finished = Arc<Mutex<Vec<Instant>>>;

fn serve(together: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    io::stdout().flush().unwrap();
    let finished = Finished::default();
    // Linux queues at most 128 connections that are not accepted yet; clients retry the others only after a second. So
    // 8 threads do nothing but accept.
    let (sender, accepted) = mpsc::channel::<TcpStream>();
    for _ in 0..8 {
        let (listener, sender) = (listener.try_clone().unwrap(), sender.clone());
        thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| sender.send(stream).unwrap());
        });
    }
    for stream in accepted {
        let finished = finished.clone();
        let builder = thread::Builder::new().stack_size(128 * 1024);
        let serving = builder.spawn(move || drop(connection(&stream, together, &finished)));
        drop(serving.unwrap());
    }
}

fn connection(stream: &TcpStream, together: bool, finished: &Finished) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        path.push_str(line.split_whitespace().nth(1).unwrap_or_default());
        while 2 < line.len() {
            line.clear();
            reader.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (kind, answer) = reply(&path, &body, together, finished);
        let head = match kind {
            Kind::Missing => "404 Not Found\r\ncontent-type: application/json",
            Kind::Json => "200 OK\r\ncontent-type: application/json",
            Kind::Protobuf => "200 OK\r\ncontent-type: application/x-protobuf",
        };
        let mut bytes = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", answer.len()).into_bytes();
        bytes.extend(answer);
        (&mut &*stream).write_all(&bytes)?;
    }
}

enum Kind {
    Missing,
    Json,
    Protobuf,
}

fn reply(path: &str, body: &[u8], together: bool, finished: &Finished) -> (Kind, Vec<u8>) {
    let json: Value = match path {
        // Do not parse this body: it is long, and the answer does not depend on it.
        "/api/v1/asample" => Value::Null,
        _ => serde_json::from_slice(body).unwrap_or_default(),
    };
    let answer = match path {
        "/api/v1/client/config" => json!({"sample_use_retrieve_futures": together}),
        "/api/v1/create_session" => json!({"session_id": "session"}),
        "/api/v1/create_sampling_session" => json!({"sampling_session_id": "sampler"}),
        "/api/v1/session_heartbeat" => json!({}),
        "/api/v1/asample" => {
            let mut finished = finished.lock().unwrap();
            finished.push(Instant::now() + delay());
            // The official Python SDK, which `fanout.py` runs, requires `sample_sequence_ids`.
            let id = (finished.len() - 1).to_string();
            json!({"request_id": id, "sample_sequence_ids": [id]})
        }
        "/api/v1/retrieve_futures" => completions(&json, finished),
        "/api/v1/retrieve_future" => {
            let id: usize = json["request_id"].as_str().and_then(|it| it.parse().ok()).unwrap_or(0);
            let at = finished.lock().unwrap()[id];
            thread::sleep(at.saturating_duration_since(Instant::now()));
            return (Kind::Protobuf, result());
        }
        _ => return (Kind::Missing, b"{}".to_vec()),
    };
    (Kind::Json, answer.to_string().into_bytes())
}

/// Waits until a sample after the cursor has finished, at most 30 s, and returns all such samples. With a `timeout` in
/// the request it does not wait. The cursor is the number of samples that were returned before: samples finish in the
/// order of their submission.
fn completions(request: &Value, finished: &Finished) -> Value {
    let from = request["prev_cursor"].as_u64().unwrap_or(0) as usize;
    let seconds = if request["timeout"].is_null() { 30 } else { 0 };
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let now = Instant::now();
        let ready = finished.lock().unwrap().partition_point(|it| *it <= now);
        if from < ready || end <= now {
            let size = result().len();
            let one = |id: usize| {
                let id = id.to_string();
                json!({"state": "finished", "request_id": id, "response_payload_uncompressed_size": size})
            };
            let completions: Vec<_> = (from..ready.max(from)).map(one).collect();
            return json!({"completions": completions, "cursor": ready.max(from)});
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Encodes a `SampleResponse` with one sequence in protobuf. Field 2 has the tokens and field 3 the log-probabilities,
/// with 4 bytes for each number.
fn result() -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| {
        let n = bytes.len();
        let mut out = vec![tag, (n & 0x7f) as u8 | 0x80, (n >> 7) as u8];
        out.extend(bytes);
        out
    };
    let mut sequence = field(0x12, &7i32.to_le_bytes().repeat(TOKENS));
    sequence.extend(field(0x1a, &(-0.25f32).to_le_bytes().repeat(TOKENS)));
    field(0x0a, &sequence)
}
