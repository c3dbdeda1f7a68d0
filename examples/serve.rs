//! Serves the embedded engine to programs in other languages, or to several programs at a time.
//!
//! ```text
//! cargo run --release --features local --example serve -- --help
//! ```
//!
//! The program prints the address and the key, if it is a random one, as environment variables (`NAME=value`), one per
//! line, and serves until it is killed, for example by Ctrl-C. If its standard input is a pipe, it also stops when the
//! pipe is closed.
//!
//! The data folder DIR (`--data DIR`) also has a tokenizer for Python programs. They find it by the model's name if
//! they run with `HF_HUB_CACHE=DIR/hub` and `HF_HUB_OFFLINE=1`.

#![allow(clippy::print_stderr, reason = "a program for a terminal")]

use std::fs::File;
use std::io::{ErrorKind, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tinkex::local::{Options, Server};

/// Environment variable of the process that runs the server for another one.
#[cfg(unix)]
const CHILD: &str = "TINKEX_EXAMPLE_SERVE_CHILD";

const HELP: &str = "\
Serves the embedded engine.

Usage: serve [PORT] [--data DIR] [--model NAME=FOLDER]... [--alias NAME=MODEL]...
             [--host ADDRESS] [--key-file FILE] [--allow-host NAME]... [FLAG]...

  PORT                port to listen on; default: any free port
  --host ADDRESS      IP address to listen on; default: 127.0.0.1, which only this machine reaches.
                      0.0.0.0 means all IPv4 addresses of this machine. Other machines need the key
                      of --key-file. Nothing is encrypted, not even the key: on a network that
                      others can read, use a tunnel, or a proxy with TLS
  --key-file FILE     file with the key that requests must carry, at least 20 characters if other
                      machines reach the address; default: a random key for each start
  --allow-host NAME   a name of this machine that requests may use, besides localhost
  --data DIR          folder of the checkpoints; default: a temporary folder, removed at the end
  --model NAME=FOLDER a model to serve besides tinkex/nano: a folder with config.json and safetensors
                      of the Llama, Qwen2, Qwen2.5 or Qwen3 family
  --alias NAME=MODEL  another name of a served model, such as Qwen/Qwen3-8B=tinkex/nano
  --stable-reinforce-as-cispo
                      serve the loss stable_reinforce, whose formula is not public, by cispo
  -h, --help          print this text

Flags that clients are told, all off by default:
  sample_use_retrieve_futures   wait for all samples of a sampler together
  sample_join_sampling_session  request a client number for a shared sampler
  pjwt_auth_enabled             exchange the key for a token

The first lines printed are TINKER_BASE_URL=... and, without --key-file, TINKER_API_KEY=...
Exit status: 0 after the end of a piped input, 1 if the server cannot run, 2 for wrong arguments.
";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        match std::env::args_os().skip(1).map(|argument| argument.into_string()).collect() {
            Ok(arguments) => arguments,
            Err(argument) => return fail(2, &format!("the argument {argument:?} is not valid UTF-8")),
        };
    if arguments.iter().any(|argument| argument == "-h" || argument == "--help") {
        return ended(stdout().write_all(HELP.as_bytes()).map_err(Into::into));
    }
    let (options, key_file) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => return fail(2, &format!("{problem}; see --help")),
    };
    #[cfg(unix)]
    if options.data_dir.is_none() && std::env::var_os(CHILD).is_none() {
        return run_in_a_child();
    }
    ended(serve(options, key_file.as_deref()))
}

/// The exit status. It is no error if the reader of the output is gone.
fn ended(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => fail(1, &error.to_string()),
        },
    }
}

fn fail(status: u8, problem: &str) -> ExitCode {
    eprintln!("serve: {problem}");
    ExitCode::from(status)
}

/// The two sides of a value with an equals sign.
fn pair(needs: &str, value: String) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((name, it)) => Ok((name.into(), it.into())),
        None => Err(format!("{needs}, not {value:?}")),
    }
}

