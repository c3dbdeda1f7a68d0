//! `tinkex model`.

use super::connection::App;
use super::failure::Failure;
use super::output::Records;
use super::table::Column;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the base models of the server
    List(List),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only models whose names contain this text
    substring: Option<String>,
    /// Only models that can be trained
    #[arg(long)]
    trainable: bool,
}

const COLUMNS: [Column; 4] = [
    Column::never_cut("Model"),
    Column::new("Max Context"),
    Column::new("Trainable"),
    Column::new("Sampleable"),
];

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let Command::List(list) = args.command;
    let connection = app.connect()?;
    let mut capabilities = connection.service.create_rest_client().get_server_capabilities()?;
    let wanted = list.substring.unwrap_or_default().to_lowercase();
    capabilities.supported_models.retain(|model| {
        let name = model.model_name.as_deref().unwrap_or_default().to_lowercase();
        name.contains(&wanted) && (!list.trainable || model.trainable == Some(true))
    });
    let yes_or_no =
        |it: Option<bool>| it.map(|it| if it { "Yes" } else { "No" }.to_owned()).unwrap_or_default();
    let rows = capabilities.supported_models.iter().map(|model| {
        vec![
            model.model_name.clone().unwrap_or_default(),
            model.max_context_length.map(|n| n.to_string()).unwrap_or_default(),
            yes_or_no(model.trainable),
            yes_or_no(model.sampleable),
        ]
    });
    let rows = rows.collect();
    let json = tinkex::report_json::capabilities(&capabilities);
    app.out.records(&Records { columns: &COLUMNS, rows, json, list: "models" })
}
