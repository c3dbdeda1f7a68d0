//! `tinkex checkpoint delete`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;
use tinkex::types::{Checkpoint, CheckpointPath, CheckpointPlan};
use tinkex::{RestClient, report_json};

use super::deletion::Deleted;
use super::selection::{Filter, Selection, monthly_usd, total_size};
use super::{deletion, list, parse_path, problem};
use crate::cells::usd;
use crate::connection::App;
use crate::failure::Failure;
use crate::moments::size;
use crate::{args, notes, project};

/// Time limit of asking the server for its rate.
const RATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Paths that a question shows.
const SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Paths of the checkpoints
    #[arg(value_name = "PATH", value_parser = parse_path)]
    #[arg(conflicts_with_all = ["run_id", "kind", "before", "after", "older_than", "keep_last"])]
    paths: Vec<CheckpointPath>,
    #[command(flatten)]
    selection: Selection,
    /// Also delete public checkpoints, which stay unless their paths are given
    #[arg(long)]
    include_public: bool,
    /// Do not fail because of checkpoints that do not exist, such as those of an earlier deletion
    #[arg(long)]
    ignore_missing: bool,
    /// Number of deletions at a time
    #[arg(long, value_name = "N", default_value = "4")]
    concurrency: NonZeroUsize,
    /// Show what would be deleted, its size and its price, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let filter = args.selection.filter()?;
    if args.paths.is_empty() && args.selection.run_id.is_none() && filter.is_empty() {
        return Err(Failure::usage("no checkpoint is chosen")
            .with_remedy("paths, --run-id, or filters such as --older-than 30d"));
    }
    if !args.yes && !args.dry_run && !app.can_ask() {
        return Err(Failure::usage("cannot ask whether to delete without a terminal")
            .with_remedy("add --yes, or --dry-run to see what would be deleted"));
    }
    let (run_id, app) = &args.selection.run(app)?;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let (plan, n_public) = args.plan(&rest, &filter, run_id.as_deref(), app)?;
    if 0 < n_public {
        app.note(&format!("note: {} left out; --include-public deletes public ones, too", public(n_public)));
    }
    if args.dry_run {
        return show(plan, n_public, args, app);
    }
    let paths = plan.paths_to_delete();
    if paths.is_empty() {
        app.note("no checkpoint matches");
        project::note_if_empty(args.paths.is_empty() && run_id.is_none(), "such checkpoint", &rest, app);
    } else if !args.yes {
        notes::write(&question_details(&plan, app));
        let n = paths.len();
        if !app.confirm(&format!("Delete {}?", counted(n)), false)? {
            app.note("nothing was deleted");
            return Err(Failure::Negative);
        }
    }
    let n_items = paths.len();
    let results = deletion::delete(&rest, paths, args.concurrency.get(), app);
    let (results, missing) = deletion::without_missing(results, args.ignore_missing);
    let missing: Vec<&str> = missing.iter().map(CheckpointPath::as_str).collect();
    let n_failed = deletion::report(&results, app);
    let n_deleted = results.len() - n_failed;
    let mut json = deletion::json(&results);
    args.complete(&mut json, n_public, &missing);
    let done = match deleted_size(&plan, &results) {
        Some(bytes) if 0 < n_deleted => format!("Deleted {}, {}", counted(n_deleted), size(bytes)),
        _ => format!("Deleted {}", counted(n_deleted)),
    };
    app.out.done(&json, done)?;
    if !missing.is_empty() {
        app.note(&format!("note: {} of {} did not exist", missing.len(), counted(n_items)));
    }
    if let Some(signal) = app.stop.signal() {
        app.note(&format!("stopped: {n_deleted} of {} deleted", counted(n_items)));
        return Err(Failure::Signal(signal));
    }
    problem::of_all(n_failed, n_items, results.iter().filter_map(|(_, result)| result.as_ref().err()))
}

impl Args {
    /// What to keep and to delete, and the number of public checkpoints that stay because of that.
    fn plan(
        &self,
        rest: &RestClient,
        filter: &Filter,
        run_id: Option<&str>,
        app: &App,
    ) -> Result<(CheckpointPlan, usize), Failure> {
        if self.paths.is_empty() {
            return match list::all(rest, run_id, app) {
                Err(Failure::Api { error, .. }) if self.ignore_missing && error.is_not_found() => {
                    Ok(Default::default())
                }
                all => Ok(filter.divide(all?, self.include_public)),
            };
        }
        // The sizes are only needed for showing them.
        let known = if self.yes && !self.dry_run { Known::default() } else { known(rest, &self.paths) };
        let mut seen = BTreeSet::new();
        let paths = self.paths.iter().filter(|path| seen.insert(*path));
        // A deletion says itself what does not exist.
        let paths = paths.filter(|path| !self.dry_run || !known.lacks(path));
        let mut plan = CheckpointPlan::default();
        plan.delete = paths
            .map(|path| known.checkpoints.get(path.as_str()).cloned().unwrap_or_else(|| unknown(path)))
            .collect();
        Ok((plan, 0))
    }

    /// Adds what the options leave out to the result.
    fn complete(&self, json: &mut Value, n_public: usize, missing: &[&str]) {
        if self.paths.is_empty() {
            json["skipped_public_count"] = n_public.into();
        }
        if self.ignore_missing {
            json["missing"] = missing.into();
        }
    }
}

