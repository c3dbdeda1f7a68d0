"""Runs recipes of the tinker-cookbook against the engine, in a virtual environment in the target folder.

    python3 .ci/cookbook.py             the recipes of tests/python/cookbook.py, and the official SDK with torch
    python3 .ci/cookbook.py TEST...     the cookbook's own tests of recipes, as arguments of pytest, for example
                                        tests/recipes or tests/recipes/test_recipe_dpo.py; some need the
                                        example `serve` with the features local,text (strings as stop sequences)

Needs Linux on x86-64, Python 3.11 or later, gcc, and the package index. The first run downloads 700 MB.
"""

import glob
import os
import subprocess
import sys
import tarfile
import tempfile

from engine import TARGET, TESTS, environment, read, run_sdk, serving

COOKBOOK = "tinker-cookbook==0.6.1"
# The cookbook is installed without its dependencies, because it asks for a version of tml-renderers that the package
# index does not have: renderers of models that are not used here. The file lists what its recipes import. The index has
# torch only with CUDA, whose libraries are gigabytes; it runs on the CPU without them (see `without_cuda`).
PACKAGES = [
    ["--no-deps", "torch==2.15.0", COOKBOOK],
    read(os.path.join(TESTS, "cookbook-requirements.txt")).split(),
]


def lines(*command):
    """The lines that a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def without_cuda(python):
    """Makes empty libraries by the names of those of CUDA, so that torch can be imported.

    Their functions return the error of a driver that is too old, after which torch says that it has no GPU. They are in
    a library of their own: the loader wants versions of symbols only from the library that it expects them in.
    """
    venv = os.path.dirname(os.path.dirname(python))
    libraries = glob.glob(os.path.join(venv, "lib", "python3*", "site-packages", "torch", "lib", "*.so"))
    missing = {it.split()[0] for library in libraries for it in lines("ldd", library) if "not found" in it}

    def symbols(which):
        listed = [it for library in libraries for it in lines("nm", "-D", which, library)]
        return {it.split()[-1].split("@")[0] for it in listed}

    unknown = symbols("--undefined-only") - symbols("--defined-only")
    names = sorted(it for it in unknown if it.lstrip("_").startswith(("cu", "Cu", "CU", "nccl", "nv")))
    source = "".join(f"int {name}(void) {{ return 35; }}\n" for name in names)
    folder = os.path.join(venv, "without-cuda")
    os.makedirs(folder, exist_ok=True)
    build = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin"]
    out = ["-o", os.path.join(folder, "libnocuda.so"), "-Wl,-soname,libnocuda.so", "-x", "c", "-"]
    subprocess.run(build + out, input=source, text=True, check=True)
    for name in missing:
        out = ["-o", os.path.join(folder, name), f"-Wl,-soname,{name},--no-as-needed,-rpath,$ORIGIN"]
        subprocess.run([*build, *out, f"-L{folder}", "-lnocuda"], check=True)


def own_tests(python, arguments, folder, env):
    """Runs tests of the cookbook's source package in the folder of the data sets; returns the exit status."""
    sources = os.path.abspath(os.path.join(TARGET, "cookbook-source"))
    home = os.path.join(sources, COOKBOOK.replace("-", "_", 1).replace("==", "-"))
    if not os.path.isdir(home):
        fetch = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", sources]
        subprocess.run([*fetch, COOKBOOK], check=True, timeout=600)
        with tarfile.open(f"{home}.tar.gz") as archive:
            archive.extractall(sources, filter="data")
    tests = [os.path.join(home, it) if it.startswith("tests") else it for it in arguments]
    # The tests start recipes by `uv run`, which takes the virtual environment that is active.
    bin_folder = os.path.dirname(python)
    env = {**env, "VIRTUAL_ENV": os.path.dirname(bin_folder), "PATH": f"{bin_folder}:{env['PATH']}"}
    env |= {"UV_OFFLINE": "1", "UV_PYTHON": python, "TINKER_COOKBOOK_RUNS_DIR": os.path.join(folder, "log")}
    command = [python, "-m", "pytest", "-q", f"--rootdir={home}", "-m", "integration", *tests]
    return subprocess.run(command, cwd=folder, env=env, check=False).returncode


def main():
    """Runs the recipes, or the cookbook's tests that the arguments name; exits with status 1 if one failed."""
    python = environment("cookbook", PACKAGES, without_cuda)
    script = os.path.join(TESTS, "cookbook.py")
    torch = {"LD_LIBRARY_PATH": os.path.join(os.path.dirname(os.path.dirname(python)), "without-cuda")}
    with tempfile.TemporaryDirectory(prefix="tinkex-cookbook-") as home:
        folder = os.path.join(home, "work")
        subprocess.run([python, script, "write", folder], check=True, timeout=300)
        served = lines(python, script, "served", folder)
        with serving(os.path.join(home, "data"), [*served, "--stable-reinforce-as-cispo"]) as env:
            env |= {**torch, "HF_HOME": os.path.join(home, "cache")}
            if sys.argv[1:]:
                sys.exit(own_tests(python, sys.argv[1:], folder, env))
            done = subprocess.run([python, script, "run", folder], env=env, check=False)
        if done.returncode != 0:
            sys.exit("recipes of the cookbook failed on the engine")
        run_sdk(python, os.path.join(home, "sdk"), os.path.join(folder, "model"), [], torch)


main()
