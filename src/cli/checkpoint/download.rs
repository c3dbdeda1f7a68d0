//! `tinkex checkpoint download`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;
use tinkex::download::{DownloadOptions, Downloaded};
use tinkex::sync::CancelToken;
use tinkex::types::{Checkpoint, CheckpointPath};
use tinkex::{ErrorKind, RestClient, report_json};

use super::download_progress::Display;
use super::{parse_path, receipt};
use crate::cells::Cells;
use crate::connection::App;
use crate::failure::Failure;
use crate::run_folder::weights_of;
use crate::shell_word::quoted;
use crate::{nearby_files, new_folder, wording};

/// Time after which the thread that waits for the download looks for a signal again.
const LOOK: Duration = Duration::from_millis(50);

const REPLACE: &str = "--force replaces it once the new one is complete";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the checkpoint, or folder of a training run, whose last weights for sampling are downloaded
    #[arg(value_name = "PATH|RUN", value_parser = parse_source)]
    path: String,
    /// Folder in which the download gets a name made of the path [default: the current folder]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace an existing download
    #[arg(long)]
    force: bool,
    /// Discard what an interrupted download has left, instead of continuing it
    #[arg(long)]
    no_resume: bool,
    /// Number of files that are downloaded at the same time; an archive is one file
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_concurrency)]
    concurrency: usize,
    /// A folder with the files, or the archive as the server makes it
    #[arg(long = "as", value_name = "FORM", default_value = "dir")]
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Tar,
    Dir,
}

/// Reads the argument, so that a wrong path is an error of usage. The folder of a run is resolved later.
fn parse_source(text: &str) -> Result<String, String> {
    if text.contains("://") {
        parse_path(text)?;
    }
    Ok(text.to_owned())
}

fn parse_concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=64) => Ok(n),
        _ => Err("must be a number from 1 to 64".to_owned()),
    }
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let (path, app) = &weights_of(&args.path, app)?;
    if !path.contains("://") {
        let problem = format!("{path} is neither a tinker:// path nor the folder of a training run");
        return Err(Failure::usage(problem).with_remedy("`tinkex checkpoint list` shows the paths"));
    }
    let path = parse_path(path).map_err(Failure::text)?;
    let parent = args.output.as_deref().unwrap_or(Path::new("."));
    let destination = parent.join(name_of(&path, args.form == Form::Tar));
    let is_occupied = !args.force && is_occupied(&destination);
    let receipt = is_occupied.then(|| receipt::read(&destination, &path)).flatten();
    if is_occupied && receipt.is_none() {
        let text = format!("{} exists, and is not known to be the complete download", destination.display());
        return Err(Failure::text(text).with_remedy(REPLACE));
    }
    check_parent(parent)?;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let version = receipt::version(&rest, &path);
    if let Some(receipt) = receipt {
        if !receipt::is_current(&receipt, &version?) {
            let text = format!("{} exists, and the server has a newer {path}", destination.display());
            return Err(Failure::text(text).with_remedy(REPLACE));
        }
        app.note(&format!(
            "note: {} was complete already; --force downloads it again",
            destination.display()
        ));
        return write(receipt["result"].clone(), &destination, true, app);
    }
    // The download has its own error if the server does not answer.
    let version = version.unwrap_or(Value::Null);
    if version.is_null() && is_unknown_state(&rest, &path) {
        return Err(missing(&path, app));
    }
    let cancel = CancelToken::new();
    let display = Arc::new(Display::new(app));
    let options = DownloadOptions::default()
        .destination(&destination)
        .force(args.force)
        .resume(!args.no_resume)
        .concurrency(args.concurrency)
        .as_tar(args.form == Form::Tar)
        .cancelled_by(&cancel)
        .on_progress({
            let display = display.clone();
            move |progress| display.show(progress)
        });
    app.stop.defer();
    let result = wait(&rest, &path, &options, &cancel, app);
    display.clear();
    if let Some(signal) = app.stop.signal().filter(|_| result.is_err()) {
        let is_kept = has_arrived(&destination);
        app.note(if is_kept { "stopped; what has arrived is kept" } else { "stopped" });
        let command = command(&args, app);
        app.note(&format!("  go on with: {command}"));
        return Err(Failure::signal(signal).with_remedy(format!("`{command}`")));
    }
    let downloaded = match result {
        Err(error) if is_missing(&rest, &path, &error) => {
            return Err(missing(&path, app));
        }
        Err(error) => {
            // What is wrong with the disk or with the options has its own words.
            let may_go_on = error.violation().is_none() && *error.kind() != ErrorKind::System;
            let failure = failure(error, &destination);
            if !may_go_on || !has_arrived(&destination) {
                return Err(failure);
            }
            let go_on = format!("`{}` goes on with what has arrived, which is kept", command(&args, app));
            let remedies: Vec<String> = failure.remedy().into_iter().chain([go_on]).collect();
            return Err(failure.with_remedy(remedies.join("; ")));
        }
        Ok(downloaded) => downloaded,
    };
    let json = report_json::downloaded(&downloaded);
    if let Err(error) = receipt::write(&destination, &version, &json) {
        app.note(&format!("note: this command cannot tell later that the download is complete: {error}"));
    }
    write(json, &destination, false, app)
}

fn missing(path: &CheckpointPath, app: &App) -> Failure {
    let list = format!("`tinkex checkpoint list{}` shows the paths", app.place());
    Failure::missing(format!("{path} does not exist")).with_remedy(list)
}

