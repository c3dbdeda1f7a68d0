//! Serves the engine that is built in, for programs in other languages and for more than one program at a time.
//!
//! ```text
//! cargo run --release --features local --example serve [PORT]
//! ```
//!
//! The first line that it prints is the address, the second the key, both as settings of the environment. It serves
//! until its input ends or it is killed; Ctrl-C does either.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::io::{Read, Write, stdin, stdout};

use tinkex::local::{Options, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).map(|it| it.parse()).transpose()?.unwrap_or(0);
    let server = Server::start(Options { port, ..Default::default() })?;
    println!("TINKER_BASE_URL={}", server.url());
    println!("TINKER_API_KEY={}", server.api_key());
    // Whoever reads this through a pipe waits for it.
    stdout().flush()?;
    let mut ignored = [0; 256];
    while stdin().read(&mut ignored)? != 0 {}
    server.stop();
    Ok(())
}
