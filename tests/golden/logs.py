"""Reads the logs of a run with the cookbook."""

import json
import sys
import traceback

from tinker_cookbook import checkpoint_utils
from tinker_cookbook.stores.storage import LocalStorage
from tinker_cookbook.stores.training_store import TrainingRunStore


def view(folder):
    """What the cookbook sees in the folder of a run."""
    store = TrainingRunStore(LocalStorage(str(folder)))
    records = checkpoint_utils.load_checkpoints_file(str(folder))

    def last(key):
        record = checkpoint_utils.get_last_checkpoint(str(folder), required_key=key)
        return record and record.to_dict()

    return {
        "checkpoints": [record.to_dict() for record in records],
        "last_state": last("state_path"),
        "last_sampler": last("sampler_path"),
        "metrics": store.read_metrics(),
        "metric_keys": sorted(store.metric_keys()),
        "config": store.read_config(),
    }


def read(folder):
    """Prints the view as JSON; returns 1 if a file is missing or the cookbook cannot read it."""
    missing = [name for name in ("metrics.jsonl", "checkpoints.jsonl") if not (folder / name).is_file()]
    if missing:
        print(f"{folder} has no {' and no '.join(missing)}", file=sys.stderr)
        return 1
    try:
        seen = view(folder)
    except Exception:
        traceback.print_exc()
        return 1
    lines = len((folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n"))
    # The reader skips lines that it cannot parse, and a last line without its end.
    if len(seen["metrics"]) != lines - 1:
        print(f"the cookbook reads {len(seen['metrics'])} of {lines - 1} lines of metrics.jsonl", file=sys.stderr)
        return 1
    print(json.dumps(seen, indent=2))
    return 0
