//! `tinkex checkpoint publish` and `unpublish`.

use tinkex::types::CheckpointPath;
use tinkex::{ErrorKind, report_json};

use super::choice::{Change, Choice};
use super::{changes, choice};
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// Show which checkpoints would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, public: bool, app: &App) -> Result<(), Failure> {
    let word = if public { "public" } else { "private" };
    let change = Change {
        verb: if public { "publish" } else { "unpublish" },
        done: if public { "published" } else { "unpublished" },
        action: if public { "publish {}" } else { "unpublish {}" },
        is_dry_run: args.dry_run,
        asks_always: false,
        with_public: true,
        is_meant: if public { |it| !it.public } else { |it| it.public },
    };
    let chosen = args.choice.find(&change, app)?;
    let app = &chosen.app;
    let all = &chosen.plan.delete;
    if args.dry_run {
        let mut json = report_json::checkpoints(None, all);
        json["public"] = public.into();
        json["already_count"] = args.choice.n_already(&chosen).into();
        return args.choice.show(&chosen, &change, &choice::summary(all), json);
    }
    args.choice.confirm(&chosen, &change, choice::summary)?;
    let rest = chosen.connection.service.create_rest_client();
    let paths = chosen.plan.paths_to_delete();
    let results = changes::each(&paths, changes::CONCURRENCY, app, |path| {
        if public {
            rest.publish_checkpoint_from_tinker_path(path)
        } else {
            rest.unpublish_checkpoint_from_tinker_path(path)
        }
    });
    let mut n_already = 0;
    let repeated = results.into_iter().map(|mut changed| {
        // The state that was asked for is there, so that the command can be repeated.
        if changed.result.as_ref().is_err_and(|error| *error.kind() == ErrorKind::Conflict) {
            n_already += 1;
            changed.result = Ok(());
        }
        changed
    });
    let (results, missing) = changes::without_missing(repeated.collect(), args.choice.ignore_missing);
    let results = args.choice.of_only(results, app)?;
    let n_done = results.len() - changes::report(&results, paths.len(), app);
    let mut json = changes::json_of_updates(&results);
    json["public"] = public.into();
    json["updated_count"] = (n_done - n_already).into();
    json["already_count"] = n_already.into();
    json["tinker_path"] = args.choice.only().map(CheckpointPath::as_str).into();
    let missing: Vec<&str> = missing.iter().map(CheckpointPath::as_str).collect();
    args.choice.complete(&mut json, chosen.n_public, &missing);
    let verb = if n_done == 1 { "is" } else { "are" };
    let done = match (n_done, n_already) {
        (1, already) if let Some(path) = args.choice.only() => {
            format!("{path} is {word}{}", if already == 0 { "" } else { " already" })
        }
        _ if paths.is_empty() => format!("nothing was {}: no checkpoint matches", change.done),
        (0, _) => format!("nothing was {}", change.done),
        (n, 0) => format!("{} {verb} {word}", counted(n as u64, "checkpoint")),
        (n, already) => {
            format!("{} {verb} {word}, {already} of them already", counted(n as u64, "checkpoint"))
        }
    };
    app.out.done(&json, done)?;
    changes::end(&results, missing.len(), paths.len(), change.done, app)
}
