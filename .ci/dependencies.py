"""Checks the dependency tree: no async runtime without `local`, no more crates than the README says."""

import re
import subprocess
import sys

RUNTIMES = {"tokio", "hyper", "async-std", "smol", "futures-executor"}
LIMIT = 60


def tree(*flags):
    """The crates of a build, with versions."""
    command = ["cargo", "tree", "-e", "normal", "--prefix", "none", "--no-dedupe", *flags]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {tuple(line.split()[:2]) for line in lines if line.strip()}


def main():
    """Exit status 1 and a sentence if something does not hold."""
    crates = tree()
    everything_but_local = tree("--features", "testing")
    found = {name for name, _ in crates | everything_but_local} & RUNTIMES
    if found:
        sys.exit(f"an async runtime is in the default tree: {sorted(found)}")
    n = len(crates) - 1
    print(f"{n} crates in the default tree, no async runtime")
    if n > LIMIT:
        sys.exit(f"more than {LIMIT} crates in the default tree: {n}")
    with open("README.md", encoding="utf-8") as readme:
        said = re.search(r"(\d+) crates", readme.read())
    if said is None or int(said.group(1)) != n:
        sys.exit(f"the README must say that the default tree has {n} crates")


main()
