//! The engine of `--local`: one in this process, or the one that another program has on the same folder. One in this process
//! ends with the command, but not before the commands that use it have ended.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tinkex::local::{Access, Options, Running, is_data_folder};
use tinkex::sync::CancelToken;
use tinkex::{CloseStatus, ServiceClient};

use super::connection::App;
use super::failure::Failure;
use super::shell_word::quoted;
use super::{new_folder, notes, similar};

/// Pause between two looks at the engine of another program.
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row that find no engine until it counts as ended: one may fail because the machine is busy.
const MOST_MISSES: u32 = 3;
/// Time limit of telling the engine about the end of a session.
pub(crate) const FINISH: Duration = Duration::from_secs(2);

/// Why the engine of another program is gone, once it is.
pub(crate) type Lost = Arc<OnceLock<String>>;

/// How long an engine runs until other commands find it: most commands have ended by then, and the others wait.
const SHARE_AFTER: Duration = Duration::from_secs(1);
/// How long a command waits silently for those that use its engine.
const SILENTLY: Duration = Duration::from_secs(1);

/// The engines of the folders that this command has named. They stay until its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Engines(Arc<Mutex<Vec<Opened>>>);

/// A folder and its engine.
type Opened = (PathBuf, Arc<Access>);

impl Engines {
    /// Starts the engine of a folder, or finds the one that has it open. Unless `may_create` is set, a folder that was named
    /// must be there: most likely its name is mistyped, and the command would find nothing in a new one. A dry run makes no
    /// folder: its engine has a temporary one.
    pub(crate) fn open(
        &self,
        dir: Option<PathBuf>,
        may_create: bool,
        is_dry_run: bool,
    ) -> Result<Arc<Access>, Failure> {
        if let Some(dir) = dir.as_deref().filter(|dir| !may_create && !is_data_folder(dir)) {
            return Err(not_an_engine(dir));
        }
        let dir = dir.map_or_else(default_folder, Ok)?;
        let known = self.0.lock().iter().find(|it| it.0 == dir).map(|it| it.1.clone());
        if let Some(engine) = known {
            return Ok(engine);
        }
        if is_dry_run {
            new_folder::check(&dir).map_err(|failure| {
                let elsewhere = || format!("a folder in which you may write, {ELSEWHERE}");
                let remedy = remedy_of(&failure.summary(), &dir).unwrap_or_else(elsewhere);
                failure.with_remedy(remedy)
            })?;
        }
        let data_dir = (!is_dry_run || is_data_folder(&dir)).then(|| dir.clone());
        let options = Options { data_dir, share_after: SHARE_AFTER, ..Default::default() };
        let engine = Access::open(options).map_err(|error| {
            let remedy = remedy_of(error.message(), &dir);
            let failure = Failure::from(error);
            match remedy {
                Some(remedy) => failure.with_remedy(remedy),
                None => failure,
            }
        })?;
        let engine = Arc::new(engine);
        self.0.lock().push((dir, engine.clone()));
        Ok(engine)
    }

    /// Waits until no other command uses the engines of this one. A signal ends the wait, and the process.
    pub(crate) fn leave(&self, app: &App) {
        let engines = std::mem::take(&mut *self.0.lock());
        for (dir, engine) in &engines {
            let Access::Started(server) = &**engine else { continue };
            let never = CancelToken::new();
            // A person who stops the work of this command may not know about the others. Other signals mean the process.
            let is_interrupted = app.stop.is_deferred() && app.stop.is_interrupt();
            if app.stop.is_asked() && !is_interrupted || server.wait_for_users(SILENTLY, &never) {
                continue;
            }
            app.note(&format!(
                "note: other commands use the engine of {}, which this command has started: it ends after them (Ctrl-C \
                 ends them, too)",
                dir.display()
            ));
            app.stop.end_at_once();
            server.wait_for_users(Duration::MAX, &never);
        }
    }
}

/// The failure of a command that looks for something in a folder that holds no engine.
fn not_an_engine(dir: &Path) -> Failure {
    let what = if dir.exists() { "is not the folder of an engine" } else { "does not exist" };
    let failure = Failure::usage(format!("--local: the folder {} {what}", dir.display()));
    match similar(dir) {
        Some(dir) => {
            failure.with_remedy(format!("did you mean --local={}?", quoted(&dir.display().to_string())))
        }
        None => failure.with_remedy(
            "the folder that `tinkex train --local=DIR` or `tinkex serve --data-dir DIR` was given",
        ),
    }
}

