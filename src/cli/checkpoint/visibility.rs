//! `tinkex checkpoint publish` and `unpublish`.

use serde_json::json;
use tinkex::ErrorKind;
use tinkex::types::CheckpointPath;

use super::parse_path;
use crate::connection::App;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the checkpoint
    #[arg(value_name = "PATH", value_parser = parse_path)]
    path: CheckpointPath,
}

pub(crate) fn run(args: &Args, public: bool, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let path = args.path.clone();
    let result = if public {
        rest.publish_checkpoint_from_tinker_path(path)
    } else {
        rest.unpublish_checkpoint_from_tinker_path(path)
    };
    let word = if public { "public" } else { "private" };
    let already = match result {
        // The state that was asked for is there, so that the command can be repeated.
        Err(error) if *error.kind() == ErrorKind::Conflict => " already",
        result => result.map(|()| "")?,
    };
    let json = json!({ "tinker_path": args.path.as_str(), "public": public });
    app.out.done(&json, format!("{} is {word}{already}", args.path))
}
