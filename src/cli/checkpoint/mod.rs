//! `tinkex checkpoint`.

mod download;

use super::connection::App;
use super::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Download a checkpoint
    Download(self::download::Args),
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::Download(args) => download::run(args, app),
    }
}
