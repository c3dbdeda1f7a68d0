//! `tinkex run`.

use std::collections::HashMap;
use std::time::SystemTime;

use tinkex::types::{CheckpointPath, TrainingRun};
use tinkex::{Error, RestClient};

use super::cells::Cells;
use super::checkpoint::{list, missing};
use super::connection::App;
use super::failure::Failure;
use super::limit::{self, Limit};
use super::moments::parse_date;
use super::output::Records;
use super::table::Column;
use super::{project, run_id};

/// Entries of a page.
const PAGE: u32 = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List training runs
    List(List),
    /// Show one training run
    Info(Info),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    limit: Limit,
    /// Columns of the table and of TSV, separated by commas; the name is that of --name or of the folder of `tinkex train`
    #[arg(short, long, value_name = "COLUMNS", value_enum, value_delimiter = ',')]
    #[arg(default_value = "id,model,lora,updated,status,name")]
    columns: Vec<Field>,
    /// Only runs whose base models contain this text
    #[arg(long, value_name = "TEXT")]
    model: Option<String>,
    /// Only runs that were used since a day, a time or a duration such as 7d
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    since: Option<SystemTime>,
}

#[derive(Debug, clap::Args)]
struct Info {
    /// Id of the run, its folder, or a path of it or of a checkpoint of it
    #[arg(value_name = "RUN_ID")]
    run: String,
    /// Also list its checkpoints
    #[arg(long)]
    checkpoints: bool,
}

/// The metadata of a run that names it for people.
pub(crate) const NAME: &str = "name";

/// The name that `tinkex train` or another program has given a run.
pub(crate) fn name(run: &TrainingRun) -> Option<&str> {
    run.user_metadata.get(NAME).map(String::as_str)
}

/// Numbers of checkpoints by the ids of their runs.
type Counts = HashMap<String, usize>;

/// A column of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Field {
    Id,
    Model,
    Owner,
    Lora,
    Updated,
    Status,
    Checkpoint,
    CheckpointTime,
    Name,
    Checkpoints,
}

impl Field {
    fn column(self) -> Column {
        match self {
            Field::Id => Column::never_cut("Run ID"),
            Field::Model => Column::new("Base Model"),
            Field::Owner => Column::new("Owner"),
            // The name tells more where there is no room for both.
            Field::Lora => Column::spare("LoRA"),
            Field::Updated => Column::new("Last Update"),
            Field::Status => Column::new("Status"),
            Field::Checkpoint => Column::never_cut("Last Checkpoint"),
            Field::CheckpointTime => Column::new("Checkpoint Time"),
            Field::Name => Column::new("Name"),
            Field::Checkpoints => Column::new("Checkpoints"),
        }
    }

    fn cell(self, run: &TrainingRun, counts: &Counts, cells: Cells) -> String {
        let checkpoint = run.last_checkpoint.as_ref();
        match self {
            Field::Id => run.training_run_id.clone(),
            Field::Model => cells.text(run.base_model.as_deref()),
            Field::Owner => cells.text(run.model_owner.as_deref()),
            Field::Lora => match (run.is_lora, run.lora_rank) {
                (Some(false), _) => "No".to_owned(),
                (_, Some(rank)) => format!("Rank {rank}"),
                (Some(true), None) => "Yes".to_owned(),
                (None, None) => cells.unknown(),
            },
            Field::Updated => cells.time(run.last_request_time.as_ref()),
            Field::Status => if run.corrupted { "Failed" } else { "OK" }.to_owned(),
            Field::Checkpoint => cells.text(checkpoint.map(|it| it.tinker_path.as_str())),
            Field::CheckpointTime => cells.time(checkpoint.and_then(|it| it.time.as_ref())),
            Field::Name => cells.text(name(run)),
            Field::Checkpoints => counts.get(&run.training_run_id).unwrap_or(&0).to_string(),
        }
    }
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::List(args) => list_runs(&args, app),
        Command::Info(args) => info(&args, app),
    }
}

fn list_runs(args: &List, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let limit = args.limit.of(app.out.format());
    let is_filtered = args.model.is_some() || args.since.is_some();
    // A filtered list needs entries after those of the limit.
    let page = if is_filtered { PAGE } else { limit::page_size(limit, PAGE) };
    let rest = connection.service.create_rest_client();
    let mut listing = rest.list_training_runs().page_size(page);
    if let Some(project) = &app.global.project {
        listing = listing.project_id(project);
    }
    let is_wanted = |run: &TrainingRun| is_wanted(run, args.model.as_deref(), args.since);
    let wanted = listing.by_ref().filter(|run| run.as_ref().map_or(true, is_wanted));
    let (runs, has_more) = limit::first(wanted, limit)?;
    let cells = Cells::of(app);
    let counts = args.counts(&rest, app)?;
    let columns: Vec<Column> = args.columns.iter().map(|it| it.column()).collect();
    let rows =
        runs.iter().map(|run| args.columns.iter().map(|it| it.cell(run, &counts, cells)).collect()).collect();
    let json = tinkex::report_json::runs(&runs);
    app.out.records(&Records { columns: &columns, rows, json, list: "runs" })?;
    project::note_if_empty(runs.is_empty() && !is_filtered, "run", &rest, app);
    if has_more {
        let total = listing.total_count().filter(|_| !is_filtered);
        app.note(&limit::note(runs.len(), total, "runs"));
    }
    Ok(())
}

