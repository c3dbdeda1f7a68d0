//! The engine of `--local`: one in this process, or the one that another program has on the same folder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tinkex::local::{Access, Options, Running};
use tinkex::sync::CancelToken;
use tinkex::{CloseStatus, ServiceClient};

use super::failure::Failure;
use super::notes;

/// Pause between two looks at the engine of another program.
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row that find no engine until it counts as ended: one may fail because the machine is busy.
const MOST_MISSES: u32 = 3;
/// Time limit of telling the engine about the end of a session.
pub(crate) const FINISH: Duration = Duration::from_secs(2);

/// Why the engine of another program is gone, once it is.
pub(crate) type Lost = Arc<OnceLock<String>>;

/// Starts the engine of a folder, or finds the one that has it open.
pub(crate) fn open(dir: Option<PathBuf>) -> Result<Access, Failure> {
    let dir = dir.map_or_else(default_folder, Ok)?;
    Access::open(Options { data_dir: Some(dir.clone()), ..Default::default() }).map_err(|error| {
        let remedy = remedy_of(error.message(), &dir);
        let failure = Failure::from(error);
        match remedy {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        }
    })
}

/// What to do about a folder that cannot be used.
fn remedy_of(message: &str, dir: &Path) -> Option<String> {
    let has = |texts: &[&str]| texts.iter().any(|it| message.contains(it));
    if has(&["is in use by another engine"]) {
        return Some("wait for that program, which does not answer, or end it".into());
    }
    if has(&["Read-only file system", "Permission denied", "Operation not permitted"]) {
        let dir = dir.display();
        return Some(format!(
            "the engine writes into its folder: copy {dir}, and name the copy: --local=COPY"
        ));
    }
    None
}

/// The folder of the engine if `--local` names none, so that one command finds what another has saved.
fn default_folder() -> Result<PathBuf, Failure> {
    let of = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let data = of("XDG_DATA_HOME").or_else(|| of("HOME").map(|home| home.join(".local/share")));
    let data =
        data.ok_or_else(|| Failure::usage("HOME is not set").with_remedy("name a folder: --local=DIR"))?;
    Ok(data.join("tinkex/engine"))
}

/// Looks at the engine of another program until it is dropped. Once that engine has ended, closes the client, which
/// would otherwise repeat its requests for minutes.
#[derive(Debug)]
pub(crate) struct EngineMonitor(CancelToken);

impl EngineMonitor {
    pub(crate) fn start(running: &Running, service: &ServiceClient, lost: &Lost) -> Self {
        let done = CancelToken::new();
        let (running, service, lost, stop) = (running.clone(), service.clone(), lost.clone(), done.clone());
        let look = move || {
            let mut n_misses = 0;
            while n_misses < MOST_MISSES {
                if stop.wait_timeout(LOOK) {
                    return;
                }
                n_misses = if running.answers() { 0 } else { n_misses + 1 };
            }
            // Set once: a process has one engine.
            let _ = lost.set(format!(
                "the engine has ended: it was that of process {}, at {}",
                running.process(),
                running.url()
            ));
            // The engine cannot be told.
            let _ = service.close(CloseStatus::Errored);
        };
        // Without the thread, requests end at their own time limits.
        let _ = std::thread::Builder::new().name("tinkex-monitor".into()).spawn(look);
        EngineMonitor(done)
    }
}

impl Drop for EngineMonitor {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The failure of a command whose engine has ended meanwhile.
pub(crate) fn explained(failure: Failure, lost: &Lost) -> Failure {
    const REMEDY: &str = "run the command again: it starts an engine of its own";
    match (lost.get(), failure) {
        (Some(why), Failure::Api { .. }) => Failure::text(why.clone()).with_remedy(REMEDY),
        // The command has explained it.
        (Some(why), Failure::Text { message, remedy }) if message == *why => {
            Failure::Text { message, remedy }
        }
        (Some(why), failure) => {
            notes::write(&format!("note: {why}"));
            failure
        }
        (None, failure) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_used_has_a_remedy_if_one_is_known() {
        let of = |message| remedy_of(message, Path::new("runs")).unwrap_or_default();
        assert!(
            of("cannot open runs/.tinkex/lock: Read-only file system (os error 30)").contains("copy runs")
        );
        assert!(
            of("cannot open runs/.tinkex/lock: Permission denied (os error 13)").contains("--local=COPY")
        );
        assert!(of("the data folder runs is in use by another engine (process 7)").contains("wait"));
        assert_eq!(of("cannot create runs: No space left on device"), "");
    }

    #[test]
    fn a_failure_is_explained_by_the_end_of_the_engine_only_if_it_has_ended() {
        let failure = || Failure::from("x".parse::<tinkex::types::CheckpointPath>().unwrap_err());
        let lost = Lost::default();
        assert!(matches!(explained(failure(), &lost), Failure::Api { .. }));
        lost.set("the engine has ended".into()).unwrap();
        assert_eq!(explained(failure(), &lost).summary(), "the engine has ended");
        assert!(matches!(explained(Failure::Negative, &lost), Failure::Negative));
    }
}
