"""Builds the C library, and checks header, wrapper, examples and tests with every compiler and checker of this machine.

    run.py [--quick] [--only PART]...

Parts: headers, symbols, plain, python, package, asan, tsan, valgrind, bare. `--quick` leaves out valgrind and bare, a build
without the embedded engine. Each check prints one line; the first failure ends the program with status 1 and its output.
"""

import argparse
import concurrent.futures
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS, EXAMPLES, FFI = ROOT / "tests" / "c", ROOT / "examples" / "c", ROOT / "src" / "ffi"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "c"
PREFIX = WORK / "prefix"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
# The engine's kernels are chosen at run time. Valgrind lacks AVX-512 and hides it, so the build must not demand it.
TUNED = re.compile(r"target-cpu|target-feature")

# Programs with their arguments: plain, with a sanitizer, and under Valgrind, which makes the engine 100 times slower.
PROGRAMS = {
    "hello": ([], [], []),
    "train": ([], ["3"], ["1", "1"]),
    "custom_loss": ([], ["2"], ["1"]),
    "sampler_pool": ([], ["200"], ["50"]),
    "train_cpp": ([], ["3"], ["1", "1"]),
    "wrapper": ([], [], []),
    "misuse": ([], ["--tools"], ["--tools"]),
    "loss": ([], [], []),
    "download": ([], [], []),
    "threads": (["30"], ["5"], ["2"]),
    "signals": ([], ["5"], ["2"]),
    "fork": ([], [], []),
}
# TSan sees neither the locks nor the thread switches inside of the library, which it did not compile. It knows pthread
# calls and the atomics of the programs, so that it can check those programs whose threads share data only in these ways.
TSAN_PROGRAMS = ("threads", "misuse", "sampler_pool", "loss", "download")
# The allocator of ASan keeps its locks over a fork, before LLVM 17 and GCC 14: a child of a program with several threads
# that allocates may wait for one of them for ever.
ASAN_PROGRAMS = tuple(program for program in PROGRAMS if program != "fork")


class Failure(Exception):
    """A failed check, with its output."""


def environment(**more):
    """The environment of all commands: no service, the installed library, no tuned Rust build."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TINKER", "TINKEX"))}
    if TUNED.search(clean.get("RUSTFLAGS", "")):
        del clean["RUSTFLAGS"]
    clean["PKG_CONFIG_PATH"] = str(PREFIX / "lib" / "pkgconfig")
    return clean | more


def run(command, limit=600, fails=False, **more):
    """Runs a command, and returns its output. Fails if its status is not 0, or, with `fails`, if it is."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              env=environment(**more), timeout=limit, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired as late:
        text = (late.stdout or b"").decode(errors="replace")
        raise Failure(f"$ {' '.join(command)}\n{text}\nstill running after {limit} s") from late
    if (done.returncode != 0) != fails:
        raise Failure(f"$ {' '.join(command)}\n{done.stdout}\nstatus {done.returncode}")
    return done.stdout


def works(command, **more):
    """Whether a command succeeds."""
    try:
        run(command, limit=60, **more)
    except (Failure, OSError):
        return False
    return True


def step(name, check, *arguments):
    """Runs a check, and prints one line about it."""
    started = time.monotonic()
    try:
        note = check(*arguments)
    except (Failure, OSError) as failure:
        print(f"FAILED  {name}\n{failure}", flush=True)
        sys.exit(1)
    print(f"ok      {name}{f': {note}' if note else ''} ({time.monotonic() - started:.1f} s)", flush=True)


def compilers():
    """Pairs of a C and a C++ compiler."""
    found = [pair for pair in (("gcc", "g++"), ("clang", "clang++")) if all(map(shutil.which, pair))]
    if not found:
        raise Failure("neither gcc nor clang is installed: apt-get install gcc g++")
    return found


def pkg_config(*arguments):
    """The words that pkg-config prints."""
    return run(["pkg-config", *arguments, "tinkex"]).split()


