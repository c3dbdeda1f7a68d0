//! Runs the credential command (PROTOCOL §1.3): a line for the shell that prints a credential.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::secret::Secret;
use crate::sync::CancelToken;
use crate::sync::cancel::Wake;

/// More than any credential measures.
const LARGEST_OUTPUT: u64 = 64 * 1024;

/// What came of a command.
enum News {
    Output(std::io::Result<Vec<u8>>),
    Stopped,
}

struct Stop(crossbeam_channel::Sender<News>);

impl Wake for Stop {
    fn wake(&self) {
        // Full only if there is news already.
        let _first_counts = self.0.try_send(News::Stopped);
    }
}

/// What a command prints. Neither the command nor what it prints is ever shown or logged. Its exit status does not count,
/// its errors are thrown away, and it has no input and no terminal.
///
/// After `patience`, or when `stop` is cancelled, it is killed with everything that it started.
pub(super) fn run(command: &Secret, patience: Duration, stop: &CancelToken) -> Result<Vec<u8>> {
    stop.check()?;
    let deadline = Instant::now().checked_add(patience);
    let system = |it: std::io::Error| {
        Error::new(ErrorKind::System, format!("the credential command could not be run: {it}"))
    };
    let child = start(command).map_err(system)?;
    let id = child.id();
    // Room for both kinds of news, so that nobody waits who brings one.
    let (sender, news) = bounded(2);
    let _stopping = stop.on_cancel(std::sync::Arc::new(Stop(sender.clone())));
    let reading = std::thread::Builder::new().name("tk-cred".into()).spawn(move || {
        let _whether_anybody_waits = sender.try_send(News::Output(read(child)));
    });
    if let Err(error) = reading {
        kill(id);
        return Err(system(error));
    }
    match receive(&news, deadline) {
        Ok(News::Output(output)) => output.map_err(system),
        Ok(News::Stopped) => {
            kill(id);
            Err(Error::closed("the client was closed while the credential command ran"))
        }
        Err(RecvTimeoutError::Timeout) => {
            kill(id);
            let text =
                format!("the credential command printed no credential within {patience:.1?} and was killed");
            Err(Error::timeout(Phase::Total, text))
        }
        Err(RecvTimeoutError::Disconnected) => {
            kill(id);
            Err(Error::new(ErrorKind::System, "the credential command's output could not be read"))
        }
    }
}

fn receive(news: &Receiver<News>, deadline: Option<Instant>) -> std::result::Result<News, RecvTimeoutError> {
    match deadline {
        Some(deadline) => news.recv_deadline(deadline),
        None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// Everything that is printed until nobody can print any more, and the end of the shell.
fn read(mut child: Child) -> std::io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let result = match child.stdout.take() {
        Some(stdout) => stdout.take(LARGEST_OUTPUT).read_to_end(&mut output),
        None => Ok(0),
    };
    // Reading has ended, so that whoever still prints is told so; the shell's own end is not far.
    let ended = child.wait();
    result.and(ended).map(|_| output)
}

#[cfg(unix)]
fn start(command: &Secret) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt;
    let mut shell = Command::new("sh");
    // In a group of its own, so that it can be killed with everything that it started.
    shell.arg("-c").arg(command.expose()).process_group(0);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

#[cfg(not(unix))]
fn start(command: &Secret) -> std::io::Result<Child> {
    let mut shell = Command::new("cmd");
    shell.arg("/C").arg(command.expose());
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// Kills a command and what it started. The shell does it, because the standard library knows no groups of processes.
fn kill(id: u32) {
    let mut shell = match cfg!(unix) {
        true => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("kill -KILL -{id}"));
            shell
        }
        false => {
            let mut shell = Command::new("taskkill");
            shell.args(["/F", "/T", "/PID", &id.to_string()]);
            shell
        }
    };
    let killed = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = killed {
        log::warn!(target: "tinkex", "a credential command could not be killed: {error}");
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn run_line(line: &str) -> Result<String> {
        let output = run(&Secret::new(line), PATIENCE, &CancelToken::new())?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    #[test]
    fn the_shell_runs_the_line_whatever_its_status_and_its_errors() {
        assert_eq!(run_line("x=ml; echo t$x-a | cat; echo no >&2; exit 3").expect("output"), "tml-a\n");
        assert_eq!(run_line("read x; echo \"<$x>\"").expect("output"), "<>\n");
        assert_eq!(run_line("exit 0").expect("output"), "");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_everything_that_it_started() {
        let dir = std::env::temp_dir().join(format!("tinkex-command-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let pid_file = dir.join("pid");
        // The shell waits for a child that holds the pipe as well.
        let line = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        let begun = Instant::now();
        let patience = Duration::from_millis(500);
        let error = run(&Secret::new(line), patience, &CancelToken::new()).expect_err("it hangs");
        assert!(error.is_timeout() && begun.elapsed() < PATIENCE, "{error}");
        assert!(error.message().contains("credential command"), "{error}");
        if let Ok(pid) = std::fs::read_to_string(&pid_file) {
            let stat = format!("/proc/{}/stat", pid.trim());
            let deadline = Instant::now() + PATIENCE;
            while std::fs::read_to_string(&stat).is_ok_and(|it| !it.contains(" Z ")) {
                assert!(Instant::now() < deadline, "the child of the command still runs");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::fs::remove_dir_all(&dir).expect("the folder");
    }

    #[test]
    fn the_end_of_the_client_ends_the_command() {
        let stop = CancelToken::new();
        let stopper = stop.clone();
        let stopping = std::thread::spawn(move || {
            stopper.wait_timeout(Duration::from_millis(100));
            stopper.cancel();
        });
        let begun = Instant::now();
        let error = run(&Secret::new("sleep 1000"), Duration::MAX, &stop).expect_err("stopped");
        assert!(error.is_closed() && begun.elapsed() < PATIENCE, "{error}");
        stopping.join().expect("no panic");
        assert!(run(&Secret::new("echo tml-a"), PATIENCE, &stop).expect_err("stopped").is_cancelled());
    }
}
