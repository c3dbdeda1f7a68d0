//! `tinkex checkpoint set-ttl`.

use std::time::Duration;

use serde_json::{Value, json};
use tinkex::types::{CheckpointPath, Ttl};

use super::parse_path;
use crate::connection::App;
use crate::failure::Failure;
use crate::moments::parse_duration;
use crate::notes;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("lifetime").required(true))]
pub(crate) struct Args {
    /// Paths of the checkpoints
    #[arg(value_name = "PATH", required = true, value_parser = parse_path)]
    paths: Vec<CheckpointPath>,
    /// Lifetime from now on, such as 12h or 30d, or in seconds; at least 1h
    #[arg(long, value_name = "TIME", group = "lifetime", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    /// Keep the checkpoints until they are deleted
    #[arg(long, group = "lifetime")]
    remove: bool,
}

/// Reads a lifetime that servers accept.
pub(super) fn parse_ttl(text: &str) -> Result<Duration, String> {
    const HOUR: u64 = 3600;
    let ttl = parse_duration(text)?;
    if (HOUR..=10 * 366 * 24 * HOUR).contains(&ttl.as_secs()) {
        Ok(ttl)
    } else {
        Err("a lifetime is between one hour and ten years".to_owned())
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let ttl = args.ttl.map_or(Ttl::Never, Ttl::After);
    let mut failed: Vec<Value> = Vec::new();
    for path in &args.paths {
        let result = rest.set_checkpoint_ttl_from_tinker_path(path.clone(), ttl);
        match result {
            Ok(()) => {}
            // With one path, the failure is that of the command.
            Err(error) if args.paths.len() == 1 => return Err(error.into()),
            Err(error) => {
                notes::write(&format!("error: {path}: {error}"));
                failed.push(json!({ "tinker_path": path.as_str(), "error": error.to_string() }));
            }
        }
    }
    let (n_items, n_failed) = (args.paths.len(), failed.len());
    if app.out.is_json() {
        let json = json!({
            "updated_count": n_items - n_failed,
            "ttl_seconds": args.ttl.map(|it| it.as_secs()),
            "failed": failed,
        });
        app.out.value(&json, String::new)?;
    } else if n_failed < n_items {
        app.hint(&format!("set the lifetime of {} of {n_items}", n_items - n_failed));
    }
    if n_failed == 0 { Ok(()) } else { Err(Failure::Items { n_failed, n_items }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_between_an_hour_and_ten_years() {
        assert_eq!(parse_ttl("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_ttl("3600"), Ok(Duration::from_secs(3600)));
        for text in ["59m", "0", "600w", "soon"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }
}
