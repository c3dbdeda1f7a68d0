//! `tinkex checkpoint set-ttl`.

use std::time::SystemTime;

use serde_json::{Value, json};
use tinkex::Error;
use tinkex::types::{CheckpointPath, Ttl};

use super::delete::counted;
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
    /// Lifetime from now on, such as 12h or 30d, or in seconds; at least 1h; or never, as --remove
    #[arg(long, value_name = "TIME", group = "lifetime", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// Keep the checkpoints until they are deleted
    #[arg(long, group = "lifetime")]
    remove: bool,
    /// Do not fail because of checkpoints that do not exist
    #[arg(long)]
    ignore_missing: bool,
}

/// Reads a lifetime that servers accept.
pub(super) fn parse_ttl(text: &str) -> Result<Ttl, String> {
    const HOUR: u64 = 3600;
    if text == "never" {
        return Ok(Ttl::Never);
    }
    const HELP: &str = "give a number with a unit (h, d, w), such as 12h, 30d or 52w, or never";
    let ttl = parse_duration(text).map_err(|_| HELP.to_owned())?;
    if (HOUR..=10 * 366 * 24 * HOUR).contains(&ttl.as_secs()) {
        Ok(Ttl::After(ttl))
    } else {
        Err(format!("a lifetime is between one hour and ten years; {HELP}"))
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let ttl = args.ttl.unwrap_or(Ttl::Never);
    let mut failed: Vec<(&CheckpointPath, Error)> = Vec::new();
    let mut missing: Vec<&CheckpointPath> = Vec::new();
    for path in &args.paths {
        let result = rest.set_checkpoint_ttl_from_tinker_path(path.clone(), ttl);
        match result {
            Ok(()) => {}
            Err(error) if args.ignore_missing && error.is_not_found() => missing.push(path),
            // With one path, the failure is that of the command.
            Err(error) if args.paths.len() == 1 => return Err(error.into()),
            Err(error) => {
                problem::report(path, &error, app);
                failed.push((path, error));
            }
        }
    }
    let (n_items, n_failed) = (args.paths.len(), failed.len());
    let json_of = |(path, error): &(&CheckpointPath, Error)| json!({ "tinker_path": path.as_str(), "error": problem::of(error) });
    let mut json = json!({
        "updated_count": n_items - n_failed - missing.len(),
        "ttl_seconds": match ttl {
            Ttl::After(ttl) => Some(ttl.as_secs()),
            _ => None,
        },
        "failed": failed.iter().map(json_of).collect::<Vec<Value>>(),
    });
    if args.ignore_missing {
        json["missing"] = missing.iter().map(|it| it.as_str()).collect();
    }
    app.out.done(&json, summary(&args.paths, n_failed + missing.len(), ttl, SystemTime::now()))?;
    if !missing.is_empty() {
        app.note(&format!("note: {} of {} did not exist", missing.len(), counted(n_items)));
    }
    problem::of_all(n_failed, n_items, failed.iter().map(|(_, error)| error))
}

/// What was done, with the time at which the checkpoints expire.
fn summary(paths: &[CheckpointPath], n_unchanged: usize, ttl: Ttl, now: SystemTime) -> String {
    let n = paths.len() - n_unchanged;
    let (what, is_one) = match paths {
        _ if n == 0 => return "no lifetime was set".to_owned(),
        [path] => (path.to_string(), true),
        _ if n_unchanged == 0 => (format!("{n} checkpoints"), false),
        _ => (format!("{n} of {} checkpoints", paths.len()), n == 1),
    };
    let lifetime = match ttl {
        Ttl::After(ttl) => Some(ttl),
        _ => None,
    };
    let state = match lifetime.map(|ttl| now.checked_add(ttl)) {
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_person_reads_until_when_checkpoints_are_kept() {
        let now = crate::moments::parse_date("2026-11-20T08:00:30Z").unwrap();
        let paths: Vec<CheckpointPath> =
            ["tinker://r/weights/a", "tinker://r/weights/b"].map(|it| it.parse().unwrap()).into();
        let day = Ttl::After(Duration::from_secs(86_400));
        for (n_paths, n_unchanged, ttl, expected) in [
            (1, 0, day, "tinker://r/weights/a expires at 2026-11-21T08:00Z"),
            (1, 0, Ttl::Never, "tinker://r/weights/a is kept until it is deleted"),
            (2, 0, day, "2 checkpoints expire at 2026-11-21T08:00Z"),
            (2, 1, Ttl::Never, "1 of 2 checkpoints is kept until it is deleted"),
            (2, 2, day, "no lifetime was set"),
        ] {
            assert_eq!(summary(&paths[..n_paths], n_unchanged, ttl, now), expected);
        }
    }

    #[test]
    fn lifetimes_are_between_an_hour_and_ten_years() {
        let after = |seconds| Ok(Ttl::After(Duration::from_secs(seconds)));
        assert_eq!(parse_ttl("30d"), after(30 * 86_400));
        assert_eq!(parse_ttl("3600"), after(3600));
        assert_eq!(parse_ttl("never"), Ok(Ttl::Never));
        for text in ["59m", "0", "600w", "soon"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }
}
