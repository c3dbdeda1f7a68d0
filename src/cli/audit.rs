//! `tinkex audit`.

use serde_json::Value;
use tinkex::report_json;
use tinkex::types::{AuditEntry, AuditEventType, Day};

use super::cells::Cells;
use super::connection::App;
use super::failure::Failure;
use super::output::Records;
use super::table::Column;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind of event
    #[arg(value_name = "EVENT")]
    event: Event,
    /// Day in UTC, such as 2026-11-20 [default: today]
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    day: Option<Day>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Event {
    All,
    Checkpoints,
    Projects,
    Teams,
    Organizations,
}

const COLUMNS: [Column; 6] = [
    Column::never_cut("Timestamp"),
    Column::never_cut("Event"),
    Column::never_cut("Tinker Path"),
    Column::new("Purpose"),
    Column::new("Model ID"),
    Column::new("Event Details"),
];

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let event = match args.event {
        Event::All => AuditEventType::All,
        Event::Checkpoints => AuditEventType::Checkpoints,
        Event::Projects => AuditEventType::Projects,
        Event::Teams => AuditEventType::Teams,
        Event::Organizations => AuditEventType::Organizations,
    };
    if app.global.local.is_some() {
        return Err(Failure::usage("the engine of --local keeps no audit log")
            .with_remedy("leave --local out, to read the log of a server"));
    }
    let connection = app.connect()?;
    let entries = connection.service.create_admin_client().get_audit_log(event, args.day.as_ref())?;
    let cells = Cells::of(app);
    let row = |it: &AuditEntry| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let details = &it.event_details;
        vec![
            cells.exact_time(it.timestamp.as_ref()),
            it.event.clone(),
            text(&it.tinker_path),
            text(&it.purpose),
            text(&it.model_id),
            if details.is_empty() { String::new() } else { Value::from(details.clone()).to_string() },
        ]
    };
    let rows = entries.iter().map(row).collect();
    let json = report_json::audit_log(&entries);
    app.out.records(&Records { columns: &COLUMNS, rows, json, list: "entries" })
}

fn parse_day(text: &str) -> Result<Day, String> {
    text.parse().map_err(|error: tinkex::Error| error.message().to_owned())
}
