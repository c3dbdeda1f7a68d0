//! Says which verbs and options of this crate a server offers, and which of them are broken there.
//!
//! ```text
//! cargo run --release --features local --example doctor    # the engine that is built in
//! TINKER_BASE_URL=http://localhost:8000 TINKER_API_KEY=tml-any cargo run --release --example doctor
//! ```
//!
//! `TINKEX_BASE_MODEL` names the model to use (default: the first that the server names), `TINKEX_DOCTOR_SECONDS` the
//! longest that one check may take (default 30). No tokenizer of the server is needed: ids below 256 exist in every
//! vocabulary. What is saved is deleted in the end, where the server can do that. A checkpoint is public for a moment when
//! publishing is tried. The exit status is 1 if something is broken.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

#[path = "doctor/mod.rs"]
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

/// Whether nothing is broken.
fn run() -> Result<bool, String> {
    let setting = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
    let seconds = setting("TINKEX_DOCTOR_SECONDS").and_then(|it| it.parse().ok()).filter(|it| 0 < *it);
    let limit = Duration::from_secs(seconds.unwrap_or(30));
    // A server of our own must outlive its clients.
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

/// The server that is examined.
struct Server {
    #[cfg(feature = "local")]
    own: Option<tinkex::local::Server>,
}

impl Server {
    #[cfg(feature = "local")]
    fn start() -> Result<Self, Error> {
        let own = match std::env::var_os("TINKER_BASE_URL") {
            Some(_) => None,
            None => Some(tinkex::local::Server::start(Default::default())?),
        };
        Ok(Server { own })
    }

    #[cfg(not(feature = "local"))]
    fn start() -> Result<Self, Error> {
        Ok(Server {})
    }

    /// The settings of its clients.
    fn connect(&self) -> impl Fn() -> ServiceClientBuilder + Send + Sync + 'static {
        #[cfg(feature = "local")]
        let own = self.own.as_ref().map(|it| (it.url().to_string(), it.api_key().to_string()));
        #[cfg(not(feature = "local"))]
        let own: Option<(String, String)> = None;
        move || match &own {
            Some((url, key)) => ServiceClient::builder().base_url(url.clone()).api_key(key.clone()),
            None => ServiceClient::builder().allow_any_key(true),
        }
    }
}