/// True for a state that the server does not know. The library would open a session to export it before it finds that out.
fn is_unknown_state(rest: &RestClient, path: &CheckpointPath) -> bool {
    matches!(path, CheckpointPath::Training(path)
        if rest.get_weights_info_by_tinker_path(path).is_err_and(|error| error.is_not_found()))
}

/// True if something of a file is beside the destination of a download.
fn has_arrived(destination: &Path) -> bool {
    fn has_bytes(folder: &Path) -> bool {
        std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| match entry.metadata() {
            Ok(it) if it.is_dir() => has_bytes(&entry.path()),
            Ok(it) => 0 < it.len(),
            Err(_) => false,
        })
    }
    let mut part = destination.as_os_str().to_owned();
    part.push(".part");
    has_bytes(&Path::new(&part).join("files"))
}

/// Writes what was downloaded, now or earlier.
fn write(mut json: Value, folder: &Path, was_there: bool, app: &App) -> Result<(), Failure> {
    // It may have been moved since then.
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    json["destination"] = absolute.display().to_string().into();
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let (path, destination) = (text("checkpoint_path"), text("destination"));
    let size = Cells::of(app).size(json["file_size_bytes"].as_u64());
    let done = format!("{path} is complete at {destination}");
    json["already_there"] = was_there.into();
    let rows = vec![("Checkpoint", path), ("Destination", destination), ("Size", size)];
    app.out.properties(rows, json).map_err(|failure| failure.after(&done))
}

/// Refuses a file in the place of the folder of `-o`.
fn check_parent(folder: &Path) -> Result<(), Failure> {
    let shown = folder.display();
    if folder.is_file() {
        let above = folder.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let remedy = format!("-o {}, the folder of that file", quoted(&above.display().to_string()));
        return Err(Failure::usage(format!("-o {shown} is a file, and must be a folder")).with_remedy(remedy));
    }
    new_folder::check(folder).map_err(|it| it.with_remedy("-o with a folder in which you may write"))
}

/// Downloads on another thread, while this one waits for a signal.
fn wait(
    rest: &RestClient,
    path: &CheckpointPath,
    options: &DownloadOptions,
    cancel: &CancelToken,
    app: &App,
) -> tinkex::Result<Downloaded> {
    let done = CancelToken::new();
    std::thread::scope(|scope| {
        let download = scope.spawn(|| {
            let result = rest.download(path.clone(), options);
            done.cancel();
            result
        });
        while !done.wait_timeout(LOOK) && !download.is_finished() {
            if app.stop.is_asked() {
                cancel.cancel();
            }
        }
        download.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// True if the checkpoint is not there, which a server may only say as if it had no downloads.
fn is_missing(rest: &RestClient, path: &CheckpointPath, error: &tinkex::Error) -> bool {
    let is_listed = |list: Vec<Checkpoint>| list.iter().any(|it| it.path().is_ok_and(|it| it == *path));
    *error.kind() == ErrorKind::Incompatible
        && match rest.list_checkpoints(path.run_id()) {
            Ok(list) => !is_listed(list),
            Err(error) => error.is_not_found(),
        }
}

/// The failure of the download, without the folder beside the destination if that cannot even be made.
fn failure(error: tinkex::Error, destination: &Path) -> Failure {
    let line = wording::line(&error);
    let shown = destination.display();
    if let Some((_, problem)) = line.split_once(&format!("cannot create {shown}.part: ")) {
        return Failure::text(format!("cannot create {shown}: {problem}"))
            .with_remedy("-o with a folder in which you may write");
    }
    match error.violation().filter(|it| it.path == "as_tar") {
        Some(violation) => Failure::usage(format!("--as tar {}", violation.problem))
            .with_remedy("--as dir, for a folder with the files"),
        // Another command has made it, or makes it, since this one has looked.
        None if error.violation().is_some_and(|it| it.path == "destination") => {
            let other = destination.with_file_name("").join("models");
            Failure::text(line).with_remedy(format!(
                "the same command once that one has ended, with --force if it is to be replaced; or another folder: -o {}",
                nearby_files::unused(&other)
            ))
        }
        None => Failure::from(error),
    }
}

/// Name of the folder or the archive of a checkpoint, which all file systems and programs take: the library leaves the colons
/// of a path in the names of folders.
pub(super) fn name_of(path: &CheckpointPath, is_archive: bool) -> String {
    let name = path.as_str().trim_start_matches("tinker://").replace(['/', ':'], "_");
    if is_archive { name + ".tar" } else { name }
}

/// True if something is in the way of the download, which the library refuses, too.
fn is_occupied(destination: &Path) -> bool {
    match std::fs::read_dir(destination) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => std::fs::symlink_metadata(destination).is_ok(),
    }
}

/// The command that continues the download. Global options are those of the user's first command.
fn command(args: &Args, app: &App) -> String {
    let mut words = vec!["tinkex checkpoint download".to_owned(), quoted(&args.path)];
    if let Some(output) = &args.output {
        words.push(format!("--output {}", quoted(&output.display().to_string())));
    }
    if args.force {
        words.push("--force".to_owned());
    }
    if args.form == Form::Tar {
        words.push("--as tar".to_owned());
    }
    words.join(" ") + &app.place()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_archives_have_names_without_colons() {
        for (path, is_archive, name) in [
            ("tinker://s:train:0/weights/final", false, "s_train_0_weights_final"),
            ("tinker://s:train:0/sampler_weights/a", true, "s_train_0_sampler_weights_a.tar"),
        ] {
            assert_eq!(name_of(&path.parse().unwrap(), is_archive), name);
        }
    }
}
