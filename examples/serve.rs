//! Serves the engine that is built in, for programs in other languages and for more than one program at a time.
//!
//! ```text
//! cargo run --release --features local --example serve [PORT] [--data DIR] [--alias NAME=MODEL]... [FLAG]...
//! ```
//!
//! Checkpoints are kept in DIR; without one they go with the server. A NAME is one more under which the MODEL
//! `tinkex/nano` is offered, such as `Qwen/Qwen3-8B=tinkex/nano`, so that a program for the service runs as it is. Programs
//! in Python that look a tokenizer up by the model's name find it if they are run with `HF_HUB_CACHE=DIR/hub` and
//! `HF_HUB_OFFLINE=1`.
//!
//! A flag is the name of one that clients are told: `sample_use_retrieve_futures`, `sample_join_sampling_session`,
//! `pjwt_auth_enabled`. All are off unless they are named.
//!
//! The first line that it prints is the address, the second the key, both as settings of the environment. It serves
//! until it is killed, as by Ctrl-C; one that was started with a pipe as its input ends with that, too. Without `--data` a
//! server that is killed leaves its temporary folder behind.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::io::{Read, Write, stdin, stdout};

use tinkex::local::{Options, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut options = Options::default();
    if let Some(port) = arguments.next_if(|it| !it.starts_with('-') && !it.contains('_')) {
        options.port = port.parse().map_err(|it| format!("the port {port:?}: {it}"))?;
    }
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--data" => options.data_dir = Some(value()?.into()),
            "--alias" => {
                let value = value()?;
                let (name, model) = value.split_once('=').ok_or("--alias needs NAME=MODEL")?;
                options.aliases.insert(name.into(), model.into());
            }
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
    if !input_is_a_pipe() {
        // A terminal may stop whoever reads from it in the background, and a service has no input.
        loop {
            std::thread::park();
        }
    }
    let mut ignored = [0; 256];
    while stdin().read(&mut ignored)? != 0 {}
    server.stop();
    Ok(())
}

#[cfg(unix)]
fn input_is_a_pipe() -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata("/dev/stdin").is_ok_and(|it| it.file_type().is_fifo())
}

#[cfg(not(unix))]
fn input_is_a_pipe() -> bool {
    !std::io::IsTerminal::is_terminal(&stdin())
}
