//! `tinkex billing`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tinkex::report_json;
use tinkex::types::{BillingUsage, StorageUsage, Timestamp, UsageEvent, UsageKind};

use super::cells::Cells;
use super::connection::App;
use super::csv;
use super::failure::Failure;
use super::moments::{parse_date, parse_duration};
use super::output::Records;
use super::table::Column;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the usage and the costs of each hour
    Usage(Usage),
    /// Show the storage that checkpoints occupy now, and its price
    CheckpointStorage(Storage),
}

#[derive(Debug, clap::Args)]
struct Usage {
    /// First hour, such as 2026-11-20 or 2026-11-20T09:00:00Z, or how long ago, such as 7d
    #[arg(value_name = "START", value_parser = parse_hour)]
    start: SystemTime,
    /// End, which is not included; at most 14 days after the start [default: this hour]
    #[arg(value_name = "END", value_parser = parse_hour, default_value = "0h", hide_default_value = true)]
    end: SystemTime,
    /// Write the rows as CSV to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    csv: Option<String>,
    /// Write the sessions with their metadata as CSV to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    sessions_csv: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Storage {
    /// Only this project
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,
    /// Write the rows as CSV to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    csv: Option<String>,
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::Usage(args) => usage(&args, app),
        Command::CheckpointStorage(args) => storage(&args, app),
    }
}

/// Reads the start of an hour; a duration ago is rounded down to one.
fn parse_hour(text: &str) -> Result<SystemTime, String> {
    const HOUR: u64 = 3600;
    let at = parse_date(text)?;
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let hour = UNIX_EPOCH + Duration::from_secs(seconds.as_secs() / HOUR * HOUR);
    if at == hour || parse_duration(text).is_ok() {
        Ok(hour)
    } else {
        Err("must be a full hour in UTC, such as 2026-11-20T09:00:00Z".to_owned())
    }
}

const USAGE: [Column; 16] = [
    Column::never_cut("Bucket Start"),
    Column::never_cut("Type"),
    Column::new("Base Model"),
    Column::new("Token Count"),
    Column::new("Estimated Cost USD"),
    Column::spare("Effective Rate USD per Million Tokens"),
    Column::spare("Gigabyte Hours"),
    Column::spare("Effective Rate USD per Gigabyte Month"),
    Column::spare("Session ID"),
    Column::spare("Project ID"),
    Column::spare("User Name"),
    Column::spare("User ID"),
    Column::spare("Cached"),
    Column::spare("Free"),
    Column::spare("Count"),
    Column::spare("Bucket End"),
];

fn usage(args: &Usage, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let admin = connection.service.create_admin_client();
    let mut usage = admin.get_billing_usage(Timestamp::from(args.start), Timestamp::from(args.end))?;
    if let Some(project) = &app.global.project {
        usage.events.retain(|it| it.project_id.as_ref() == Some(project));
    }
    if let Some(target) = &args.sessions_csv {
        csv::write(target, &["session_id", "user_metadata"], &session_rows(&usage), app)?;
    }
    if let Some(target) = &args.csv {
        let titles = USAGE.map(|it| it.title.to_lowercase().replace(' ', "_"));
        csv::write(target, &titles, &usage_rows(&usage, ""), app)?;
    }
    if args.csv.is_some() || args.sessions_csv.is_some() {
        return Ok(());
    }
    let unknown = if app.out.format() == super::args::Format::Table { "null" } else { "" };
    let rows = usage_rows(&usage, unknown);
    let json = report_json::billing_usage(&usage);
    app.out.records(&Records { columns: &USAGE, rows, json, list: "data" })?;
    if let Some(time) = &usage.cost_data_through {
        app.hint(&format!("costs are known until {time}"));
    }
    Ok(())
}

/// Rows in the order of [`USAGE`]; `unknown` stands for a cost that applies and is not known.
fn usage_rows(usage: &BillingUsage, unknown: &str) -> Vec<Vec<String>> {
    usage.events.iter().map(|it| usage_row(it, unknown)).collect()
}

