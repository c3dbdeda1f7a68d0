"""Runs the official Python SDK against the engine, in a virtual environment in the target folder.

Fails without Python 3.11 or without access to the package index; it skips nothing.
"""

import os
import subprocess
import sys
import tempfile
import venv

SDK = "tinker==0.38.0"
# An implementation of age that reads what the engine encrypted.
AGE = "pyrage==1.4.0"
TARGET = os.environ.get("CARGO_TARGET_DIR", "target")
# A model name of the service, which the engine serves as an alias.
ALIAS = "Qwen/Qwen3-8B"
# Flags of each run of the engine: the defaults, and all flags that change how clients must talk to it.
FLAG_SETS = [[], ["sample_use_retrieve_futures", "sample_join_sampling_session", "pjwt_auth_enabled"]]


def environment():
    """Creates a virtual environment with the SDK if needed; returns its Python."""
    if sys.version_info < (3, 11):
        sys.exit(f"{SDK} needs Python 3.11 or later, this is {sys.version.split()[0]}")
    folder = os.path.join(TARGET, "python")
    python = os.path.join(folder, "bin", "python")
    mark = os.path.join(folder, f"{SDK},{AGE}")
    if not os.path.exists(mark):
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", SDK, AGE], check=True, timeout=900)
        with open(mark, "w", encoding="utf-8"):
            pass
    return python


def run(python, flags, data):
    """Runs the SDK once; exits with status 1 and a message if a step fails."""
    serve = [os.path.join(TARGET, "release", "examples", "serve"), "0", "--data", data]
    serve += ["--alias", f"{ALIAS}=tinkex/nano", *flags]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            settings = dict(server.stdout.readline().strip().split("=", 1) for _ in range(2))
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("TINKER")}
            # The SDK must not access the model hub: it has to use the tokenizer files of the engine.
            offline = {"HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0", "HF_HUB_CACHE": os.path.join(data, "hub")}
            done = subprocess.run(
                [python, os.path.join("tests", "python", "sdk.py"), ALIAS, *flags],
                env={**inherited, **settings, **offline}, check=False, timeout=300,
            )
        finally:
            # The server stops at the end of its input.
            server.stdin.close()
            if server.wait(timeout=60) != 0:
                sys.exit(f"the server ended with status {server.returncode}")
    if done.returncode != 0:
        sys.exit(f"the official SDK failed on the engine (flags: {flags})")


def main():
    """Runs the SDK with each set of flags."""
    python = environment()
    for flags in FLAG_SETS:
        with tempfile.TemporaryDirectory(prefix="tinkex-python-") as data:
            run(python, flags, data)


main()
