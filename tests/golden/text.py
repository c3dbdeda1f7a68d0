"""Makes the golden vectors of chat renderers and tokenizers in tests/golden/text.

    python3 tests/golden/text.py [--check] [WORKDIR]      writes the fixtures; --check compares them instead
    python3 tests/golden/text.py --read-logs DIR [WORKDIR]    reads DIR/metrics.jsonl and DIR/checkpoints.jsonl

The oracles are tinker-cookbook, the chat templates of the models under transformers, and tml-renderers. README.md in
this folder describes the fixtures. WORKDIR (default ~/.cache/tinkex-golden) keeps the venv and the downloads, which
come from PyPI, npm and crates.io with pinned versions and digests.
"""

import argparse
import os
import sys
from pathlib import Path

import rig


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed fixtures, write nothing")
    parser.add_argument("--read-logs", metavar="DIR", type=Path, help="read the logs of a run with the cookbook")
    parser.add_argument("--only", metavar="NAME", action="append", help="only the fixtures with these names")
    parser.add_argument("workdir", nargs="?", type=Path, default=Path.home() / ".cache" / "tinkex-golden")
    arguments = parser.parse_args()

    if "GOLDEN_WORK" not in os.environ:
        interpreter, environment = rig.prepare(arguments.workdir.resolve())
        os.execve(interpreter, [str(interpreter), __file__, *sys.argv[1:]], environment)

    if arguments.read_logs:
        import logs

        return logs.read(arguments.read_logs)

    import generate

    return generate.run(arguments.check, arguments.only)


if __name__ == "__main__":
    sys.exit(main())
