//! The processes of `peers.py`, which do the same work with other programs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A process of `peers.py`.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a process for the peer `kind`: `torch`, `jax` or `llama`.
    pub(crate) fn start(python: &str, kind: &str, threads: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/engine/peers.py");
        let mut child = Command::new(python)
            .arg(script)
            .args([kind, &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a Python at the path of --python, --jax or --llama");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Peer { child, input, output }
    }

    fn ask(&mut self, job: &Value) -> Value {
        writeln!(self.input, "{job}").expect("peers.py has ended; its messages are above");
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("peers.py has ended; its messages are above")
    }

    /// The milliseconds of each step.
    pub(crate) fn steps(&mut self, job: &Value) -> Vec<f64> {
        serde_json::from_value(self.ask(job)).unwrap()
    }

    /// The tokens per second.
    pub(crate) fn speed(&mut self, job: &Value) -> f64 {
        self.ask(job).as_f64().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
