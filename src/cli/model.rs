//! `tinkex model`.

use serde_json::{Value, json};
use tinkex::report_json;
use tinkex::types::SupportedModel;

use super::cells::{Cells, yes_or_no};
use super::connection::App;
use super::failure::Failure;
use super::output::Records;
use super::prices::{self, Price};
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
    /// Also show the prices of the service in USD per million tokens [env: TINKEX_PRICES, a list or off]; the engine of
    /// --local costs nothing
    #[arg(long)]
    prices: bool,
}

const COLUMNS: [Column; 4] = [
    Column::never_cut("Model"),
    Column::new("Max Context"),
    Column::new("Trainable"),
    Column::new("Sampleable"),
];

/// On a narrow terminal the prices stay.
const WITH_PRICES: [Column; 8] = [
    Column::never_cut("Model"),
    Column::spare("Max Context"),
    Column::spare("Trainable"),
    Column::spare("Sampleable"),
    Column::new("Prefill USD"),
    Column::new("Cached USD"),
    Column::new("Sample USD"),
    Column::new("Train USD"),
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
    let models = &capabilities.supported_models;
    let mut json = report_json::capabilities(&capabilities);
    let mut rows: Vec<Vec<String>> = models.iter().map(row).collect();
    let mut columns = COLUMNS.as_slice();
    if list.prices {
        let cells = Cells::of(app);
        // The list of prices is that of the service, and the engine works without a network.
        let is_free = app.global.local.is_some();
        if !is_free && let Err(reason) = prices::all() {
            app.note(&format!("price unknown: {reason}"));
        }
        for ((model, row), i) in models.iter().zip(&mut rows).zip(0..) {
            let of_service = || model.model_name.as_deref().and_then(prices::of);
            let price = if is_free { Some(Price::FREE) } else { of_service() };
            row.extend(price_cells(price, cells));
            json["models"][i]["prices"] = price_json(price);
        }
        columns = &WITH_PRICES;
    }
    if models.is_empty() {
        app.note("no model matches");
    }
    app.out.records(&Records { columns, rows, json, list: "models" })
}

fn row(model: &SupportedModel) -> Vec<String> {
    vec![
        model.model_name.clone().unwrap_or_default(),
        model.max_context_length.map(|n| n.to_string()).unwrap_or_default(),
        model.trainable.map(yes_or_no).unwrap_or_default(),
        model.sampleable.map(yes_or_no).unwrap_or_default(),
    ]
}

fn price_cells(price: Option<Price>, cells: Cells) -> [String; 4] {
    let prices = price.map(|it| [it.prefill, it.cached_prefill, it.sample, it.train].map(Some));
    prices.unwrap_or_default().map(|it| cells.number(it))
}

fn price_json(price: Option<Price>) -> Value {
    price.map_or(Value::Null, |it| {
        json!({
            "prefill": it.prefill,
            "cached_prefill": it.cached_prefill,
            "sample": it.sample,
            "train": it.train,
        })
    })
}