def install():
    """Builds the library with the lines of its Makefile, and installs it into a folder of the target folder."""
    shutil.rmtree(PREFIX, ignore_errors=True)
    run(["make", "-C", FFI, "install", f"PREFIX={PREFIX}", "FEATURES=local testing"], limit=1800)
    return f"{(PREFIX / 'lib' / library_name()).stat().st_size / 1e6:.1f} MB"


def library_name():
    """The file that programs link with."""
    return "libtinkex.dylib" if sys.platform == "darwin" else "libtinkex.so"


def source_of(program):
    """The source file of a program, and whether it is C++."""
    if program == "train_cpp":
        return EXAMPLES / "train.cpp", True
    for folder in (EXAMPLES, TESTS):
        for suffix, is_cpp in ((".c", False), (".cpp", True)):
            if (folder / (program + suffix)).exists():
                return folder / (program + suffix), is_cpp
    raise Failure(f"no source of {program}")


def build(program, pair, kind, flags=(), standard="c++17"):
    """Compiles a program against the installed library."""
    source, is_cpp = source_of(program)
    folder = WORK / f"{pair[0]}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    compiler = [pair[1], f"-std={standard}"] if is_cpp else [pair[0], "-std=c11"]
    libraries = [*pkg_config("--libs"), f"-Wl,-rpath,{PREFIX / 'lib'}", "-lm", "-lpthread"]
    run([*compiler, *WARNINGS, "-O1", "-g", *flags, *pkg_config("--cflags"), source, "-o", folder / program, *libraries])
    return folder / program


def headers(pair):
    """Compiles the headers alone in all standards, and the programs that are both C and C++."""
    folder = WORK / "headers"
    folder.mkdir(parents=True, exist_ok=True)
    first, wrapper = folder / "header.c", folder / "wrapper.cpp"
    first.write_text('#include <tinkex.h>\n#include <tinkex.h>\nextern int unused;\n')
    wrapper.write_text('#include <tinkex.hpp>\n#include <tinkex.hpp>\nextern int unused;\n')
    check = [*WARNINGS, "-fsyntax-only", *pkg_config("--cflags")]
    for standard in ("c99", "c11", "c17"):
        run([pair[0], f"-std={standard}", *check, first])
    for standard in ("c++11", "c++17", "c++20"):
        run([pair[1], f"-std={standard}", *check, "-x", "c++", first])
    for standard in ("c++17", "c++20"):
        run([pair[1], f"-std={standard}", *check, wrapper])
        run([pair[1], f"-std={standard}", *check, TESTS / "wrapper.cpp"])
        run([pair[1], f"-std={standard}", *check, EXAMPLES / "train.cpp"])
    for program in ("hello", "train", "custom_loss", "sampler_pool"):
        run([pair[1], "-std=c++17", *check, "-x", "c++", EXAMPLES / f"{program}.c"])
    plain = run([pair[0], "-DTINKEX_CDEF", "-E", "-P", "-x", "c", FFI / "tinkex.h"])
    if "#" in plain or "__attribute__" in plain:
        raise Failure("with -DTINKEX_CDEF the header has more than declarations")


def symbols(library):
    """Compares the exported symbols with the checked-in list and with the header, in both directions."""
    exported = {line.split()[-1].removeprefix("_") for line in run(["nm", "-D", "--defined-only", library]).splitlines()}
    # The feature `testing` adds a function that makes the next one panic.
    exported = {name for name in exported if not name.startswith("tinkex_testing_")}
    listed = set((FFI / "symbols-0.1.txt").read_text().split())
    declared = set(re.findall(r"^TINKEX_API .*?\b(tinkex_\w+)\(", (FFI / "tinkex.h").read_text(), re.M))
    for name, other in (("symbols-0.1.txt", listed), ("the header", declared)):
        if exported != other:
            raise Failure(f"exported, but not in {name}: {sorted(exported - other)}\nin {name}, but not exported: {sorted(other - exported)}")
    return f"{len(exported)} functions"