/// The options, and the file of the key.
fn parse(arguments: Vec<String>) -> Result<(Options, Option<PathBuf>), String> {
    let mut arguments = arguments.into_iter();
    let mut options = Options::default();
    let mut key_file = None;
    let mut has_port = false;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--host" => {
                let text = value()?;
                options.listen =
                    text.parse().map_err(|_| format!("--host needs an IP address, not {text:?}"))?;
            }
            "--key-file" => key_file = Some(value()?.into()),
            "--allow-host" => options.allowed_hosts.push(value()?),
            "--data" => options.data_dir = Some(value()?.into()),
            "--model" => {
                let (name, folder) = pair("--model needs NAME=FOLDER", value()?)?;
                options.models.insert(name, folder.into());
            }
            "--alias" => {
                let (name, model) = pair("--alias needs NAME=MODEL", value()?)?;
                options.aliases.insert(name, model);
            }
            "--stable-reinforce-as-cispo" => options.stable_reinforce_as_cispo = true,
            "sample_use_retrieve_futures" => options.sample_use_retrieve_futures = true,
            "sample_join_sampling_session" => options.sample_join_sampling_session = true,
            "pjwt_auth_enabled" => options.pjwt_auth_enabled = true,
            port if !has_port && port.starts_with(|first: char| first.is_ascii_digit()) => {
                has_port = true;
                options.port =
                    port.parse().map_err(|_| format!("the port {port:?} is not a number from 0 to 65535"))?;
            }
            unknown => return Err(format!("unknown argument {unknown:?}")),
        }
    }
    if !options.listen.is_loopback() && key_file.is_none() {
        let address = options.listen;
        return Err(format!("--host {address} needs --key-file FILE, because other machines can reach it"));
    }
    Ok((options, key_file))
}

/// The key in a file. It is not taken from the command line, because every user of the machine can read that.
fn read_key(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot read the key file {}: {error}", path.display());
    let mut file = File::open(path).map_err(cannot)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = file.metadata().map_err(cannot)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.display();
            eprintln!(
                "serve: warning: other users may read the key file {path} (mode {mode:03o}): chmod 600 {path}"
            );
        }
    }
    let mut key = String::new();
    file.read_to_string(&mut key).map_err(cannot)?;
    match key.trim() {
        "" => Err(format!("the key file {} is empty", path.display())),
        key => Ok(key.into()),
    }
}

/// Serves until the process is killed or, if the standard input is a pipe, until the pipe is closed.
fn serve(mut options: Options, key_file: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = key_file {
        options.api_key = Some(read_key(path)?);
    }
    let address = options.listen;
    let server = Server::start(options)?;
    if !address.is_loopback() {
        eprintln!(
            "serve: warning: other machines can reach {address}; nothing is encrypted, not even the key"
        );
    }
    let mut output = stdout();
    writeln!(output, "TINKER_BASE_URL={}", server.url())?;
    // A key of a file stays there: what is printed may be kept in logs.
    if key_file.is_none() {
        writeln!(output, "TINKER_API_KEY={}", server.api_key())?;
    }
    // Flush, because a program may read these lines through a pipe and wait for them.
    output.flush()?;
    if !input_is_a_pipe() {
        // Do not read the input: reading from a terminal stops a background job, and a system service may have no
        // input.
        loop {
            std::thread::park();
        }
    }
    let mut ignored = [0; 256];
    while stdin().read(&mut ignored)? != 0 {}
    server.stop();
    Ok(())
}

/// Runs the server in a child process whose input is a pipe from this process. If this process is killed, or its own
/// input is a pipe that is closed, the pipe of the child is closed; the child then stops and removes the temporary
/// folder. The child has its own process group, so the terminal's Ctrl-C does not kill it.
#[cfg(unix)]
fn run_in_a_child() -> ExitCode {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    let spawned = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(CHILD, "1").stdin(Stdio::piped()).process_group(0);
        command.spawn()
    });
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return fail(1, &format!("cannot start the server's process: {error}")),
    };
    // Take the pipe out of `child`, because `child.wait()` would close it. The end of this process closes the pipe.
    let input = child.stdin.take();
    let mut kept = None;
    if input_is_a_pipe() {
        std::thread::spawn(move || {
            // An error ends the input, too.
            let _ = std::io::copy(&mut stdin(), &mut std::io::sink());
            drop(input);
        });
    } else {
        kept = input;
    }
    let status = child.wait();
    drop(kept);
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
        Err(error) => fail(1, &format!("cannot wait for the server's process: {error}")),
    }
}

#[cfg(unix)]
fn input_is_a_pipe() -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata("/dev/stdin").is_ok_and(|input| input.file_type().is_fifo())
}

#[cfg(not(unix))]
fn input_is_a_pipe() -> bool {
    !std::io::IsTerminal::is_terminal(&stdin())
}
