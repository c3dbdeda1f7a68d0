//! Starts the program.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};

/// The program with an environment that has nothing of the caller's: no key, no server, an empty home.
pub(crate) fn tinkex(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinkex"));
    command.env_clear().env("HOME", home).env("COLUMNS", "80").stdin(Stdio::null());
    command
}

/// Runs the program; returns its status, stdout and stderr.
pub(crate) fn run(home: &Path, args: &[&str]) -> (i32, String, String) {
    let output: Output = tinkex(home).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// An engine on the folder `engine` of a home, and a client of it.
pub(crate) fn engine(home: &Path) -> (Server, ServiceClient) {
    let server =
        Server::start(Options { data_dir: Some(home.join("engine")), ..Default::default() }).unwrap();
    let service = ServiceClient::builder()
        .without_environment()
        .base_url(server.url())
        .api_key(server.api_key())
        .build()
        .unwrap();
    (server, service)
}

/// A folder that is removed at the end of the test.
pub(crate) struct Folder(std::path::PathBuf);

impl Folder {
    /// A new folder; `name` is that of the test.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tinkex-cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl std::ops::Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program with this stdin; returns its status, stdout and stderr.
pub(crate) fn run_with_stdin(home: &Path, args: &[&str], stdin: &[u8]) -> (i32, String, String) {
    let mut command = tinkex(home);
    command.args(args);
    output_with_stdin(command, stdin)
}

/// Runs a command with this stdin; returns its status, stdout and stderr.
pub(crate) fn output_with_stdin(mut command: Command, stdin: &[u8]) -> (i32, String, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program may end without reading all of it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