/// How another folder is named.
const ELSEWHERE: &str = "as in --local=my-engine";

/// The folder of an engine whose name is almost that of a folder which is none.
pub(crate) fn similar(dir: &Path) -> Option<PathBuf> {
    let parent = dir.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let siblings = std::fs::read_dir(parent).into_iter().flatten().flatten().map(|it| it.path());
    let name = |path: &Path| path.file_name().map(|it| it.to_string_lossy().into_owned());
    let known: Vec<String> = siblings.filter(|it| is_data_folder(it)).filter_map(|it| name(&it)).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let wanted = name(dir).unwrap_or_default();
    similar::names(&wanted, &known).first().map(|name| dir.with_file_name(name))
}

/// What to do about a folder that cannot be used.
fn remedy_of(message: &str, dir: &Path) -> Option<String> {
    let has = |texts: &[&str]| texts.iter().any(|it| message.contains(it));
    if has(&["is in use by another engine"]) {
        return Some("wait for that program, which does not answer, or end it".into());
    }
    if !has(&["cannot create", "cannot open", "cannot read"]) {
        return None;
    }
    // The nearest thing that is there on the way to the folder.
    let there = dir.ancestors().find(|it| it.exists());
    let there = there.filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_refused = has(&["Read-only file system", "Permission denied", "Operation not permitted"]);
    let shown = quoted(&there.to_string_lossy());
    if !there.is_dir() {
        Some(format!("{shown} is a file; name a folder, {ELSEWHERE}"))
    } else if there == dir && is_refused {
        // Beside the folder there may be nowhere to write either.
        let name = there.file_name().unwrap_or_default().to_string_lossy();
        let copy = quoted(&format!("{name}-copy"));
        let allow = if has(&["Read-only file system"]) {
            String::new()
        } else {
            format!("`chmod -R u+w {shown}`, or ")
        };
        Some(format!(
            "the engine writes into its folder: {allow}`cp -r {shown} {copy} && chmod -R u+w {copy}` and --local={copy}"
        ))
    } else if has(&["No space left"]) {
        Some(format!("make room, or name a folder elsewhere, {ELSEWHERE}"))
    } else if there != dir {
        Some(format!("no folder can be created in {shown}: name one where you may write, {ELSEWHERE}"))
    } else {
        None
    }
}

/// The folder of the engine if `--local` names none, so that one command finds what another has saved.
pub(crate) fn default_folder() -> Result<PathBuf, Failure> {
    let of = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let data = of("XDG_DATA_HOME").or_else(|| of("HOME").map(|home| home.join(".local/share")));
    let data = data.ok_or_else(|| {
        Failure::usage("HOME is not set").with_remedy(format!("name a folder, {ELSEWHERE}"))
    })?;
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
        let of = |message, dir: &str| remedy_of(message, Path::new(dir)).unwrap_or_default();
        let src: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        for (message, dir, expected) in [
            (
                "cannot open x: Read-only file system (os error 30)",
                src.into(),
                "engine writes into its folder: `cp -r ",
            ),
            ("cannot open x: Permission denied (os error 13)", src.into(), " src-copy` and --local=src-copy"),
            (
                "cannot create x: Permission denied (os error 13)",
                format!("{src}/none/x"),
                "/src: name one where",
            ),
            (
                "cannot create x: Read-only file system (os error 30)",
                "/none/x".into(),
                "no folder can be created in /:",
            ),
            ("cannot create x: File exists (os error 17)", format!("{src}/lib.rs"), "/src/lib.rs is a file"),
            ("cannot create x: Not a directory (os error 20)", format!("{src}/lib.rs/x"), "lib.rs is a file"),
            ("cannot create x: No space left on device", "none".into(), "make room"),
            ("the data folder runs is in use by another engine (process 7)", "none".into(), "wait"),
        ] {
            let remedy = of(message, &dir);
            assert!(remedy.contains(expected), "{message}: {remedy}");
        }
        assert_eq!(of("the seed is not valid", src), "");
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
