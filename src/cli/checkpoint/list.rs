//! `tinkex checkpoint list`.

use std::cmp::Reverse;
use std::collections::HashSet;

use tinkex::types::{Checkpoint, CheckpointType, TrainingRun};
use tinkex::{ErrorKind, RestClient, report_json};

use super::by_run;
use super::selection::{Selection, time};
use crate::cells::{Cells, yes_or_no};
use crate::connection::App;
use crate::failure::Failure;
use crate::limit::{self, Limit};
use crate::output::Records;
use crate::project;
use crate::table::Column;

/// Entries of a page; the server sends fewer if it wants to.
const PAGE: u32 = 1000;
const RUNS_PAGE: u32 = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    limit: Limit,
    /// Order: newest first, or largest first [default: as the server sends them]
    #[arg(long, value_name = "KEY")]
    sort: Option<Sort>,
    /// List the runs, with the number and the size of their checkpoints, largest first
    #[arg(long, conflicts_with = "sort")]
    by_run: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Sort {
    Time,
    Size,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let filter = args.selection.filter()?;
    let (run_id, app) = &args.selection.run(app)?;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let run_id = run_id.as_deref();
    let limit = args.limit.of(app.out.format());
    // The first ones of an order or of a selection can be anywhere in the list.
    let needs_all = args.by_run
        || run_id.is_some()
        || !filter.is_empty()
        || args.sort.is_some()
        || app.global.project.is_some();
    let (mut checkpoints, total) = if needs_all {
        let checkpoints = filter.matching(all(&rest, run_id, app)?);
        let total = u64::try_from(checkpoints.len()).ok();
        (checkpoints, total)
    } else {
        newest(&rest, limit)?
    };
    // The run or the filter may be what leaves nothing.
    let may_be_of_project = checkpoints.is_empty() && run_id.is_none() && filter.is_empty();
    project::note_if_empty(may_be_of_project, "checkpoint", &rest, app);
    if args.by_run {
        let mut runs = by_run::divided(checkpoints);
        let n = runs.len();
        runs.truncate(limit);
        by_run::write(&runs, app)?;
        if runs.len() < n {
            app.note(&limit::note(runs.len(), u64::try_from(n).ok(), "runs"));
        }
        return Ok(());
    }
    match args.sort {
        Some(Sort::Time) => checkpoints.sort_by_key(|it| Reverse(time(it))),
        Some(Sort::Size) => checkpoints.sort_by_key(|it| Reverse(it.size_bytes)),
        None => {}
    }
    let is_cut = limit < checkpoints.len();
    checkpoints.truncate(limit);
    write(&checkpoints, run_id, app)?;
    if is_cut {
        app.note(&limit::note(checkpoints.len(), total, "checkpoints"));
    }
    Ok(())
}

/// The first checkpoints of the list of the server, one more than the limit if there are more; and the number of all.
fn newest(rest: &RestClient, limit: usize) -> tinkex::Result<(Vec<Checkpoint>, Option<u64>)> {
    let mut listing = rest.list_user_checkpoints().page_size(limit::page_size(limit, PAGE));
    match listing.by_ref().take(limit.saturating_add(1)).collect::<tinkex::Result<Vec<_>>>() {
        Err(error) if *error.kind() == ErrorKind::Incompatible => {
            let all = over_runs(rest)?;
            let total = u64::try_from(all.len()).ok();
            Ok((all, total))
        }
        result => Ok((result?, listing.total_count())),
    }
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
    let runs = runs_of_project(rest, app)?;
    if let Some(id) = run_id {
        let mut of_run = rest.list_checkpoints(id)?;
        of_run.retain(|it| is_of(it, runs.as_ref()));
        return Ok(of_run);
    }
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
