//! `tinkex report`.

use std::path::{Path, PathBuf};

use super::connection::App;
use super::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, _app: &App) -> Result<(), Failure> {
    Err(Failure::text("this command is not built yet"))
}

/// Writes `report.html` of the run in `folder` into this folder, in one step. Returns the path of the file.
pub(crate) fn write(folder: &Path) -> Result<PathBuf, Failure> {
    Err(Failure::text(format!("{}: reports are not built yet", folder.display())))
}
