//! `tinkex checkpoint list`.

use std::cmp::Reverse;
use std::collections::HashSet;

use tinkex::types::{Checkpoint, CheckpointType, TrainingRun};
use tinkex::{ErrorKind, RestClient, report_json};

use super::selection::Kind;
use crate::cells::{Cells, yes_or_no};
use crate::connection::App;
use crate::failure::Failure;
use crate::output::Records;
use crate::table::Column;

/// Entries of a page; the server sends fewer if it wants to.
const PAGE: u32 = 1000;
const RUNS_PAGE: u32 = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the checkpoints of this training run
    #[arg(long, value_name = "ID")]
    run_id: Option<String>,
    /// Most checkpoints to list; 0 lists all [default: 20, with --run-id all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only checkpoints of this kind
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<Kind>,
    /// Order: newest first, or largest first [default: as the server sends them]
    #[arg(long, value_name = "KEY")]
    sort: Option<Sort>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Sort {
    Time,
    Size,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let limit = args.limit.unwrap_or(if args.run_id.is_some() { 0 } else { 20 });
    let limit = if limit == 0 { usize::MAX } else { limit };
    let is_wanted = |it: &Checkpoint| args.kind.is_none_or(|kind| kind.is_of(it));
    let (mut checkpoints, total) = match &args.run_id {
        Some(id) => {
            let checkpoints = rest.list_checkpoints(id)?;
            let total = checkpoints.len();
            (checkpoints.into_iter().filter(is_wanted).collect(), total)
        }
        None => {
            let runs = runs_of_project(&rest, app)?;
            let is_wanted = |it: &Checkpoint| is_wanted(it) && is_of(it, runs.as_ref());
            // A sorted list needs all checkpoints, and so may a filtered one.
            let needs_all = args.sort.is_some() || args.kind.is_some() || runs.is_some();
            let page = if needs_all { PAGE } else { u32::try_from(limit).map_or(PAGE, |it| it.min(PAGE)) };
            let mut listing = rest.list_user_checkpoints().page_size(page);
            let n = if args.sort.is_some() { usize::MAX } else { limit };
            let wanted = listing.by_ref().filter(|it| it.as_ref().map_or(true, is_wanted)).take(n);
            let checkpoints = match wanted.collect::<tinkex::Result<Vec<_>>>() {
                Err(error) if *error.kind() == ErrorKind::Incompatible => {
                    over_runs(&rest)?.into_iter().filter(is_wanted).collect()
                }
                result => result?,
            };
            let total = listing.total_count().and_then(|it| usize::try_from(it).ok());
            (checkpoints, total.unwrap_or_default())
        }
    };
    match args.sort {
        Some(Sort::Time) => {
            checkpoints.sort_by_key(|it| Reverse(it.time.as_ref().and_then(|it| it.to_system_time())))
        }
        Some(Sort::Size) => checkpoints.sort_by_key(|it| Reverse(it.size_bytes)),
        None => {}
    }
    checkpoints.truncate(limit);
    write(&checkpoints, args.run_id.as_deref(), app)?;
    if checkpoints.len() < total && args.kind.is_none() && app.global.project.is_none() {
        app.note(&format!("note: {} of {total} checkpoints; --limit 0 lists all", checkpoints.len()));
    }
    Ok(())
}

/// Writes a list of checkpoints; `run_id` is that of the run that was asked for.
pub(crate) fn write(checkpoints: &[Checkpoint], run_id: Option<&str>, app: &App) -> Result<(), Failure> {
    const COLUMNS: [Column; 7] = [
        Column::spare("Checkpoint ID"),
        Column::new("Type"),
        Column::new("Size"),
        Column::new("Public"),
        Column::new("Created"),
        Column::new("Expires"),
        Column::never_cut("Path"),
    ];
    let cells = Cells::of(app);
    let row = |it: &Checkpoint| {
        vec![
            it.checkpoint_id.clone(),
            cells.text(it.checkpoint_type.as_ref().map(CheckpointType::as_str)),
            cells.size(it.size_bytes),
            yes_or_no(it.public),
            cells.time(it.time.as_ref()),
            cells.expiry(it.expires_at.as_ref()),
            it.tinker_path.clone(),
        ]
    };
    let rows = checkpoints.iter().map(row).collect();
    let json = report_json::checkpoints(run_id, checkpoints);
    app.out.records(&Records { columns: &COLUMNS, rows, json, list: "checkpoints" })
}

/// All checkpoints of a run, or of all runs of the user in the project of `--project`, or in any.
pub(super) fn all(rest: &RestClient, run_id: Option<&str>, app: &App) -> Result<Vec<Checkpoint>, Failure> {
    if let Some(id) = run_id {
        return Ok(rest.list_checkpoints(id)?);
    }
    let runs = runs_of_project(rest, app)?;
    let mut all: Vec<Checkpoint> = match rest.list_user_checkpoints().page_size(PAGE).collect() {
        Err(error) if *error.kind() == ErrorKind::Incompatible => over_runs(rest)?,
        result => result?,
    };
    all.retain(|it| is_of(it, runs.as_ref()));
    Ok(all)
}

/// The checkpoints of one run after the other, for servers that cannot list them all at once.
fn over_runs(rest: &RestClient) -> tinkex::Result<Vec<Checkpoint>> {
    let runs: Vec<TrainingRun> =
        rest.list_training_runs().page_size(RUNS_PAGE).collect::<tinkex::Result<_>>()?;
    let lists = runs.iter().map(|run| rest.list_checkpoints(&run.training_run_id));
    Ok(lists.collect::<tinkex::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Ids of the runs in the project of `--project`: checkpoints do not tell their project.
fn runs_of_project(rest: &RestClient, app: &App) -> Result<Option<HashSet<String>>, Failure> {
    let Some(project) = &app.global.project else { return Ok(None) };
    let runs = rest.list_training_runs().project_id(project).page_size(RUNS_PAGE);
    Ok(Some(runs.map(|run| Ok(run?.training_run_id)).collect::<tinkex::Result<_>>()?))
}

fn is_of(checkpoint: &Checkpoint, runs: Option<&HashSet<String>>) -> bool {
    runs.is_none_or(|runs| checkpoint.path().is_ok_and(|path| runs.contains(path.run_id())))
}
