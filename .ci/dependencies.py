"""Checks the tree: no runtime without `local`, the number of crates in the README, no C for `text`, none for `hub`."""

import re
import subprocess
import sys

RUNTIMES = {"tokio", "hyper", "async-std", "smol", "futures-executor"}
# Crates that compile C or C++, which the tokenizers can do without.
NATIVE = {"onig", "onig_sys", "esaxx-rs"}
LIMIT = 60


def tree(*flags):
    """Returns the crates of a build, with versions."""
    command = ["cargo", "tree", "-e", "normal", "--prefix", "none", "--no-dedupe", *flags]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {tuple(line.split()[:2]) for line in lines if line.strip()}


def main():
    """Exits with status 1 and a message if a check fails."""
    crates = tree()
    with_testing = tree("--features", "testing")
    with_text = tree("--features", "text")
    with_jinja = tree("--features", "jinja")
    for_hub = tree("--features", "hub") - with_text
    if for_hub:
        sys.exit(f"the feature `hub` needs more crates than `text`: {sorted(for_hub)}")
    found = {name for name, _ in crates | with_testing | with_text | with_jinja} & RUNTIMES
    if found:
        sys.exit(f"an async runtime is in the default tree: {sorted(found)}")
    native = {name for name, _ in with_text} & NATIVE
    if native:
        sys.exit(f"the feature `text` compiles C: {sorted(native)}")
    print(f"{len(with_text) - len(crates)} more crates with the feature `text`")
    n = len(crates) - 1
    print(f"{len(with_jinja) - len(crates)} more crates with the feature `jinja`")
    print(f"{n} crates in the default tree, no async runtime")
    if n > LIMIT:
        sys.exit(f"more than {LIMIT} crates in the default tree: {n}")
    with open("README.md", encoding="utf-8") as readme:
        documented = re.search(r"(\d+) crates", readme.read())
    if documented is None or int(documented.group(1)) != n:
        sys.exit(f"the README must say that the default tree has {n} crates")


main()
