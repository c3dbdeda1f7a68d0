//! `tinkex checkpoint list`.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::Path;

use tinkex::types::{Checkpoint, CheckpointType, TrainingRun};
use tinkex::{ErrorKind, RestClient, report_json};

use super::by_run;
use super::selection::{Selection, time};
use crate::cells::{Cells, yes_or_no};
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;
use crate::limit::{self, Limit};
use crate::output::Records;
use crate::project;
use crate::run_folder::LOG;
use crate::run_id::Runs;
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
    /// Only public checkpoints, or only private ones
    #[arg(long, value_name = "KIND")]
    visibility: Option<Visibility>,
    /// List the runs, with the number and the size of their checkpoints, largest first
    #[arg(long, conflicts_with = "sort")]
    by_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Visibility {
    Public,
    Private,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Sort {
    Time,
    Size,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let filter = args.selection.filter()?;
    let (runs, app) = &args.selection.runs(app)?;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let of = runs.as_ref();
    let limit = args.limit.of(app.out.format());
    // The first ones of an order or of a selection can be anywhere in the list.
    let needs_all = args.by_run
        || of.is_some()
        || !filter.is_empty()
        || args.sort.is_some()
        || args.visibility.is_some()
        || app.global.project.is_some();
    let (mut checkpoints, total) = if needs_all {
        let mut checkpoints = filter.matching(all(&rest, of, app)?);
        checkpoints
            .retain(|it| args.visibility.is_none_or(|asked| it.public == (asked == Visibility::Public)));
        let total = u64::try_from(checkpoints.len()).ok();
        (checkpoints, total)
    } else {
        newest(&rest, limit)?
    };
    // The run or the filter may be what leaves nothing.
    let is_of_all = of.is_none() && filter.is_empty() && args.visibility.is_none();
    let may_be_of_project = checkpoints.is_empty() && is_of_all;
    project::note_if_empty(may_be_of_project, "checkpoint", &rest, app);
    if args.by_run {
        let mut runs = by_run::divided(checkpoints);
        let n = runs.len();
        runs.truncate(limit);
        by_run::write(&runs, &by_run::described(&runs, &rest, app), app)?;
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
    write(&checkpoints, of, app)?;
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

/// Writes a list of checkpoints; `of` are the runs that were asked for.
pub(crate) fn write(checkpoints: &[Checkpoint], of: Option<&Runs>, app: &App) -> Result<(), Failure> {
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
    let ids = of.map_or(&[][..], |it| &it.ids);
    let mut json =
        report_json::checkpoints(ids.last().filter(|_| ids.len() == 1).map(String::as_str), checkpoints);
    if 1 < ids.len() {
        json["run_ids"] = ids.into();
    }
    app.out.records(&Records { columns: &COLUMNS, rows, json, list: "checkpoints" })
}

/// All checkpoints of some runs, or of all runs of the user, in the project of `--project`, or in any.
pub(crate) fn all(rest: &RestClient, of: Option<&Runs>, app: &App) -> Result<Vec<Checkpoint>, Failure> {
    let runs = runs_of_project(rest, app)?;
    if let Some(of) = of {
        let mut of_runs = of_runs(rest, of, app)?;
        let n = of_runs.len();
        of_runs.retain(|it| is_of(it, runs.as_ref()));
        if of_runs.len() < n
            && let Some(project) = &app.global.project
        {
            let left_out = counted((n - of_runs.len()) as u64, "checkpoint");
            app.note(&format!("note: without {left_out} of a run that is not in the project {project}"));
        }
        return Ok(of_runs);
    }
    let mut all: Vec<Checkpoint> = match rest.list_user_checkpoints().page_size(PAGE).collect() {
        Err(error) if *error.kind() == ErrorKind::Incompatible => over_runs(rest)?,
        result => result?,
    };
    all.retain(|it| is_of(it, runs.as_ref()));
    Ok(all)
}

/// The checkpoints of some runs, the last run first. Of those of a folder, only the ones that it lists: it may be deleted
/// with all that it has saved, and nothing else.
fn of_runs(rest: &RestClient, of: &Runs, app: &App) -> Result<Vec<Checkpoint>, Failure> {
    let mut all = Vec::new();
    let (mut n_found, mut missing) = (0, None);
    for id in of.ids.iter().rev() {
        match rest.list_checkpoints(id) {
            Ok(of_run) => {
                n_found += 1;
                all.extend(of_run);
            }
            // A server may forget a part of a run whose checkpoints have expired.
            Err(error) if error.is_not_found() => missing = missing.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = missing.filter(|_| n_found == 0) {
        return Err(error.into());
    }
    if let Some(folder) = &of.folder {
        let n = all.len();
        all.retain(|it: &Checkpoint| it.path().is_ok_and(|path| folder.own.contains(&path)));
        let n_others = n - all.len();
        if 0 < n_others {
            app.note(&format!(
                "note: without {} that {} does not list: --run-id {} has all of the run",
                counted(n_others as u64, "checkpoint"),
                Path::new(&folder.name).join(LOG).display(),
                of.ids.join(", or --run-id "),
            ));
        }
    }
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
pub(super) fn runs_of_project(rest: &RestClient, app: &App) -> Result<Option<HashSet<String>>, Failure> {
    let Some(project) = &app.global.project else { return Ok(None) };
    let runs = rest.list_training_runs().project_id(project).page_size(RUNS_PAGE);
    Ok(Some(runs.map(|run| Ok(run?.training_run_id)).collect::<tinkex::Result<_>>()?))
}

fn is_of(checkpoint: &Checkpoint, runs: Option<&HashSet<String>>) -> bool {
    runs.is_none_or(|runs| checkpoint.path().is_ok_and(|path| runs.contains(path.run_id())))
}
