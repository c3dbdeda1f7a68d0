//! Which checkpoints a list or a change is about, and what they cost.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tinkex::types::{Checkpoint, CheckpointPath, CheckpointPlan, CheckpointType, StorageUsage};

use crate::connection::App;
use crate::failure::Failure;
use crate::moments::{minute, parse_age, parse_date};
use crate::run_id::{self, Runs};

/// The options that choose checkpoints. Lists and changes have the same ones, so that a list shows what a change is about.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Selection {
    /// Only checkpoints of this training run: its id, a path of it, or its folder, with all its parts if it was resumed
    /// [default: of all runs, or of those of --project]
    #[arg(long, value_name = "ID|RUN", value_parser = run_id::parse)]
    pub(super) run_id: Option<String>,
    /// Only checkpoints of this kind
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<Kind>,
    /// Only checkpoints created before a day, a time or a duration ago
    #[arg(long, value_name = "DATE", value_parser = parse_date, conflicts_with = "older_than")]
    before: Option<SystemTime>,
    /// Only checkpoints created after a day, a time or a duration ago
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    after: Option<SystemTime>,
    /// Only checkpoints older than this, such as 30d
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Leave out the newest N of each kind of each run
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
}

impl Selection {
    /// The runs that are chosen, and the options with their server.
    pub(super) fn runs(&self, app: &App) -> Result<(Option<Runs>, App), Failure> {
        let Some(name) = &self.run_id else { return Ok((None, app.clone())) };
        let mut app = app.clone();
        // Who names a run means it, in whatever project it is.
        if app.is_project_of_environment {
            app.global.project = None;
        }
        let (runs, app) = run_id::all_of(name, &app)?;
        Ok((Some(runs), app))
    }

    /// The checkpoint whose path is given for its run. A list takes it; a change would mean more than the path says.
    pub(super) fn of_checkpoint(&self) -> Option<CheckpointPath> {
        self.run_id.as_deref()?.parse().ok()
    }

    pub(super) fn filter(&self) -> Result<Filter, Failure> {
        let out_of_range = || Failure::usage("--older-than is out of range").with_remedy("--older-than 30d");
        let oldest = |age| SystemTime::now().checked_sub(age).ok_or_else(out_of_range);
        let before =
            self.before.map_or_else(|| self.older_than.map(oldest).transpose(), |it| Ok(Some(it)))?;
        let filter = Filter { kind: self.kind, before, after: self.after, keep_last: self.keep_last };
        match (self.after, before) {
            (Some(after), Some(before)) if before <= after => {
                let option = if self.older_than.is_some() { "--older-than" } else { "--before" };
                let [after, before] = [after, before].map(minute);
                let problem = format!(
                    "no checkpoint can match: --after {after} is not earlier than {before}, which {option} means"
                );
                Err(Failure::usage(problem).with_remedy(match option {
                    "--before" => "an earlier --after, or a later --before",
                    _ => "an earlier --after, or a shorter --older-than",
                }))
            }
            _ => Ok(filter),
        }
    }
}

/// A kind of checkpoint. The aliases are the words of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    // Weights with the state of the optimizer
    #[value(alias = "weights")]
    Training,
    // Weights for sampling
    #[value(alias = "sampler_weights")]
    Sampler,
    // Exported weights
    #[value(alias = "external_weights")]
    External,
}

impl Kind {
    pub(super) fn is_of(self, checkpoint: &Checkpoint) -> bool {
        let kind = match self {
            Kind::Training => CheckpointType::Training,
            Kind::Sampler => CheckpointType::Sampler,
            Kind::External => CheckpointType::External,
        };
        checkpoint.checkpoint_type.as_ref() == Some(&kind)
    }
}