/// What is known about some paths.
#[derive(Debug, Default)]
struct Known {
    /// Checkpoints by path.
    checkpoints: HashMap<String, Checkpoint>,
    /// The runs whose checkpoints are all known.
    runs: HashSet<String>,
}

impl Known {
    /// True if the checkpoint does not exist.
    fn lacks(&self, path: &CheckpointPath) -> bool {
        self.runs.contains(path.run_id()) && !self.checkpoints.contains_key(path.as_str())
    }
}

/// Checkpoints of the runs of some paths. Runs that cannot be read are left out: their checkpoints can still be deleted.
fn known(rest: &RestClient, paths: &[CheckpointPath]) -> Known {
    let mut known = Known::default();
    let runs: BTreeSet<&str> = paths.iter().map(CheckpointPath::run_id).collect();
    for run in runs {
        let list = match rest.list_checkpoints(run) {
            Ok(list) => list,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(_) => continue,
        };
        known.checkpoints.extend(list.into_iter().map(|it| (it.tinker_path.clone(), it)));
        known.runs.insert(run.to_owned());
    }
    known
}

fn unknown(path: &CheckpointPath) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    checkpoint.checkpoint_id = path.checkpoint_id();
    checkpoint.checkpoint_type = Some(path.checkpoint_type());
    checkpoint.tinker_path = path.as_str().to_owned();
    checkpoint
}

/// Shows what would be deleted. Paths that were asked for and are not in the plan do not exist.
fn show(plan: CheckpointPlan, n_public: usize, args: &Args, app: &App) -> Result<(), Failure> {
    let planned: HashSet<&str> = plan.delete.iter().map(|it| it.tinker_path.as_str()).collect();
    let asked: BTreeSet<&str> = args.paths.iter().map(CheckpointPath::as_str).collect();
    let missing: Vec<&str> = asked.iter().copied().filter(|path| !planned.contains(path)).collect();
    let price = price(&plan, app);
    if app.out.format() == args::Format::Json {
        let mut json = report_json::checkpoint_plan(&plan);
        json["estimated_monthly_cost_usd"] = price.into();
        args.complete(&mut json, n_public, &missing);
        app.out.value(&json, String::new)?;
    } else {
        list::write(&plan.delete, None, app)?;
    }
    app.note(&format!("would delete {}", summary(&plan, price)));
    if missing.is_empty() {
        return Ok(());
    }
    if args.ignore_missing {
        app.note(&format!("note: {} of {} do not exist", missing.len(), counted(asked.len())));
        return Ok(());
    }
    for path in &missing {
        Failure::text(format!("{path} does not exist")).report_item(path, app.out.is_json());
    }
    Err(Failure::items(missing.len(), asked.len()).with_remedy(problem::IGNORE_MISSING))
}

fn question_details(plan: &CheckpointPlan, app: &App) -> String {
    let line = |it: &Checkpoint| it.tinker_path.clone() + if it.public { " (public)" } else { "" };
    let mut lines: Vec<String> = plan.delete.iter().take(SHOWN).map(line).collect();
    if SHOWN < plan.delete.len() {
        lines.push(format!("... and {} more", plan.delete.len() - SHOWN));
    }
    lines.push(summary(plan, price(plan, app)));
    lines.join("\n")
}

fn summary(plan: &CheckpointPlan, price: Option<f64>) -> String {
    let n_public = plan.delete.iter().filter(|it| it.public).count();
    let n_unknown = plan.delete.iter().filter(|it| it.size_bytes.is_none()).count();
    let mut parts = vec![counted(plan.delete.len()), size(total_size(&plan.delete))];
    if 0 < n_unknown {
        parts.push(format!("{n_unknown} of unknown size"));
    }
    if 0 < n_public {
        parts.push(format!("{n_public} public"));
    }
    parts.push(match price {
        None => "price unknown".to_owned(),
        Some(0.0) => "free".to_owned(),
        Some(price) => format!("{} a month", usd(price)),
    });
    parts.join(", ")
}

/// Size of what was deleted, if it is known.
fn deleted_size(plan: &CheckpointPlan, results: &[Deleted]) -> Option<u64> {
    let deleted: HashSet<&str> =
        results.iter().filter(|(_, result)| result.is_ok()).map(|(path, _)| path.as_str()).collect();
    let deleted = plan.delete.iter().filter(|it| deleted.contains(it.tinker_path.as_str()));
    deleted.map(|it| it.size_bytes).sum()
}

/// What the checkpoints cost in a month, in USD. Those of the engine cost nothing.
fn price(plan: &CheckpointPlan, app: &App) -> Option<f64> {
    if app.global.local.is_some() {
        return Some(0.0);
    }
    if plan.delete.is_empty() {
        return None;
    }
    // A client of its own: a server whose billing does not answer must not delay the command by its many retries.
    let connection = app.connect_with(|builder| {
        builder.timeouts(|it| (it.submit, it.exchange) = (RATE_TIMEOUT, it.exchange.min(RATE_TIMEOUT)))
    });
    // The end of the connection closes its clients.
    let connection = connection.ok()?;
    let admin = connection.service.create_admin_client();
    monthly_usd(total_size(&plan.delete), &admin.get_current_checkpoint_storage_usage(None).ok()?)
}

pub(super) fn counted(n: usize) -> String {
    if n == 1 { "1 checkpoint".to_owned() } else { format!("{n} checkpoints") }
}

fn public(n: usize) -> String {
    if n == 1 { "1 public checkpoint is".to_owned() } else { format!("{n} public checkpoints are") }
}
