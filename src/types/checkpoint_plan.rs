//! Which checkpoints stay and which go.

use std::collections::HashMap;
use std::time::SystemTime;

use super::{Checkpoint, CheckpointPath, CheckpointType};

/// Which checkpoints of a training run stay and which are to be deleted. Making it deletes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CheckpointPlan {
    /// Those that stay, newest first as far as their age is known.
    pub keep: Vec<Checkpoint>,
    /// Those that are to be deleted, newest first.
    pub delete: Vec<Checkpoint>,
}

impl CheckpointPlan {
    /// Keeps the newest `n` of each type, what is public, and what cannot be judged: a checkpoint without a time, a type or
    /// a path.
    pub(crate) fn keep_last(mut all: Vec<Checkpoint>, n: usize) -> Self {
        let time = |it: &Checkpoint| -> Option<SystemTime> { it.time.as_ref()?.to_system_time() };
        all.sort_by_key(|it| std::cmp::Reverse(time(it)));
        let mut kept: HashMap<CheckpointType, usize> = HashMap::new();
        let mut plan = CheckpointPlan::default();
        for it in all {
            let kind = it.checkpoint_type.clone().filter(|_| time(&it).is_some() && it.path().is_ok());
            let stays = match kind {
                None => true,
                Some(kind) => {
                    let place = kept.entry(kind).or_default();
                    *place += 1;
                    it.public || *place <= n
                }
            };
            if stays { plan.keep.push(it) } else { plan.delete.push(it) }
        }
        plan
    }

    /// Where those are that are to be deleted.
    pub fn paths_to_delete(&self) -> Vec<CheckpointPath> {
        self.delete.iter().filter_map(|it| it.path().ok()).collect()
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
    fn the_newest_of_each_type_stay_and_so_does_what_cannot_be_judged() {
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
            let names: Vec<String> = plan.paths_to_delete().iter().map(|it| it.name().to_string()).collect();
            assert_eq!(names, deleted, "{n}");
            assert_eq!(plan.keep.len() + plan.delete.len(), all.len());
        }
    }
}
