//! `tinkex checkpoint`.

mod by_run;
mod changes;
mod choice;
mod copy;
mod delete;
mod download;
mod download_progress;
mod info;
pub(super) mod list;
mod problem;
mod push_hf;
mod receipt;
mod selection;
mod set_ttl;
mod visibility;

use tinkex::types::CheckpointPath;

use super::connection::App;
use super::failure::Failure;
use super::run_folder;
use super::shell_word::quoted;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the checkpoints of a run or of all runs
    List(self::list::Args),
    /// Show one checkpoint
    Info(self::info::Args),
    /// Make checkpoints public
    Publish(self::visibility::Args),
    /// Make checkpoints private
    Unpublish(self::visibility::Args),
    /// Set or remove the lifetime of checkpoints
    SetTtl(self::set_ttl::Args),
    /// Delete checkpoints, chosen by path, run, kind or age
    Delete(self::delete::Args),
    /// Download a checkpoint
    Download(self::download::Args),
    /// Copy a checkpoint into a project
    Copy(self::copy::Args),
    /// Print the commands that upload a checkpoint to the Hugging Face hub
    PushHf(self::push_hf::Args),
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::List(args) => list::run(&args, app),
        Command::Info(args) => info::run(&args, app),
        Command::Publish(args) => visibility::run(&args, true, app),
        Command::Unpublish(args) => visibility::run(&args, false, app),
        Command::SetTtl(args) => set_ttl::run(&args, app),
        Command::Delete(args) => delete::run(&args, app),
        Command::Download(args) => download::run(args, app),
        Command::Copy(args) => copy::run(&args, app),
        Command::PushHf(args) => push_hf::run(&args, app),
    }
}

/// The words about a checkpoint that its run does not have.
pub(super) fn missing(path: &CheckpointPath) -> String {
    format!("the run has no checkpoint {path}")
}

/// Reads the argument of a checkpoint, so that a wrong one is an error of usage.
pub(super) fn parse_path(text: &str) -> Result<CheckpointPath, String> {
    text.parse().map_err(|error: tinkex::Error| {
        if run_folder::is_run(text) {
            let run = quoted(text);
            return format!(
                "is the folder of a run: `tinkex checkpoint list --run-id {run}` shows its paths"
            );
        }
        let whole = format!("tinker://{text}");
        if whole.parse::<CheckpointPath>().is_ok() {
            return format!("did you mean {whole}?");
        }
        error.message().to_owned()
    })
}
