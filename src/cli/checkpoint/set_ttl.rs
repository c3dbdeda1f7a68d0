//! `tinkex checkpoint set-ttl`.

use std::time::SystemTime;

use tinkex::report_json;
use tinkex::types::{CheckpointPath, Ttl};

use super::choice::{Change, Choice};
use super::{changes, choice};
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;
use crate::moments::{minute, parse_duration};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("lifetime").required(true))]
pub(crate) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// Lifetime from now on, such as 12h or 30d, or in seconds; at least 1h; or never, as --remove
    #[arg(long, value_name = "TIME", group = "lifetime", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// Keep the checkpoints until they are deleted
    #[arg(long, group = "lifetime")]
    remove: bool,
    /// Also set the lifetime of public checkpoints, which stay as they are unless their paths are given
    #[arg(long)]
    include_public: bool,
    /// Show which checkpoints would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
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
    let ttl = args.ttl.unwrap_or(Ttl::Never);
    let expiry = |now: SystemTime| match ttl {
        Ttl::After(ttl) => now.checked_add(ttl),
        _ => None,
    };
    let would_expire_at = expiry(SystemTime::now());
    let action = match would_expire_at {
        Some(at) => format!("set the lifetime of {{}}, until {}", minute(at)),
        None => "keep {} until deleted".to_owned(),
    };
    let change = Change {
        verb: "set lifetimes",
        done: "changed",
        action: &action,
        is_dry_run: args.dry_run,
        asks_always: false,
        // To keep one for longer takes it from nobody.
        with_public: args.include_public || ttl == Ttl::Never,
        is_meant: |_| true,
    };
    let chosen = args.choice.find(&change, app)?;
    let app = &chosen.app;
    if 0 < chosen.n_public {
        let public = counted(chosen.n_public as u64, "public checkpoint");
        app.note(&format!("note: without {public}; --include-public sets their lifetime, too"));
    }
    let ttl_seconds = match ttl {
        Ttl::After(ttl) => Some(ttl.as_secs()),
        _ => None,
    };
    if args.dry_run {
        let mut json = report_json::checkpoints(None, &chosen.plan.delete);
        json["ttl_seconds"] = ttl_seconds.into();
        json["would_expire_at"] = would_expire_at.map(minute).into();
        return args.choice.show(&chosen, &change, &choice::summary(&chosen.plan.delete), json);
    }
    args.choice.confirm(&chosen, &change, choice::summary)?;
    // The question may have waited for its answer.
    let now = SystemTime::now();
    let rest = chosen.connection.service.create_rest_client();
    let paths = chosen.plan.paths_to_delete();
    let results = changes::each(&paths, changes::CONCURRENCY, app, |path| {
        rest.set_checkpoint_ttl_from_tinker_path(path, ttl)
    });
    let (results, missing) = changes::without_missing(results, args.choice.ignore_missing);
    // With one path, the failure is that of the command.
    let results = args.choice.of_only(results, app)?;
    let n_done = results.len() - changes::report(&results, paths.len(), app);
    let mut json = changes::json_of_updates(&results);
    json["ttl_seconds"] = ttl_seconds.into();
    json["expires_at"] = expiry(now).filter(|_| 0 < n_done).map(minute).into();
    let missing: Vec<&str> = missing.iter().map(CheckpointPath::as_str).collect();
    args.choice.complete(&mut json, chosen.n_public, &missing);
    app.out.done(&json, summary(&paths, paths.len() - n_done, ttl, now))?;
    changes::end(&results, missing.len(), paths.len(), change.done, app)
}

/// What was done, with the time at which the checkpoints expire.
fn summary(paths: &[CheckpointPath], n_unchanged: usize, ttl: Ttl, now: SystemTime) -> String {
    let n = paths.len() - n_unchanged;
    let (what, is_one) = match paths {
        [] => return "no lifetime was set: no checkpoint matches".to_owned(),
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
            (0, 0, day, "no lifetime was set: no checkpoint matches"),
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
