//! Which checkpoints a deletion is about, and what they cost.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::SystemTime;

use tinkex::types::{Checkpoint, CheckpointType, StorageUsage};

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
    /// Keeps the newest ones of each kind of each run, and the public ones.
    pub(super) keep_last: Option<usize>,
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.kind.is_none() && self.before.is_none() && self.after.is_none() && self.keep_last.is_none()
    }

    /// Divides checkpoints into those to keep and those to delete, newest first. A checkpoint whose path, or whose time
    /// if it matters, is not known stays.
    pub(super) fn divide(&self, mut all: Vec<Checkpoint>) -> (Vec<Checkpoint>, Vec<Checkpoint>) {
        all.sort_by_key(|it| Reverse(time(it)));
        let mut n_seen: HashMap<(String, Option<CheckpointType>), usize> = HashMap::new();
        all.into_iter().partition(|it| {
            let Ok(path) = it.path() else { return true };
            let place = (path.run_id().to_owned(), it.checkpoint_type.clone());
            let n_seen = n_seen.entry(place).or_default();
            *n_seen += 1;
            let is_newest = self.keep_last.is_some_and(|n| it.public || *n_seen <= n);
            is_newest || !self.accepts(it)
        })
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

fn time(checkpoint: &Checkpoint) -> Option<SystemTime> {
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
            (Filter { keep_last: Some(1), ..none }, "a1"),
            (Filter { keep_last: Some(0), ..none }, "b1 a2 a1 as"),
            (Filter { keep_last: Some(1), kind: Some(Kind::Sampler), ..none }, ""),
            (Filter { keep_last: Some(1), before: date("2026-10-15"), ..none }, ""),
        ];
        for (filter, expected) in cases {
            let (keep, delete) = filter.divide(all());
            let names = delete.iter().map(|it| it.path().unwrap().name().to_owned()).collect::<Vec<_>>();
            assert_eq!(names.join(" "), expected, "{filter:?}");
            assert_eq!(keep.len() + delete.len(), all().len());
        }
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
