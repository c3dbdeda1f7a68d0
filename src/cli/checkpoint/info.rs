//! `tinkex checkpoint info`.

use tinkex::report_json;
use tinkex::types::{CheckpointPath, CheckpointType};

use super::{missing, parse_path};
use crate::cells::{Cells, yes_or_no};
use crate::connection::App;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the checkpoint
    #[arg(value_name = "PATH", value_parser = parse_path)]
    path: CheckpointPath,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let run_id = args.path.run_id();
    let checkpoints = rest.list_checkpoints(run_id)?;
    let found = checkpoints.iter().find(|it| it.path().is_ok_and(|path| path == args.path));
    let Some(it) = found else {
        return Err(Failure::missing(missing(&args.path))
            .with_remedy(format!("`tinkex checkpoint list --run-id {run_id}{}`", app.place())));
    };
    let run = rest.get_training_run(run_id)?;
    let mut json = report_json::checkpoint(it);
    json["training_run_id"] = run_id.into();
    json["base_model"] = run.base_model.as_deref().into();
    json["is_lora"] = run.is_lora.into();
    json["lora_rank"] = run.lora_rank.into();
    let cells = Cells::of(app);
    let mut rows = vec![
        ("Checkpoint ID", it.checkpoint_id.clone()),
        ("Type", cells.text(it.checkpoint_type.as_ref().map(CheckpointType::as_str))),
        ("Path", it.tinker_path.clone()),
        ("Size", cells.size(it.size_bytes)),
        ("Public", yes_or_no(it.public)),
        ("Created", cells.time(it.time.as_ref())),
        ("Expires", cells.expiry(it.expires_at.as_ref())),
        ("Training Run", run_id.to_owned()),
        ("Base Model", cells.text(run.base_model.as_deref())),
        ("LoRA", cells.text(run.is_lora.map(yes_or_no).as_deref())),
        ("LoRA Rank", cells.number(run.lora_rank)),
    ];
    rows.extend(it.user_metadata.iter().map(|(name, value)| (name.as_str(), value.clone())));
    app.out.properties(rows, json)
}
