//! Tests a server with every method of the clients of this crate and every option. Reports which of them work, which
//! the server does not offer, and which are broken.
//!
//! ```text
//! cargo run --release --features local --example doctor    # the built-in engine
//! TINKER_BASE_URL=http://localhost:8000 TINKER_API_KEY=tml-any cargo run --release --example doctor
//! ```
//!
//! `TINKEX_BASE_MODEL` sets the model to use (default: the first in the server's list), `TINKEX_DOCTOR_SECONDS` the
//! time limit of one check (default 30). The doctor needs no tokenizer: token ids below 256 exist in every vocabulary.
//! At the end it deletes the checkpoints that it saved, if the server can delete checkpoints. One check makes a
//! checkpoint public for a moment. The exit status is 1 if something is broken.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

#[path = "../src/cli/doctor/verbs/mod.rs"]
mod doctor;

use std::process::ExitCode;
use std::time::Duration;

use tinkex::{Error, ServiceClient, ServiceClientBuilder};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("doctor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the doctor; true if nothing is broken.
fn run() -> Result<bool, String> {
    let setting = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
    let seconds = setting("TINKEX_DOCTOR_SECONDS").and_then(|it| it.parse().ok()).filter(|it| 0 < *it);
    let limit = Duration::from_secs(seconds.unwrap_or(30));
    // The built-in engine must outlive its clients.
    let server = Server::start().map_err(|it| it.to_string())?;
    let mut client = "";
    let report = doctor::examine(server.connect(), setting("TINKEX_BASE_MODEL"), limit, |line| {
        if line.client != client {
            client = line.client;
            println!("\n{client}");
        }
        println!("{line}");
    })?;
    println!("\n{report}");
    Ok(report.count(doctor::Mark::Broken) == 0)
}

/// The built-in engine, unless `TINKER_BASE_URL` names another server.
struct Server {
    #[cfg(feature = "local")]
    engine: Option<tinkex::local::Server>,
}

impl Server {
    #[cfg(feature = "local")]
    fn start() -> Result<Self, Error> {
        let engine = match std::env::var_os("TINKER_BASE_URL") {
            Some(_) => None,
            None => Some(tinkex::local::Server::start(Default::default())?),
        };
        Ok(Server { engine })
    }

    #[cfg(not(feature = "local"))]
    fn start() -> Result<Self, Error> {
        Ok(Server {})
    }

    /// Returns a function that makes builders of clients for this server.
    fn connect(&self) -> impl Fn() -> ServiceClientBuilder + Send + Sync + 'static {
        #[cfg(feature = "local")]
        let engine =
            self.engine.as_ref().map(|server| (server.url().to_string(), server.api_key().to_string()));
        #[cfg(not(feature = "local"))]
        let engine: Option<(String, String)> = None;
        move || match &engine {
            Some((url, key)) => ServiceClient::builder().base_url(url.clone()).api_key(key.clone()),
            None => ServiceClient::builder().allow_any_key(true),
        }
    }
}
