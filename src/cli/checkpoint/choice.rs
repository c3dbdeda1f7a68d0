//! The checkpoints that a command deletes or changes: chosen by their paths, or as a list chooses them.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;
use tinkex::RestClient;
use tinkex::types::{Checkpoint, CheckpointPath, CheckpointPlan};

use super::changes::{Changed, json_of_failure};
use super::selection::{Selection, total_size};
use super::{list, parse_path, problem};
use crate::args::Format;
use crate::connection::{App, Connection};
use crate::counted::counted;
use crate::failure::Failure;
use crate::moments::size;
use crate::{notes, project};

/// Paths that a question shows.
const SHOWN: usize = 10;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Choice {
    /// Paths of the checkpoints
    #[arg(value_name = "PATH", value_parser = parse_path)]
    #[arg(conflicts_with_all = ["run_id", "kind", "before", "after", "older_than", "keep_last"])]
    paths: Vec<CheckpointPath>,
    #[command(flatten)]
    selection: Selection,
    /// Do not fail because of checkpoints that do not exist, such as those that are deleted already
    #[arg(long)]
    pub(super) ignore_missing: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// The change that a command makes, in words and in rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    /// As in "whether to delete".
    pub(super) verb: &'a str,
    /// As in "what would be deleted".
    pub(super) done: &'a str,
    /// As in "would delete 2 checkpoints"; `{}` stands for the checkpoints.
    pub(super) action: &'a str,
    pub(super) is_dry_run: bool,
    /// Also paths that are named are asked about.
    pub(super) asks_always: bool,
    /// Public checkpoints are not left out.
    pub(super) with_public: bool,
    /// True if a checkpoint that is chosen by filters is one to change.
    pub(super) is_meant: fn(&Checkpoint) -> bool,
}

/// The checkpoints that are chosen, with the server that has them.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) app: App,
    pub(super) connection: Connection,
    /// Those to change are the ones to delete of the plan.
    pub(super) plan: CheckpointPlan,
    /// Number of public checkpoints that stay as they are.
    pub(super) n_public: usize,
    /// Paths that were named and are known not to exist.
    missing: HashSet<String>,
    of_runs: bool,
}

impl Choice {
    /// The only path, if one is named.
    pub(super) fn only(&self) -> Option<&CheckpointPath> {
        self.paths.first().filter(|_| self.paths.len() == 1)
    }

    /// Finds the checkpoints. Refuses to go on if that needs a question which nobody can answer.
    pub(super) fn find(&self, change: &Change<'_>, app: &App) -> Result<Chosen, Failure> {
        let filter = self.selection.filter()?;
        if self.paths.is_empty() && self.selection.run_id.is_none() && filter.is_empty() {
            return Err(Failure::usage("no checkpoint is chosen")
                .with_remedy("paths, --run-id, or filters such as --older-than 30d"));
        }
        if let Some(path) = self.selection.of_checkpoint() {
            let (verb, run) = (change.verb, path.run_id());
            let problem = format!("--run-id {path} is one checkpoint; --run-id means all of its run");
            return Err(Failure::usage(problem).with_remedy(format!(
                "to {verb} it alone, the path without --run-id; for all, --run-id {run}"
            )));
        }
        if self.must_ask(change) && !app.can_ask() {
            let (verb, done) = (change.verb, change.done);
            return Err(Failure::usage(format!("cannot ask whether to {verb} without a terminal"))
                .with_remedy(format!("add --yes, or --dry-run to see what would be {done}")));
        }
        let (runs, app) = self.selection.runs(app)?;
        // A server that is gone in the middle of many changes would keep each one for minutes.
        let connection =
            app.connect_with(|builder| builder.timeouts(|it| it.submit = it.submit.min(it.first_contact)))?;
        let rest = connection.service.create_rest_client();
        let mut missing = HashSet::new();
        let (plan, n_public) = if self.paths.is_empty() {
            let all = match list::all(&rest, runs.as_ref(), &app) {
                Err(Failure::Api { error, .. }) if self.ignore_missing && error.is_not_found() => {
                    app.note(&format!("note: {}", error.message()));
                    Vec::new()
                }
                all => all?,
            };
            // The newest ones are those of all, also of those that are as they shall be.
            let (mut plan, n_public) = filter.divide(all, change.with_public);
            let (meant, others) = plan.delete.into_iter().partition(change.is_meant);
            plan.delete = meant;
            plan.keep.extend::<Vec<Checkpoint>>(others);
            (plan, n_public)
        } else {
            self.check_project(&rest, &app)?;
            let (plan, lacking) = self.of_paths(&rest, change);
            missing = lacking;
            (plan, 0)
        };
        Ok(Chosen { app, connection, plan, n_public, missing, of_runs: runs.is_some() })
    }