def check_output(program, arguments, output):
    """What a program must print besides ending with status 0."""
    if program in ("train", "train_cpp") and not arguments:
        found = re.search(r"^train: exact (\d+)/10, loss (\d+\.\d\d) -> (\d+\.\d\d), [\d.]+ s$", output, re.M)
        if not found or found[1] != "10" or float(found[3]) >= 0.1 * float(found[2]):
            raise Failure(f"{output}\nnot the documented result: 10 exact answers, and less than a tenth of the loss")
    if program == "hello" and "2+2=4" not in output:
        raise Failure(f"{output}\nthe answer is not 4")


def execute(program, path, arguments, wrapper=(), limit=900, **more):
    """Runs a program, and checks its output."""
    output = run([*wrapper, path, *arguments], limit=limit, **more)
    check_output(program, arguments, output)
    return output.strip().splitlines()[-1] if output.strip() else ""


def plain(program, pair):
    """Runs a program without a checker."""
    return execute(program, build(program, pair, "plain"), PROGRAMS[program][0])


def has_sanitizer(pair, name):
    """Whether a sanitizer works on this machine, as a prefix of commands; None if not. TSan needs fixed addresses."""
    probe = WORK / f"probe-{pair[0]}-{name}.c"
    probe.write_text("#include <pthread.h>\nstatic void *f(void *p) { return p; }\n"
                     "int main(void) { pthread_t t; return pthread_create(&t, 0, f, 0) || pthread_join(t, 0); }\n")
    program = probe.with_suffix("")
    if not works([pair[0], f"-fsanitize={name}", probe, "-o", program, "-lpthread"]):
        return None
    for prefix in ([], ["setarch", platform.machine(), "-R"]):
        if works([*prefix, program]):
            return prefix
    return None


def sanitized(program, pair, name, prefix, options):
    """Runs a program whose C side was compiled with a sanitizer."""
    path = build(program, pair, name, [f"-fsanitize={name}", "-fno-omit-frame-pointer"])
    return execute(program, path, PROGRAMS[program][1], prefix, **options)


def valgrind(program, pair):
    """Runs a program under memcheck: no error, nothing definitely lost."""
    command = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite",
               "--errors-for-leak-kinds=definite", f"--suppressions={TESTS / 'valgrind.supp'}", "--num-callers=40",
               "--fair-sched=yes", "--child-silent-after-fork=yes"]
    return execute(program, build(program, pair, "plain"), PROGRAMS[program][2], command, limit=1500)


