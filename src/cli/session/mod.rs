//! `tinkex session`.

mod search;
mod trace;

use std::collections::BTreeMap;

use serde_json::json;
use tinkex::report_json;
use tinkex::types::SessionSearch;

use super::args::Format;
use super::cells::Cells;
use super::connection::App;
use super::failure::Failure;
use super::limit::{self, Limit};
use super::output::Records;
use super::project;
use super::table::Column;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List sessions, with what the search of the server tells about them
    List(List),
    /// Show the training runs and the samplers of a session
    Info(Info),
    /// Search sessions by name, metadata, status or owner
    Search(self::search::Args),
    /// Move a session with its training runs to a project
    Assign(Assign),
    /// Export the events of a session as a Perfetto trace
    ExportTrace(self::trace::Args),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, clap::Args)]
struct Info {
    /// Id of the session
    #[arg(value_name = "SESSION_ID")]
    session: String,
}

#[derive(Debug, clap::Args)]
struct Assign {
    /// Id of the session
    #[arg(value_name = "SESSION_ID")]
    session: String,
    /// Id of the project
    #[arg(value_name = "PROJECT_ID")]
    project: String,
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::List(args) => list(&args, app),
        Command::Info(args) => info(&args, app),
        Command::Search(args) => search::run(&args, app),
        Command::Assign(args) => assign(&args, app),
        Command::ExportTrace(args) => trace::run(&args, app),
    }
}

fn list(args: &List, app: &App) -> Result<(), Failure> {
    const PAGE: u32 = 100;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let limit = args.limit.of(app.out.format());
    let page = limit::page_size(limit, PAGE);
    let mut listing = rest.list_sessions().page_size(page);
    let (ids, found, has_more) = match &app.global.project {
        None => {
            let (ids, has_more) = limit::first(listing.by_ref(), limit)?;
            // JSON has the ids alone, as other programs expect it.
            let found = if app.out.is_json() { BTreeMap::new() } else { search::known(&ids, &rest, app) };
            (ids, found, has_more)
        }
        Some(project) => {
            let project_ids = vec![project.clone()];
            let search = SessionSearch { project_ids, limit: page, ..Default::default() };
            let (found, has_more) = limit::first(rest.search_sessions(search), limit)?;
            let ids = found.iter().map(|it| it.session_id.clone()).collect();
            (ids, found.into_iter().map(|it| (it.session_id.clone(), it)).collect(), has_more)
        }
    };
    let cells = Cells::of(app);
    let row = |id: &String| {
        [id.clone()].into_iter().chain(search::details(found.get(id), cells)).collect::<Vec<String>>()
    };
    let rows = ids.iter().map(row).collect();
    let json = report_json::sessions(&ids);
    let [name, status, created, checkpoints] = search::DETAILS;
    let columns = [Column::never_cut("Session ID"), name, status, created, checkpoints];
    // A person does not read columns of which nothing is known.
    let n = if found.is_empty() && app.out.format() == Format::Table { 1 } else { columns.len() };
    app.out.records(&Records { columns: &columns[..n], rows, json, list: "sessions" })?;
    project::note_if_empty(ids.is_empty(), "session", &rest, app);
    if has_more {
        app.note(&limit::note(ids.len(), listing.total_count(), "sessions"));
    }
    Ok(())
}

fn info(args: &Info, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let session = connection.service.create_rest_client().get_session(&args.session)?;
    let mut json = report_json::session(&session);
    json["session_id"] = args.session.as_str().into();
    let mut rows = vec![("Session ID", args.session.clone())];
    rows.extend(session.display_name.iter().map(|it| ("Name", it.clone())));
    rows.extend(session.training_run_ids.iter().map(|it| ("Training Run", it.clone())));
    rows.extend(session.sampler_ids.iter().map(|it| ("Sampler", it.clone())));
    rows.extend(session.user_metadata.iter().map(|(name, value)| (name.as_str(), value.clone())));
    app.out.properties(rows, json)
}

fn assign(args: &Assign, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    connection.service.create_rest_client().assign_session_project(&args.session, &args.project)?;
    let json = json!({ "session_id": args.session, "project_id": args.project });
    app.out.done(&json, format!("{} is in the project {}", args.session, args.project))
}
