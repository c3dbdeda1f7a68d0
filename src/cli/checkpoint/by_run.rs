//! What the checkpoints of each run take: `tinkex checkpoint list --by-run`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tinkex::RestClient;
use tinkex::types::{Checkpoint, TrainingRun};

use super::selection::total_size;
use crate::cells::Cells;
use crate::connection::App;
use crate::failure::Failure;
use crate::output::Records;
use crate::run::name;
use crate::table::Column;

/// The checkpoints of one run.
pub(super) struct OfRun {
    run_id: String,
    n: usize,
    n_unknown: usize,
    /// Sum of the sizes that are known.
    size_bytes: u64,
}

/// The runs of the checkpoints, the one that takes most first. Checkpoints whose path is not known belong to none.
pub(super) fn divided(checkpoints: Vec<Checkpoint>) -> Vec<OfRun> {
    let mut runs: BTreeMap<String, Vec<Checkpoint>> = BTreeMap::new();
    for checkpoint in checkpoints {
        if let Ok(path) = checkpoint.path() {
            runs.entry(path.run_id().to_owned()).or_default().push(checkpoint);
        }
    }
    let of_run = |(run_id, all): (String, Vec<Checkpoint>)| {
        let n_unknown = all.iter().filter(|it| it.size_bytes.is_none()).count();
        OfRun { run_id, n: all.len(), n_unknown, size_bytes: total_size(&all) }
    };
    let mut runs: Vec<OfRun> = runs.into_iter().map(of_run).collect();
    runs.sort_by_key(|it| Reverse(it.size_bytes));
    runs
}

/// The server's entries of these runs, by their ids. It lists runs by their last use, so that a look at the whole list
/// is rarely needed. Those that it does not list, as those of other users, are left out.
pub(super) fn described(runs: &[OfRun], rest: &RestClient, app: &App) -> BTreeMap<String, TrainingRun> {
    const PAGE: u32 = 100;
    let mut wanted: BTreeSet<&str> = runs.iter().map(|it| it.run_id.as_str()).collect();
    let mut known = BTreeMap::new();
    let mut listing = app.rest_briefly(rest).list_training_runs().page_size(PAGE);
    while !wanted.is_empty()
        && let Some(Ok(run)) = listing.next()
    {
        if wanted.remove(run.training_run_id.as_str()) {
            known.insert(run.training_run_id.clone(), run);
        }
    }
    known
}

pub(super) fn write(
    runs: &[OfRun],
    described: &BTreeMap<String, TrainingRun>,
    app: &App,
) -> Result<(), Failure> {
    const COLUMNS: [Column; 6] = [
        Column::never_cut("Run ID"),
        Column::new("Checkpoints"),
        Column::new("Size"),
        Column::new("Name"),
        Column::new("Base Model"),
        Column::new("Last Update"),
    ];
    let cells = Cells::of(app);
    // A sum of which no part is known is not zero.
    let size = |it: &OfRun| (it.n_unknown < it.n).then_some(it.size_bytes);
    let row = |it: &OfRun| {
        let run = described.get(&it.run_id);
        vec![
            it.run_id.clone(),
            it.n.to_string(),
            cells.size(size(it)),
            cells.text(run.and_then(name)),
            cells.text(run.and_then(|run| run.base_model.as_deref())),
            cells.time(run.and_then(|run| run.last_request_time.as_ref())),
        ]
    };
    let json = |it: &OfRun| {
        let run = described.get(&it.run_id);
        json!({
            "training_run_id": it.run_id,
            "checkpoint_count": it.n,
            "size_bytes": size(it),
            "unknown_size_count": it.n_unknown,
            "name": run.and_then(name),
            "base_model": run.and_then(|run| run.base_model.as_deref()),
            "last_request_time": run.and_then(|run| run.last_request_time.as_ref()).map(ToString::to_string),
        })
    };
    let json = json!({ "runs": runs.iter().map(json).collect::<Vec<Value>>() });
    app.out.records(&Records { columns: &COLUMNS, rows: runs.iter().map(row).collect(), json, list: "runs" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_run_that_takes_most_is_first() {
        let checkpoint = |run: &str, size: Option<u64>| -> Checkpoint {
            let path = format!("tinker://{run}/weights/x");
            serde_json::from_value(json!({ "tinker_path": path, "size_bytes": size })).unwrap()
        };
        let all = vec![
            checkpoint("a", Some(1)),
            checkpoint("b", Some(5)),
            checkpoint("a", Some(2)),
            checkpoint("a", None),
        ];
        let runs = divided(all);
        let shown: Vec<_> =
            runs.iter().map(|it| (it.run_id.as_str(), it.n, it.n_unknown, it.size_bytes)).collect();
        assert_eq!(shown, [("b", 1, 0, 5), ("a", 3, 1, 3)]);
    }
}