impl List {
    /// The numbers that the list shows. No list of runs has them: they are counted in that of all checkpoints.
    fn counts(&self, rest: &RestClient, app: &App) -> Result<Counts, Failure> {
        let mut counts = Counts::new();
        if self.columns.contains(&Field::Checkpoints) && !app.out.is_json() {
            for path in list::all(rest, None, app)?.iter().filter_map(|it| it.path().ok()) {
                *counts.entry(path.run_id().to_owned()).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

fn is_wanted(run: &TrainingRun, model: Option<&str>, since: Option<SystemTime>) -> bool {
    let name = run.base_model.as_deref().unwrap_or_default().to_lowercase();
    let used = run.last_request_time.as_ref().and_then(|it| it.to_system_time());
    model.is_none_or(|it| name.contains(&it.to_lowercase()))
        && since.is_none_or(|it| used.is_some_and(|at| it <= at))
}

/// The failure about a run that is not there; the id of a session, which is the beginning of those of its runs, is named.
fn not_a_run(id: &str, error: Error, rest: &RestClient, app: &App) -> Failure {
    if !error.is_not_found() || rest.get_session(id).is_err() {
        return error.into();
    }
    Failure::missing(format!("{id} is a session, not a training run"))
        .with_remedy(format!("`tinkex session info {id}{}` shows its runs", app.place()))
}

fn info(args: &Info, app: &App) -> Result<(), Failure> {
    let (id, app) = run_id::of(&args.run, app)?;
    let app = &app;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let run = rest.get_training_run(&id).map_err(|error| not_a_run(&id, error, &rest, app))?;
    let checkpoints = if args.checkpoints { Some(rest.list_checkpoints(&id)?) } else { None };
    let mut json = tinkex::report_json::run(&run);
    if let Some(checkpoints) = &checkpoints {
        json["checkpoints"] = tinkex::report_json::checkpoints(None, checkpoints)["checkpoints"].take();
    }
    if let Ok(path) = args.run.parse::<CheckpointPath>() {
        let listed = checkpoints.as_deref().map_or_else(|| rest.list_checkpoints(&id), |it| Ok(it.to_vec()));
        // A server that does not list them has nothing to tell.
        if listed.is_ok_and(|all| all.iter().all(|it| it.path().ok().as_ref() != Some(&path))) {
            app.note(&format!("note: {}; this is its run", missing(&path)));
        }
    }
    let cells = Cells::of(app);
    let none = Counts::new();
    let cell = |field: Field| field.cell(&run, &none, cells);
    let sampler = run.last_sampler_checkpoint.as_ref();
    let mut rows = vec![
        ("Run ID", cell(Field::Id)),
        ("Base Model", cell(Field::Model)),
        ("Owner", cell(Field::Owner)),
        ("LoRA", cell(Field::Lora)),
        ("Last Update", cell(Field::Updated)),
        ("Status", cell(Field::Status)),
        ("Last Checkpoint", cell(Field::Checkpoint)),
        ("Checkpoint Time", cell(Field::CheckpointTime)),
        ("Last Sampler Checkpoint", cells.text(sampler.map(|it| it.tinker_path.as_str()))),
    ];
    rows.extend(run.user_metadata.iter().map(|(name, value)| (name.as_str(), value.clone())));
    app.out.properties(rows, json)?;
    match checkpoints {
        Some(checkpoints) if !app.out.is_json() => {
            app.out.line("")?;
            list::write(&checkpoints, None, app)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_chosen_by_model_and_by_their_last_use() {
        let run: TrainingRun = serde_json::from_value(serde_json::json!({
            "base_model": "Qwen/Qwen3-8B", "last_request_time": "2026-11-20T12:00:00Z",
        }))
        .unwrap();
        let date = |text| Some(parse_date(text).unwrap());
        let cases = [
            (None, None, true),
            (Some("qwen3"), None, true),
            (Some("llama"), None, false),
            (None, date("2026-11-20"), true),
            (None, date("2026-11-21"), false),
        ];
        for (model, since, wanted) in cases {
            assert_eq!(is_wanted(&run, model, since), wanted, "{model:?} {since:?}");
        }
        assert!(!is_wanted(&TrainingRun::default(), None, date("2026-11-20")));
    }
}
