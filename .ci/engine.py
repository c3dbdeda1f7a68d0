"""What the scripts of this folder share that run Python programs against the engine."""

import contextlib
import os
import subprocess
import sys
import venv

TARGET = os.environ.get("CARGO_TARGET_DIR", "target")
TESTS = os.path.abspath(os.path.join("tests", "python"))
# Names of models of the service: an alias of tinkex/nano, and the name of the folder of a model.
ALIAS, CHAT_MODEL = "Qwen/Qwen3-8B", "Qwen/Qwen3-4B"


def environment(folder, packages, finish=lambda python: None):
    """Creates a virtual environment in the target folder if needed; returns its Python.

    Each item of `packages` is the arguments of one call of `uv pip install`, which needs a fifth of pip's time.
    `finish` is called after them.
    """
    if sys.version_info < (3, 11):
        sys.exit(f"the official SDK needs Python 3.11 or later, this is {sys.version.split()[0]}")
    folder = os.path.abspath(os.path.join(TARGET, folder))
    python = os.path.join(folder, "bin", "python")
    mark = os.path.join(folder, "installed")
    wanted = "\n".join(" ".join(it) for it in packages)
    if not os.path.exists(mark) or read(mark) != wanted:
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True, timeout=600)
        for it in packages:
            install = [os.path.join(folder, "bin", "uv"), "pip", "install", "--quiet", "--no-cache", "--python", python]
            subprocess.run([*install, *it], check=True, timeout=1800)
        finish(python)
        with open(mark, "w", encoding="utf-8") as file:
            file.write(wanted)
    return python


def read(path):
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


@contextlib.contextmanager
def serving(data, arguments):
    """Runs the engine; yields the environment variables of a program that uses it.

    The program must not access the model hub: it has to use the tokenizer files that the engine writes into the folder
    `data`.
    """
    serve = [os.path.join(TARGET, "release", "examples", "serve"), "0", "--data", data, *arguments]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            settings = dict(server.stdout.readline().strip().split("=", 1) for _ in range(2))
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("TINKER")}
            offline = {"HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0", "HF_HUB_CACHE": os.path.join(data, "hub")}
            yield {**inherited, **settings, **offline}
        finally:
            # The server stops at the end of its input.
            server.stdin.close()
            if server.wait(timeout=60) != 0:
                sys.exit(f"the server ended with status {server.returncode}")


def run_sdk(python, data, model, flags, variables):
    """Runs the official SDK once, with `model` as the folder of a model; exits with status 1 if a step fails."""
    served = ["--alias", f"{ALIAS}=tinkex/nano", "--model", f"{CHAT_MODEL}={model}", *flags]
    with serving(data, served) as env:
        command = [python, os.path.join(TESTS, "sdk.py"), ALIAS, CHAT_MODEL, *flags]
        done = subprocess.run(command, env={**env, **variables}, check=False, timeout=600)
    if done.returncode != 0:
        sys.exit(f"the official SDK failed on the engine (flags: {flags})")
