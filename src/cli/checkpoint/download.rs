//! `tinkex checkpoint download`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tinkex::download::{DownloadOptions, DownloadPhase, DownloadProgress, Downloaded};
use tinkex::sync::CancelToken;
use tinkex::types::{Checkpoint, CheckpointPath};
use tinkex::{ErrorKind, RestClient, report_json};

use super::parse_path;
use crate::args::Progress;
use crate::connection::App;
use crate::failure::Failure;
use crate::run_folder::weights_of;
use crate::shell_word::quoted;
use crate::{moments, notes, wording};

/// Time after which the thread that waits for the download looks for a signal again.
const LOOK: Duration = Duration::from_millis(50);

/// Shortest time between two plain lines of progress.
const LINE_PERIOD: Duration = Duration::from_secs(10);

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
    let cancel = CancelToken::new();
    let display = Arc::new(Display::new(app));
    let mut options = DownloadOptions::default()
        .force(args.force)
        .resume(!args.no_resume)
        .concurrency(args.concurrency)
        .as_tar(args.form == Form::Tar)
        .cancelled_by(&cancel)
        .on_progress({
            let display = display.clone();
            move |progress| display.show(progress)
        });
    let parent = args.output.as_deref().unwrap_or(Path::new("."));
    let destination = parent.join(name_of(&path, args.form == Form::Tar));
    options = options.destination(&destination);
    if !args.force && is_occupied(&destination) {
        let text = format!("{} exists", destination.display());
        return Err(Failure::text(text).with_remedy("--force replaces it once the new one is complete"));
    }
    let connection = app.connect()?;
    app.stop.defer();
    let rest = connection.service.create_rest_client();
    let result = wait(&rest, &path, &options, &cancel, app);
    display.clear();
    if let Some(signal) = app.stop.signal().filter(|_| result.is_err()) {
        app.note("stopped; what has arrived is kept");
        app.note(&format!("  go on with: {}", command(&args, app)));
        return Err(Failure::Signal(signal));
    }
    let downloaded = match result {
        Err(error) if is_missing(&rest, &path, &error) => {
            let list = format!("`tinkex checkpoint list{}` shows the paths", app.place());
            return Err(Failure::text(format!("{path} does not exist")).with_remedy(list));
        }
        result => result.map_err(failure)?,
    };
    let json = report_json::downloaded(&downloaded);
    let Downloaded { path, size_bytes, .. } = downloaded;
    let destination = json["destination"].as_str().unwrap_or_default().to_owned();
    let size = match app.out.format() {
        crate::args::Format::Table => moments::size(size_bytes),
        _ => size_bytes.to_string(),
    };
    let rows = vec![("Checkpoint", path.as_str().to_owned()), ("Destination", destination), ("Size", size)];
    app.out.properties(rows, json)
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

fn failure(error: tinkex::Error) -> Failure {
    match error.violation().filter(|it| it.path == "as_tar") {
        Some(violation) => Failure::usage(format!("--as tar {}", violation.problem))
            .with_remedy("--as dir, for a folder with the files"),
        // Another command has made it, or makes it, since this one has looked.
        None if error.violation().is_some_and(|it| it.path == "destination") => {
            Failure::text(wording::line(&error)).with_remedy(
                "the same command once that one has ended, with --force if it is to be replaced; or another folder: -o DIR",
            )
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

/// Shows the progress on stderr.
#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Lines(Mutex<Option<Instant>>),
    Nothing,
}

impl Display {
    fn new(app: &App) -> Self {
        let has_bar = match app.global.progress {
            Progress::Bar => true,
            Progress::Auto => notes::are_read(),
            Progress::Plain | Progress::Json | Progress::None => false,
        };
        let has_lines = matches!(app.global.progress, Progress::Auto | Progress::Plain);
        match (has_bar, has_lines) {
            _ if app.global.quiet => Display::Nothing,
            (true, _) => {
                let bar = notes::add(ProgressBar::new_spinner());
                bar.enable_steady_tick(Duration::from_millis(200));
                Display::Bar(bar)
            }
            (false, true) => Display::Lines(Mutex::new(None)),
            (false, false) => Display::Nothing,
        }
    }

    fn show(&self, progress: &DownloadProgress) {
        match self {
            Display::Bar(bar) => {
                if let Some(total) = progress.total_bytes
                    && bar.length() != Some(total)
                {
                    bar.set_length(total);
                    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                    if let Ok(style) = ProgressStyle::with_template(template) {
                        bar.set_style(style);
                    }
                }
                bar.set_position(progress.n_bytes);
                bar.set_message(phase(progress));
            }
            Display::Lines(last) => {
                let now = Instant::now();
                let is_due = {
                    let mut last = last.lock();
                    let is_due = last.is_none_or(|last| LINE_PERIOD <= now.duration_since(last));
                    if is_due {
                        *last = Some(now);
                    }
                    is_due
                };
                if is_due || matches!(progress.phase, DownloadPhase::Retrying(_)) {
                    notes::write(&line(progress));
                }
            }
            Display::Nothing => {}
        }
    }

    fn clear(&self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn phase(progress: &DownloadProgress) -> String {
    match &progress.phase {
        DownloadPhase::Preparing => "preparing".to_owned(),
        DownloadPhase::Receiving => match progress.total_files {
            Some(total) if 1 < total => format!("downloading ({} of {total} files)", progress.n_files),
            _ => "downloading".to_owned(),
        },
        DownloadPhase::Retrying(error) => format!("trying again: {}", wording::line(error)),
        DownloadPhase::Verifying => "verifying".to_owned(),
        DownloadPhase::Unpacking => "unpacking".to_owned(),
        _ => "working".to_owned(),
    }
}

fn line(progress: &DownloadProgress) -> String {
    let size = match (progress.n_bytes, progress.total_bytes) {
        (0, None) => String::new(),
        (n, None) => format!(": {}", moments::size(n)),
        (n, Some(total)) => format!(": {} of {}", moments::size(n), moments::size(total)),
    };
    format!("{}{size}", phase(progress))
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

    #[test]
    fn a_line_of_progress_says_what_is_known() {
        let mut progress = DownloadProgress::default();
        assert_eq!(line(&progress), "preparing");
        progress.phase = DownloadPhase::Receiving;
        (progress.n_bytes, progress.total_bytes) = (1 << 20, Some(1 << 21));
        assert!(line(&progress).starts_with("downloading: "), "{}", line(&progress));
        (progress.n_files, progress.total_files) = (1, Some(3));
        assert!(line(&progress).contains("1 of 3 files"));
    }
}
