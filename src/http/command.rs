//! Runs the credential command (PROTOCOL §1.3): a shell command line that prints a credential.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::credentials::Secret;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::signals;
use crate::sync::CancelToken;
use crate::sync::cancel::Wake;
use crate::sync::spawn::spawn;

/// Largest output that is read, in bytes. Credentials are far shorter.
const LARGEST_OUTPUT: u64 = 64 * 1024;

/// The event that ends the wait for the command.
enum Outcome {
    Output(std::io::Result<Vec<u8>>),
    Stopped,
}

struct Stop(Sender<Outcome>);

impl Wake for Stop {
    fn wake(&self) {
        // The channel is full only if it has an outcome already; the first outcome counts.
        let _ = self.0.try_send(Outcome::Stopped);
    }
}

/// Runs the command and returns its output. The command and its output are never shown or logged. Its exit status is
/// ignored, its standard error is discarded, and it has no input and no terminal.
///
/// After `timeout`, or when `stop` is cancelled, the command is killed with all processes that it started.
pub(super) fn run(command: &Secret, timeout: Duration, stop: &CancelToken) -> Result<Vec<u8>> {
    stop.check()?;
    let deadline = Instant::now().checked_add(timeout);
    let shell = Shell::start(command).map_err(not_run)?;
    let id = shell.child.id();
    // Capacity for both outcomes, so that both senders can put theirs in.
    let (sender, outcomes) = bounded(2);
    let _stop_guard = stop.on_cancel(Arc::new(Stop(sender.clone())));
    // If the thread cannot be started, the closure and the shell in it are dropped, which kills the shell.
    spawn("tk-cred".into(), None, move || {
        let output = shell.output();
        // Fails only if `run` has returned already.
        let _ = sender.try_send(Outcome::Output(output));
    })
    .map_err(not_run)?;
    let error = match receive(&outcomes, deadline) {
        Ok(Outcome::Output(output)) => return output.map_err(not_run),
        Ok(Outcome::Stopped) => Error::closed("the client was closed while the credential command ran"),
        Err(RecvTimeoutError::Timeout) => {
            let text = format!("the credential command did not finish within {timeout:.1?} and was killed");
            Error::timeout(Phase::Total, text)
        }
        Err(RecvTimeoutError::Disconnected) => {
            Error::new(ErrorKind::System, "the output of the credential command could not be read")
        }
    };
    // When the shell is dead, the reading thread reaches the end of the output and waits for the shell, so that no
    // zombie is left.
    kill(id);
    Err(error)
}

fn not_run(error: std::io::Error) -> Error {
    Error::new(ErrorKind::System, format!("the credential command could not be run: {error}"))
}

fn receive(
    outcomes: &Receiver<Outcome>,
    deadline: Option<Instant>,
) -> std::result::Result<Outcome, RecvTimeoutError> {
    match deadline {
        Some(deadline) => outcomes.recv_deadline(deadline),
        None => outcomes.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// The shell that runs the command. If this value is dropped while the shell runs, the shell is killed and waited for.
struct Shell {
    child: Child,
    ended: bool,
}

impl Shell {
    #[cfg(unix)]
    fn start(command: &Secret) -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let mut shell = Command::new("sh");
        // Its own process group, so that it can be killed with all processes that it starts.
        shell.arg("-c").arg(command.expose()).process_group(0);
        Shell::spawn(shell)
    }

    #[cfg(not(unix))]
    fn start(command: &Secret) -> std::io::Result<Self> {
        let mut shell = Command::new("cmd");
        shell.arg("/C").arg(command.expose());
        Shell::spawn(shell)
    }

    fn spawn(mut shell: Command) -> std::io::Result<Self> {
        signals::unblock_in(&mut shell);
        let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        Ok(Shell { child, ended: false })
    }

    /// Reads the output until all processes that may write to it have closed it, or until [`LARGEST_OUTPUT`] bytes have
    /// arrived. Then waits for the shell.
    fn output(mut self) -> std::io::Result<Vec<u8>> {
        let mut output = Vec::new();
        let result = match self.child.stdout.take() {
            Some(stdout) => stdout.take(LARGEST_OUTPUT).read_to_end(&mut output),
            None => Ok(0),
        };
        // The pipe is closed now: a process that still writes to it gets an error and ends.
        let status = self.child.wait();
        self.ended = true;
        result.and(status.map(|_| output))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if !self.ended {
            kill(self.child.id());
            drop(self.child.wait());
        }
    }
}

/// Kills a command and the processes that it started. This needs another program (`sh` or, on Windows, `taskkill`),
/// because the standard library can kill only the command itself.
fn kill(id: u32) {
    let mut command = if cfg!(unix) {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("kill -KILL -{id}"));
        shell
    } else {
        let mut taskkill = Command::new("taskkill");
        taskkill.args(["/F", "/T", "/PID", &id.to_string()]);
        taskkill
    };
    let killed = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = killed {
        log::warn!(target: "tinkex", "a credential command could not be killed: {error}");
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn run_line(line: &str) -> Result<String> {
        let output = run(&Secret::new(line), LONG, &CancelToken::new())?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    #[test]
    fn the_shell_runs_the_line_and_ignores_its_status_and_its_errors() {
        assert_eq!(run_line("x=ml; echo t$x-a | cat; echo no >&2; exit 3").expect("output"), "tml-a\n");
        assert_eq!(run_line("read x; echo \"<$x>\"").expect("output"), "<>\n");
        assert_eq!(run_line("exit 0").expect("output"), "");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_all_processes_that_it_started() {
        let dir = std::env::temp_dir().join(format!("tinkex-command-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let fifo = dir.join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        // The child of the shell keeps the fifo open. The reader of the fifo gets the end of the file when the child
        // dies.
        let (sender, ended) = bounded(1);
        let reading = fifo.clone();
        let reader = std::thread::spawn(move || sender.send(std::fs::read(reading).map(|bytes| bytes.len())));
        let line = format!("sleep 1000 3> {} & wait", fifo.display());
        let start = Instant::now();
        let error =
            run(&Secret::new(line), Duration::from_millis(500), &CancelToken::new()).expect_err("it hangs");
        assert!(error.is_timeout() && start.elapsed() < LONG, "{error}");
        assert!(error.message().contains("credential command"), "{error}");
        let read = ended.recv_timeout(LONG).expect("the child of the command is dead");
        assert_eq!(read.expect("a fifo"), 0);
        reader.join().expect("no panic").expect("the receiver lives");
        std::fs::remove_dir_all(&dir).expect("the folder");
    }

    #[test]
    fn closing_the_client_kills_the_command() {
        let stop = CancelToken::new();
        let stopper = stop.clone();
        let stopping = std::thread::spawn(move || {
            stopper.wait_timeout(Duration::from_millis(100));
            stopper.cancel();
        });
        let start = Instant::now();
        let error = run(&Secret::new("sleep 1000"), Duration::MAX, &stop).expect_err("stopped");
        assert!(error.is_closed() && start.elapsed() < LONG, "{error}");
        stopping.join().expect("no panic");
        assert!(run(&Secret::new("echo tml-a"), LONG, &stop).expect_err("stopped").is_cancelled());
    }
}
