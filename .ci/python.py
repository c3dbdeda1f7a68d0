"""Runs the official Python SDK against the engine, in a virtual environment in the target folder.

Fails without Python 3.11 or without access to the package index; it skips nothing.
"""

import os
import subprocess
import tempfile

from engine import TESTS, environment, run_sdk

# Chat templates need jinja2; pyrage is an implementation of age that reads what the engine encrypted.
PACKAGES = [["tinker==0.38.0", "jinja2==3.1.6", "pyrage==1.4.0"]]
# Flags of each run of the engine: the defaults, and all flags that change how clients must talk to it.
FLAG_SETS = [[], ["sample_use_retrieve_futures", "sample_join_sampling_session", "pjwt_auth_enabled"]]
WRITE = "import sys, tiny_model; tiny_model.write(sys.argv[1], ['What is 4 + 5?', 'Say hello.'])"


def main():
    """Runs the SDK with each set of flags."""
    python = environment("python", PACKAGES)
    with tempfile.TemporaryDirectory(prefix="tinkex-python-") as home:
        model = os.path.join(home, "model")
        subprocess.run([python, "-c", WRITE, model], env={**os.environ, "PYTHONPATH": TESTS}, check=True, timeout=300)
        for i, flags in enumerate(FLAG_SETS):
            run_sdk(python, os.path.join(home, str(i)), model, flags, {})


main()
