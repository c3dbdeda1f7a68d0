//! Checkpoints, and what was deleted of them.

use serde_json::{Value, json};

use super::time;
use crate::error::Result;
use crate::types::{Checkpoint, CheckpointPath, CheckpointPlan};

pub fn checkpoint(checkpoint: &Checkpoint) -> Value {
    json!({
        "checkpoint_id": checkpoint.checkpoint_id,
        "checkpoint_type": checkpoint.checkpoint_type.as_ref().map(|it| it.as_str()),
        "time": time(checkpoint.time.as_ref()),
        "tinker_path": checkpoint.tinker_path,
        "size_bytes": checkpoint.size_bytes,
        "public": checkpoint.public,
        "user_metadata": checkpoint.user_metadata,
        "expires_at": time(checkpoint.expires_at.as_ref()),
    })
}

/// Checkpoints of a run, or of all runs: the field `run_id` is left out then.
pub fn checkpoints(run_id: Option<&str>, checkpoints: &[Checkpoint]) -> Value {
    let mut value = json!({ "checkpoints": all(checkpoints) });
    if let Some(id) = run_id {
        value["run_id"] = id.into();
    }
    value
}

/// The checkpoints that a plan keeps and deletes, and the size of the latter as far as the server reported it.
pub fn checkpoint_plan(plan: &CheckpointPlan) -> Value {
    let sizes = plan.delete.iter().filter_map(|checkpoint| checkpoint.size_bytes);
    json!({
        "keep": all(&plan.keep),
        "delete": all(&plan.delete),
        "delete_size_bytes": sizes.fold(0, u64::saturating_add),
    })
}

/// The number of deleted checkpoints, and those that could not be deleted.
pub fn deletion(results: &[(CheckpointPath, Result<()>)]) -> Value {
    let failed: Vec<Value> = results
        .iter()
        .filter_map(|(path, result)| {
            let error = result.as_ref().err()?.to_string();
            Some(json!({ "tinker_path": path.as_str(), "error": error }))
        })
        .collect();
    json!({ "deleted_count": results.len() - failed.len(), "failed": failed })
}

fn all(checkpoints: &[Checkpoint]) -> Vec<Value> {
    checkpoints.iter().map(checkpoint).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn full() -> Checkpoint {
        let sent = json!({
            "checkpoint_id": "weights/step-10", "checkpoint_type": "training", "time": "2026-11-20 13:00:00+00:00",
            "tinker_path": "tinker://s:train:0/weights/step-10", "size_bytes": 1024, "public": true,
            "user_metadata": { "step": "10" }, "expires_at": "2026-11-27T13:00:00.5+00:00",
        });
        serde_json::from_value(sent).unwrap()
    }

    fn full_shown() -> Value {
        json!({
            "checkpoint_id": "weights/step-10", "checkpoint_type": "training", "time": "2026-11-20T13:00:00Z",
            "tinker_path": "tinker://s:train:0/weights/step-10", "size_bytes": 1024, "public": true,
            "user_metadata": { "step": "10" }, "expires_at": "2026-11-27T13:00:00.500000Z",
        })
    }

    fn empty_shown() -> Value {
        json!({
            "checkpoint_id": "", "checkpoint_type": null, "time": null, "tinker_path": "", "size_bytes": null,
            "public": false, "user_metadata": {}, "expires_at": null,
        })
    }

    #[test]
    fn checkpoints_have_all_their_fields() {
        assert_eq!(checkpoint(&full()), full_shown());
        assert_eq!(checkpoint(&Checkpoint::default()), empty_shown());
        let list = [full()];
        assert_eq!(checkpoints(None, &list), json!({ "checkpoints": [full_shown()] }));
        assert_eq!(checkpoints(Some("r"), &[]), json!({ "run_id": "r", "checkpoints": [] }));
    }

    #[test]
    fn a_plan_and_a_deletion_list_their_checkpoints() {
        let plan = CheckpointPlan { delete: vec![full(), Checkpoint::default()], ..Default::default() };
        let shown = json!({ "keep": [], "delete": [full_shown(), empty_shown()], "delete_size_bytes": 1024 });
        assert_eq!(checkpoint_plan(&plan), shown);

        let path = |name: &str| CheckpointPath::of("r", &format!("weights/{name}")).unwrap();
        let results = [(path("a"), Ok(())), (path("b"), Err(Error::invalid("path", "is wrong")))];
        let error = results[1].1.as_ref().unwrap_err().to_string();
        let failed = json!([{ "tinker_path": "tinker://r/weights/b", "error": error }]);
        assert_eq!(deletion(&results), json!({ "deleted_count": 1, "failed": failed }));
        assert_eq!(deletion(&[]), json!({ "deleted_count": 0, "failed": [] }));
    }
}
