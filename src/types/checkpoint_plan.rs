//! Selection of checkpoints to delete.

use std::collections::HashMap;
use std::time::SystemTime;

use super::{Checkpoint, CheckpointPath, CheckpointType};

/// The checkpoints of a training run, divided into those to keep and those to delete. Making a plan deletes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CheckpointPlan {
    /// Checkpoints to keep, newest first; those without a readable time come last.
    pub keep: Vec<Checkpoint>,
    /// Checkpoints to delete, newest first.
    pub delete: Vec<Checkpoint>,
}

impl CheckpointPlan {
    /// Keeps the newest `n` of each type, public checkpoints, and checkpoints without a readable time, type or path.
    pub(crate) fn keep_last(mut all: Vec<Checkpoint>, n: usize) -> Self {
        let time =
            |checkpoint: &Checkpoint| -> Option<SystemTime> { checkpoint.time.as_ref()?.to_system_time() };
        all.sort_by_key(|checkpoint| std::cmp::Reverse(time(checkpoint)));
        let mut n_seen: HashMap<CheckpointType, usize> = HashMap::new();
        let mut plan = CheckpointPlan::default();
        for checkpoint in all {
            let is_complete = time(&checkpoint).is_some() && checkpoint.path().is_ok();
            let keep = match checkpoint.checkpoint_type.clone().filter(|_| is_complete) {
                None => true,
                Some(kind) => {
                    let n_seen = n_seen.entry(kind).or_default();
                    *n_seen += 1;
                    checkpoint.public || *n_seen <= n
                }
            };
            if keep { plan.keep.push(checkpoint) } else { plan.delete.push(checkpoint) }
        }
        plan
    }

    /// Paths of the checkpoints to delete.
    pub fn paths_to_delete(&self) -> Vec<CheckpointPath> {
        self.delete.iter().filter_map(|checkpoint| checkpoint.path().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(kind: &str, name: &str, time: &str, public: bool) -> Checkpoint {
        let value = serde_json::json!({
            "checkpoint_type": kind, "time": time, "public": public,
            "tinker_path": format!("tinker://r/{}/{name}", if kind == "training" { "weights" } else { "sampler_weights" }),
        });
        serde_json::from_value(value).expect("a checkpoint")
    }

    #[test]
    fn the_newest_of_each_type_and_incomplete_checkpoints_are_kept() {
        let time = |hour: u32| format!("2026-11-20T{hour:02}:00:00Z");
        let all = vec![
            checkpoint("training", "old", &time(1), false),
            checkpoint("training", "new", &time(3), false),
            checkpoint("sampler", "only", &time(0), false),
            checkpoint("training", "middle", &time(2), false),
            checkpoint("training", "public", &time(0), true),
            checkpoint("training", "ageless", "soon", false),
            Checkpoint { tinker_path: "tinker://r/weights/typeless".into(), ..Checkpoint::default() },
        ];
        for (n, deleted) in [
            (0, vec!["new", "middle", "old", "only"]),
            (1, vec!["middle", "old"]),
            (2, vec!["old"]),
            (3, vec![]),
        ] {
            let plan = CheckpointPlan::keep_last(all.clone(), n);
            let names: Vec<String> =
                plan.paths_to_delete().iter().map(|path| path.name().to_string()).collect();
            assert_eq!(names, deleted, "{n}");
            assert_eq!(plan.keep.len() + plan.delete.len(), all.len());
        }
    }
}
