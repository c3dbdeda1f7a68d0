"""Runs the official Python SDK against the engine, in an environment of its own below the target folder.

Fails where there is no Python 3.11 or no way to the package index: nothing is skipped.
"""

import os
import subprocess
import sys
import tempfile
import venv

SDK = "tinker==0.38.0"
TARGET = os.environ.get("CARGO_TARGET_DIR", "target")
# A name that programs for the service ask for.
ALIAS = "Qwen/Qwen3-8B"
# The engine as it is, and with everything that it can ask of its clients besides.
WAYS = [[], ["sample_use_retrieve_futures", "sample_join_sampling_session", "pjwt_auth_enabled"]]


def environment():
    """The Python of a folder that has the SDK."""
    if sys.version_info < (3, 11):
        sys.exit(f"{SDK} needs Python 3.11 or later, this is {sys.version.split()[0]}")
    folder = os.path.join(TARGET, "python")
    python = os.path.join(folder, "bin", "python")
    mark = os.path.join(folder, SDK)
    if not os.path.exists(mark):
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", SDK], check=True, timeout=900)
        with open(mark, "w", encoding="utf-8"):
            pass
    return python


def run(python, flags, data):
    """Exit status 1 and a sentence if something does not hold."""
    serve = [os.path.join(TARGET, "release", "examples", "serve"), "0", "--data", data]
    serve += ["--alias", f"{ALIAS}=tinkex/nano", *flags]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            settings = dict(server.stdout.readline().strip().split("=", 1) for _ in range(2))
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("TINKER")}
            # Nothing is to be looked up on the hub of models: what has been fetched from there is the engine's.
            offline = {"HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0", "HF_HUB_CACHE": os.path.join(data, "hub")}
            done = subprocess.run(
                [python, os.path.join("tests", "python", "sdk.py"), ALIAS, *flags],
                env={**inherited, **settings, **offline}, check=False, timeout=300,
            )
        finally:
            # The end of its input is the end of the server.
            server.stdin.close()
            if server.wait(timeout=60) != 0:
                sys.exit(f"the server ended with status {server.returncode}")
    if done.returncode != 0:
        sys.exit(f"the official SDK does not get along with the engine (flags: {flags})")


def main():
    """Runs everything in each way."""
    python = environment()
    for flags in WAYS:
        with tempfile.TemporaryDirectory(prefix="tinkex-python-") as data:
            run(python, flags, data)


main()
