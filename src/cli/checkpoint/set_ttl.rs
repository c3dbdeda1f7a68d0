//! `tinkex checkpoint set-ttl`.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tinkex::types::{CheckpointPath, Ttl};

use super::{parse_path, problem};
use crate::connection::App;
use crate::failure::Failure;
use crate::moments::{minute, parse_duration};

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
                problem::write(path, &error);
                failed.push(json!({ "tinker_path": path.as_str(), "error": problem::of(&error) }));
            }
        }
    }
    let (n_items, n_failed) = (args.paths.len(), failed.len());
    let json = json!({
        "updated_count": n_items - n_failed,
        "ttl_seconds": args.ttl.map(|it| it.as_secs()),
        "failed": failed,
    });
    app.out.value(&json, || summary(&args.paths, n_failed, args.ttl, SystemTime::now()))?;
    if n_failed == 0 { Ok(()) } else { Err(Failure::Items { n_failed, n_items }) }
}

/// What was done, with the time at which the checkpoints expire.
fn summary(paths: &[CheckpointPath], n_failed: usize, ttl: Option<Duration>, now: SystemTime) -> String {
    let n = paths.len() - n_failed;
    let (what, is_one) = match paths {
        [path] => (path.to_string(), true),
        _ if n_failed == 0 => (format!("{n} checkpoints"), false),
        _ => (format!("{n} of {} checkpoints", paths.len()), n == 1),
    };
    let state = match ttl.map(|ttl| now.checked_add(ttl)) {
        None if is_one => "is kept until it is deleted".to_owned(),
        None => "are kept until they are deleted".to_owned(),
        Some(expiry) => {
            let verb = if is_one { "expires" } else { "expire" };
            let expiry = expiry.map(|at| format!(" at {}", minute(at)));
            format!("{verb}{}", expiry.unwrap_or_default())
        }
    };
    format!("{what} {state}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_until_when_checkpoints_are_kept() {
        let now = crate::moments::parse_date("2026-11-20T08:00:30Z").unwrap();
        let paths: Vec<CheckpointPath> =
            ["tinker://r/weights/a", "tinker://r/weights/b"].map(|it| it.parse().unwrap()).into();
        let day = Some(Duration::from_secs(86_400));
        for (n_paths, n_failed, ttl, expected) in [
            (1, 0, day, "tinker://r/weights/a expires at 2026-11-21T08:00Z"),
            (1, 0, None, "tinker://r/weights/a is kept until it is deleted"),
            (2, 0, day, "2 checkpoints expire at 2026-11-21T08:00Z"),
            (2, 1, None, "1 of 2 checkpoints is kept until it is deleted"),
        ] {
            assert_eq!(summary(&paths[..n_paths], n_failed, ttl, now), expected);
        }
    }

    #[test]
    fn lifetimes_are_between_an_hour_and_ten_years() {
        assert_eq!(parse_ttl("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_ttl("3600"), Ok(Duration::from_secs(3600)));
        for text in ["59m", "0", "600w", "soon"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }
}
