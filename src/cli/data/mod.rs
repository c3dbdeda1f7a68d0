//! `tinkex data`: checks, shows, counts, splits and converts files of examples.

mod check;
mod convert;
mod model;
mod show;
mod split;
mod stats;

use std::path::PathBuf;

use super::connection::App;
use super::examples::{
    DataOptions, Encoder, FormatChoice, Lines, TrainOn, at_least, context_of, parse_share,
};
use super::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check all lines of files of examples
    Check(Files),
    /// Show examples as the model sees them, with their trained tokens marked
    Show(Show),
    /// Count examples and tokens
    Stats(Files),
    /// Write examples in another format
    Convert(Convert),
    /// Write the lines that `train --eval-split` trains on and those that it holds out to two files
    Split(Split),
}

/// Files of examples and the model that they are for.
#[derive(Debug, clap::Args)]
pub(crate) struct Files {
    /// Files of one JSON object a line, or of one JSON array, also compressed with gzip or zstd; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Base model, tinker:// path of saved weights, or folder of a training run, whose tokenizer and template are used
    /// [default: tinkex/nano with --local]
    #[arg(short, long, value_name = "MODEL|PATH|RUN")]
    model: Option<String>,
    #[command(flatten)]
    options: DataOptions,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Number of examples
    #[arg(short, value_name = "N", default_value_t = 3, value_parser = at_least(1))]
    n: usize,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, clap::Args)]
struct Convert {
    /// Files of one JSON object a line, or of one JSON array, also compressed with gzip or zstd; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Format to write
    #[arg(long, value_name = "FORMAT")]
    to: convert::To,
    /// File to write, in one step and without compression [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file of -o if it has other lines
    #[arg(long, requires = "output")]
    overwrite: bool,
    /// Format of the lines [default: auto, by the keys of the first line]
    #[arg(long, value_name = "FORMAT")]
    data_format: Option<FormatChoice>,
    /// Only the first N examples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Debug, clap::Args)]
struct Split {
    /// Files of one JSON object a line, or of one JSON array, also compressed with gzip or zstd; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Share of the lines that is held out, as for `train`; a line is chosen by its content
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    eval_split: f64,
    /// Folder for train.jsonl and eval.jsonl
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Replace these files if they have other lines
    #[arg(long)]
    overwrite: bool,
    /// Format of the lines [default: auto, by the keys of the first line]
    #[arg(long, value_name = "FORMAT")]
    data_format: Option<FormatChoice>,
    /// Only the first N examples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Files {
    /// The model whose tokenizer is used.
    fn model(&self, app: &App) -> Option<&str> {
        let of_engine = || app.global.local.is_some().then_some("tinkex/nano");
        self.model.as_deref().or_else(of_engine)
    }

    fn encoder(&self, app: &App, lines: &Lines) -> Result<Encoder, Failure> {
        let model = self.model(app);
        let max = match (self.options.max_length, model) {
            (None, Some(model)) => largest(app, model),
            (max, _) => max,
        };
        Encoder::of(model, max, &self.options, lines.format)
    }
}

/// The context of a model, if it can be found out quickly: the files of examples can be looked at without a server.
fn largest(app: &App, model: &str) -> Option<usize> {
    let limit = std::time::Duration::from_secs(10);
    // The engine knows its models without its folder, which need not be there before the first training.
    let mut app = app.clone();
    app.may_create_engine = true;
    app.is_dry_run = true;
    let connection = app.connect_with(|it| it.timeouts(|it| it.operation = it.operation.min(limit)));
    let known = connection.and_then(|connection| context_of(&connection.service, model));
    if !matches!(known, Ok(Some(_))) {
        app.note(&format!(
            "note: the context of {model} is not known here; --max-length N finds examples that are too long"
        ));
    }
    known.ok().flatten()
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::Check(mut files) => {
            let app = model::resolve(&mut files, app)?;
            check::run(&files, &app)
        }
        Command::Show(Show { n, mut files }) => {
            let app = model::resolve(&mut files, app)?;
            show::run(files, n, &app)
        }
        Command::Stats(mut files) => {
            let app = model::resolve(&mut files, app)?;
            stats::run(files, &app)
        }
        Command::Convert(Convert { files, to, output, overwrite, data_format, limit }) => {
            let options = DataOptions { data_format, limit, ..DataOptions::default() };
            convert::run(&files, &options, to, &convert::Output { path: output, overwrite }, app)
        }
        Command::Split(Split { files, eval_split, out, overwrite, data_format, limit }) => {
            // Which messages are trained is a matter of the training.
            let train_on = Some(TrainOn::All);
            let options = DataOptions { data_format, limit, train_on, ..DataOptions::default() };
            let to = split::To { share: eval_split, folder: out, overwrite };
            split::run(&files, &options, &to, app)
        }
    }
}
