//! `tinkex checkpoint copy`.

use std::path::PathBuf;

use serde_json::json;
use tinkex::types::{AccessToken, CheckpointPath, CopyOptions, Ttl};

use super::parse_path;
use super::set_ttl::parse_ttl;
use crate::connection::App;
use crate::failure::Failure;
use crate::{nearby_files, project};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the checkpoint; the copy goes into the project of --project, in a new run that belongs to no session
    #[arg(value_name = "PATH", value_parser = parse_path)]
    path: CheckpointPath,
    /// Lifetime of the copy, such as 30d [default: until it is deleted]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// File with the access token of the owner, for checkpoints of other users
    #[arg(long, value_name = "FILE")]
    access_token_file: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let token = match &args.access_token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                let failure =
                    Failure::text(format!("cannot read the access token in {}: {error}", file.display()));
                nearby_files::explained(failure, file)
            })?;
            Some(AccessToken::new(text.trim()))
        }
        None => None,
    };
    let options = CopyOptions {
        ttl: args.ttl.unwrap_or(Ttl::Never),
        weights_access_token: token,
        ..CopyOptions::default()
    };
    if app.global.project.is_none() {
        return Err(Failure::usage("the project of the copy is missing").with_remedy(project::remedy(app)));
    }
    let connection = app.connect()?;
    let copy = connection.service.create_rest_client().copy_weights(args.path.clone(), &options)?;
    let json = json!({ "source_path": args.path.as_str(), "tinker_path": copy.as_str() });
    app.out.done(&json, copy.as_str())
}
