//! Serves the engine that is built in, for programs in other languages and for more than one program at a time.
//!
//! ```text
//! cargo run --release --features local --example serve [PORT] [FLAG]...
//! ```
//!
//! A flag is the name of one that clients are told: `sample_use_retrieve_futures`, `sample_join_sampling_session`,
//! `pjwt_auth_enabled`. All are off unless they are named.
//!
//! The first line that it prints is the address, the second the key, both as settings of the environment. It serves
//! until its input ends or it is killed; Ctrl-C does either.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::io::{Read, Write, stdin, stdout};

use tinkex::local::{Options, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().map(|it| it.parse()).transpose()?.unwrap_or(0);
    let mut options = Options { port, ..Default::default() };
    for flag in arguments {
        match flag.as_str() {
            "sample_use_retrieve_futures" => options.sample_use_retrieve_futures = true,
            "sample_join_sampling_session" => options.sample_join_sampling_session = true,
            "pjwt_auth_enabled" => options.pjwt_auth_enabled = true,
            _ => return Err(format!("there is no flag {flag:?}").into()),
        }
    }
    let server = Server::start(options)?;
    println!("TINKER_BASE_URL={}", server.url());
    println!("TINKER_API_KEY={}", server.api_key());
    // Whoever reads this through a pipe waits for it.
    stdout().flush()?;
    let mut ignored = [0; 256];
    while stdin().read(&mut ignored)? != 0 {}
    server.stop();
    Ok(())
}
