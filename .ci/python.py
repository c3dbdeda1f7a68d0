"""Runs the official Python SDK against the engine, in a virtual environment in the target folder.

Fails without Python 3.11 or without access to the package index; it skips nothing.
"""

import os
import subprocess
import sys
import tempfile

from engine import environment, serving

# Chat templates need jinja2.
PACKAGES = [["tinker==0.38.0", "jinja2==3.1.6"]]
# A model name of the service, which the engine serves as an alias, and one for a folder.
ALIAS, FOLDER = "Qwen/Qwen3-8B", "Qwen/Qwen3-4B"
TESTS = os.path.join("tests", "python")
# Flags of each run of the engine: the defaults, and all flags that change how clients must talk to it.
FLAG_SETS = [[], ["sample_use_retrieve_futures", "sample_join_sampling_session", "pjwt_auth_enabled"]]


def run(python, flags, home):
    """Runs the SDK once; exits with status 1 and a message if a step fails."""
    model = os.path.join(home, "model")
    write = "import sys, tiny_model; tiny_model.write(sys.argv[1], ['What is 4 + 5?', 'Say hello.'])"
    subprocess.run([python, "-c", write, model], env={**os.environ, "PYTHONPATH": TESTS}, check=True, timeout=300)
    served = ["--alias", f"{ALIAS}=tinkex/nano", "--model", f"{FOLDER}={model}", *flags]
    with serving(os.path.join(home, "data"), served) as env:
        command = [python, os.path.join(TESTS, "sdk.py"), ALIAS, FOLDER, *flags]
        done = subprocess.run(command, env=env, check=False, timeout=300)
    if done.returncode != 0:
        sys.exit(f"the official SDK failed on the engine (flags: {flags})")


def main():
    """Runs the SDK with each set of flags."""
    python = environment("python", PACKAGES)
    for flags in FLAG_SETS:
        with tempfile.TemporaryDirectory(prefix="tinkex-python-") as home:
            run(python, flags, home)


main()