fn usage_row(event: &UsageEvent, unknown: &str) -> Vec<String> {
    let info = &event.event_info;
    let (is_tokens, is_storage) = match info {
        UsageKind::Training { .. } | UsageKind::SamplingPrefill { .. } | UsageKind::SamplingSample { .. } => {
            (true, false)
        }
        UsageKind::Storage { .. } => (false, true),
        _ => (false, false),
    };
    let shown = report_json_of(event);
    let cell = |name: &str| match &shown[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let cost = |name: &str, applies: bool| match cell(name) {
        text if text.is_empty() && applies => unknown.to_owned(),
        text => text,
    };
    vec![
        cell("bucket_start"),
        cell("type"),
        cell("base_model"),
        cell("token_count"),
        cost("estimated_cost_usd", is_tokens || is_storage),
        cost("effective_rate_usd_per_million_tokens", is_tokens),
        cell("gigabyte_hours"),
        cost("effective_rate_usd_per_gigabyte_month", is_storage),
        cell("session_id"),
        cell("project_id"),
        cell("user_name"),
        cell("user_id"),
        cell("cached"),
        cell("free"),
        cell("count"),
        cell("bucket_end"),
    ]
}

/// An event as JSON whose `event_info` is a part of the object itself.
fn report_json_of(event: &UsageEvent) -> Value {
    let mut usage = BillingUsage::default();
    usage.events = vec![event.clone()];
    let mut shown = report_json::billing_usage(&usage)["data"][0].take();
    if let Value::Object(info) = shown["event_info"].take() {
        for (name, value) in info {
            shown[name] = value;
        }
    }
    shown
}

fn session_rows(usage: &BillingUsage) -> Vec<Vec<String>> {
    let row = |(id, session): (&String, &tinkex::types::UsageSession)| {
        vec![id.clone(), serde_json::json!(session.user_metadata).to_string()]
    };
    usage.sessions.iter().map(row).collect()
}

const STORAGE: [Column; 9] = [
    Column::spare("Effective Rate USD per Gigabyte Month"),
    Column::never_cut("Project ID"),
    Column::new("Checkpoint Count"),
    Column::new("Size Bytes"),
    Column::spare("Size Gigabytes"),
    Column::new("Estimated Monthly Cost USD"),
    Column::spare("User Name"),
    Column::spare("User Email"),
    Column::spare("Org User URN"),
];

fn storage(args: &Storage, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let project = args.project_id.as_deref().or(app.global.project.as_deref());
    let usage = connection.service.create_admin_client().get_current_checkpoint_storage_usage(project)?;
    let rows = storage_rows(&usage, Cells::of(app));
    if let Some(target) = &args.csv {
        let titles = STORAGE.map(|it| it.title.to_lowercase().replace(' ', "_"));
        return csv::write(target, &titles, &storage_rows(&usage, Cells::for_programs()), app);
    }
    let json = report_json::storage_usage(&usage);
    app.out.records(&Records { columns: &STORAGE, rows, json, list: "data" })
}

fn storage_rows(usage: &StorageUsage, cells: Cells) -> Vec<Vec<String>> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let rows = usage.entries.iter().map(|it| {
        vec![
            cells.usd(usage.effective_rate_usd_per_gigabyte_month),
            text(&it.project_id),
            it.checkpoint_count.to_string(),
            it.size_bytes.to_string(),
            it.size_gigabytes.to_string(),
            cells.usd(it.estimated_monthly_cost_usd),
            text(&it.user_name),
            text(&it.user_email),
            text(&it.org_user_urn),
        ]
    });
    rows.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hours_are_full_and_durations_are_rounded_down() {
        assert!(parse_hour("2026-11-20T09:00:00Z").is_ok() && parse_hour("2026-11-20").is_ok());
        let seconds = parse_hour("90m").unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds % 3600, 0);
        assert!(parse_hour("2026-11-20T09:30:00Z").unwrap_err().contains("full hour"));
    }

    #[test]
    fn only_costs_that_apply_are_shown_as_unknown() {
        let event = |info: Value| -> UsageEvent {
            serde_json::from_value(json!({ "bucket_start": "2026-11-20 09:00:00+00:00", "event_info": info }))
                .unwrap()
        };
        let training = usage_row(&event(json!({ "type": "training", "token_count": 7 })), "null");
        assert_eq!(training[..6], ["2026-11-20T09:00:00Z", "training", "", "7", "null", "null"]);
        assert_eq!(training[7], "");
        let storage = usage_row(&event(json!({ "type": "storage", "gigabyte_hours": 1.5 })), "null");
        assert_eq!(storage[4..8], ["null", "", "1.5", "null"]);
        assert_eq!(usage_row(&event(json!({ "type": "checkpoint", "count": 2 })), "null")[4], "");
    }
}
