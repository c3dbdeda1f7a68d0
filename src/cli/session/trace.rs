//! `tinkex session export-trace`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tinkex::report_json;

use crate::connection::App;
use crate::failure::Failure;
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
    let url = connection.service.create_rest_client().export_session_trace(&args.session)?;
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

/// Default file of a trace. An id with a slash must not lead out of this folder.
fn file_of(session: &str) -> PathBuf {
    let name: String = session.chars().map(|it| if matches!(it, '/' | '\\') { '_' } else { it }).collect();
    PathBuf::from(format!("{name}.pftrace"))
}
