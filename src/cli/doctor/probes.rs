//! Requests that tell what the client's own do not: which layer of a connection fails, and the times of answers.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::finding::{Finding, layer};
use super::target::Target;
use crate::web;

/// Number of requests whose times are measured.
const N_TRIPS: usize = 5;
/// Largest answer that is read.
const MAX_BODY: u64 = 1 << 20;

/// Runs work that has no time limit of its own.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::channel();
    // After the time limit nothing receives the result.
    let work = move || drop(done.send(work()));
    std::thread::Builder::new().name("tinkex-doctor".into()).spawn(work).ok()?;
    result.recv_timeout(limit).ok()
}

/// Resolves the name of the host.
pub(super) fn resolve(target: &Target, limit: Duration) -> Result<(Vec<SocketAddr>, Finding), Finding> {
    const CHECK: &str = "DNS";
    let place = (target.host.clone(), target.port);
    let started = Instant::now();
    match within(limit, move || place.to_socket_addrs().map(Iterator::collect::<Vec<_>>)) {
        Some(Ok(found)) if !found.is_empty() => {
            let first = found[0].ip();
            let ms = 1e3 * started.elapsed().as_secs_f64();
            let text = match found.len() {
                1 => format!("{first} ({ms:.0} ms)"),
                n => format!("{first} and {} more ({ms:.0} ms)", n - 1),
            };
            Ok((found, Finding::ok(CHECK, text)))
        }
        Some(Ok(_)) => Err(Finding::fail(
            CHECK,
            format!("{} has no address", target.host),
            "check the name in the address",
        )),
        Some(Err(error)) => Err(Finding::fail(
            CHECK,
            format!("{} is not found: {error}", target.host),
            "check the name in the address, and the network",
        )),
        None => Err(Finding::fail(
            CHECK,
            format!("no answer within {} s", limit.as_secs()),
            "check the network and its name server",
        )),
    }
}

/// Connects to the first address that accepts.
pub(super) fn connect(addresses: &[SocketAddr], limit: Duration) -> Finding {
    const CHECK: &str = "connection";
    let mut problem = String::new();
    let started = Instant::now();
    for address in addresses.iter().take(4) {
        let Some(left) = limit.checked_sub(started.elapsed()).filter(|it| !it.is_zero()) else { break };
        let begun = Instant::now();
        match TcpStream::connect_timeout(address, left) {
            Ok(_) => {
                let ms = 1e3 * begun.elapsed().as_secs_f64();
                return Finding::ok(CHECK, format!("{address} accepts ({ms:.0} ms)"));
            }
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Finding::fail(CHECK, problem, "is the server running at this port? A firewall may also refuse it")
}

/// What the server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Difference of the clocks in seconds: this machine's minus the server's.
    pub(super) clock_ahead: Option<f64>,
    pub(super) server: Option<String>,
    pub(super) body: Option<Value>,
    pub(super) times: Vec<Duration>,
}

/// Sends requests as the client does, without its retries.
pub(super) struct Prober {
    agent: ureq::Agent,
    url: String,
    is_https: bool,
}

impl Prober {
    pub(super) fn new(target: &Target, is_engine: bool, limit: Duration) -> Self {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(limit))
            .user_agent(concat!("tinkex/", env!("CARGO_PKG_VERSION")));
        if is_engine || target.is_loopback() {
            config = config.proxy(None);
        }
        if let Some(roots) = web::roots() {
            config = config.tls_config(roots);
        }
        Prober { agent: config.build().into(), url: target.url.clone(), is_https: target.is_https }
    }

    /// Asks for the health of the server several times. The first answer tells the clock and the name.
    pub(super) fn health(&self) -> Result<Answer, Finding> {
        let mut first: Option<Answer> = None;
        let mut times = Vec::new();
        for _ in 0..=N_TRIPS {
            let started = Instant::now();
            let answer = self.agent.get(format!("{}/api/v1/healthz", self.url)).call();
            let answer = answer.map_err(|error| self.failure(&error)).and_then(|it| self.read(it));
            match (answer, &first) {
                (Ok(answer), None) => first = Some(answer),
                (Ok(_), Some(_)) => times.push(started.elapsed()),
                (Err(finding), None) => return Err(finding),
                // The server can be reached; a later failure costs a measurement.
                (Err(_), Some(_)) => break,
            }
        }
        let none = || Finding::fail("answer", "no answer", "try again");
        first.map(|it| Answer { times, ..it }).ok_or_else(none)
    }

    /// The flags that the server tells clients with this key.
    pub(super) fn flags(&self, key: &str) -> Result<Value, String> {
        let body = json!({ "sdk_version": "0.38.0" }).to_string();
        let request = self.agent.post(format!("{}/api/v1/client/config", self.url));
        let request = request.header("X-API-Key", key).header("Content-Type", "application/json");
        let answer = request.send(body).map_err(|error| error.to_string())?;
        let answer = self.read(answer).map_err(|finding| finding.text)?;
        match (answer.status, answer.body) {
            (200, Some(flags)) => Ok(flags),
            (status, _) => Err(format!("HTTP {status}")),
        }
    }

    fn read(&self, mut answer: ureq::http::Response<ureq::Body>) -> Result<Answer, Finding> {
        let now = SystemTime::now();
        let header =
            |name: &str| answer.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
        let (date, server) = (header("Date"), header("Server"));
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(MAX_BODY).read_to_string();
        let text = text.map_err(|error| self.failure(&error))?;
        let body = serde_json::from_str(&text).ok();
        let clock_ahead = date.and_then(|it| super::date::seconds(&it)).map(|server| {
            let here = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            // The header has whole seconds: on average it is half a second old.
            here - (server as f64 + 0.5)
        });
        Ok(Answer { status, clock_ahead, server, body, times: Vec::new() })
    }

    fn failure(&self, error: &ureq::Error) -> Finding {
        let message = error.to_string();
        let (check, remedy) = layer(&message, self.is_https);
        Finding::fail(check, message, remedy)
    }
}

/// Free bytes of the file system of a folder.
#[cfg(unix)]
pub(super) fn free_space(folder: &std::path::Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
pub(super) fn free_space(_folder: &std::path::Path) -> Option<u64> {
    None
}

/// The limit of open files, on Linux.
pub(super) fn max_open_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|it| it.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
