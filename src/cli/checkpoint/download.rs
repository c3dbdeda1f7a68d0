//! `tinkex checkpoint download`.

use crate::connection::App;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, _app: &App) -> Result<(), Failure> {
    Err(Failure::text("this command is not built yet"))
}
