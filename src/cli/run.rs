//! `tinkex run`.

use std::time::SystemTime;

use tinkex::types::TrainingRun;

use super::cells::Cells;
use super::checkpoint::list;
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
    /// Columns of the table and of TSV, separated by commas
    #[arg(short, long, value_name = "COLUMNS", value_enum, value_delimiter = ',')]
    #[arg(default_value = "id,model,lora,updated,status")]
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
}

impl Field {
    fn column(self) -> Column {
        match self {
            Field::Id => Column::never_cut("Run ID"),
            Field::Model => Column::new("Base Model"),
            Field::Owner => Column::new("Owner"),
            Field::Lora => Column::new("LoRA"),
            Field::Updated => Column::new("Last Update"),
            Field::Status => Column::new("Status"),
            Field::Checkpoint => Column::never_cut("Last Checkpoint"),
            Field::CheckpointTime => Column::new("Checkpoint Time"),
        }
    }

    fn cell(self, run: &TrainingRun, cells: Cells) -> String {
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
    let columns: Vec<Column> = args.columns.iter().map(|it| it.column()).collect();
    let rows = runs.iter().map(|run| args.columns.iter().map(|it| it.cell(run, cells)).collect()).collect();
    let json = tinkex::report_json::runs(&runs);
    app.out.records(&Records { columns: &columns, rows, json, list: "runs" })?;
    project::note_if_empty(runs.is_empty() && !is_filtered, "run", &rest, app);
    if has_more {
        let total = listing.total_count().filter(|_| !is_filtered);
        app.note(&limit::note(runs.len(), total, "runs"));
    }
    Ok(())
}

fn is_wanted(run: &TrainingRun, model: Option<&str>, since: Option<SystemTime>) -> bool {
    let name = run.base_model.as_deref().unwrap_or_default().to_lowercase();
    let used = run.last_request_time.as_ref().and_then(|it| it.to_system_time());
    model.is_none_or(|it| name.contains(&it.to_lowercase()))
        && since.is_none_or(|it| used.is_some_and(|at| it <= at))
}

fn info(args: &Info, app: &App) -> Result<(), Failure> {
    let (id, app) = run_id::of(&args.run, app)?;
    let app = &app;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let run = rest.get_training_run(&id)?;
    let checkpoints = if args.checkpoints { Some(rest.list_checkpoints(&id)?) } else { None };
    let mut json = tinkex::report_json::run(&run);
    if let Some(checkpoints) = &checkpoints {
        json["checkpoints"] = tinkex::report_json::checkpoints(None, checkpoints)["checkpoints"].take();
    }
    let cells = Cells::of(app);
    let sampler = run.last_sampler_checkpoint.as_ref();
    let mut rows = vec![
        ("Run ID", Field::Id.cell(&run, cells)),
        ("Base Model", Field::Model.cell(&run, cells)),
        ("Owner", Field::Owner.cell(&run, cells)),
        ("LoRA", Field::Lora.cell(&run, cells)),
        ("Last Update", Field::Updated.cell(&run, cells)),
        ("Status", Field::Status.cell(&run, cells)),
        ("Last Checkpoint", Field::Checkpoint.cell(&run, cells)),
        ("Checkpoint Time", Field::CheckpointTime.cell(&run, cells)),
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