/// What all chosen checkpoints have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filter {
    pub(super) kind: Option<Kind>,
    pub(super) before: Option<SystemTime>,
    pub(super) after: Option<SystemTime>,
    /// Leaves out the newest ones of each kind of each run.
    pub(super) keep_last: Option<usize>,
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.kind.is_none() && self.before.is_none() && self.after.is_none() && self.keep_last.is_none()
    }

    /// The checkpoints that match, in their order.
    pub(super) fn matching(&self, all: Vec<Checkpoint>) -> Vec<Checkpoint> {
        let matches = self.matches(&all);
        all.into_iter().zip(matches).filter_map(|(it, matches)| matches.then_some(it)).collect()
    }

    /// Divides checkpoints into those to keep and those to delete or to change, newest first. A checkpoint whose path is not
    /// known stays, and so does a public one, which others may use, unless `with_public`; returns the number of these as well.
    pub(super) fn divide(&self, mut all: Vec<Checkpoint>, with_public: bool) -> (CheckpointPlan, usize) {
        all.sort_by_key(|it| Reverse(time(it)));
        let matches = self.matches(&all);
        let mut plan = CheckpointPlan::default();
        let mut n_public = 0;
        for (checkpoint, matches) in all.into_iter().zip(matches) {
            let is_meant = matches && checkpoint.path().is_ok();
            let is_protected = is_meant && checkpoint.public && !with_public;
            n_public += usize::from(is_protected);
            let part = if is_meant && !is_protected { &mut plan.delete } else { &mut plan.keep };
            part.push(checkpoint);
        }
        (plan, n_public)
    }

    /// Whether each checkpoint matches. One whose time, kind or run matters and is not known does not.
    fn matches(&self, all: &[Checkpoint]) -> Vec<bool> {
        let mut newest_first: Vec<usize> = (0..all.len()).collect();
        newest_first.sort_by_key(|i| Reverse(time(&all[*i])));
        let mut n_seen: HashMap<(String, Option<CheckpointType>), usize> = HashMap::new();
        let mut is_left_out = |it: &Checkpoint| {
            let Some(n) = self.keep_last else { return false };
            let Ok(path) = it.path() else { return true };
            let n_seen = n_seen.entry((path.run_id().to_owned(), it.checkpoint_type.clone())).or_default();
            *n_seen += 1;
            *n_seen <= n
        };
        let mut matches = vec![false; all.len()];
        for i in newest_first {
            matches[i] = !is_left_out(&all[i]) && self.accepts(&all[i]);
        }
        matches
    }

    fn accepts(&self, checkpoint: &Checkpoint) -> bool {
        let at = time(checkpoint);
        let needs_time = self.before.is_some() || self.after.is_some() || self.keep_last.is_some();
        let needs_kind = self.keep_last.is_some();
        self.kind.is_none_or(|kind| kind.is_of(checkpoint))
            && self.before.is_none_or(|limit| at.is_some_and(|at| at < limit))
            && self.after.is_none_or(|limit| at.is_some_and(|at| limit < at))
            && (at.is_some() || !needs_time)
            && (checkpoint.checkpoint_type.is_some() || !needs_kind)
    }
}

pub(super) fn time(checkpoint: &Checkpoint) -> Option<SystemTime> {
    checkpoint.time.as_ref()?.to_system_time()
}

/// Sum of the sizes that are known.
pub(super) fn total_size(checkpoints: &[Checkpoint]) -> u64 {
    checkpoints.iter().filter_map(|it| it.size_bytes).fold(0, u64::saturating_add)
}

