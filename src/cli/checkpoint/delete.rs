//! `tinkex checkpoint delete`.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use tinkex::report_json;
use tinkex::types::{Checkpoint, CheckpointPath, CheckpointPlan};

use super::changes::Changed;
use super::choice::{Change, Choice};
use super::selection::{monthly_usd, total_size};
use super::{changes, choice};
use crate::cells::usd;
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;
use crate::moments::size;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// Also delete public checkpoints, which stay unless their paths are given
    #[arg(long)]
    include_public: bool,
    /// Number of deletions at a time
    #[arg(long, value_name = "N", default_value = "4")]
    concurrency: NonZeroUsize,
    /// Show what would be deleted, its size and its price, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let change = Change {
        verb: "delete",
        done: "deleted",
        action: "delete {}",
        is_dry_run: args.dry_run,
        asks_always: true,
        with_public: args.include_public,
        is_meant: |_| true,
    };
    let chosen = args.choice.find(&change, app)?;
    let (app, plan, n_public) = (&chosen.app, &chosen.plan, chosen.n_public);
    if 0 < n_public {
        app.note(&format!("note: {} left out; --include-public deletes public ones, too", public(n_public)));
    }
    if args.dry_run {
        let price = price(&plan.delete, app);
        let mut json = report_json::checkpoint_plan(plan);
        json["estimated_monthly_cost_usd"] = price.into();
        return args.choice.show(&chosen, &change, &summary(&plan.delete, price), json);
    }
    let paths = plan.paths_to_delete();
    args.choice.confirm(&chosen, &change, |all| summary(all, price(all, app)))?;
    let rest = chosen.connection.service.create_rest_client();
    let results = changes::each(&paths, args.concurrency.get(), app, |path| {
        rest.delete_checkpoint_from_tinker_path(path)
    });
    let (results, missing) = changes::without_missing(results, args.choice.ignore_missing);
    // With one path, the failure is that of the command.
    let results = args.choice.of_only(results, app)?;
    let missing: Vec<&str> = missing.iter().map(CheckpointPath::as_str).collect();
    let n_deleted = results.len() - changes::report(&results, paths.len(), app);
    let mut json = changes::json(&results);
    args.choice.complete(&mut json, n_public, &missing);
    let deleted = format!("Deleted {}", counted(n_deleted as u64, "checkpoint"));
    let deleted_size = deleted_size(plan, &results);
    json["deleted_size_bytes"] = deleted_size.into();
    let done = match deleted_size {
        _ if paths.is_empty() => format!("{deleted}: none matches"),
        Some(bytes) if 0 < n_deleted => format!("{deleted}, {}", size(bytes)),
        _ => deleted,
    };
    app.out.done(&json, done)?;
    changes::end(&results, missing.len(), paths.len(), change.done, app)
}

fn summary(checkpoints: &[Checkpoint], price: Option<f64>) -> String {
    let price = match price {
        None => "price unknown".to_owned(),
        Some(0.0) => "free".to_owned(),
        Some(price) => format!("{} a month", usd(price)),
    };
    format!("{}, {price}", choice::summary(checkpoints))
}

/// Size of what was deleted, if it is known.
fn deleted_size(plan: &CheckpointPlan, results: &[Changed]) -> Option<u64> {
    let deleted: HashSet<&str> =
        results.iter().filter(|it| it.result.is_ok()).map(|it| it.path.as_str()).collect();
    let deleted = plan.delete.iter().filter(|it| deleted.contains(it.tinker_path.as_str()));
    deleted.map(|it| it.size_bytes).sum()
}

/// What the checkpoints cost in a month, in USD. Those of the engine cost nothing.
fn price(checkpoints: &[Checkpoint], app: &App) -> Option<f64> {
    if app.global.local.is_some() {
        return Some(0.0);
    }
    if checkpoints.is_empty() {
        return None;
    }
    // The end of the connection closes its clients.
    let connection = app.connect_briefly().ok()?;
    let admin = connection.service.create_admin_client();
    monthly_usd(total_size(checkpoints), &admin.get_current_checkpoint_storage_usage(None).ok()?)
}

fn public(n: usize) -> String {
    if n == 1 { "1 public checkpoint is".to_owned() } else { format!("{n} public checkpoints are") }
}
