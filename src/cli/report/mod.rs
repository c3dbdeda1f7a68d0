//! `tinkex report`: a page about a training run, or about several side by side. The page is one file that needs nothing
//! else: no network, no program of the browser.

mod charts;
mod checkpoints;
mod compare;
mod facts;
mod page;
mod read;
mod scale;
mod sections;
mod series;
mod svg;
mod text;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use self::read::Run;
use super::connection::App;
use super::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders of runs; several are compared
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// File to write, `-` for stdout [default: report.html in the run's folder, comparison.html for several runs]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
}

/// How a page begins.
const HTML: &[u8; 14] = b"<!DOCTYPE html";
/// Largest page: mail and chats take it, and browsers show it at once.
const MAX_BYTES: usize = 960_000;
/// Time after which the program that opens the page is no longer waited for.
const OPENING: Duration = Duration::from_secs(3);
/// Numbers of points of a line, tried until the page is small enough.
const POINTS: [usize; 7] = [2000, 1400, 1000, 600, 300, 120, 40];

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let is_stdout = args.output.as_deref() == Some(Path::new("-"));
    if is_stdout && args.open {
        return Err(
            Failure::usage("a page on stdout cannot be opened").with_remedy("name a file: -o report.html")
        );
    }
    if is_stdout {
        app.out.needs_text("report -o -")?;
    }
    if compare::MAX_RUNS < args.folders.len() {
        let (n, most) = (args.folders.len(), compare::MAX_RUNS);
        return Err(Failure::usage(format!("{n} runs are too many for a page"))
            .with_remedy(format!("name at most {most}")));
    }
    let page = match &args.folders[..] {
        [folder] => {
            let run = read::read(folder)?;
            tell_gaps(&run, app);
            page_of(&run)
        }
        folders => {
            let runs = folders.iter().map(|folder| read::read(folder)).collect::<Result<Vec<_>, _>>()?;
            runs.iter().for_each(|run| tell_gaps(run, app));
            fitting(|n| compare::page(&runs, n))
        }
    };
    if is_stdout {
        return app.out.bytes(page.as_bytes());
    }
    let path = args.output.unwrap_or_else(|| match &args.folders[..] {
        [folder] => folder.join("report.html"),
        _ => "comparison.html".into(),
    });
    check_replaced(&path)?;
    replace(&path, page.as_bytes())?;
    let shown = path.display().to_string();
    app.out.value(&json!({ "path": shown, "bytes": page.len() }), || shown.clone())?;
    if args.open {
        open(&path)?;
    }
    Ok(())
}

/// Writes `report.html` of the run in `folder` into this folder, in one step. Returns the path of the file.
///
/// # Errors
/// A folder without files of a run; a file that cannot be written.
pub(crate) fn write(folder: &Path) -> Result<PathBuf, Failure> {
    let path = folder.join("report.html");
    replace(&path, page_of(&read::read(folder)?).as_bytes())?;
    Ok(path)
}

fn page_of(run: &Run) -> String {
    fitting(|n| page::of_run(run, n))
}

/// Says on stderr which parts of the files could not be read, as the page does.
fn tell_gaps(run: &Run, app: &App) {
    for gap in &run.gaps {
        app.note(&format!("warning: {}", run.folder.join(gap).display()));
    }
}

/// The most detailed page that is small enough.
fn fitting(page: impl Fn(usize) -> String) -> String {
    let mut last = String::new();
    for n in POINTS {
        last = page(n);
        if last.len() <= MAX_BYTES {
            break;
        }
    }
    last
}

/// Refuses to replace a file that is no page: most likely its name is a mistake.
fn check_replaced(path: &Path) -> Result<(), Failure> {
    let mut start = [0; HTML.len()];
    let is_other = path.is_file()
        && std::fs::metadata(path).is_ok_and(|it| 0 < it.len())
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut start))
            .map_or(true, |()| !start.eq_ignore_ascii_case(HTML));
    if is_other {
        return Err(Failure::usage(format!("{} exists, and is not a page of HTML", path.display()))
            .with_remedy("another file for -o, or remove that one"));
    }
    Ok(())
}

/// Replaces a file in one step, so that a reader never finds the half of it. A link stays, and what is not a file, such as a
/// pipe, is written to.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::text(format!("cannot write {}: {error}", path.display()));
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if std::fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir()) {
        let opened = File::options().write(true).open(path);
        return opened.and_then(|mut it| it.write_all(bytes)).map_err(cannot);
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|error: std::io::Error| {
        // A draft that cannot be removed only takes room.
        let _ = std::fs::remove_file(&draft);
        cannot(error)
    })
}

/// Opens a file with the program that the desktop has for it.
fn open(path: &Path) -> Result<(), Failure> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    let mut command = Command::new(program);
    command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let remedy = format!("open {}", path.display());
    let cannot = |error: std::io::Error| Failure::text(format!("cannot start {program}: {error}"));
    let mut child = command.spawn().map_err(|error| cannot(error).with_remedy(&remedy))?;
    // The program may stay as long as the browser; one that finds no browser ends soon.
    let (ended, end) = mpsc::channel();
    let wait = move || drop(ended.send(child.wait()));
    thread::Builder::new().name("tinkex-open".into()).spawn(wait).map_err(cannot)?;
    match end.recv_timeout(OPENING) {
        // Explorer tells 1 for success.
        Ok(Ok(status)) if !status.success() && !cfg!(windows) => {
            Err(Failure::text(format!("{program} cannot open the page ({status})")).with_remedy(remedy))
        }
        _ => Ok(()),
    }
}
