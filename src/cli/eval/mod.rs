//! `tinkex eval`: measures models on files of examples.

mod choice;
mod exact;
mod nll;
mod places;

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tinkex::SamplingClient;

use self::places::Connections;
use super::connection::{App, Connection};
use super::examples::{
    DataFormat, DataOptions, Encoder, Lines, base_model_of, file_name, read, renderer_of_run,
};
use super::failure::Failure;
use super::output::Records;
use super::run_folder::unnamed_model;
use super::table::Column;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files of examples, as for `train`; - is stdin
    #[arg(required = true, value_name = "DATA")]
    files: Vec<PathBuf>,
    /// Base model, tinker:// path of saved weights, or folder of a training run; several are compared
    /// [default: tinkex/nano with --local]
    #[arg(short, long, value_name = "MODEL|PATH|RUN")]
    model: Vec<String>,
    /// nll: likelihood of the trained tokens; choice: how often the better answer is the more likely one; exact: how often
    /// the model gives the answer at temperature 0 [default: choice for preferences, otherwise nll]
    #[arg(long, value_name = "METRIC")]
    metric: Option<Metric>,
    /// Largest number of tokens of an answer, for --metric exact
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    options: DataOptions,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Metric {
    // The mean negative log-likelihood of the trained tokens, and bits per byte.
    Nll,
    // The part of preferences whose better answer the model finds more likely.
    Choice,
    // The part of examples whose answer the model gives, at temperature 0.
    Exact,
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Metric::Nll => "nll",
            Metric::Choice => "choice",
            Metric::Exact => "exact",
        }
    }
}

/// A model and what examples are for it.
struct Subject<'a> {
    app: &'a App,
    model: &'a str,
    lines: &'a Lines,
    encoder: Encoder,
    sampler: SamplingClient,
    max_tokens: u32,
}

/// The figures of a model: name, value, and the number of digits that are shown.
struct Figures(Vec<(&'static str, Option<f64>, usize)>);

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let lines = read(&args.files, &args.options)?;
    let metric = args.metric.unwrap_or(match lines.format {
        DataFormat::Preference => Metric::Choice,
        _ => Metric::Nll,
    });
    fits(metric, lines.format)?;
    let models = if args.model.is_empty() { vec![unnamed_model(app)?] } else { args.model };
    let subjects = places::of(&models, app)?;
    let mut connections = Connections::default();
    let mut all = Vec::new();
    for (model, (path, place)) in models.into_iter().zip(subjects) {
        let connection = connections.of(&place)?;
        let (encoder, sampler) = open(&path, &connection, &args.options, &lines)
            .map_err(|failure| connection.explained(&path, failure))?;
        let subject =
            Subject { app, model: &path, lines: &lines, encoder, sampler, max_tokens: args.max_tokens };
        let figures = match metric {
            Metric::Nll => nll::measure(&subject)?,
            Metric::Choice => choice::measure(&subject)?,
            Metric::Exact => exact::measure(&subject)?,
        };
        all.push((model, figures));
    }
    write(app, &lines, metric, &all)
}

/// Refuses a metric that has no meaning for these data.
fn fits(metric: Metric, format: DataFormat) -> Result<(), Failure> {
    let needs = match (metric, format) {
        (Metric::Choice, DataFormat::Preference) => return Ok(()),
        (Metric::Nll, DataFormat::Preference) => "all formats but preference; --metric choice is for these",
        (Metric::Nll, _) | (Metric::Exact, DataFormat::Chat | DataFormat::Completion) => return Ok(()),
        (Metric::Choice, _) => "preferences",
        (Metric::Exact, _) => "chats and completions",
    };
    Err(Failure::usage(format!(
        "--metric {} is for {needs}; the data have the format {}",
        metric.name(),
        format.name()
    )))
}

fn open(
    model: &str,
    connection: &Connection,
    options: &DataOptions,
    lines: &Lines,
) -> Result<(Encoder, SamplingClient), Failure> {
    connection.check_model(model)?;
    let base = base_model_of(&connection.service, model)?;
    let mut options = options.clone();
    options.template = options.template.or_else(|| renderer_of_run(&connection.service, model));
    let encoder = Encoder::new(&base, &connection.service, &options, lines.format)?;
    Ok((encoder, connection.service.create_sampling_client(model)?))
}

fn write(app: &App, lines: &Lines, metric: Metric, all: &[(String, Figures)]) -> Result<(), Failure> {
    let mut columns = vec![Column::never_cut("Model")];
    if let Some((_, figures)) = all.first() {
        columns.extend(figures.0.iter().map(|(name, ..)| Column::new(name)));
    }
    let rows = all.iter().map(|(model, figures)| {
        let cells = figures.0.iter().map(|(_, value, digits)| match value {
            Some(value) => format!("{value:.digits$}"),
            None => String::new(),
        });
        [model.clone()].into_iter().chain(cells).collect()
    });
    let results: Vec<Value> = all
        .iter()
        .map(|(model, figures)| {
            let figures = figures.0.iter().map(|(name, value, digits)| {
                let value = match (value, digits) {
                    (Some(value), 0) => json!(*value as u64),
                    (value, _) => json!(value),
                };
                (name.to_lowercase().replace(' ', "_"), value)
            });
            let model = [("model".to_owned(), json!(model))];
            Value::Object(model.into_iter().chain(figures).collect::<Map<_, _>>())
        })
        .collect();
    let files: Vec<String> = lines.files.iter().map(|file| file_name(&file.path)).collect();
    let json =
        json!({ "metric": metric.name(), "format": lines.format.name(), "files": files, "results": results });
    app.out.records(&Records { columns: &columns, rows: rows.collect(), json, list: "results" })
}