/// USD per month of a number of bytes, if the server tells its rate.
pub(super) fn monthly_usd(bytes: u64, usage: &StorageUsage) -> Option<f64> {
    let rate = usage.effective_rate_usd_per_gigabyte_month?;
    // Bytes of a gigabyte as the server counts them.
    let measured = usage.entries.iter().max_by_key(|it| it.size_bytes);
    let gigabyte = measured.map(|it| it.size_bytes as f64 / it.size_gigabytes);
    let gigabyte = gigabyte.filter(|it| (0.9e9..1.2e9).contains(it)).unwrap_or(1e9);
    Some(bytes as f64 / gigabyte * rate)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::moments::parse_date;

    fn checkpoint(run: &str, kind: &str, name: &str, time: Option<&str>, public: bool) -> Checkpoint {
        let folder = match kind {
            "training" => "weights",
            "sampler" => "sampler_weights",
            _ => "external_weights",
        };
        serde_json::from_value(json!({
            "checkpoint_id": format!("{folder}/{name}"), "checkpoint_type": kind, "time": time, "public": public,
            "tinker_path": format!("tinker://{run}/{folder}/{name}"), "size_bytes": 1_000_000_000,
        }))
        .unwrap()
    }

    fn all() -> Vec<Checkpoint> {
        vec![
            checkpoint("a", "training", "a1", Some("2026-11-01T00:00:00Z"), false),
            checkpoint("a", "training", "a2", Some("2026-11-02T00:00:00Z"), false),
            checkpoint("a", "sampler", "as", Some("2026-11-01T00:00:00Z"), false),
            checkpoint("b", "training", "b1", Some("2026-11-03T00:00:00Z"), false),
            checkpoint("b", "training", "b0", Some("2026-10-01T00:00:00Z"), true),
            checkpoint("b", "training", "timeless", None, false),
            serde_json::from_value(json!({ "tinker_path": "elsewhere" })).unwrap(),
        ]
    }

    #[test]
    fn filters_choose_what_is_deleted_newest_first() {
        let date = |text| Some(parse_date(text).unwrap());
        let none = Filter::default();
        let cases = [
            (none, "b1 a2 a1 as b0 timeless"),
            (Filter { kind: Some(Kind::Sampler), ..none }, "as"),
            (Filter { before: date("2026-11-02"), ..none }, "a1 as b0"),
            (Filter { after: date("2026-11-02"), ..none }, "b1"),
            (Filter { after: date("2026-11-01T12:00:00Z"), before: date("2026-11-03"), ..none }, "a2"),
            (Filter { keep_last: Some(1), ..none }, "a1 b0"),
            (Filter { keep_last: Some(0), ..none }, "b1 a2 a1 as b0"),
            (Filter { keep_last: Some(1), kind: Some(Kind::Sampler), ..none }, ""),
            (Filter { keep_last: Some(1), before: date("2026-10-15"), ..none }, "b0"),
        ];
        for (filter, expected) in cases {
            let (plan, n_public) = filter.divide(all(), true);
            assert_eq!(names(&plan.delete), expected, "{filter:?}");
            assert_eq!((plan.keep.len() + plan.delete.len(), n_public), (all().len(), 0));
            // A list has the same ones, in the order of the server.
            let mut listed = filter.matching(all());
            listed.retain(|it| it.path().is_ok());
            listed.sort_by_key(|it| Reverse(time(it)));
            assert_eq!(names(&listed), expected, "{filter:?}");
            // The public one stays unless it is meant.
            let (plan, n_public) = filter.divide(all(), false);
            let without: Vec<&str> = expected.split(' ').filter(|it| *it != "b0").collect();
            assert_eq!(names(&plan.delete), without.join(" "), "{filter:?}");
            assert_eq!(n_public, usize::from(expected.contains("b0")), "{filter:?}");
        }
    }

    fn names(checkpoints: &[Checkpoint]) -> String {
        let names = checkpoints.iter().map(|it| it.path().unwrap().name().to_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn times_between_which_nothing_lies_are_an_error() {
        let date = |text| Some(parse_date(text).unwrap());
        let older_than = |text| Some(parse_age(text).unwrap());
        let none = Selection::default;
        for wrong in [
            Selection { after: date("2026-11-20"), before: date("2026-11-01"), ..none() },
            Selection { after: date("2026-11-20"), before: date("2026-11-20"), ..none() },
            Selection { after: date("10d"), older_than: older_than("30d"), ..none() },
            Selection { after: date("10d"), older_than: older_than("10000000000000w"), ..none() },
            // As no limit, it would choose all checkpoints.
            Selection { older_than: older_than("20000000000000w"), ..none() },
        ] {
            assert!(matches!(wrong.filter(), Err(Failure::Usage { .. })), "{wrong:?}");
        }
        let right = Selection { after: date("30d"), older_than: older_than("10d"), ..none() };
        assert!(right.filter().unwrap().before.is_some());
    }

    #[test]
    fn the_price_follows_the_rate_and_the_gigabyte_of_the_server() {
        let usage = |rate: Option<f64>, bytes: u64, gigabytes: f64| -> StorageUsage {
            serde_json::from_value(json!({
                "effective_rate_usd_per_gigabyte_month": rate,
                "data": [{ "size_bytes": bytes, "size_gigabytes": gigabytes }],
            }))
            .unwrap()
        };
        assert_eq!(monthly_usd(2_000_000_000, &usage(Some(0.1), 5_000_000_000, 5.0)), Some(0.2));
        assert_eq!(monthly_usd(2 << 30, &usage(Some(0.1), 5 << 30, 5.0)), Some(0.2));
        assert_eq!(monthly_usd(1_000_000_000, &usage(Some(0.1), 0, 0.0)), Some(0.1));
        assert_eq!(monthly_usd(1, &usage(None, 5, 5.0)), None);
    }
}