    /// Refuses paths that are in another project than the one that is asked for. The one of the environment limits only what
    /// is not named.
    fn check_project(&self, rest: &RestClient, app: &App) -> Result<(), Failure> {
        if app.is_project_of_environment {
            return Ok(());
        }
        let Some(runs) = list::runs_of_project(rest, app)? else { return Ok(()) };
        let is_gone = |path: &CheckpointPath| {
            self.ignore_missing && rest.get_training_run(path.run_id()).is_err_and(|it| it.is_not_found())
        };
        let others: Vec<&CheckpointPath> =
            self.paths.iter().filter(|path| !runs.contains(path.run_id()) && !is_gone(path)).collect();
        let Some(first) = others.first() else { return Ok(()) };
        let project = app.global.project.as_deref().unwrap_or_default();
        let more = match others.len() - 1 {
            0 => String::new(),
            n => format!(", nor {} more", counted(n as u64, "path")),
        };
        Err(Failure::usage(format!("{first} is not in the project {project}{more}"))
            .with_remedy("leave --project out: paths name checkpoints of any project"))
    }

    fn must_ask(&self, change: &Change<'_>) -> bool {
        !self.yes && !change.is_dry_run && (change.asks_always || self.paths.is_empty())
    }

    /// Asks whether to change the checkpoints if that is necessary. `summary` describes them.
    pub(super) fn confirm(
        &self,
        chosen: &Chosen,
        change: &Change<'_>,
        summary: impl FnOnce(&[Checkpoint]) -> String,
    ) -> Result<(), Failure> {
        let all = &chosen.plan.delete;
        if all.is_empty() {
            let rest = chosen.connection.service.create_rest_client();
            let may_be_of_project = self.paths.is_empty() && !chosen.of_runs;
            project::note_if_empty(may_be_of_project, "such checkpoint", &rest, &chosen.app);
            return Ok(());
        }
        if !self.must_ask(change) {
            return Ok(());
        }
        // The change says what does not exist, and there may be nothing to ask about.
        let is_there = |it: &&Checkpoint| !chosen.missing.contains(&it.tinker_path);
        let all: Vec<Checkpoint> = all.iter().filter(is_there).cloned().collect();
        if all.is_empty() {
            return Ok(());
        }
        let line = |it: &Checkpoint| it.tinker_path.clone() + if it.public { " (public)" } else { "" };
        let mut lines: Vec<String> = all.iter().take(SHOWN).map(line).collect();
        if SHOWN < all.len() {
            lines.push(format!("... and {} more", all.len() - SHOWN));
        }
        lines.push(summary(&all));
        match chosen.missing.len() {
            0 => {}
            1 => lines.push("1 path does not exist".into()),
            n => lines.push(format!("{n} paths do not exist")),
        }
        notes::write(&lines.join("\n"));
        let question = change.action.replace("{}", &counted(all.len() as u64, "checkpoint"));
        let first = question.chars().next().map(|it| it.to_uppercase().to_string()).unwrap_or_default();
        let question = first + question.get(1..).unwrap_or_default();
        if chosen.app.confirm(&format!("{question}?"), false)? {
            return Ok(());
        }
        chosen.app.note(&format!("nothing was {}", change.done));
        Err(Failure::Negative)
    }

    /// The checkpoints that are named, and the paths of those that are known not to exist.
    fn of_paths(&self, rest: &RestClient, change: &Change<'_>) -> (CheckpointPlan, HashSet<String>) {
        // What is known is only needed for showing it.
        let is_shown = change.is_dry_run || self.must_ask(change);
        let known = if is_shown { known(rest, &self.paths) } else { Known::default() };
        let mut seen = BTreeSet::new();
        let missing = self.paths.iter().filter(|path| known.lacks(path)).map(ToString::to_string).collect();
        let paths = self.paths.iter().filter(|path| seen.insert(*path));
        // A change says itself what does not exist.
        let paths = paths.filter(|path| !change.is_dry_run || !known.lacks(path));
        let mut plan = CheckpointPlan::default();
        let all: Vec<Checkpoint> = paths
            .map(|path| known.checkpoints.get(path.as_str()).cloned().unwrap_or_else(|| unknown(path)))
            .collect();
        // A dry run tells those that are as they shall be already from the others.
        let is_to_change = |it: &Checkpoint| {
            !change.is_dry_run || !known.checkpoints.contains_key(&it.tinker_path) || (change.is_meant)(it)
        };
        (plan.delete, plan.keep) = all.into_iter().partition(is_to_change);
        (plan, missing)
    }

    /// Number of checkpoints that are named and are as they shall be, as far as a dry run knows.
    pub(super) fn n_already(&self, chosen: &Chosen) -> usize {
        if self.paths.is_empty() { 0 } else { chosen.plan.keep.len() }
    }

