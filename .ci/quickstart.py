"""Runs the quickstart as a user would, and checks its documented results."""

import os
import re
import resource
import subprocess
import sys
import time

LAST_LINE = re.compile(r"quickstart: exact (\d+)/10, loss (\d+\.\d\d) -> (\d+\.\d\d), (\d+\.\d) s")
TARGET = os.environ.get("CARGO_TARGET_DIR", "target")


def main():
    """Exits with status 1 and a message if a check fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TINKER")}
    started = time.monotonic()
    run = subprocess.run(
        [os.path.join(TARGET, "release", "examples", "quickstart")],
        capture_output=True, text=True, check=False, env=environment, timeout=600,
    )
    seconds = time.monotonic() - started
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(run.stdout)
    if run.returncode != 0:
        sys.exit(f"the quickstart failed with status {run.returncode}: {run.stderr}")
    last = LAST_LINE.fullmatch(run.stdout.rstrip("\n").split("\n")[-1])
    if last is None:
        sys.exit("the last line of the quickstart does not have the documented form")
    exact, first, final = int(last.group(1)), float(last.group(2)), float(last.group(3))
    print(f"exact {exact}/10, loss {first} -> {final}, {seconds:.1f} s, {megabytes:.0f} MB")
    if exact != 10:
        sys.exit(f"only {exact} of 10 words were right")
    if final >= 0.1 * first:
        sys.exit(f"the loss did not fall below a tenth of {first}: {final}")
    if megabytes >= 300:
        sys.exit(f"the quickstart took {megabytes:.0f} MB, not less than 300 MB")


main()
