//! The fake server of the benches `fanout` and `ffi`. It accepts every sample; the result is available after a fixed
//! delay.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Tokens of each prompt and of each result.
pub(crate) const TOKENS: usize = 256;
/// Time from the submission of a sample until the server has its result, in milliseconds. `TINKEX_FANOUT_DELAY_MS`
/// overrides it.
const DELAY_MS: u64 = 500;

fn delay() -> Duration {
    static DELAY: OnceLock<Duration> = OnceLock::new();
    *DELAY.get_or_init(|| {
        let setting = std::env::var("TINKEX_FANOUT_DELAY_MS").ok().and_then(|it| it.parse().ok());
        Duration::from_millis(setting.unwrap_or(DELAY_MS))
    })
}

/// For each sample, by its number, the time at which its result is available.
type Finished = Arc<Mutex<Vec<Instant>>>;

/// Prints the URL and serves until the process is killed. `together` tells clients to poll for all samples of a session
/// with `retrieve_futures`; otherwise they poll for each sample with `retrieve_future`.
pub(crate) fn serve(together: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    io::stdout().flush().unwrap();
    let finished = Finished::default();
    // The listener queues at most 128 connections that are not accepted yet (a limit that the standard library sets).
    // If the queue is full, the system of the client repeats its attempt to connect only after a second. So 8 threads
    // do nothing but accept.
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