    /// The paths that were named and are not in the plan of a dry run: they do not exist.
    fn missing(&self, chosen: &Chosen) -> Vec<&str> {
        let planned = chosen.plan.delete.iter().chain(&chosen.plan.keep);
        let planned: HashSet<&str> = planned.map(|it| it.tinker_path.as_str()).collect();
        let asked: BTreeSet<&str> = self.paths.iter().map(CheckpointPath::as_str).collect();
        asked.into_iter().filter(|path| !planned.contains(path)).collect()
    }

    /// Shows what a dry run would change: as a table, or as this JSON with what the options leave out. `summary` describes the
    /// checkpoints.
    pub(super) fn show(
        &self,
        chosen: &Chosen,
        change: &Change<'_>,
        summary: &str,
        mut json: Value,
    ) -> Result<(), Failure> {
        if chosen.app.out.format() == Format::Json {
            if !self.ignore_missing && !self.paths.is_empty() {
                let missing = self.missing(chosen).into_iter();
                json["failed"] = missing.filter_map(|path| json_of_failure(path, &lacks(path))).collect();
            }
            self.complete(&mut json, chosen.n_public, &self.missing(chosen));
            chosen.app.out.value(&json, String::new)?;
        } else {
            list::write(&chosen.plan.delete, None, &chosen.app)?;
        }
        self.end_dry_run(chosen, change, summary)
    }

    /// Adds what the options leave out to the result.
    pub(super) fn complete(&self, json: &mut Value, n_public: usize, missing: &[&str]) {
        if self.paths.is_empty() {
            json["skipped_public_count"] = n_public.into();
        }
        if self.ignore_missing {
            json["missing"] = missing.into();
        }
    }

    /// The results, unless the only path that is named has failed: then the failure is that of the command. A program gets
    /// the same result for one path as for several.
    pub(super) fn of_only(&self, results: Vec<Changed>, app: &App) -> Result<Vec<Changed>, Failure> {
        if app.out.is_json() || app.stop.is_asked() {
            return Ok(results);
        }
        match <[Changed; 1]>::try_from(results) {
            Ok([Changed { result: Err(error), .. }]) if self.paths.len() == 1 => Err(error.into()),
            Ok(one) => Ok(one.into()),
            Err(all) => Ok(all),
        }
    }

    /// The end of a dry run: says what would be done, and what does not exist. `summary` describes the checkpoints.
    fn end_dry_run(&self, chosen: &Chosen, change: &Change<'_>, summary: &str) -> Result<(), Failure> {
        let app = &chosen.app;
        let missing = self.missing(chosen);
        if !chosen.plan.delete.is_empty() {
            app.note(&format!("would {}", change.action.replace("{}", summary)));
        } else if missing.is_empty() && self.n_already(chosen) == 0 {
            app.note(&format!("nothing would be {}: no checkpoint matches", change.done));
        }
        match self.n_already(chosen) {
            0 => {}
            1 => app.note(&format!("note: 1 checkpoint is {} already", change.done)),
            n => app.note(&format!("note: {n} checkpoints are {} already", change.done)),
        }
        if missing.is_empty() {
            return Ok(());
        }
        let n_asked = missing.len() + chosen.plan.delete.len() + chosen.plan.keep.len();
        if self.ignore_missing {
            let all = counted(n_asked as u64, "checkpoint");
            let verb = if missing.len() == 1 { "does" } else { "do" };
            app.note(&format!("note: {} of {all} {verb} not exist", missing.len()));
            return Ok(());
        }
        for path in &missing {
            lacks(path).report_item(path, n_asked == 1, app.out.is_json());
        }
        problem::of_all(missing.len(), n_asked, true)
    }
}

/// The failure about a path that lists lack.
fn lacks(path: &str) -> Failure {
    Failure::missing(format!("{path} does not exist"))
        .with_remedy("`tinkex checkpoint list` shows the checkpoints that are there")
}

/// The number of checkpoints and their size, in words.
pub(super) fn summary(checkpoints: &[Checkpoint]) -> String {
    let n_public = checkpoints.iter().filter(|it| it.public).count();
    let n_unknown = checkpoints.iter().filter(|it| it.size_bytes.is_none()).count();
    let mut parts = vec![counted(checkpoints.len() as u64, "checkpoint"), size(total_size(checkpoints))];
    if 0 < n_unknown {
        parts.push(format!("{n_unknown} of unknown size"));
    }
    if 0 < n_public {
        parts.push(format!("{n_public} public"));
    }
    parts.join(", ")
}

/// The checkpoints of some paths, as far as the server tells them.
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

/// Checkpoints of the runs of some paths. Runs that cannot be read are left out: their checkpoints can still be changed.
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
