//! `tinkex session export-trace`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tinkex::{Error, report_json};

use crate::connection::App;
use crate::engine::default_folder;
use crate::failure::Failure;
use crate::shell_word::quoted;
use crate::web;

/// Limit of a download unless `--timeout` sets another.
const DOWNLOAD: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the session
    #[arg(value_name = "SESSION_ID")]
    session: String,
    /// File of the trace [default: <SESSION_ID>.pftrace in this folder]
    #[arg(short, long, value_name = "FILE", conflicts_with = "url_only")]
    output: Option<PathBuf>,
    /// Print the download address, which is a secret, and download nothing
    #[arg(long)]
    url_only: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    app.hint("the server writes the trace");
    let exported = connection.service.create_rest_client().export_session_trace(&args.session);
    let url = exported.map_err(|error| explained(error, app))?;
    if args.url_only {
        let json = report_json::trace_export(&args.session, &url);
        return app.out.value(&json, || url.expose().to_owned());
    }
    let file = args.output.clone().unwrap_or_else(|| file_of(&args.session));
    let size = web::save(url.expose(), &file, app.global.timeout.unwrap_or(DOWNLOAD)).map_err(|error| {
        Failure::text(format!("cannot download the trace to {}: {error}", file.display()))
    })?;
    let destination = file.display().to_string();
    let json = json!({ "session_id": args.session, "destination": destination, "file_size_bytes": size });
    app.out.done(&json, destination)
}

/// Says why the engine of a folder has no trace of a session that it knows: traces are kept in its memory alone.
fn explained(error: Error, app: &App) -> Failure {
    let is_gone = error.is_not_found() && error.message().contains("the trace of session");
    let failure = Failure::from(error);
    if !is_gone || app.global.local.is_none() {
        return failure;
    }
    let folder = app.global.local.clone().flatten().map_or_else(default_folder, Ok);
    let folder = folder.map_or_else(|_| "DIR".to_owned(), |dir| quoted(&dir.display().to_string()));
    failure.with_remedy(format!(
        "the engine keeps traces until it ends: start `tinkex serve --data-dir {folder}`, repeat the work of the session, and export its \
         trace while the engine runs"
    ))
}

/// Default file of a trace. An id with a slash must not lead out of this folder.
fn file_of(session: &str) -> PathBuf {
    let name: String = session.chars().map(|it| if matches!(it, '/' | '\\') { '_' } else { it }).collect();
    PathBuf::from(format!("{name}.pftrace"))
}