def package(pair):
    """Compiles hello.c as a user would, with the flags of pkg-config alone: shared and static."""
    hello = EXAMPLES / "hello.c"
    if sys.platform != "darwin":
        dynamic = run(["readelf", "-d", PREFIX / "lib" / "libtinkex.so"])
        if "[libtinkex.so.0.1]" not in dynamic or "NODELETE" not in dynamic:
            raise Failure(f"{dynamic}\nno soname libtinkex.so.0.1, or not marked with nodelete")
    shared = WORK / "hello-shared"
    run([pair[0], hello, "-o", shared, *pkg_config("--cflags", "--libs")])
    execute("hello", shared, [], LD_LIBRARY_PATH=str(PREFIX / "lib"), DYLD_LIBRARY_PATH=str(PREFIX / "lib"))
    # A folder with nothing but the static library.
    alone = WORK / "static"
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir(parents=True)
    shutil.copy(PREFIX / "lib" / "libtinkex.a", alone)
    static = WORK / "hello-static"
    run([pair[0], hello, "-o", static, *pkg_config(f"--define-variable=libdir={alone}", "--cflags", "--libs", "--static")])
    execute("hello", static, [])
    if sys.platform != "darwin" and "libtinkex" in run(["readelf", "-d", static]):
        raise Failure("the static program needs the shared library")
    # The program of the README.
    program = re.search(r"```c\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    readme = WORK / "readme.c"
    readme.write_text(program[1])
    run([pair[0], *WARNINGS, readme, "-o", WORK / "readme", *pkg_config("--cflags", "--libs"), f"-Wl,-rpath,{PREFIX / 'lib'}"])
    if not re.fullmatch(r"loss \d\.\d{3} per token\n", run([WORK / "readme"])):
        raise Failure("the program of the README does not print its loss")
    run(["make", "-C", EXAMPLES, f"CC={pair[0]}", f"CXX={pair[1]}"])
    run(["make", "-C", EXAMPLES, "clean"])


def python():
    """Runs train.py with every way of reading floats: numpy, and `array`."""
    candidates = [sys.executable, "/usr/bin/python3"]
    interpreter = next((it for it in candidates if os.path.exists(it) and works([it, "-c", "import cffi"])), None)
    if interpreter is None:
        folder = WORK / "venv"
        run([sys.executable, "-m", "venv", folder])
        interpreter = folder / "bin" / "python"
        run([interpreter, "-m", "pip", "install", "--quiet", "cffi"])
    places = {"TINKEX_LIBRARY": str(PREFIX / "lib"), "TINKEX_HEADER": str(PREFIX / "include" / "tinkex.h"), "CC": compilers()[0][0]}
    return execute("train", EXAMPLES / "train.py", [], [interpreter], **places)


def bare(pair):
    """A build without the embedded engine has the same symbols, whose functions return TINKEX_ERROR_UNSUPPORTED."""
    prefix, target = WORK / "bare", WORK / "bare-target"
    run(["make", "-C", FFI, "install", f"PREFIX={prefix}", "FEATURES=", "CARGOFLAGS=--no-default-features"],
        limit=1800, CARGO_TARGET_DIR=str(target))
    symbols(prefix / "lib" / library_name())
    return execute("misuse", build("misuse", pair, "plain"), [], LD_LIBRARY_PATH=str(prefix / "lib"), LD_PRELOAD=str(prefix / "lib" / library_name()))


def main():
    """Runs the parts."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", action="append", metavar="PART")
    arguments = arguments.parse_args()

    def is_wanted(part):
        return part in arguments.only if arguments.only else not (arguments.quick and part in ("valgrind", "bare"))

    WORK.mkdir(parents=True, exist_ok=True)
    step("the library is built and installed", install)
    pairs = compilers()
    first = pairs[0]
    if is_wanted("symbols"):
        step("exported symbols", symbols, PREFIX / "lib" / library_name())
    if is_wanted("headers"):
        for pair in pairs:
            step(f"headers in all standards, {pair[0]}", headers, pair)
    if is_wanted("plain"):
        for pair in pairs:
            for program in PROGRAMS:
                step(f"{program}, {pair[0]}", plain, program, pair)
    if is_wanted("package"):
        step("pkg-config, shared and static", package, first)
    if is_wanted("python"):
        step("train.py", python)
    if is_wanted("asan"):
        sanitizers("address", first, ASAN_PROGRAMS, {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0"})
    if is_wanted("tsan"):
        options = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66"}
        sanitizers("thread", first, TSAN_PROGRAMS, options)
    if is_wanted("valgrind"):
        if shutil.which("valgrind"):
            # Two at a time: a program under Valgrind runs one of its threads at a time.
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                running = {program: pool.submit(valgrind, program, first) for program in PROGRAMS}
                for program, result in running.items():
                    step(f"{program}, valgrind", result.result)
        else:
            print("left out: valgrind is not installed")
    if is_wanted("bare"):
        step("a build without the embedded engine", bare, first)


def sanitizers(name, pair, programs, options):
    """Runs programs with a sanitizer, or says why not."""
    prefix = has_sanitizer(pair, name)
    if prefix is None:
        print(f"left out: programs that {pair[0]} makes with -fsanitize={name} do not run on this machine")
        return
    for program in programs:
        step(f"{program}, {name} sanitizer", sanitized, program, pair, name, prefix, options)


main()
